//! `cargo xtask deb`: a Debian package of the programs, with units for systemd and completion for
//! shells, made by dpkg-deb alone.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::programs::{self, Effort, run, workspace};
use crate::tasks::say;

const PROGRAMS: [&str; 4] = ["hoy", "hoyd", "hoy-shim", "hoy-init"];
const UNITS: [&str; 2] = ["hoy.service", "hoy.socket"];
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];
const COMPLETION: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/hoy"),
    ("zsh", "usr/share/zsh/vendor-completions/_hoy"),
    ("fish", "usr/share/fish/vendor_completions.d/hoy.fish"),
];
/// bash completes another word for a command by that word.
const ALIAS: &str = "usr/share/bash-completion/completions/_docker";

/// Builds the programs, if HOY_PROGRAMS does not say where some are, and the package into a
/// directory.
pub fn task(directory: &str) -> Result<()> {
    let built = match std::env::var_os("HOY_PROGRAMS") {
        Some(built) => PathBuf::from(built),
        None => {
            let built = programs::target_directory().join("dist-programs");
            programs::build_into(&built, Effort::Dist)?;
            built
        }
    };
    let path = package(&built, Path::new(directory))?;
    say(&format!("made {}", path.display()));
    Ok(())
}

/// Makes the package of programs that are built.
pub fn package(built: &Path, directory: &Path) -> Result<PathBuf> {
    let version = env!("CARGO_PKG_VERSION");
    let root = directory.join(format!("hoy_{version}"));
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
    }
    for program in PROGRAMS {
        let text = fs::read(built.join(program)).with_context(|| format!("read {program}"))?;
        put(&root, &format!("usr/bin/{program}"), &text, 0o755)?;
    }
    let files = workspace().join("packaging");
    let read = |name: &str| fs::read(files.join(name)).with_context(|| format!("read {name}"));
    for unit in UNITS {
        put(&root, &format!("usr/lib/systemd/system/{unit}"), &read(unit)?, 0o644)?;
    }
    for (shell, path) in COMPLETION {
        let said = Command::new(built.join("hoy")).args(["completion", shell]).output()?;
        ensure!(said.status.success(), "hoy completion {shell} failed");
        put(&root, path, &said.stdout, 0o644)?;
    }
    // A file of this name is looked for after Docker's own.
    put(&root, ALIAS, &read("docker.bash")?, 0o644)?;
    let license = fs::read(workspace().join("LICENSE")).context("read LICENSE")?;
    put(&root, "usr/share/doc/hoy/copyright", &license, 0o644)?;
    for script in SCRIPTS {
        put(&root, &format!("DEBIAN/{script}"), &read(script)?, 0o755)?;
    }
    let bytes: u64 = PROGRAMS
        .iter()
        .filter_map(|name| fs::metadata(root.join("usr/bin").join(name)).ok())
        .map(|about| about.len())
        .sum();
    let control = format!(
        "Package: hoy\nVersion: {version}\nArchitecture: amd64\nSection: admin\nPriority: optional\n\
         Depends: passwd, init-system-helpers (>= 1.54~)\n\
         Installed-Size: {}\nMaintainer: the hoy engine's authors <hoy@localhost>\n\
         Recommends: ca-certificates, openssh-client\nSuggests: docker-buildx, docker-compose\n\
         Description: container engine, a drop-in for Docker\n \
         A daemon, a command line and a supervisor for containers. Containers outlive the daemon.\n",
        bytes.div_ceil(1024)
    );
    put(&root, "DEBIAN/control", control.as_bytes(), 0o644)?;
    let deb = directory.join(format!("hoy_{version}_amd64.deb"));
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "-Zxz", "-z1", "--build"])
        .args([&root, &deb]))?;
    fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
    Ok(deb)
}

fn put(root: &Path, name: &str, text: &[u8], mode: u32) -> Result<()> {
    let path = root.join(name);
    let doing = || format!("write {}", path.display());
    let parent = path.parent().unwrap_or(root);
    fs::create_dir_all(parent).with_context(doing)?;
    fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).with_context(doing)?;
    fs::write(&path, text).with_context(doing)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).with_context(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_it() {
        let place = std::env::temp_dir().join(format!("hoy-deb-{}", std::process::id()));
        let built = place.join("built");
        fs::create_dir_all(&built).unwrap();
        for program in PROGRAMS {
            // It says what it is asked, as the real one does for completion.
            fs::write(built.join(program), "#!/bin/sh\necho \"$@\"\n").unwrap();
            fs::set_permissions(built.join(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let deb = package(&built, &place).unwrap();
        let out = place.join("out");
        let unpack = Command::new("dpkg-deb").arg("-R").args([&deb, &out]).status().unwrap();
        assert!(unpack.success());
        let text = |name: &str| fs::read_to_string(out.join(name)).unwrap();
        let mode = |name: &str| fs::metadata(out.join(name)).unwrap().permissions().mode() & 0o777;
        for program in PROGRAMS {
            assert_eq!(mode(&format!("usr/bin/{program}")), 0o755);
        }
        let unit = text("usr/lib/systemd/system/hoy.service");
        for line in ["Delegate=yes", "KillMode=process", "ExecStart=/usr/bin/hoyd --host fd://"] {
            assert!(unit.lines().any(|known| known == line), "{line}");
        }
        assert!(text("usr/lib/systemd/system/hoy.socket").contains("ListenStream=/run/hoy.sock"));
        assert_eq!(text("usr/share/zsh/vendor-completions/_hoy"), "completion zsh\n");
        assert!(text("DEBIAN/control").contains("Package: hoy\n"));
        assert_eq!(mode("DEBIAN/postinst"), 0o755);
        for script in SCRIPTS {
            let good = Command::new("sh").arg("-n").arg(out.join("DEBIAN").join(script)).status();
            assert!(good.unwrap().success(), "{script}");
        }
        fs::remove_dir_all(&place).unwrap();
    }
}
