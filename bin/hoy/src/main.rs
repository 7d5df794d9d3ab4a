//! hoy: the command line.

fn main() {}
