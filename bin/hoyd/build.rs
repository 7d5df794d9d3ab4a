//! Builds the program of the embedded image `hello`: a static executable of our own code.

use std::path::{Path, PathBuf};
use std::process::Command;

const MUSL: &str = "x86_64-unknown-linux-musl";

fn main() {
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("set by cargo"));
    let workspace = manifest.join("../..");
    let source = workspace.join("bin/hoy-hello");
    println!("cargo::rerun-if-changed={}", source.display());
    let host = std::env::var("TARGET").expect("set by cargo");
    // A target directory of its own: the outer cargo holds the lock of the other one.
    let built = [MUSL, host.as_str()].iter().find_map(|target| build(&workspace, &out, target));
    let Some(program) = built else {
        println!("cargo::error=the greeting of the image `hello` could not be built statically");
        return;
    };
    if let Err(error) = std::fs::copy(&program, out.join("hello")) {
        println!("cargo::error=copy {}: {error}", program.display());
    }
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
