//! Files of an image that the host reads, and files of the host that an image is.

use crate::Verdict;
use crate::side::{PERL, Side, host_sh, ran_or_refused};

/// CVE-2024-9676 and others: what is read is no file.
pub fn read_by_the_host(side: &Side) -> Verdict {
    let host = side.daemon.path("passwd-of-the-host");
    std::fs::write(&host, "spy:x:4242:4242::/:/bin/sh\n").unwrap();
    let up = format!("{}{}", "../".repeat(16), host.display());
    let strange = [
        ("device", "mknod FILE c 1 5".to_owned(), true),
        ("fifo", "mkfifo FILE".to_owned(), true),
        ("link-to-device", "mknod zero c 1 5; ln -s /zero FILE".to_owned(), true),
        ("directory", "mkdir FILE".to_owned(), true),
        ("loop", "ln -s /FILE FILE".to_owned(), true),
        ("huge", "truncate -s 64M FILE".to_owned(), true),
        ("host", format!("ln -s {} FILE", host.display()), false),
        ("climbing", format!("ln -s {up} FILE"), false),
        ("magic", "ln -s /proc/self/root/etc/hostname FILE".to_owned(), false),
        ("binary", "head -c 100000 /bin/busybox >FILE".to_owned(), false),
    ];
    for file in ["etc/passwd", "etc/group"] {
        for (kind, make, must_fail) in &strange {
            let name = format!("{kind}-{}", file.replace('/', "-"));
            side.import(&name, &format!("rm {file}; {}", make.replace("FILE", file)), &[]);
            let output = side.run(&["-u", "5", &name, "true"]);
            ran_or_refused(&output);
            if *must_fail && output.code == Some(0) {
                return Err(format!("{file} was read, which is a {kind}"));
            }
            let spied = side.run(&["-u", "spy", &name, "id", "-u"]);
            if spied.code == Some(0) {
                return Err(format!("{file} of the host was read through a {kind} link"));
            }
            side.untouched()?;
        }
    }
    Ok(())
}

/// The same, exchanged while the host looks at it: a FIFO that the host opens lets its writer go.
pub fn raced(side: &Side) -> Verdict {
    let race = "chdir '/etc'; my ($p, $f) = ('passwd', 'fifo'); \
        while (1) { syscall(316, -100, $p, -100, $f, 2) == 0 or die $! }";
    // Opened before the race, by its name of then.
    let line = "cd /etc; mkfifo fifo; (exec 3>fifo && touch /opened) & sleep 0.2; exec /usr/bin/perl -e \"$0\"";
    let id = side.start(&[PERL, &["busybox", "sh", "-c", line, race]].concat());
    let until = std::time::Instant::now() + side.race();
    while std::time::Instant::now() < until {
        side.daemon.hoy(&["exec", "-u", "7", &id, "/bin/busybox", "true"]).run();
        let looked = side.daemon.hoy(&["exec", &id, "/bin/busybox", "ls", "/opened"]).run();
        if looked.code == Some(0) {
            return Err("the host opened a FIFO of a container".to_owned());
        }
    }
    let racing = hoy_e2e::field(&side.daemon, &id, "{{.State.Running}}");
    assert_eq!(racing, "true", "{:?}", side.daemon.hoy(&["logs", &id]).run());
    Ok(())
}

/// CVE-2022-0847, CVE-2016-5195: what a container writes changes no layer that others use.
pub fn layers_unchanged(side: &Side) -> Verdict {
    let hash = || {
        host_sh(&format!(
            "cd {}; find layers blobs -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum; \
             find layers -printf '%p %m %U %G %s %T@ %n\\n' | sort | sha256sum",
            side.daemon.path("data").display()
        ))
    };
    let before = hash();
    // Through a pipe's pages and through a mapping that is only to be read, into files that are
    // open for reading.
    let splice = "for my $f ('/bin/busybox', '/etc/passwd') { open(my $h, '<', $f) or die; pipe(my $r, my $w); \
        for (1 .. 16) { syswrite($w, 'x' x 4096); sysread($r, my $b, 4096); } \
        my $at = pack('q', 1); syscall(275, fileno($h), $at, fileno($w), 0, 1, 0); syswrite($w, 'spoilt'); \
        open(my $m, '+<', '/proc/self/mem'); }";
    let write = "for f in /etc/* /bin/sh /bin/busybox; do echo spoilt >>$f; chmod 4777 $f; chown 1:1 $f; touch $f; done; \
        mv /bin/busybox /bin/b; rm -rf /etc /home";
    for options in [&[][..], &["--cap-add", "ALL"], &["--privileged"]] {
        side.run(&[options, PERL, &["busybox", "/usr/bin/perl", "-e", splice]].concat()).ok();
        side.run(&[options, &["busybox", "/bin/busybox", "sh", "-c", write]].concat());
    }
    if hash() != before {
        return Err("a layer has changed".to_owned());
    }
    assert_eq!(side.sh(&[], "head -n 1 /etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
    Ok(())
}
