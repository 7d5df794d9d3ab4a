//! Room: the supervisor of one container, and its messages.

pub mod message;
