//! What the tests of the libraries share: one program in each language, and what it must see.

use std::path::PathBuf;

use hoy_testkit::{Daemon, KernelCounts, workspace};
use serde_json::Value;

/// One of the programs, or what all of them must see.
pub fn file(name: &str) -> PathBuf {
    workspace().join("e2e/tests/clients").join(name)
}

/// All of them see the same.
pub fn is_as_it_shall_be(name: &str, seen: &Value) {
    let text = std::fs::read_to_string(file("sdk.json")).expect("what they shall see");
    let shall: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(seen, &shall, "{name}: {seen:#}");
}

/// A daemon; what it keeps once the test is done is what it kept before.
pub fn with_daemon(test: impl FnOnce(&Daemon)) {
    let daemon = crate::daemon();
    let before = crate::counts(&daemon);
    test(&daemon);
    // The peer's machine is shared with other tests: their mounts are not ours.
    let before = KernelCounts { mounts: KernelCounts::of(&daemon).mounts, ..before };
    before.wait_for(&daemon);
}
