//! Limits of directories, on file systems of their own; as root. What needs project quotas of the
//! kernel is asked where there are some: `./x guest -- volumes-quota`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hoy_volumes::{Means, Quotas, Usage};

const MIB: u64 = 1 << 20;

/// A file system in a file, mounted for the time of a test.
struct Disk {
    directory: tempfile::TempDir,
}

impl Disk {
    /// None where this kernel, or this machine's programs, have no such file system.
    fn make(format: &[&str], options: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        File::create(&image).unwrap().set_len(400 * MIB).unwrap();
        let made = Command::new(format[0]).args(&format[1..]).arg(&image).output();
        if !made.is_ok_and(|made| made.status.success()) {
            eprintln!("skipped: {} cannot be made here", format.join(" "));
            return None;
        }
        let disk = Self { directory };
        std::fs::create_dir(disk.root()).unwrap();
        let options = format!("loop,{options}");
        let mut mount = Command::new("mount");
        mount.args(["-o", &options]).arg(image).arg(disk.root());
        if !mount.output().unwrap().status.success() {
            eprintln!("skipped: this kernel does not mount {} with {options}", format.join(" "));
            return None;
        }
        Some(disk)
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Ok(table) = std::fs::read_to_string("/proc/self/mountinfo") {
            let root = self.root();
            let own = table.lines().filter_map(|line| line.split(' ').nth(4));
            let own: Vec<&str> = own.filter(|place| Path::new(place).starts_with(&root)).collect();
            for place in own.iter().rev() {
                let _ = Command::new("umount").arg("-l").arg(place).status();
            }
        }
    }
}

fn loops_below(root: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir("/sys/block").unwrap().flatten() {
        if let Ok(file) = std::fs::read_to_string(entry.path().join("loop/backing_file"))
            && Path::new(file.trim()).starts_with(root)
        {
            out.push(file.trim().to_owned());
        }
    }
    out
}

/// The kernel closes devices a moment after the last mount is gone.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn nothing_of(_: std::os::fd::BorrowedFd<'_>) -> std::io::Result<()> {
    Ok(())
}

/// Writes until it fails; how much went in. Without the capability that containers do not have
/// either: ext4 holds nobody with CAP_SYS_RESOURCE to the limits of projects.
fn fill(path: &Path) -> (u64, std::io::Error) {
    std::thread::scope(|scope| scope.spawn(|| fill_as_containers_do(path)).join().unwrap())
}

fn fill_as_containers_do(path: &Path) -> (u64, std::io::Error) {
    let mut sets = rustix::thread::capabilities(None).unwrap();
    sets.effective.remove(rustix::thread::CapabilitySet::SYS_RESOURCE);
    rustix::thread::set_capabilities(None, sets).unwrap();
    let mut file = File::create(path).unwrap();
    let block = vec![7; 256 << 10];
    let mut written = 0;
    loop {
        match file.write(&block).and_then(|n| file.sync_data().map(|()| n)) {
            Ok(n) => written += n as u64,
            Err(error) => return (written, error),
        }
        assert!(written < 100 * MIB, "no limit");
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

fn shown_size(directory: &Path) -> u64 {
    let stat = rustix::fs::statfs(directory).unwrap();
    stat.f_blocks * stat.f_bsize as u64
}

/// The kernel lets an ext4 grow in use for CAP_SYS_RESOURCE alone.
fn may_grow_in_use() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() & (1 << 24) != 0
}

/// What is promised, however it is kept.
fn keeps_the_promises(quotas: &Quotas, root: &Path) {
    let (one, other) = (root.join("one"), root.join("other"));
    for directory in [&one, &other] {
        quotas
            .limited(directory, 20 * MIB, |inside| {
                rustix::fs::mkdirat(inside, "upper", 0o755.into())?;
                Ok(rustix::fs::fchmod(inside, 0o750.into())?)
            })
            .unwrap();
        quotas.attach(directory).unwrap();
        quotas.attach(directory).unwrap();
    }
    assert_ne!(quotas.means(&one), Means::None);
    assert_eq!(std::fs::metadata(&one).unwrap().permissions().mode() & 0o777, 0o750);
    let names: Vec<_> = std::fs::read_dir(&one).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["upper"], "only what was made in it");
    assert_eq!(shown_size(&one), 20 * MIB, "df shows the limit");

    // Full is full there, and there only.
    let (written, error) = fill(&one.join("upper/large"));
    assert!(is_full(&error), "{error}");
    assert!(written > 18 * MIB && written <= 20 * MIB, "{written}");
    std::fs::write(other.join("small"), "written").unwrap();
    std::fs::write(root.join("outside"), "written").unwrap();
    let Usage { used, limit } = quotas.usage(&one).unwrap();
    assert!(used > 18 * MIB && used <= 20 * MIB && limit == 20 * MIB, "{used} of {limit}");
    assert!(quotas.usage(&other).unwrap().used < 2 * MIB);

    // It grows while somebody has it open, not a byte is lost, and it does not shrink.
    let held = File::open(one.join("upper/large")).unwrap();
    if quotas.has_projects() || may_grow_in_use() {
        quotas.grow(&one, 60 * MIB).unwrap();
        assert_eq!(held.metadata().unwrap().len(), written);
        drop(held);
    } else {
        let refused = quotas.grow(&one, 60 * MIB).unwrap_err().to_string();
        assert!(refused.contains("CAP_SYS_RESOURCE"), "{refused}");
        assert_eq!(shown_size(&one), 20 * MIB);
        drop(held);
        quotas.detach(&one).unwrap();
        eventually("one can grow", || quotas.grow(&one, 60 * MIB).is_ok());
        quotas.attach(&one).unwrap();
    }
    assert_eq!(shown_size(&one), 60 * MIB);
    assert_eq!(shown_size(&other), 20 * MIB);
    std::fs::write(one.join("more"), vec![1; 30 << 20]).unwrap();
    let refused = quotas.grow(&one, 30 * MIB).unwrap_err();
    assert!(refused.to_string().contains("not shrink"), "{refused}");
    assert_eq!(refused.kind(), hoy_types::ErrorKind::InvalidParameter);

    // What is deleted is free outside, too.
    rustix::fs::syncfs(File::open(&one).unwrap()).unwrap();
    let before = quotas.on_disk(&one).unwrap();
    std::fs::remove_file(one.join("more")).unwrap();
    eventually("deleted files give their room back", || {
        rustix::fs::syncfs(File::open(&one).unwrap()).unwrap();
        before.saturating_sub(quotas.on_disk(&one).unwrap()) > 28 * MIB
    });

    // Programs of containers have what they have without a limit.
    std::fs::copy("/bin/true", one.join("program")).unwrap();
    std::fs::set_permissions(one.join("program"), PermissionsExt::from_mode(0o4755)).unwrap();
    assert!(Command::new(one.join("program")).status().unwrap().success());
    let device = rustix::fs::makedev(1, 3);
    let kind = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, one.join("null"), kind, 0o600.into(), device).unwrap();
    assert!(std::fs::metadata(one.join("null")).unwrap().file_type().is_char_device());
    File::create(one.join("null")).unwrap().write_all(b"x").unwrap();

    // Let go of and taken again it has what it had; growing needs nobody.
    quotas.detach(&one).unwrap();
    quotas.detach(&one).unwrap();
    eventually("it grows unused", || quotas.grow(&one, 80 * MIB).is_ok());
    assert_eq!(quotas.usage(&one).unwrap().limit, 80 * MIB);
    quotas.attach(&one).unwrap();
    assert_eq!(shown_size(&one), 80 * MIB);
    assert_eq!(one.join("upper/large").metadata().unwrap().size(), written);

    // The next daemon finds the limit in the directory itself.
    let next = if quotas.has_projects() { Quotas::open(root) } else { Quotas::with_images(root) };
    next.settle(|directory| directory == one);
    assert_eq!(next.means(&one), quotas.means(&one));
    assert_eq!(shown_size(&one), 80 * MIB);
    assert!(one.join("upper/large").exists(), "what is in use stays");

    next.remove(&one).unwrap();
    next.remove(&other).unwrap();
    let left: Vec<_> = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name()).collect();
    let left: Vec<_> = left.into_iter().filter(|name| name != "lost+found").collect();
    assert_eq!(left, ["outside"]);
    eventually("no loop device is left", || loops_below(root).is_empty());
}

#[test]
fn in_a_file_on_any_file_system() {
    let disk = Disk::make(&["mkfs.ext4", "-q"], "rw").unwrap();
    keeps_the_promises(&Quotas::with_images(&disk.root()), &disk.root());
    if let Some(disk) = Disk::make(&["mkfs.xfs", "-q"], "rw") {
        keeps_the_promises(&Quotas::with_images(&disk.root()), &disk.root());
    }
}

#[test]
fn as_a_project() {
    let ext4 = ["mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota"];
    for (format, options) in [(&ext4[..], "prjquota"), (&["mkfs.xfs", "-q"][..], "pquota")] {
        let Some(disk) = Disk::make(format, options) else { continue };
        let quotas = Quotas::open(&disk.root());
        if !quotas.has_projects() {
            eprintln!("skipped: this kernel has no project quotas of {}", format[0]);
            continue;
        }
        keeps_the_promises(&quotas, &disk.root());
        ids_are_given_once(&quotas, &disk.root());
    }
}

fn ids_are_given_once(quotas: &Quotas, root: &Path) {
    let directories: Vec<PathBuf> = (0..8).map(|n| root.join(format!("d{n}"))).collect();
    std::thread::scope(|scope| {
        for (number, directory) in directories.iter().enumerate() {
            // A second daemon on the same file system knows nothing of the first one.
            let other = Quotas::open(root);
            scope.spawn(move || {
                let quotas = if number % 2 == 0 { quotas } else { &other };
                quotas.limited(directory, 2 * MIB, nothing_of).unwrap();
            });
        }
    });
    let mut ids: Vec<Means> = directories.iter().map(|one| quotas.means(one)).collect();
    ids.sort_by_key(|means| format!("{means:?}"));
    ids.dedup();
    assert_eq!(ids.len(), 8);
    // One that was removed without a word leaves a limit; the next daemon takes it away.
    let Means::Project(id) = quotas.means(&directories[0]) else { panic!("no project") };
    std::fs::remove_dir(&directories[0]).unwrap();
    let file = File::open(root).unwrap();
    let limit = || hoy_sys::quota::project(std::os::fd::AsFd::as_fd(&file), id).unwrap().limit;
    assert_eq!(limit(), 2 * MIB);
    // XFS lets go of inodes behind the answer.
    eventually("the limit goes", || {
        Quotas::open(root).settle(|_| false);
        limit() == 0
    });
    for directory in &directories[1..] {
        let Means::Project(id) = quotas.means(directory) else { panic!("no project") };
        let limit = hoy_sys::quota::project(std::os::fd::AsFd::as_fd(&file), id).unwrap().limit;
        assert_eq!(limit, 2 * MIB, "others keep theirs");
        quotas.remove(directory).unwrap();
    }
}

#[test]
fn what_killed_daemons_leave() {
    let disk = Disk::make(&["mkfs.ext4", "-q"], "rw").unwrap();
    let root = disk.root();
    let quotas = Quotas::with_images(&root);
    let (used, unused) = (root.join("used"), root.join("unused"));
    for directory in [&used, &unused] {
        quotas.limited(directory, 4 * MIB, nothing_of).unwrap();
        quotas.attach(directory).unwrap();
        std::fs::write(directory.join("file"), "kept").unwrap();
    }
    // Somebody else's, on a loop device and below the root, too.
    let (image, theirs) = (root.join("theirs.image"), root.join("theirs"));
    std::fs::create_dir(&theirs).unwrap();
    File::create(&image).unwrap().set_len(4 * MIB).unwrap();
    assert!(Command::new("mkfs.ext4").arg("-q").arg(&image).status().unwrap().success());
    assert!(
        Command::new("mount")
            .args(["-o", "loop"])
            .args([&image, &theirs])
            .status()
            .unwrap()
            .success()
    );

    // The mount is gone from the table while a container that has not let go of it yet writes on;
    // then the same device is taken again, not a second one.
    let held = File::open(&used).unwrap();
    quotas.detach(&used).unwrap();
    assert!(!used.join("file").exists());
    quotas.attach(&used).unwrap();
    let devices = || loops_below(&root).iter().filter(|file| file.ends_with("/used.disk")).count();
    assert_eq!(devices(), 1);
    assert_eq!(std::fs::read(used.join("file")).unwrap(), b"kept");
    drop(held);

    drop(quotas);
    let next = Quotas::with_images(&root);
    next.settle(|directory| directory == used);
    assert!(used.join("file").exists() && !unused.join("file").exists());
    assert!(theirs.join("lost+found").exists(), "others' mounts stay");
    eventually("the unused one's device goes", || {
        !loops_below(&root).iter().any(|file| file.ends_with("/unused.disk"))
    });

    // Killed while it grew: the file is larger already, the limit is the old one.
    let file = root.join("unused.disk");
    let length = file.metadata().unwrap().len();
    File::options().write(true).open(&file).unwrap().set_len(length + 40 * MIB).unwrap();
    assert_eq!(next.usage(&unused).unwrap().limit, 4 * MIB);
    next.attach(&unused).unwrap();
    assert_eq!(shown_size(&unused), 4 * MIB);
    next.detach(&unused).unwrap();
    eventually("it grows unused", || next.grow(&unused, 12 * MIB).is_ok());
    next.attach(&unused).unwrap();
    assert_eq!(shown_size(&unused), 12 * MIB);
    assert_eq!(std::fs::read(unused.join("file")).unwrap(), b"kept");

    // What cannot be made leaves nothing.
    for bytes in [0, MIB - 1, u64::MAX / 4] {
        assert!(next.limited(&root.join("never"), bytes, nothing_of).is_err());
    }
    let failing = next.limited(&root.join("never"), 4 * MIB, |_| Err(std::io::Error::other("no")));
    assert!(failing.unwrap_err().to_string().contains("no"));
    assert!(!root.join("never").exists() && !root.join("never.disk").exists());

    assert!(Command::new("umount").arg(&theirs).status().unwrap().success());
    next.remove(&used).unwrap();
    next.remove(&unused).unwrap();
    eventually("no loop device is left", || loops_below(&root).is_empty());
}

#[test]
fn a_power_cut_leaves_what_was_synced() {
    let disk = Disk::make(&["mkfs.ext4", "-q"], "rw").unwrap();
    let root = disk.root();
    let quotas = Quotas::with_images(&root);
    let one = root.join("one");
    quotas.limited(&one, 8 * MIB, nothing_of).unwrap();
    File::open(&root).unwrap().sync_all().unwrap();
    quotas.attach(&one).unwrap();
    let mut file = File::create(one.join("synced")).unwrap();
    file.write_all(&[3; 1 << 20]).unwrap();
    file.sync_all().unwrap();
    File::open(&one).unwrap().sync_all().unwrap();
    std::fs::write(one.join("not"), vec![4; 1 << 20]).unwrap();
    let outside = File::open(&root).unwrap();
    hoy_sys::mount::shutdown_file_system(std::os::fd::AsFd::as_fd(&outside)).unwrap();
    drop((file, outside));
    quotas.detach(&one).unwrap();
    eventually("the device goes", || loops_below(&root).is_empty());
    let umount = || Command::new("umount").arg(&root).status().unwrap().success();
    eventually("the disk is gone", umount);
    let image = disk.directory.path().join("image");
    assert!(
        Command::new("mount")
            .args(["-o", "loop"])
            .args([&image, &root])
            .status()
            .unwrap()
            .success()
    );
    quotas.attach(&one).unwrap();
    assert_eq!(std::fs::read(one.join("synced")).unwrap(), [3; 1 << 20]);
    assert_eq!(shown_size(&one), 8 * MIB);
    std::fs::write(one.join("new"), "written").unwrap();
    quotas.remove(&one).unwrap();
    eventually("no loop device is left", || loops_below(&root).is_empty());
}
