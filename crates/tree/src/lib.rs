//! Ground: directory trees as tar archives and back, by descriptors.
//!
//! Whoever else changes the tree meanwhile changes what is in the archive, or where below the same
//! root something comes to lie, and nothing else: every directory is opened from the one above it,
//! links are told and not followed, and nothing is opened that would wait or act.

mod entry;
mod extract;
pub mod make;
mod pack;
mod sparse;

pub use entry::{Meta, downwards, invalid, lexical, link_target, meta, split};
pub use extract::{Below, Options, extract};
pub use pack::{Header, Packer, Tree, kept_xattrs, names};
pub use sparse::Sparse;
