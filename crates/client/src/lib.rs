//! Door: a small blocking client of the engine API.
