//! Building the programs: the shim, the init and the command line static and small, the daemon
//! static too, so that nothing that an image holds can be loaded into it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

const MUSL: &str = "x86_64-unknown-linux-musl";
/// What tests are built for, too: everything is compiled once, and runs in the guest as it is.
pub const GNU: &str = "x86_64-unknown-linux-gnu";
/// For RUSTFLAGS.
pub const STATIC: &str = "-C target-feature=+crt-static";

/// How much the optimiser may work.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// For tests: built soon.
    Quick,
    /// For people.
    Dist,
}

/// The workspace's root.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Builds all programs and puts them side by side into `directory`.
pub fn build_into(directory: &Path, effort: Effort) -> Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("create {}", directory.display()))?;
    let small = small_target();
    let small_profile = "tiny";
    for (package, program) in [("hoy-shim-bin", "hoy-shim"), ("hoy-init", "hoy-init")] {
        let built = build(package, program, small, small_profile, &[])?;
        place(&built, &directory.join(program))?;
    }
    if effort == Effort::Quick {
        return build_for_tests(&["hoy", "hoyd"], &[], directory);
    }
    for (program, target) in [("hoy", small), ("hoyd", GNU)] {
        let built = build(program, program, target, "dist", &[])?;
        place(&built, &directory.join(program))?;
    }
    Ok(())
}

/// The control build of the attack tests: programs from which protections can be left out. Only
/// for tests, and before `build_into`, so that what stays where cargo builds is the real thing.
pub fn build_weakened_into(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("create {}", directory.display()))?;
    let weakened = ["--features", "weakened"];
    let built = build("hoy-shim-bin", "hoy-shim", small_target(), "tiny", &weakened)?;
    place(&built, &directory.join("hoy-shim"))?;
    build_for_tests(&["hoyd"], &weakened, directory)?;
    let built = build("hoy-init", "hoy-init", small_target(), "tiny", &[])?;
    place(&built, &directory.join("hoy-init"))
}

/// Builds programs at once, beside the end-to-end tests: what they and the tests use of the same
/// libraries is then compiled with the same features, once.
fn build_for_tests(programs: &[&str], features: &[&str], directory: &Path) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(workspace()).args(["build", "--target", GNU, "--package", "hoy-e2e"]);
    for program in programs {
        cargo.args(["--package", program, "--bin", program]);
    }
    run(cargo.args(features).env("RUSTFLAGS", STATIC))?;
    for program in programs {
        let built = target_directory().join(GNU).join("debug").join(program);
        place(&built, &directory.join(program))?;
    }
    Ok(())
}

/// A test program that cargo has built.
#[derive(Debug)]
pub struct TestProgram {
    /// As cargo's `--test`; with the package before it, `cgroup-kernel`, where that is not e2e.
    pub name: String,
    /// Of a crate's own tests: `cgroup-unit`.
    pub unit: bool,
    /// The package's directory below the workspace's root.
    pub package: String,
    pub path: PathBuf,
}

/// Builds the test programs, static, and says where they are.
pub fn build_tests() -> Result<Vec<TestProgram>> {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(workspace())
        // All of them: fewer would have other features, and be compiled anew. Documentation has
        // no tests of its own.
        .args(["test", "--no-run", "--lib", "--bins", "--tests", "--workspace", "--target", GNU])
        .arg("--message-format=json-render-diagnostics")
        .env("RUSTFLAGS", STATIC)
        .stderr(Stdio::inherit());
    let output = cargo.output().with_context(|| format!("run {cargo:?}"))?;
    if !output.status.success() {
        bail!("{cargo:?} ended with {}", output.status);
    }
    let text = String::from_utf8(output.stdout).context("cargo's messages")?;
    let root = workspace().canonicalize().context("find the workspace")?;
    Ok(text.lines().filter_map(|line| test_program(line, &root)).collect())
}

/// What one of cargo's messages says of a test program, if it is about one.
fn test_program(message: &str, root: &Path) -> Option<TestProgram> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let target = message.get("target")?;
    let unit = !target.get("kind")?.as_array()?.iter().any(|kind| kind == "test");
    if !message.get("profile")?.get("test")?.as_bool()? {
        return None;
    }
    let path = message.get("executable")?.as_str()?;
    let manifest = Path::new(message.get("manifest_path")?.as_str()?);
    let package = manifest.parent()?.strip_prefix(root).ok()?.to_str()?;
    let name = target.get("name")?.as_str()?;
    let name = match package.rsplit('/').next()? {
        other if unit => format!("{other}-unit"),
        "e2e" => name.to_owned(),
        other => format!("{other}-{name}"),
    };
    Some(TestProgram { name, unit, package: package.to_owned(), path: path.into() })
}

/// musl where its standard library is installed or can be; else static glibc.
fn small_target() -> &'static str {
    let installed = || {
        let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().ok()?;
        let sysroot = String::from_utf8(sysroot.stdout).ok()?;
        Path::new(sysroot.trim()).join("lib/rustlib").join(MUSL).exists().then_some(())
    };
    if installed().is_none() {
        let mut add = Command::new("rustup");
        add.current_dir(workspace()).args(["target", "add", MUSL]);
        // Without it everything still works, with somewhat larger programs.
        let _ = add.status();
    }
    if installed().is_some() { MUSL } else { GNU }
}

fn build(
    package: &str,
    program: &str,
    target: &str,
    profile: &str,
    features: &[&str],
) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(workspace())
        .args(["build", "--package", package, "--target", target, "--profile", profile])
        .args(features)
        .env("RUSTFLAGS", STATIC);
    run(&mut cargo)?;
    Ok(target_directory().join(target).join(profile).join(program))
}

/// Where cargo builds.
pub fn target_directory() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(path) => path.into(),
        None => workspace().join("target"),
    }
}

/// Replaces a program by rename: a running one stays what it was.
fn place(from: &Path, to: &Path) -> Result<()> {
    let fresh = to.with_extension(format!("new-{}", std::process::id()));
    std::fs::copy(from, &fresh)
        .with_context(|| format!("copy {} to {}", from.display(), fresh.display()))?;
    std::fs::rename(&fresh, to).with_context(|| format!("rename {}", to.display()))
}

/// Runs a command and turns a failure into an error that names it.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}
