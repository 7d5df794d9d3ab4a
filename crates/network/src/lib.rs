//! Room: bridges, addresses, ports, firewall: pure plans and their execution.
