//! hoy-init: process 1 inside a container started with --init: reaps and forwards signals.

fn main() {}
