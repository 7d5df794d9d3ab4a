//! Shelves: metadata, blobs, layers, leases, garbage collection, durable replace, trash.
