//! Published ports: `[[ip:][hostPort[-end]]:]containerPort[-end][/proto]`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The transport of a port. SCTP is understood and refused where it is used.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// Why a text is not a port. Texts as Docker's where Docker has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    #[error("invalid proto: {0}")]
    Protocol(String),
    #[error("invalid containerPort: {0}")]
    Container(String),
    #[error("invalid hostPort: {0}")]
    Host(String),
    #[error("invalid IP address: {0}")]
    Address(String),
    #[error("no port specified: {0}<empty>")]
    Empty(String),
    #[error("invalid ranges specified for container and host Ports: {0} and {1}")]
    Ranges(String, String),
}

impl FromStr for Protocol {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(PortError::Protocol(text.to_owned())),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A port inside a container: `80/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSpec {
    pub port: u16,
    pub protocol: Protocol,
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

impl FromStr for PortSpec {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let (port, protocol) = match text.split_once('/') {
            Some((port, protocol)) => (port, protocol.parse()?),
            None => (text, Protocol::Tcp),
        };
        let port = parse_port(port).ok_or_else(|| PortError::Container(port.to_owned()))?;
        Ok(Self { port, protocol })
    }
}

impl serde::Serialize for PortSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PortSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One requested publication. An empty `host_ports` range means any free port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortBinding {
    pub container: PortSpec,
    pub host_ip: Option<IpAddr>,
    /// First and last host port that may be used.
    pub host_ports: Option<(u16, u16)>,
}

fn parse_port(text: &str) -> Option<u16> {
    if text.is_empty() || !text.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    match text.split_once('-') {
        Some((first, last)) => {
            let (first, last) = (parse_port(first)?, parse_port(last)?);
            (first <= last).then_some((first, last))
        }
        None => parse_port(text).map(|port| (port, port)),
    }
}

/// Parses one `-p` value into the bindings it stands for.
pub fn parse_port_spec(text: &str) -> Result<Vec<PortBinding>, PortError> {
    let (rest, protocol) = match text.rsplit_once('/') {
        Some((rest, protocol)) => (rest, protocol.parse()?),
        None => (text, Protocol::Tcp),
    };
    let (ip, host, container) = split_parts(rest)?;
    if container.is_empty() {
        return Err(PortError::Empty(rest.to_owned()));
    }
    let (first, last) =
        parse_range(container).ok_or_else(|| PortError::Container(container.to_owned()))?;
    let host_range = match host {
        "" => None,
        host => Some(parse_range(host).ok_or_else(|| PortError::Host(host.to_owned()))?),
    };
    if let Some((host_first, host_last)) = host_range {
        let equal = host_last - host_first == last - first;
        if !equal && first != last {
            return Err(PortError::Ranges(container.to_owned(), host.to_owned()));
        }
    }
    let host_ip = match ip {
        "" => None,
        ip => Some(ip.parse().map_err(|_| PortError::Address(ip.to_owned()))?),
    };
    let one = |index: u16| PortBinding {
        container: PortSpec { port: first + index, protocol },
        host_ip,
        host_ports: host_range.map(|(host_first, host_last)| {
            if first == last {
                (host_first, host_last)
            } else {
                (host_first + index, host_first + index)
            }
        }),
    };
    Ok((0..=last - first).map(one).collect())
}

fn split_parts(rest: &str) -> Result<(&str, &str, &str), PortError> {
    if let Some(after) = rest.strip_prefix('[') {
        let bad = || PortError::Address(rest.to_owned());
        let (ip, ports) = after.split_once(']').ok_or_else(bad)?;
        let ports = ports.strip_prefix(':').ok_or_else(bad)?;
        let (host, container) = ports.split_once(':').unwrap_or(("", ports));
        return Ok((ip, host, container));
    }
    // From the end: whatever is before two ports must be an address.
    let parts: Vec<&str> = rest.rsplitn(3, ':').collect();
    Ok(match parts.as_slice() {
        [container] => ("", "", container),
        [container, host] => ("", host, container),
        [container, host, ip] => (ip, host, container),
        _ => return Err(PortError::Address(rest.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let one = |text: &str| {
            let all = parse_port_spec(text).unwrap();
            assert_eq!(all.len(), 1, "{text}");
            all[0].clone()
        };
        assert_eq!(one("80").host_ports, None);
        assert_eq!(one("8080:80/udp").container.to_string(), "80/udp");
        assert_eq!(one("127.0.0.1::80").host_ip, Some("127.0.0.1".parse().unwrap()));
        assert_eq!(one("[::1]:8080:80").host_ip, Some("::1".parse().unwrap()));
        assert_eq!(one("8000-9000:80").host_ports, Some((8000, 9000)));
        let range = parse_port_spec("3000-3005:4000-4005").unwrap();
        assert_eq!(range.len(), 6);
        assert_eq!(range[5].host_ports, Some((3005, 3005)));
    }

    #[test]
    fn refused() {
        for bad in [
            "",
            "a",
            "80/xyz",
            "1:2:3:4",
            "99999",
            "8080:",
            "3000-3002:80-81",
            "80-70",
            "x:80",
            "1.2.3:1:80",
        ] {
            assert!(parse_port_spec(bad).is_err(), "{bad}");
        }
    }
}
