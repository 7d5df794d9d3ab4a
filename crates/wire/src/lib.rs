//! Words: the JSON of the Docker Engine API, field by field in Docker's order; nothing else.
