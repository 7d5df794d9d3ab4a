//! Benchmarks: programs that print figures.

fn main() {}
