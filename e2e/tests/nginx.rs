//! A real web server from Debian's packages, reached from everywhere.

use hoy_e2e::field;
use hoy_testkit::{Daemon, NetNs, debian_nginx_rootfs, wait_until};

#[test]
fn a_web_server_from_packages() {
    let mut daemon = Daemon::start();
    let outside = NetNs::new();
    daemon.netns().link(&outside, "out0", "10.77.0.1/24", "10.77.0.2/24");
    let rootfs = debian_nginx_rootfs().display().to_string();
    let import = [
        "import",
        "-c",
        "CMD [\"nginx\",\"-g\",\"daemon off;\"]",
        "-c",
        "EXPOSE 80",
        &rootfs,
        "nginx",
    ];
    daemon.docker(&import).deadline(300).run().ok();
    daemon.hoy(&["run", "-d", "--name", "web", "-p", "8080:80", "nginx"]).run().ok();
    let get = |netns: &NetNs, address: &str| {
        let url = format!("http://{address}:8080/");
        netns.run("curl").args(["-s", "--max-time", "5", &url]).run().stdout
    };
    wait_until("nginx answers", || get(daemon.netns(), "127.0.0.1").contains("Welcome to nginx"));
    assert!(get(daemon.netns(), "10.77.0.1").contains("Welcome to nginx"));
    assert!(get(&outside, "10.77.0.1").contains("Welcome to nginx"));
    // Requests go on while the daemon is killed and comes back.
    let line = "n=0; while [ ! -e \"$1\" ]; do curl -sf --max-time 5 -o /dev/null http://127.0.0.1:8080/ \
        || echo failed; n=$((n+1)); done; echo $n";
    let stop = daemon.path("stop");
    let client =
        daemon.netns().run("sh").args(["-c", line, "sh", &stop.display().to_string()]).spawn();
    for _ in 0..3 {
        std::thread::sleep(std::time::Duration::from_millis(200));
        daemon.kill();
        std::thread::sleep(std::time::Duration::from_millis(200));
        daemon.launch();
    }
    std::fs::write(&stop, "").unwrap();
    let output = client.wait_with_output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(!output.contains("failed"), "{output}");
    assert!(output.trim().parse::<u32>().unwrap() > 20, "{output}");
    assert!(daemon.hoy(&["ps"]).run().ok().contains("0.0.0.0:8080->80/tcp"));
    // Its workers run as the image's own user.
    let top = daemon.docker(&["top", "web"]).run();
    assert!(top.ok().contains("nginx: worker process"), "{}", top.stdout);
    let workers =
        daemon.hoy(&["exec", "web", "sh", "-c", "ls -ld /proc/[0-9]*/exe | wc -l; id -un"]).run();
    assert!(workers.ok().contains("root"));
    // Debian's own tools find what they expect.
    for line in [
        "dpkg -l nginx-light >/dev/null",
        "getent hosts localhost",
        "su www-data -s /bin/sh -c id",
        "apt-get --version",
        "mktemp",
    ] {
        daemon.hoy(&["exec", "web", "sh", "-c", line]).run().ok();
    }
    daemon.hoy(&["stop", "-t", "5", "web"]).run().ok();
    assert_eq!(field(&daemon, "web", "{{.State.ExitCode}}"), "0");
}
