//! What of hoy itself can be reached: sockets, files, ports.

use hoy_testkit::{Daemon, NetNs, Run, wait_until};

use crate::Verdict;
use crate::side::{Side, host_sh};

/// CVE-2020-15257: sockets without a path, from a container with the host's network.
pub fn abstract_sockets(side: &Side) -> Verdict {
    side.start(&["busybox", "sleep", "1000"]);
    let seen = side.sh(&["--network", "host"], "cat /proc/net/unix");
    let line = seen.lines().find(|line| line.contains(" @"));
    // Those with a path lead nowhere from inside.
    match line {
        Some(line) => Err(format!("a socket is in reach: {line}")),
        None => Ok(()),
    }
}

/// CVE-2021-41103, CVE-2021-41091, CVE-2024-25621: the state, walked by somebody else.
pub fn walked(side: &Side) -> Verdict {
    side.start(&["busybox", "sh", "-c", "chmod 4755 /bin/busybox; sleep 1000"]);
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(side.daemon.path(""), open).unwrap();
    for directory in ["data", "run"] {
        let path = side.daemon.path(directory).display().to_string();
        for options in [&["--reuid=1000", "--regid=1000"][..], &["--reuid=1000", "--regid=0"]] {
            let find = ["--clear-groups", "find", &path, "-mindepth", "1"];
            let found = Run::new("setpriv").args(options).args(find).run();
            if let Some(first) = found.stdout.lines().next() {
                let first = first.trim_start_matches(&path).to_owned();
                return Err(format!(
                    "{} names are seen: {directory}{first}",
                    found.stdout.lines().count()
                ));
            }
        }
    }
    Ok(())
}

/// CVE-2021-4024: what listens once everything runs, but the one published port that the keeper
/// carries over IPv6, since the container has none.
pub fn ports(side: &Side) -> Verdict {
    side.start(&["busybox", "sleep", "1000"]);
    side.start(&["-p", "8080:80", "busybox", "sleep", "1000"]);
    let table = side.daemon.netns().sh(
        "cat /proc/net/tcp /proc/net/tcp6; tail -n +2 /proc/net/udp /proc/net/udp6 /proc/net/raw",
    );
    let published = format!("{}:{:04X}", "0".repeat(32), 8080);
    let listening = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 9
            && fields[0].ends_with(':')
            && matches!(fields[3], "0A" | "07")
            && fields[1] != published
    };
    match table.lines().find(listening) {
        Some(line) => Err(format!("somebody listens: {line}")),
        None if !table.contains(&published) => Err("the published port is not there".into()),
        None => Ok(()),
    }
}

/// CVE-2021-20199: who a container thinks it talks to.
pub fn source_address(side: &Side) -> Verdict {
    // The official image's has a server that tells whom it serves.
    hoy_e2e::give_busybox(&side.daemon);
    let other = NetNs::new();
    side.daemon.netns().link(&other, "outside", "10.77.0.1/24", "10.77.0.2/24");
    let serve =
        ["-p", "8080:80", "busybox", "tcpsvd", "0", "80", "sh", "-c", "echo $TCPREMOTEADDR"];
    side.start(&serve);
    let ask = || other.run("busybox").args(["nc", "10.77.0.1", "8080"]).run();
    wait_until("it answers", || ask().stdout.contains(':'));
    let seen = ask().stdout;
    if seen.starts_with("10.77.0.2:") { Ok(()) } else { Err(format!("the client is {seen}")) }
}

/// CVE-2025-6032: a server that is not who it says.
pub fn certificates(side: &Side) -> Verdict {
    let directory = side.directory("tls").display().to_string();
    host_sh(&format!(
        "cd {directory}; openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca -days 2 \
         -subj /CN=authority 2>/dev/null; \
         openssl req -newkey rsa:2048 -nodes -keyout key -out request -subj /CN=localhost 2>/dev/null; \
         printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' >names; \
         openssl x509 -req -in request -CA ca -CAkey ca.key -CAcreateserial -days 2 -extfile names \
         -out cert 2>/dev/null; \
         cp {} x.tar",
        hoy_testkit::busybox_rootfs().display()
    ));
    let fetch = |daemon: &Daemon| {
        let line = format!(
            "cd {directory}; exec openssl s_server -accept 7443 -key key -cert cert -WWW -quiet"
        );
        let mut server = daemon.netns().run("sh").args(["-c", &line]).spawn();
        wait_until("it serves", || {
            daemon.netns().sh("cat /proc/net/tcp /proc/net/tcp6").contains(":1D13 ")
        });
        let output = daemon.docker(&["import", "https://127.0.0.1:7443/x.tar", "fetched"]).run();
        server.kill().unwrap();
        server.wait().unwrap();
        output
    };
    let output = fetch(&side.daemon);
    if output.code == Some(0) {
        return Err("an unknown certificate is believed".to_owned());
    }
    assert!(output.stderr.contains("certificate"), "{output:?}");
    // The same one is believed where the machine trusts it: the server is not what failed.
    let mut trusting = Daemon::prepare(&[]);
    trusting.set("SSL_CERT_FILE", &format!("{directory}/ca"));
    trusting.launch();
    fetch(&trusting).ok();
    Ok(())
}
