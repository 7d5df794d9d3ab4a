//! Room: images in and out: load, import, save, unpack in a jailed worker.
