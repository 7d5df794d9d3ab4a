//! Ground: the system calls that rustix lacks; the only unsafe code of the workspace.
