//! One entry point for habits: check, test, bench, install, demo.

fn main() {}
