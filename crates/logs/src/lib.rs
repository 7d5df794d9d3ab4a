//! Shelves: container log records: format, segments, rotation, reader.
