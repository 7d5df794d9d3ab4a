//! hoy-shim: the supervisor of one container.

fn main() {}
