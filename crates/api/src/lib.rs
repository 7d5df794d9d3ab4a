//! Door: HTTP/1.1 routes, streams, hijacking and versions; no decisions.
