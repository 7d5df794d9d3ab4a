//! Room: the container plan (pure data) and its execution on the kernel.

pub mod plan;

pub use plan::*;
