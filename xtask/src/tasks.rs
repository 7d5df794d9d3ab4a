//! The tasks themselves.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::lanes;
use crate::programs::{self, Effort, run, workspace};

/// What the tests call besides cargo, by Debian package and the file that shows it is there.
const TEST_PACKAGES: &[(&str, &str)] = &[
    ("busybox-static", "/bin/busybox"),
    ("ca-certificates", "/etc/ssl/certs/ca-certificates.crt"),
    ("crun", "/usr/bin/crun"),
    ("curl", "/usr/bin/curl"),
    ("debootstrap", "/usr/sbin/debootstrap"),
    ("docker-compose", "/usr/bin/docker-compose"),
    ("e2fsprogs", "/sbin/mkfs.ext4"),
    ("iproute2", "/sbin/ip"),
    ("libseccomp-dev", "/usr/include/seccomp.h"),
    ("nftables", "/usr/sbin/nft"),
    ("openssl", "/usr/bin/openssl"),
    ("perl-base", "/usr/bin/perl"),
    ("procps", "/usr/bin/ps"),
    ("python3-docker", "/usr/lib/python3/dist-packages/docker/__init__.py"),
    ("runc", "/usr/sbin/runc"),
    ("tmux", "/usr/bin/tmux"),
    ("util-linux", "/usr/bin/nsenter"),
    ("zstd", "/usr/bin/zstd"),
];

/// What the guest needs besides.
const GUEST_PACKAGES: &[(&str, &str)] = &[
    ("binutils", "/usr/bin/strip"),
    ("kmod", "/bin/kmod"),
    ("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
];

pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
}

pub fn check() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    let mut clippy = as_built("clippy");
    clippy.args(["--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]);
    run(&mut clippy)?;
    let mut doc = as_built("doc");
    doc.args(["--workspace", "--no-deps", "--quiet", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-D warnings");
    run(&mut doc)?;
    if Command::new("cargo-deny").arg("--version").output().is_ok() {
        cargo(&["deny", "--offline", "check", "bans", "licenses", "sources"])?;
    }
    Ok(())
}

pub fn test(args: &[String]) -> Result<()> {
    packages(TEST_PACKAGES)?;
    let clients = crate::clients::prepare();
    let images = make_images()?;
    let directory = programs::target_directory().join("programs");
    let weakened = programs::target_directory().join("weakened-programs");
    programs::build_weakened_into(&weakened)?;
    programs::build_into(&directory, Effort::Quick)?;
    // What it could not make is told by the test that needs it.
    let _ = images.join();
    let clients = clients.join().unwrap_or_default();
    let mut environment = vec![
        ("HOY_PROGRAMS", OsString::from(directory)),
        ("HOY_WEAK_PROGRAMS", OsString::from(weakened)),
        ("HOY_CLIENTS", OsString::from(clients)),
    ];
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        // They wait more than they work: for daemons, packets and deadlines.
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        environment.push(("RUST_TEST_THREADS", (processors + 1).to_string().into()));
    }
    if args.is_empty() {
        return lanes::run(programs::build_tests()?, &environment);
    }
    let mut test = as_built("test");
    test.args(["--workspace", "--no-fail-fast", "--lib", "--bins", "--tests"])
        .args(args)
        .envs(environment);
    run(&mut test)
}

/// Installing packages into root file systems waits for the network and for one processor: it is
/// begun before everything is compiled.
fn make_images() -> Result<std::thread::JoinHandle<Result<()>>> {
    let mut build = as_built("build");
    build.args(["--package", "hoy-testkit", "--example", "images"]);
    run(&mut build)?;
    let program = programs::target_directory().join(programs::GNU).join("debug/examples/images");
    Ok(std::thread::spawn(move || run(&mut Command::new(program))))
}

pub fn guest(args: &[String]) -> Result<u8> {
    packages(TEST_PACKAGES)?;
    packages(GUEST_PACKAGES)?;
    crate::guest::run(args)
}

pub fn install(prefix: &str) -> Result<()> {
    let bin = Path::new(prefix).join("bin");
    programs::build_into(&bin, Effort::Dist)?;
    say(&format!("installed hoy, hoyd, hoy-shim and hoy-init to {}", bin.display()));
    run(Command::new(bin.join("hoy")).args(["run", "--rm", "hello"]))
}

pub fn bench(args: &[String]) -> Result<()> {
    let Some((name, rest)) = args.split_first() else {
        bail!("which benchmark? There are: start, limits, network, volumes, quota, observe");
    };
    let directory = programs::target_directory().join("dist-programs");
    programs::build_into(&directory, Effort::Dist)?;
    packages(&[("busybox-static", "/bin/busybox")])?;
    let mut bench = Command::new("cargo");
    bench
        .current_dir(workspace())
        .args(["run", "--quiet", "--release", "--package", "hoy-bench", "--", name.as_str()])
        .args(rest)
        .env("HOY_PROGRAMS", &directory);
    run(&mut bench)
}

/// The test that compares writes instead.
pub fn coverage() -> Result<()> {
    packages(TEST_PACKAGES)?;
    let directory = programs::target_directory().join("programs");
    programs::build_into(&directory, Effort::Quick)?;
    let mut write = as_built("test");
    write
        .args(["--quiet", "--package", "hoy-e2e", "--test", "coverage"])
        .env("HOY_PROGRAMS", &directory)
        .env("HOY_COVERAGE", "write");
    run(&mut write)
}

pub fn demo() -> Result<()> {
    packages(TEST_PACKAGES)?;
    let directory = programs::target_directory().join("programs");
    programs::build_into(&directory, Effort::Quick)?;
    let mut demo = Command::new("sh");
    demo.current_dir(workspace()).arg("docs/demo.sh").env("HOY_PROGRAMS", &directory);
    run(&mut demo)
}

/// A cargo command with the target and flags of the programs, so that nothing is compiled twice.
fn as_built(command: &str) -> Command {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(workspace())
        .args([command, "--target", programs::GNU])
        .env("RUSTFLAGS", programs::STATIC);
    cargo
}

fn cargo(args: &[&str]) -> Result<()> {
    run(Command::new("cargo").current_dir(workspace()).args(args))
}

/// Installs the Debian packages whose file is missing.
fn packages(wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|(_, file)| !Path::new(file).exists())
        .map(|(package, _)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(missing)
        .env("DEBIAN_FRONTEND", "noninteractive");
    run(&mut install)
}
