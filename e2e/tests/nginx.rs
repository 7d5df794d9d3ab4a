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
        netns.run("curl").args(["-s", "--max-time", "30", &url]).run().stdout
    };
    wait_until("nginx answers", || get(daemon.netns(), "127.0.0.1").contains("Welcome to nginx"));
    assert!(get(daemon.netns(), "10.77.0.1").contains("Welcome to nginx"));
    assert!(get(&outside, "10.77.0.1").contains("Welcome to nginx"));
    // Requests go on while the daemon is killed and comes back.
    let line = "while [ ! -e \"$1\" ]; do curl -sf --max-time 60 -o /dev/null http://127.0.0.1:8080/ \
        || echo failed; echo >>\"$1-asked\"; done; echo done";
    let (stop, asked) = (daemon.path("stop"), daemon.path("stop-asked"));
    let requests = || std::fs::read(&asked).map_or(0, |lines| lines.len());
    let client =
        daemon.netns().run("sh").args(["-c", line, "sh", &stop.display().to_string()]).spawn();
    for _ in 0..3 {
        let before = requests();
        wait_until("a client is served", || requests() > before);
        daemon.kill();
        // However slow this machine is: some are asked while there is no daemon.
        let before = requests();
        wait_until("clients are served", || requests() > before + 5);
        daemon.launch();
    }
    std::fs::write(&stop, "").unwrap();
    let output = client.wait_with_output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output, "done\n");
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
