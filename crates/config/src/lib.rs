//! Door: daemon settings: defaults, then daemon.json, then flags.
