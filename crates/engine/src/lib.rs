//! House: use cases; the life cycle of containers; the only holder of several tickets.
