//! Words: strict OCI and Docker image documents: one parse, bounded.
