//! Archives: hostile ones are refused whole, good ones are unpacked as a sequential unpack would.

use std::path::Path;

use hoy_e2e::daemon;
use hoy_testkit::{Daemon, Run};
use tar::EntryType;

fn sh(directory: &Path, line: &str) -> String {
    let text = format!("cd {}; {line}", directory.display());
    Run::new("bash").args(["-ec", &text]).run().ok().to_owned()
}

/// One raw entry: no library that would make it harmless stands between.
struct Entry {
    path: String,
    kind: EntryType,
    link: String,
    data: Vec<u8>,
}

impl Entry {
    fn new(path: &str, kind: EntryType, link: &str, data: &[u8]) -> Self {
        Self { path: path.to_owned(), kind, link: link.to_owned(), data: data.to_vec() }
    }
}

fn write_tar(path: &Path, entries: &[Entry]) {
    let mut tar = tar::Builder::new(std::fs::File::create(path).unwrap());
    let mut put = |name: &str, kind, link: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        let raw = header.as_old_mut();
        let bytes = &name.as_bytes()[..name.len().min(100)];
        raw.name[..bytes.len()].copy_from_slice(bytes);
        let bytes = &link.as_bytes()[..link.len().min(100)];
        raw.linkname[..bytes.len()].copy_from_slice(bytes);
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(data.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_cksum();
        tar.append(&header, data).unwrap();
    };
    for entry in entries {
        let long = |text: &str| [text.as_bytes(), b"\0"].concat();
        if entry.link.len() > 100 {
            put("././@LongLink", EntryType::GNULongLink, "", &long(&entry.link));
        }
        if entry.path.len() > 100 {
            put("././@LongLink", EntryType::GNULongName, "", &long(&entry.path));
        }
        put(&entry.path, entry.kind, &entry.link, &entry.data);
    }
    tar.finish().unwrap();
}

fn work(daemon: &Daemon, name: &str) -> std::path::PathBuf {
    let path = daemon.path(name);
    std::fs::create_dir(&path).unwrap();
    path
}

/// A shell function that makes a docker-archive of the layers `$2…` under the name `$1`.
const ARCHIVE: &str = r#"
archive() {
    name=$1; shift; rm -rf pack; mkdir pack
    ids=; files=
    for layer in "$@"; do
        sum=$(sha256sum <$layer | cut -d' ' -f1); cp $layer pack/$sum.tar
        ids="$ids${ids:+,}\"sha256:$sum\""; files="$files${files:+,}\"$sum.tar\""
    done
    printf '{"architecture":"amd64","os":"linux","config":{"Cmd":["sh"]},"rootfs":{"type":"layers","diff_ids":[%s]}}' "$ids" >pack/config.json
    printf '[{"Config":"config.json","RepoTags":["%s:latest"],"Layers":[%s]}]' $name "$files" >pack/manifest.json
    tar -C pack -cf $name.tar .
}
"#;

#[test]
fn hostile_archives_change_nothing() {
    let daemon = daemon();
    let directory = work(&daemon, "hostile");
    let canary = work(&daemon, "canary");
    std::fs::write(canary.join("file"), "untouched").unwrap();
    let up =
        format!("{}{}", "../".repeat(20), canary.display().to_string().trim_start_matches('/'));
    let outside = canary.display().to_string();
    let file = |path: &str| Entry::new(path, EntryType::Regular, "", b"overwritten");
    let link = |path: &str, to: &str| Entry::new(path, EntryType::Symlink, to, b"");
    let hard = |path: &str, to: &str| Entry::new(path, EntryType::Link, to, b"");
    for (name, entries) in [
        ("traversal", vec![file(&format!("{up}/evil"))]),
        ("dots", vec![file(&format!("a/../../../../{up}/evil"))]),
        ("throughlink", vec![link("l", &outside), file("l/evil")]),
        ("throughrelative", vec![link("l", &up), file("l/evil")]),
        ("chain", vec![link("a", "b"), link("b", &outside), file("a/evil")]),
        ("hardlink", vec![hard("h", &format!("{up}/file")), file("h")]),
        ("hardlinkabsolute", vec![hard("h", &format!("{outside}/file")), file("h")]),
        ("hardlinklink", vec![link("s", &format!("{outside}/file")), hard("h", "s"), file("h")]),
        ("whiteout", vec![link("l", &outside), file("l/.wh.file")]),
        ("opaque", vec![link("l", &outside), file("l/.wh..wh..opq")]),
        ("whiteoutdots", vec![file(".wh...")]),
        ("absolute", vec![file(&format!("{outside}/evil"))]),
        (
            "throughdirectory",
            vec![
                link("l", &outside),
                Entry::new("l", EntryType::Directory, "", b""),
                file("l/evil"),
            ],
        ),
    ] {
        write_tar(&directory.join(format!("{name}.layer")), &entries);
    }
    sh(&directory, &format!("{ARCHIVE} for l in *.layer; do archive ${{l%.layer}} $l; done"));
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "tar") {
            continue;
        }
        let load = daemon.docker(&["load", "-i", &path.display().to_string()]).run();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if load.code == Some(0) {
            // Kept inside its own root: it may be there, and may not reach out.
            daemon.docker(&["rmi", &name]).run().ok();
        }
        let names: Vec<_> =
            std::fs::read_dir(&canary).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["file"], "{name}");
        assert_eq!(std::fs::read_to_string(canary.join("file")).unwrap(), "untouched", "{name}");
    }
}

#[test]
fn lying_and_broken_archives_are_refused() {
    let daemon = daemon();
    let directory = work(&daemon, "broken");
    let before = daemon.docker(&["images", "-q", "--no-trunc"]).run().ok().to_owned();
    let line = format!(
        r#"{ARCHIVE}
        echo hi >f; tar -cf l.layer f; archive good l.layer
        # A layer that is another than its digest says.
        mkdir lie; tar -C lie -xf good.tar; echo more >g; tar -cf other.layer f g; cp other.layer $(ls lie/*.tar); tar -C lie -cf lying.tar .
        head -c 2000 good.tar >truncated.tar
        printf 'this is no archive' >garbage.tar
        mkdir nolayer; tar -C nolayer -xf good.tar; rm $(ls nolayer/*.tar); tar -C nolayer -cf nolayer.tar .
        mkdir badjson; tar -C badjson -xf good.tar; echo '{{' >badjson/manifest.json; tar -C badjson -cf badjson.tar .
        mkdir out; tar -C out -xf good.tar; sed -i 's,"Config":"config.json","Config":"../../etc/passwd",' out/manifest.json; tar -C out -cf outside.tar .
        mkdir arch; tar -C arch -xf good.tar; sed -i 's/amd64/s390x/' arch/config.json; tar -C arch -cf arch.tar .
        mkdir blob; cd blob; tar -xf {oci}; b=$(find blobs -type f -size +100k | head -1); printf x | dd of=$b bs=1 seek=50 conv=notrunc 2>/dev/null; tar -cf ../blob.tar .
        "#,
        oci = hoy_testkit::busybox_oci_tar().display()
    );
    sh(&directory, &line);
    for name in ["lying", "truncated", "garbage", "nolayer", "badjson", "outside", "blob"] {
        let path = directory.join(format!("{name}.tar")).display().to_string();
        let output = daemon.docker(&["load", "-i", &path]).run();
        assert_ne!(output.code, Some(0), "{name}: {output:?}");
        assert!(!output.stderr.trim().is_empty(), "{name}");
        assert_eq!(daemon.docker(&["images", "-q", "--no-trunc"]).run().ok(), before, "{name}");
    }
    // One for another machine comes in, as it may be meant to be handed on, but does not run.
    let arch = directory.join("arch.tar").display().to_string();
    if daemon.docker(&["load", "-i", &arch]).run().code == Some(0) {
        assert_ne!(daemon.docker(&["run", "--rm", "good", "sh"]).run().code, Some(0));
        daemon.docker(&["rmi", "good"]).run().ok();
    }
    let good = directory.join("good.tar").display().to_string();
    daemon.docker(&["load", "-i", &good]).run().ok();
    daemon.docker(&["rmi", "good"]).run().ok();
    assert_eq!(std::fs::read_dir(daemon.path("data/tmp")).map_or(0, Iterator::count), 0);
}

#[test]
fn everything_a_tar_can_hold() {
    let daemon = daemon();
    let directory = work(&daemon, "rich");
    let line = r#"
        mkdir r; tar -C r -xf BUSYBOX; cd r
        echo one >a; ln a b; ln -s a c; mkfifo pipe; mknod zero c 1 5; chmod 4755 a
        mkdir -p d/e; chmod 1777 d; chown 70000:3000000000 d/e
        truncate -s 8M sparse; printf end >>sparse
        long=$(printf 'x%.0s' $(seq 200)); mkdir -p $long/$long; echo deep >$long/$long/file
        touch -d '2001-02-03 04:05:06.789' old; printf 'ü' >grüße
"#;
    let line = line.replace("BUSYBOX", &hoy_testkit::busybox_rootfs().display().to_string());
    sh(&directory, &line);
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(directory.join("r/a"), "user.note", b"hoy", flags).unwrap();
    sh(&directory, "tar --format=posix --sparse --xattrs --numeric-owner -C r -cf rich.tar .");
    let tar = directory.join("rich.tar").display().to_string();
    for suffix in ["", ".gz", ".zst"] {
        match suffix {
            ".gz" => drop(sh(&directory, "gzip -k rich.tar")),
            ".zst" => {
                drop(sh(&directory, "zstd -q -k rich.tar 2>/dev/null || python3 -c 'import sys' "))
            }
            _ => {}
        }
        let path = format!("{tar}{suffix}");
        daemon.docker(&["import", &path, "rich"]).run().ok();
        let look = "stat -c '%n %a %u %g %h %F %t' a b c pipe zero d d/e; cat x*/x*/file; stat -c %s sparse; du -k sparse | cut -f1; stat -c %y old; cat gr*";
        let output = daemon.docker(&["run", "--rm", "rich", "sh", "-c", look]).run();
        let text = output.ok();
        for wanted in [
            "a 4755 0 0 2 regular file 0",
            "b 4755 0 0 2 regular file 0",
            "pipe 644 0 0 1 fifo 0",
            "zero 644 0 0 1 character special file 1",
            "d 1777 0 0 3 directory 0",
            "d/e 755 70000 3000000000 2 directory 0",
            "deep",
            "8388611",
            "2001-02-03 04:05:06.789",
            "ü",
        ] {
            assert!(text.contains(wanted), "{wanted:?} not in {text} ({suffix})");
        }
    }
    let layers = std::fs::read_dir(daemon.path("data/layers")).unwrap();
    let note = |layer: std::fs::DirEntry| {
        let mut value = [0; 8];
        let length =
            rustix::fs::getxattr(layer.path().join("fs/a"), "user.note", &mut value).ok()?;
        Some(value[..length].to_vec())
    };
    let notes: Vec<_> = layers.flatten().filter_map(note).collect();
    assert!(!notes.is_empty() && notes.iter().all(|value| value == b"hoy"), "{notes:?}");
}

/// Layers one after another by hand, and by us: the same tree, in metadata too.
#[test]
fn layers_over_different_parents() {
    let daemon = daemon();
    let directory = work(&daemon, "layers");
    let line = format!(
        r#"{ARCHIVE}
        mkdir base1 base2 base3 top
        for b in base1 base2 base3; do tar -C $b -xf {busybox}; done
        mkdir -p base1/opt/app; chmod 750 base1/opt/app; chown 11:12 base1/opt/app; touch -d '2010-01-01' base1/opt/app; echo gone >base1/opt/gone; mkdir base1/opt/full; echo x >base1/opt/full/x
        mkdir -p base2/opt/app; chmod 701 base2/opt/app; chown 21:22 base2/opt/app; touch -d '2011-01-01' base2/opt/app; touch -d '2012-02-02' base2/opt
        ln -s /opt base3/other
        tar -C base1 --numeric-owner -cf b1.layer .; tar -C base2 --numeric-owner -cf b2.layer .; tar -C base3 --numeric-owner -cf b3.layer .
        mkdir -p top/opt/app/deep top/opt/full; echo new >top/opt/app/deep/file; touch top/opt/.wh.gone top/opt/full/.wh..wh..opq; echo y >top/opt/full/y
        # Only the files: the directories are implied.
        tar -C top --numeric-owner -cf top.layer opt/app/deep/file opt/.wh.gone opt/full/.wh..wh..opq opt/full/y
        archive one b1.layer top.layer; archive two b2.layer top.layer; archive three b3.layer top.layer"#,
        busybox = hoy_testkit::busybox_rootfs().display()
    );
    sh(&directory, &line);
    for name in ["one", "two", "three"] {
        let tar = directory.join(format!("{name}.tar")).display().to_string();
        daemon.docker(&["load", "-i", &tar]).run().ok();
    }
    let look = "cd /opt; find . | sort | while read f; do stat -c '%n %a %u %g %F %Y' $f; done; cat app/deep/file full/*";
    let shown =
        |name: &str| daemon.docker(&["run", "--rm", name, "sh", "-c", look]).run().ok().to_owned();
    let of = |text: &str, file: &str| {
        text.lines().find(|l| l.starts_with(&format!("{file} "))).unwrap_or_default().to_owned()
    };
    let one = shown("one");
    assert!(of(&one, "./app").starts_with("./app 750 11 12 directory "), "{one}");
    assert_eq!(of(&one, "./gone"), "");
    assert_eq!(of(&one, "./full/x"), "", "{one}");
    assert!(one.ends_with("new\ny\n"), "{one}");
    let two = shown("two");
    assert!(of(&two, "./app").starts_with("./app 701 21 22 directory "), "{two}");
    let three = shown("three");
    assert!(of(&three, "./app").starts_with("./app 755 0 0 directory "), "{three}");
    // The top layer is unpacked once, and shared.
    let layers = std::fs::read_dir(daemon.path("data/layers")).unwrap().count();
    for name in ["one", "two", "three"] {
        daemon.docker(&["rmi", name]).run().ok();
    }
    hoy_testkit::wait_until("their layers are gone", || {
        std::fs::read_dir(daemon.path("data/layers")).unwrap().count() < layers
    });
    assert!(
        daemon.docker(&["run", "--rm", "busybox", "echo", "still"]).run().ok().contains("still")
    );
}

#[test]
fn import_from_a_url() {
    let daemon = daemon();
    let directory = work(&daemon, "served");
    std::fs::copy(hoy_testkit::alpine_rootfs(), directory.join("alpine.tar.gz")).unwrap();
    let serve = ["httpd", "-f", "-p", "127.0.0.1:7000", "-h", &directory.display().to_string()];
    let mut server = daemon.netns().run("busybox").args(serve).spawn();
    let get = |url: &str, name: &str| daemon.docker(&["import", url, name]).run();
    hoy_testkit::wait_until("it is served", || {
        get("http://127.0.0.1:7000/alpine.tar.gz", "fetched").code == Some(0)
    });
    let text = daemon.hoy(&["run", "--rm", "fetched", "cat", "/etc/os-release"]).run();
    assert!(text.ok().contains("Alpine Linux"));
    let gone = get("http://127.0.0.1:7000/gone.tar.gz", "gone");
    gone.fails_with(1);
    assert!(gone.stderr.contains("404"), "{gone:?}");
    assert_ne!(get("http://127.0.0.1:7001/x", "gone").code, Some(0));
    assert_eq!(daemon.docker(&["images", "-q", "gone"]).run().ok(), "");
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn images_in_use_stay() {
    let daemon = daemon();
    daemon.docker(&["tag", "busybox", "again:1"]).run().ok();
    daemon.docker(&["create", "--name", "user", "again:1"]).run().ok();
    assert!(daemon.docker(&["rmi", "again:1"]).run().code == Some(0), "a name among others goes");
    let ids = daemon.docker(&["images", "-q", "--no-trunc", "busybox"]).run();
    let id = ids.ok().lines().next().unwrap().to_owned();
    let output = daemon.docker(&["rmi", &id]).run();
    output.fails_with(1);
    assert!(output.stderr.contains("must be forced"), "{}", output.stderr);
    daemon.docker(&["start", "-a", "user"]).run().ok();
}
