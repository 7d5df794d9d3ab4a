//! Images made from Debian's packages and from the shared root file systems, cached below target/.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::command::Run;

/// The workspace's root: where it was when this was built, or where it is said to be, on a machine
/// that has the tests but no sources.
pub fn workspace() -> PathBuf {
    if let Some(path) = std::env::var_os("HOY_WORKSPACE") {
        return path.into();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    path.canonicalize().expect("the workspace exists")
}

pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(path) => path.into(),
        None => workspace().join("target"),
    }
}

fn shared(name: &str) -> PathBuf {
    let path = workspace().join("../shared/images").join(name);
    assert!(path.exists(), "missing {}", path.display());
    path
}

/// One at a time within a process: the tests of one file begin together.
static MAKING: Mutex<()> = Mutex::new(());

/// Makes a file once: under a name of its own, then renamed, so that tests in parallel and
/// interrupted runs never see half of it.
fn cached(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let directory = target().join("images");
    std::fs::create_dir_all(&directory).expect("create target/images");
    let path = directory.join(name);
    let _turn = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if !path.exists() {
        let fresh = directory.join(format!(".{name}.{}", std::process::id()));
        make(&fresh);
        std::fs::rename(&fresh, &path).expect("rename");
    }
    path
}

fn sh(line: &str) {
    Run::new("sh").args(["-ec", line]).deadline(900).run().ok();
}

/// A root file system of busybox alone, as a tar.
pub fn busybox_rootfs() -> PathBuf {
    assert!(Path::new("/bin/busybox").exists(), "the package busybox-static is missing");
    cached("busybox.tar", |fresh| {
        sh(&format!(
            "d=$(mktemp -d); trap 'rm -rf $d' EXIT; cd $d
             mkdir -p bin etc tmp root home var/www dev proc sys
             cp /bin/busybox bin/busybox; chmod 1777 tmp
             for a in $(/bin/busybox --list); do [ $a = busybox ] || ln -s busybox bin/$a; done
             printf 'root:x:0:0:root:/root:/bin/sh\\nwww:x:33:33:www:/var/www:/bin/sh\\n' >etc/passwd
             printf 'root:x:0:\\nwww:x:33:\\nstaff:x:50:www\\n' >etc/group
             tar --numeric-owner --owner=0 --group=0 --sort=name --mtime=@1 -cf {} .",
            fresh.display()
        ));
    })
}

/// The official busybox image as an OCI layout in a tar.
pub fn busybox_oci_tar() -> PathBuf {
    let layout = shared("busybox-oci");
    cached("busybox-oci.tar", |fresh| {
        sh(&format!("tar -C {} -cf {} .", layout.display(), fresh.display()));
    })
}

/// Alpine's root file system, one gzip layer.
pub fn alpine_rootfs() -> PathBuf {
    shared("alpine-minirootfs-3.20.3-x86_64.tar.gz")
}

/// Debian with nginx, made by debootstrap.
pub fn debian_nginx_rootfs() -> PathBuf {
    cached("debian-nginx.tar", |fresh| {
        sh(&format!(
            "d=$(mktemp -d); trap 'rm -rf $d' EXIT
             debootstrap --variant=minbase --include=nginx-light,ca-certificates bookworm $d/root >$d/log 2>&1 || {{ tail -n 20 $d/log; exit 1; }}
             rm -rf $d/root/var/cache/apt/archives/*.deb
             cp /etc/apt/sources.list $d/root/etc/apt/ 2>/dev/null || true
             cp -r /etc/apt/sources.list.d /etc/apt/apt.conf.d $d/root/etc/apt/ 2>/dev/null || true
             tar --numeric-owner -C $d/root -cf {} .",
            fresh.display()
        ));
    })
}

/// Debian with systemd as its init system, made by debootstrap.
pub fn debian_systemd_rootfs() -> PathBuf {
    cached("debian-systemd.tar", |fresh| {
        sh(&format!(
            "d=$(mktemp -d); trap 'rm -rf $d' EXIT
             debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,iproute2 bookworm $d/root >$d/log 2>&1 || {{ tail -n 20 $d/log; exit 1; }}
             rm -rf $d/root/var/cache/apt/archives/*.deb $d/root/var/lib/apt/lists/*
             tar --numeric-owner -C $d/root -cf {} .",
            fresh.display()
        ));
    })
}

/// A root file system that has everything from the machine's /usr, to be mounted there.
pub fn usr_rootfs() -> PathBuf {
    cached("usr.tar", |fresh| {
        sh(&format!(
            "d=$(mktemp -d); trap 'rm -rf $d' EXIT; cd $d
             mkdir -p etc tmp root run var/lib dev proc sys usr; chmod 1777 tmp; ln -s /run var/run
             for name in bin sbin lib lib64; do [ ! -L /$name ] || ln -s usr/$name $name; done
             printf 'root:x:0:0:root:/root:/bin/sh\\n' >etc/passwd
             printf 'root:x:0:\\n' >etc/group
             tar --numeric-owner --owner=0 --group=0 --sort=name --mtime=@1 -cf {} .",
            fresh.display()
        ));
    })
}

/// A root file system with Debian's MariaDB in /opt/db, to be run with the machine's /usr mounted.
pub fn mariadb_rootfs() -> PathBuf {
    let packages = ["mariadb-server-core", "mariadb-client-core", "liburing2", "libnuma1"];
    let packages: Vec<String> =
        packages.map(unpacked_package).map(|p| p.display().to_string()).into();
    let usr = usr_rootfs();
    cached("mariadb.tar", |fresh| {
        sh(&format!(
            "d=$(mktemp -d); trap 'rm -rf $d' EXIT
             mkdir -p $d/opt/db $d/var/lib/mysql; tar -C $d -xf {}
             for p in {}; do cp -a $p/. $d/opt/db/; done; chown 100:100 $d/var/lib/mysql
             echo 'mysql:x:100:100::/:/bin/sh' >>$d/etc/passwd; echo 'mysql:x:100:' >>$d/etc/group
             tar --numeric-owner -C $d -cf {} .",
            usr.display(),
            packages.join(" "),
            fresh.display()
        ));
    })
}

/// A Debian package unpacked below target/, the system untouched.
pub(crate) fn unpacked_package(name: &str) -> PathBuf {
    cached(&format!("package-{name}"), |fresh| {
        sh(&format!(
            "d=$(mktemp -d); trap 'rm -rf $d' EXIT; cd $d
             apt-get download -qq {name} || {{ apt-get update -qq; apt-get download -qq {name}; }}
             dpkg -x {name}_*.deb {}",
            fresh.display()
        ));
    })
}
