//! Ground: a file system below an untrusted root, by directory descriptor; the type has no path.
