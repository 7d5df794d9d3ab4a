//! hoyd: the daemon.

fn main() {}
