//! Builds the program of the embedded image `hello`: a static executable of our own code.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const MUSL: &str = "x86_64-unknown-linux-musl";

fn main() -> Result<(), String> {
    let manifest = PathBuf::from(given("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(given("OUT_DIR")?);
    let workspace = manifest.join("../..");
    let source = workspace.join("bin/hoy-hello");
    tell(&format!("cargo::rerun-if-changed={}", source.display()))?;
    let host = given("TARGET")?;
    // A target directory of its own: the outer cargo holds the lock of the other one.
    let built = [MUSL, host.as_str()].iter().find_map(|target| build(&workspace, &out, target));
    let program = built.ok_or("the greeting of the image `hello` could not be built statically")?;
    std::fs::copy(&program, out.join("hello"))
        .map(|_| ())
        .map_err(|error| format!("copy {}: {error}", program.display()))
}

/// What cargo sets for every build script.
fn given(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|error| format!("{name}: {error}"))
}

fn tell(line: &str) -> Result<(), String> {
    writeln!(std::io::stdout(), "{line}").map_err(|error| format!("write to cargo: {error}"))
}

fn build(workspace: &Path, out: &Path, target: &str) -> Option<PathBuf> {
    let directory = out.join("hello-build");
    let status = Command::new(std::env::var_os("CARGO")?)
        .current_dir(workspace)
        .args(["build", "--quiet", "--profile", "tiny", "--package", "hoy-hello"])
        .args(["--target", target, "--target-dir"])
        .arg(&directory)
        // What the outer build wants for itself must not reach this one.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .stderr(std::process::Stdio::null())
        .status()
        .ok()?;
    status.success().then(|| directory.join(target).join("tiny/hoy-hello"))
}
