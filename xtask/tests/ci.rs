//! `.ci/run` ends well when everything has passed, and badly when anything has not.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// In the place of `./x`: ends as the variable with its command's name says.
const X: &str = "#!/bin/sh\n[ \"$2\" = --no-run ] || eval exit \\${$1:-0}\n";

fn ends_with(root: &Path, failing: Option<&str>) -> i32 {
    let mut run = Command::new(root.join(".ci/run"));
    run.stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(name) = failing {
        run.env(name, "3");
    }
    run.status().unwrap().code().unwrap()
}

#[test]
fn its_end_says_what_came_of_it() {
    let root = std::env::temp_dir().join(format!("hoy-ci-{}", std::process::id()));
    std::fs::create_dir_all(root.join(".ci")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/run");
    let script = std::fs::read_to_string(script).unwrap();
    // Nothing is compiled here that the checks would wait for.
    assert_eq!(script.matches("sleep 30").count(), 1);
    for (name, text) in [(".ci/run", script.replace("sleep 30", "true").as_str()), ("x", X)] {
        std::fs::write(root.join(name), text).unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(root.join(name), mode).unwrap();
    }
    assert_eq!(ends_with(&root, None), 0);
    for step in ["test", "check", "guest"] {
        assert_ne!(ends_with(&root, Some(step)), 0, "{step}");
    }
    std::fs::remove_dir_all(&root).unwrap();
}
