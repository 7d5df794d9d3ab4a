//! What the guest holds: programs of this machine's packages, ours, the tests and their images.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::cpio::Archive;
use super::kernel::{Kernel, download};
use crate::programs::{self, TestProgram};

/// Every program of these is in the guest, so that a test need not say what it calls.
const PACKAGES: &[&str] = &[
    "bash",
    "bsdutils",
    "busybox-static",
    "coreutils",
    "curl",
    "dash",
    "diffutils",
    "e2fsprogs",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "iproute2",
    "kmod",
    "mawk",
    "mount",
    "nftables",
    "procps",
    "sed",
    "tar",
    "tmux",
    "util-linux",
    "zstd",
];

/// Files that programs read, where they exist. No certificates: such machines exist, too.
const FILES: &[&str] = &["/etc/debian_version", "/etc/mke2fs.conf", "/etc/os-release"];

const ETC: &[(&str, &str)] = &[
    ("passwd", "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/usr/sbin/nologin\n"),
    ("group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("hosts", "127.0.0.1 localhost\n127.0.1.1 guest\n"),
    ("hostname", "guest\n"),
    ("resolv.conf", "nameserver 127.0.0.1\n"),
    ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
];

const INIT: &str = include_str!("init.sh");

/// The tests' idea of a workspace, in the guest.
const WORKSPACE: &str = "/hoy/main";

/// Writes all of it into one archive.
pub fn write(
    path: &Path,
    kernel: &Kernel,
    hoy: &Path,
    tests: &[TestProgram],
    commands: &str,
) -> Result<()> {
    let mut archive = Archive::create(path)?;
    for directory in ["dev", "mnt", "proc", "run", "sys", "var/lib", "var/tmp"] {
        archive.directory(&format!("/{directory}"), 0o755)?;
    }
    archive.directory("/root", 0o700)?;
    archive.directory("/tmp", 0o1777)?;
    archive.character_device("/dev/console", 5, 1)?;
    archive.file("/init", 0o755, INIT.as_bytes())?;
    archive.file("/hoy/commands", 0o644, commands.as_bytes())?;
    for (name, text) in ETC {
        archive.file(&format!("/etc/{name}"), 0o644, text.as_bytes())?;
    }
    for file in FILES {
        if Path::new(file).exists() {
            archive.copy(Path::new(file), file, 0o644)?;
        }
    }
    kernel.modules_into(&mut archive)?;
    let mut found = packaged()?;
    for program in &found {
        archive.copy(program, &program.to_string_lossy(), 0o755)?;
    }
    let docker = docker_cli()?;
    archive.copy(&docker, "/usr/local/bin/docker", 0o755)?;
    let apparmor = unpacked("apparmor")?;
    let parser = apparmor.join("sbin/apparmor_parser");
    archive.copy(&parser, "/sbin/apparmor_parser", 0o755)?;
    for directory in ["etc/apparmor", "etc/apparmor.d"] {
        archive.copy_tree(&apparmor.join(directory), &format!("/{directory}"))?;
    }
    let features = "usr/share/apparmor-features/features";
    archive.copy(&apparmor.join(features), &format!("/{features}"), 0o644)?;
    let secilc = unpacked("secilc")?.join("usr/bin/secilc");
    archive.copy(&secilc, "/usr/bin/secilc", 0o755)?;
    found.extend([docker, parser, secilc]);
    for library in libraries(&found)? {
        archive.copy(&library, &library.to_string_lossy(), 0o755)?;
    }
    for name in ["l/linux", "s/screen", "s/screen-256color", "t/tmux", "x/xterm"] {
        let file = Path::new("/lib/terminfo").join(name);
        if file.exists() {
            archive.copy(&file, &file.to_string_lossy(), 0o644)?;
        }
    }
    let locale = Path::new("/usr/lib/locale/C.utf8");
    if locale.exists() {
        archive.copy_tree(locale, &locale.to_string_lossy())?;
    }
    for name in ["hoy", "hoyd", "hoy-shim", "hoy-init"] {
        stripped(&mut archive, &hoy.join(name), &format!("/hoy/programs/{name}"))?;
    }
    for test in tests {
        stripped(&mut archive, &test.path, &test_path(test))?;
        archive.directory(&directory_of(test), 0o755)?;
    }
    let images = programs::workspace().join("../shared/images");
    if images.exists() {
        archive.copy_tree(&images, "/hoy/shared/images")?;
    }
    if tests.iter().any(|test| test.name == "nginx") {
        // It is made with downloads, and so not there.
        let image = programs::target_directory().join("images/debian-nginx.tar");
        archive
            .copy(&image, "/hoy/target/images/debian-nginx.tar", 0o644)
            .context("the image of `./x test --test nginx`")?;
    }
    let size = archive.finish()?;
    crate::tasks::say(&format!("guest: {} MB with Linux {}", size >> 20, kernel.version));
    Ok(())
}

/// What the tests are told by variables, as the lines of a shell.
pub fn environment() -> String {
    // Test programs are no less on a terminal there when what they say goes into a file here.
    let plain = if std::io::stdout().is_terminal() { "" } else { "export TERM=dumb\n" };
    format!(
        "export HOY_GUEST=1 HOY_PROGRAMS=/hoy/programs HOY_WORKSPACE={WORKSPACE} \
         CARGO_TARGET_DIR=/hoy/target\n{plain}"
    )
}

/// Where a test program lies in the guest.
pub fn test_path(test: &TestProgram) -> String {
    format!("/hoy/tests/{}", test.name)
}

/// Where it runs: cargo's choice is the package's directory.
pub fn directory_of(test: &TestProgram) -> String {
    format!("{WORKSPACE}/{}", test.package)
}

/// The programs of all packages, as the paths by which they are called.
fn packaged() -> Result<BTreeSet<PathBuf>> {
    // A package that is missing here is not needed by any test that runs here.
    let output = Command::new("dpkg").arg("-L").args(PACKAGES).output().context("run dpkg")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let places = ["/bin", "/sbin", "/usr/bin", "/usr/sbin"];
    let mut found: BTreeSet<PathBuf> = text
        .lines()
        .map(PathBuf::from)
        .filter(|path| path.parent().is_some_and(|p| places.iter().any(|q| p == Path::new(q))))
        .filter(|path| path.is_file())
        .collect();
    found.insert("/usr/bin/awk".into());
    found.retain(|path| path.exists());
    Ok(found)
}

/// Docker's client: the one on PATH, else Debian's package unpacked below target/.
fn docker_cli() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|place| place.join("docker"));
    if let Some(found) = places.find(|path| path.exists()) {
        return Ok(found);
    }
    Ok(unpacked("docker.io")?.join("usr/bin/docker"))
}

/// A package that is in the guest and not here: unpacked below target/, this system untouched.
fn unpacked(package: &str) -> Result<PathBuf> {
    let path = programs::target_directory().join("guest").join(package);
    if !path.exists() {
        let fresh = path.with_extension(format!("new-{}", std::process::id()));
        std::fs::create_dir_all(&fresh).with_context(|| format!("create {}", fresh.display()))?;
        download(package, &fresh)?;
        std::fs::rename(&fresh, &path).with_context(|| format!("rename to {}", path.display()))?;
    }
    Ok(path)
}

/// All libraries that these programs are linked with, the dynamic linker among them.
fn libraries(programs: &BTreeSet<PathBuf>) -> Result<BTreeSet<PathBuf>> {
    // It fails for scripts and static programs, and goes on with the others.
    let output = Command::new("ldd").args(programs).output().context("run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter(|line| line.starts_with(char::is_whitespace))
        .flat_map(|line| line.split_whitespace())
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

/// A program of ours without what only a debugger reads.
fn stripped(archive: &mut Archive, from: &Path, name: &str) -> Result<()> {
    let small = std::env::temp_dir().join(format!("hoy-strip-{}", std::process::id()));
    let status = Command::new("strip").arg("-o").arg(&small).arg(from).status();
    let from = if status.is_ok_and(|status| status.success()) { &small } else { from };
    let copied = archive.copy(from, name, 0o755);
    let _ = std::fs::remove_file(&small);
    copied
}
