//! What comes in with an image.

use std::path::Path;

use tar::EntryType;

use crate::Verdict;
use crate::side::{Side, host_sh, ran_or_refused, status};

/// One raw entry: no library that would make it harmless stands between.
fn entry(
    tar: &mut tar::Builder<std::fs::File>,
    name: &str,
    kind: EntryType,
    link: &str,
    data: &[u8],
) {
    let mut header = tar::Header::new_gnu();
    let raw = header.as_old_mut();
    raw.name[..name.len()].copy_from_slice(name.as_bytes());
    raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o4777);
    header.set_size(data.len() as u64);
    header.set_uid(12345);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_cksum();
    tar.append(&header, data).unwrap();
}

/// A name, what it is, and where it leads.
type Case<'a> = (&'a str, EntryType, &'a str);

/// CVE-2014-6407, 9356, 9357, 9358, CVE-2021-32760, CVE-2025-47290: entries that lead outside.
/// More of them: `hostile_archives_change_nothing` in images.rs.
pub fn archives(side: &Side) -> Verdict {
    let outside = side.canary();
    let up = side.climbing();
    let file = format!("{outside}/file");
    let cases: Vec<(&str, Vec<Case<'_>>)> = vec![
        ("link", vec![("l", EntryType::Symlink, &outside), ("l/made", EntryType::Regular, "")]),
        ("up", vec![("l", EntryType::Symlink, &up), ("l/made", EntryType::Regular, "")]),
        (
            "directory",
            vec![("l", EntryType::Symlink, &outside), ("l/made", EntryType::Directory, "")],
        ),
        ("fifo", vec![("l", EntryType::Symlink, &outside), ("l/made", EntryType::Fifo, "")]),
        (
            "mode",
            vec![
                ("s", EntryType::Symlink, &file),
                ("h", EntryType::Link, "s"),
                ("h", EntryType::Regular, ""),
            ],
        ),
        (
            "hard",
            vec![
                ("l", EntryType::Symlink, &outside),
                ("h", EntryType::Link, "l/file"),
                ("h", EntryType::Regular, ""),
            ],
        ),
        (
            "whiteout",
            vec![("l", EntryType::Symlink, &outside), ("l/.wh.file", EntryType::Regular, "")],
        ),
        (
            "opaque",
            vec![("l", EntryType::Symlink, &outside), ("l/.wh..wh..opq", EntryType::Regular, "")],
        ),
    ];
    for (name, entries) in cases {
        let path = side.daemon.path(&format!("{name}.tar"));
        let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
        for (place, kind, link) in entries {
            entry(&mut tar, place, kind, link, b"");
        }
        tar.finish().unwrap();
        // Kept inside or refused: it does not reach out.
        side.daemon.docker(&["import", &path.display().to_string(), name]).run();
        side.untouched()?;
    }
    Ok(())
}

/// CVE-2023-25153: a document that would fill the memory.
pub fn documents_too_large(side: &Side) -> Verdict {
    let directory = side.directory("large").display().to_string();
    let layout = hoy_testkit::busybox_oci_tar();
    let peak =
        || -> u64 { status(side.daemon.pid(), "VmHWM").trim_end_matches(" kB").parse().unwrap() };
    let before = peak();
    for name in ["manifest.json", "index.json"] {
        host_sh(&format!(
            "cd {directory}; rm -rf *; mkdir x; tar -C x -xf {}; rm -f x/manifest.json; truncate -s 300M x/{name}; \
             tar -C x -cf x.tar .",
            layout.display()
        ));
        let load = side.daemon.docker(&["load", "-i", &format!("{directory}/x.tar")]).run();
        assert_ne!(load.code, Some(0), "{load:?}");
        let now = peak();
        if now > before + 150_000 {
            return Err(format!("the daemon grew from {before} to {now} kB"));
        }
    }
    Ok(())
}

/// CVE-2021-41190: a document that is an index to one and a manifest to another.
pub fn two_meanings(side: &Side) -> Verdict {
    let directory = side.directory("layout");
    let layout = hoy_testkit::busybox_oci_tar();
    let index = |edit: &str| {
        // perl knows JSON in its core modules.
        let program = format!(
            "use JSON::PP; local $/; my $d = decode_json(<STDIN>); {edit}; print encode_json($d);"
        );
        let line = format!(
            "cd {}; rm -rf x; mkdir x; tar -C x -xf {}; rm -f x/manifest.json; \
             perl -e '{program}' <x/index.json >index.new; mv index.new x/index.json; tar -C x -cf x.tar .",
            directory.display(),
            layout.display()
        );
        host_sh(&line);
        let path = directory.join("x.tar").display().to_string();
        side.daemon.docker(&["load", "-i", &path]).run()
    };
    // What is not changed comes in.
    index("$d->{annotations} = {}").ok();
    for (what, edit) in [
        ("an index with layers", "$d->{layers} = []"),
        ("an index with a configuration", "$d->{config} = $d->{manifests}[0]"),
    ] {
        if index(edit).code == Some(0) {
            return Err(format!("{what} is believed"));
        }
    }
    for (what, edit) in [
        (
            "an index that is called a manifest",
            "$d->{mediaType} = q(application/vnd.oci.image.manifest.v1+json)",
        ),
        (
            "a manifest that is pointed to as an index",
            "$d->{manifests}[0]{mediaType} = q(application/vnd.oci.image.index.v1+json)",
        ),
        ("another size", "$d->{manifests}[0]{size}++"),
        ("a digest that climbs", "$d->{manifests}[0]{digest} = q(sha256:../../../etc/passwd)"),
        (
            "an unknown digest",
            "$d->{manifests}[0]{digest} = q(md5:d41d8cd98f00b204e9800998ecf8427e)",
        ),
    ] {
        if index(edit).code == Some(0) {
            return Err(format!("{what} is believed"));
        }
    }
    Ok(())
}

/// CVE-2026-53488, CVE-2022-1227, R15: labels, variables and programs of an image.
/// Beside it: `an_image_steers_nothing_outside` in escapes.rs.
pub fn steering(side: &Side) -> Verdict {
    let trojan = format!(
        "for p in ps top nsenter tar xz unpigz gzip runc crun iptables nft mount sh.real; do rm -f bin/$p; \
         printf '#!/bin/sh\\ntouch {0}/made /trojan\\n' >bin/$p; chmod 755 bin/$p; done",
        side.canary()
    );
    let labels = [
        "containerd.io/restart.loguri=binary:///bin/ps",
        "containerd.io/restart.status=running",
        "io.containerd.runc.v2.group=x",
        "io.kubernetes.cri.container-type=sandbox",
        "io.podman.annotations.privileged=TRUE",
        "run.oci.handler=krun",
        "com.docker.compose.project=x",
        "org.opencontainers.runtime-spec.hooks=/bin/ps",
        "hoy.privileged=true",
    ];
    let mut changes: Vec<String> = labels.iter().map(|label| format!("LABEL {label}")).collect();
    changes.extend(
        ["LD_PRELOAD=/bin/ps", "DOCKER_HOST=tcp://127.0.0.1:1", "PATH=/bin", "HOME=/../../tmp"]
            .map(|variable| format!("ENV {variable}")),
    );
    let changes: Vec<&str> = changes.iter().map(String::as_str).collect();
    side.import("steering", &trojan, &changes);
    let id = side.start(&["-P", "steering", "sleep", "1000"]);
    let top = side.daemon.docker(&["top", &id]).run();
    assert!(top.ok().contains("sleep"), "{top:?}");
    side.daemon.docker(&["logs", &id]).run().ok();
    side.daemon.docker(&["stats", "--no-stream", &id]).run();
    let spec = "{{.HostConfig.Privileged}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.LogConfig.Type}} {{.HostConfig.Runtime}}";
    assert_eq!(hoy_e2e::field(&side.daemon, &id, spec), "false no json-file runc");
    let exec = side.daemon.hoy(&["exec", &id, "/bin/busybox", "ls", "/trojan"]).run();
    side.daemon.hoy(&["rm", "-f", &id]).run().ok();
    if exec.code == Some(0) {
        return Err("a program of the image was run for the host".to_owned());
    }
    side.untouched()
}

/// CVE-2022-23648, CVE-2019-16884: volumes of an image outside of it, or over /proc.
pub fn volumes(side: &Side) -> Verdict {
    for (name, volume) in
        [("climb", side.climbing()), ("proc", "/proc".to_owned()), ("etc", "/../../etc".to_owned())]
    {
        side.import(name, "true", &[&format!("VOLUME [\"{volume}\"]")]);
        let look = "grep -q MemTotal /proc/meminfo && ls / /etc";
        let output = side.run(&[name, "sh", "-c", look]);
        ran_or_refused(&output);
        if output.stdout.contains("debian_version") {
            return Err("a volume was filled from the host".to_owned());
        }
        side.untouched()?;
        assert!(!Path::new("/proc/trojan").exists());
    }
    Ok(())
}
