//! What a new container is asked to have of networks: `--network` in its short and long form, and
//! the flags that speak of the first network. Pure; it judges form only.

use serde_json::{Map, Value, json};

use crate::csv;
use crate::parse::Parsed;

type Result<T> = std::result::Result<T, String>;

/// One `--network`.
#[derive(Debug, Default)]
pub struct Attachment {
    name: String,
    aliases: Vec<String>,
    links: Vec<String>,
    options: Map<String, Value>,
    ipv4: String,
    ipv6: String,
    link_local: Vec<String>,
    mac: String,
    priority: i64,
}

/// `bridge`, or the long form `name=x,alias=y,ip=z`.
pub fn attachment(text: &str) -> Result<Attachment> {
    if !is_long(text) {
        return Ok(Attachment { name: text.to_owned(), ..Attachment::default() });
    }
    let mut made = Attachment::default();
    for field in csv::record(text)? {
        let lower = field.to_lowercase();
        let (key, value) = lower
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| format!("invalid field {field}"))?;
        let value = value.trim();
        match key.trim() {
            "name" => made.name = value.to_owned(),
            "alias" => made.aliases.push(value.to_owned()),
            "ip" => made.ipv4 = value.to_owned(),
            "ip6" => made.ipv6 = value.to_owned(),
            "mac-address" => made.mac = value.to_owned(),
            "link-local-ip" => made.link_local.push(value.to_owned()),
            "gw-priority" => {
                made.priority = value.parse().map_err(|error: std::num::ParseIntError| {
                    let reason = match error.kind() {
                        std::num::IntErrorKind::PosOverflow
                        | std::num::IntErrorKind::NegOverflow => "value out of range",
                        _ => "invalid syntax",
                    };
                    format!("invalid gw-priority ({value}): {reason}")
                })?;
            }
            "driver-opt" => {
                let (key, value) = value
                    .split_once('=')
                    .filter(|(key, _)| !key.is_empty())
                    .ok_or("invalid key value pair format in driver options")?;
                made.options.insert(key.trim().to_owned(), value.trim().into());
            }
            other => return Err(format!("invalid field key {other}")),
        }
    }
    if made.name.is_empty() {
        return Err("network name/id is not specified".to_owned());
    }
    Ok(made)
}

/// Whether anywhere in it a word is said to be a word.
fn is_long(text: &str) -> bool {
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    text.as_bytes()
        .windows(3)
        .any(|around| around[1] == b'=' && word(&around[0]) && word(&around[2]))
}

/// Networks that people made, as opposed to those that are always there and to namespaces.
fn is_user_defined(name: &str) -> bool {
    !matches!(name, "default" | "bridge" | "host" | "none") && !name.starts_with("container:")
}

/// The network mode, and what each endpoint is asked for.
pub fn endpoints(flags: &Parsed) -> Result<(String, Map<String, Value>)> {
    let mut all = Vec::new();
    for text in flags.list("network") {
        all.push(attachment(text)?);
    }
    let said = !all.is_empty();
    if !said {
        all.push(Attachment { name: "default".to_owned(), ..Attachment::default() });
    }
    let alone = all.len() == 1;
    let mode = all.first().map(|first| first.name.clone()).unwrap_or_default();
    let mixed = all.iter().any(|network| is_user_defined(&network.name))
        && !all.iter().all(|network| is_user_defined(&network.name));
    let mut endpoints = Map::new();
    for (index, mut network) in all.into_iter().enumerate() {
        if index == 0 {
            add_flags(&mut network, flags)?;
        }
        let endpoint = endpoint(&network)?;
        if endpoints.contains_key(&network.name) {
            return Err(format!("network {:?} is specified multiple times", network.name));
        }
        // One network of which nothing more is said is named by the mode alone.
        if said && alone && endpoint == blank() {
            continue;
        }
        endpoints.insert(network.name, endpoint);
    }
    if mixed {
        return Err("conflicting options: cannot attach both user-defined and non-user-defined \
                    network-modes"
            .to_owned());
    }
    endpoints.sort_keys();
    Ok((mode, endpoints))
}

/// What flags of their own say of the first network.
fn add_flags(network: &mut Attachment, flags: &Parsed) -> Result<()> {
    let text = |name: &str| flags.text(name).to_owned();
    let (aliases, link_local) = (flags.list("network-alias"), flags.list("link-local-ip"));
    let (ip, ip6, mac) = (text("ip"), text("ip6"), text("mac-address"));
    let twice = [
        (!network.aliases.is_empty() && !aliases.is_empty(), "--network-alias", "alias"),
        (!network.ipv4.is_empty() && !ip.is_empty(), "--ip", "IPv4 address"),
        (!network.ipv6.is_empty() && !ip6.is_empty(), "--ip6", "IPv6 address"),
        (!network.mac.is_empty() && !mac.is_empty(), "--mac-address", "MAC address"),
        (
            !network.link_local.is_empty() && !link_local.is_empty(),
            "--link-local-ip",
            "link-local IP addresses",
        ),
    ];
    if let Some((_, flag, key)) = twice.iter().find(|(twice, ..)| *twice) {
        return Err(format!(
            "conflicting options: cannot specify both {flag} and per-network {key}"
        ));
    }
    if !aliases.is_empty() {
        network.aliases = aliases.to_vec();
    }
    // On a network of one's own a link is another name; on the default one it is a link of old.
    if is_user_defined(&network.name) {
        network.links = flags.list("link").to_vec();
    }
    for (own, flag) in [(&mut network.ipv4, ip), (&mut network.ipv6, ip6), (&mut network.mac, mac)]
    {
        if !flag.is_empty() {
            *own = flag;
        }
    }
    if !link_local.is_empty() {
        network.link_local = link_local.to_vec();
    }
    Ok(())
}

/// The endpoint of which nothing is said.
pub fn blank() -> Value {
    json!({
        "IPAMConfig": null, "Links": null, "Aliases": null, "MacAddress": "", "DriverOpts": null,
        "GwPriority": 0, "NetworkID": "", "EndpointID": "", "Gateway": "", "IPAddress": "",
        "IPPrefixLen": 0, "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
        "DNSNames": null,
    })
}

/// Fixed addresses; `None` where there are none.
pub fn addresses(ipv4: &str, ipv6: &str, link_local: &[String]) -> Option<Value> {
    let mut out = Map::new();
    for (key, value) in [("IPv4Address", ipv4), ("IPv6Address", ipv6)] {
        if !value.is_empty() {
            out.insert(key.to_owned(), value.into());
        }
    }
    if !link_local.is_empty() {
        out.insert("LinkLocalIPs".to_owned(), json!(link_local));
    }
    (!out.is_empty()).then(|| out.into())
}

fn endpoint(network: &Attachment) -> Result<Value> {
    if network.name.trim().is_empty() {
        return Err("no name set for network".to_owned());
    }
    if !is_user_defined(&network.name) && !network.aliases.is_empty() {
        return Err("network-scoped aliases are only supported for user-defined networks".into());
    }
    let mut out = blank();
    if let Some(addresses) = addresses(&network.ipv4, &network.ipv6, &network.link_local) {
        out["IPAMConfig"] = addresses;
    }
    if !network.links.is_empty() {
        out["Links"] = json!(network.links);
    }
    if !network.aliases.is_empty() {
        out["Aliases"] = json!(network.aliases);
    }
    if !network.mac.is_empty() {
        if !is_mac(&network.mac) {
            return Err(format!("{} is not a valid mac address", network.mac));
        }
        out["MacAddress"] = network.mac.as_str().into();
    }
    if !network.options.is_empty() {
        let mut options = network.options.clone();
        options.sort_keys();
        out["DriverOpts"] = options.into();
    }
    out["GwPriority"] = network.priority.into();
    Ok(out)
}

/// 6, 8 or 20 bytes: pairs with colons or dashes between, or fours with dots.
fn is_mac(text: &str) -> bool {
    let groups = |by: char, digits: usize, counts: &[usize]| {
        let parts: Vec<&str> = text.split(by).collect();
        counts.contains(&parts.len())
            && parts
                .iter()
                .all(|part| part.len() == digits && part.bytes().all(|c| c.is_ascii_hexdigit()))
    };
    groups(':', 2, &[6, 8, 20]) || groups('-', 2, &[6, 8, 20]) || groups('.', 4, &[3, 4, 10])
}

/// `container` or `container:name`.
pub fn check_link(text: &str) -> Result<()> {
    match text.split(':').count() {
        _ if text.is_empty() => Err("empty string specified for links".to_owned()),
        1 | 2 => Ok(()),
        _ => Err(format!("bad format for links: {text}")),
    }
}

/// A resolver's address as Go writes addresses.
pub fn resolver(text: &str) -> Result<String> {
    let address: std::net::IpAddr = text
        .trim()
        .parse()
        .map_err(|_| format!("IP address is not correctly formatted: {text}"))?;
    Ok(address.to_canonical().to_string())
}

/// Whether a resolver is one that a container cannot reach by that address.
pub fn is_own_resolver(address: &str) -> bool {
    address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A domain to search in, without a dot at its end; a lone dot is none at all.
pub fn search_domain(text: &str) -> Result<String> {
    let domain = text.trim_matches(' ');
    if domain == "." {
        return Ok(domain.to_owned());
    }
    let bare = domain.trim_end();
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    let good = bare.len() < 255
        && bare.bytes().any(|c| c.is_ascii_alphabetic())
        && bare.split('.').all(label);
    if good { Ok(bare.to_owned()) } else { Err(format!("{domain} is not a valid domain")) }
}

/// `name:address` of `--add-host`, as the daemon takes it.
pub fn extra_host(entry: &str) -> Result<String> {
    let (name, address) = entry
        .split_once('=')
        .or_else(|| entry.split_once(':'))
        .filter(|(name, _)| !name.is_empty() && !name.contains(':'))
        .ok_or_else(|| format!("bad format for add-host: {entry:?}"))?;
    if address == "host-gateway" {
        return Ok(format!("{name}:{address}"));
    }
    let inside = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = inside.filter(|inside| !inside.is_empty()).unwrap_or(address);
    if address.trim().parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address in add-host: {address:?}"));
    }
    Ok(format!("{name}:{address}"))
}

/// A label with a name, and no space in it.
pub fn check_label(text: &str) -> Result<()> {
    let name = text.split('=').next().unwrap_or_default().trim_start();
    if name.is_empty() {
        return Err(format!("invalid label '{text}': empty name"));
    }
    if name.contains(char::is_whitespace) {
        return Err(format!("label '{name}' contains whitespaces"));
    }
    Ok(())
}
