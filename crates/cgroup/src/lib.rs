//! Ground: cgroup v1 and v2 behind one typed API.
