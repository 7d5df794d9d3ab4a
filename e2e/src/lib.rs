//! End-to-end tests: the real programs against the real kernel. See `tests/`.
