//! The sets and maps of the table.

use hoy_netlink::nft::{Data, Field, Set};

const INTERFACE: &[Field] = &[Field::Interface];

const PAIR: &[Field] = &[Field::Interface, Field::Interface];

const PORT: &[Field] = &[Field::Protocol, Field::Port];

const SERVICE4: &[Field] = &[Field::Ipv4, Field::Protocol, Field::Port];

const SERVICE6: &[Field] = &[Field::Ipv6, Field::Protocol, Field::Port];

const LINK4: &[Field] = &[Field::Ipv4, Field::Ipv4, Field::Protocol, Field::Port];

const LINK6: &[Field] = &[Field::Ipv6, Field::Ipv6, Field::Protocol, Field::Port];

const TARGET4: Data = Data::Fields(&[Field::Ipv4, Field::Port]);

const TARGET6: Data = Data::Fields(&[Field::Ipv6, Field::Port]);

pub(super) const fn set(id: u32, name: &'static str, key: &'static [Field], data: Data) -> Set {
    Set { name, id, key, data }
}

/// Published on one address.
pub(super) const PORTS4: Set = set(1, "ports4", SERVICE4, TARGET4);

pub(super) const PORTS6: Set = set(2, "ports6", SERVICE6, TARGET6);

/// Published on every address.
pub(super) const ANY4: Set = set(3, "ports4-any", PORT, TARGET4);

pub(super) const ANY6: Set = set(4, "ports6-any", PORT, TARGET6);

/// Ports of containers that are reached directly.
pub(super) const OPEN4: Set = set(5, "open4", SERVICE4, Data::Nothing);

pub(super) const OPEN6: Set = set(6, "open6", SERVICE6, Data::Nothing);

/// Ports of the host that the keeper carries.
pub(super) const KEPT: Set = set(7, "kept", PORT, Data::Nothing);

pub(super) const BRIDGES: Set = set(8, "bridges", INTERFACE, Data::Nothing);

pub(super) const INTERNAL: Set = set(9, "internal", INTERFACE, Data::Nothing);

/// Each bridge with itself: what becomes of packets between its containers.
pub(super) const WITHIN: Set = set(10, "within", PAIR, Data::Verdict);

pub(super) const PAIRS: Set = set(11, "pairs", PAIR, Data::Nothing);

/// An interface of the host and a bridge that trusts it.
pub(super) const TRUSTED: Set = set(12, "trusted", PAIR, Data::Nothing);

pub(super) const MASQUERADE4: Set = set(13, "masquerade4", INTERFACE, Data::Nothing);

pub(super) const MASQUERADE6: Set = set(14, "masquerade6", INTERFACE, Data::Nothing);

pub(super) const SNAT4: Set = set(15, "snat4", INTERFACE, Data::Fields(&[Field::Ipv4]));

pub(super) const SNAT6: Set = set(16, "snat6", INTERFACE, Data::Fields(&[Field::Ipv6]));

pub(super) const UNPROTECTED4: Set = set(17, "unprotected4", INTERFACE, Data::Nothing);

pub(super) const UNPROTECTED6: Set = set(18, "unprotected6", INTERFACE, Data::Nothing);

pub(super) const ROUTED4: Set = set(19, "routed4", INTERFACE, Data::Nothing);

pub(super) const ROUTED6: Set = set(20, "routed6", INTERFACE, Data::Nothing);

/// Published ports of containers that other hosts reach directly, too, where people want that.
pub(super) const DIRECT4: Set = set(21, "direct4", SERVICE4, Data::Nothing);

pub(super) const DIRECT6: Set = set(22, "direct6", SERVICE6, Data::Nothing);

/// Who may reach which port of whom, where containers are apart.
pub(super) const LINKS4: Set = set(23, "links4", LINK4, Data::Nothing);

pub(super) const LINKS6: Set = set(24, "links6", LINK6, Data::Nothing);

pub(super) const SETS: [Set; 24] = [
    PORTS4,
    PORTS6,
    ANY4,
    ANY6,
    OPEN4,
    OPEN6,
    KEPT,
    BRIDGES,
    INTERNAL,
    WITHIN,
    PAIRS,
    TRUSTED,
    MASQUERADE4,
    MASQUERADE6,
    SNAT4,
    SNAT6,
    UNPROTECTED4,
    UNPROTECTED6,
    ROUTED4,
    ROUTED6,
    DIRECT4,
    DIRECT6,
    LINKS4,
    LINKS6,
];
