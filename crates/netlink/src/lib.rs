//! Ground: links, addresses, routes and nftables transactions over netlink, our own encoder.
