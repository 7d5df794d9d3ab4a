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
    #[error("invalid IP address {0}: address {0}:: {1}")]
    Brackets(String, &'static str),
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
        let port = parse_port_number(port).map_err(|_| PortError::Container(port.to_owned()))?;
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

/// Why a text is no range of ports, in the words of Docker's parser.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    #[error("empty string specified for ports")]
    Empty,
    #[error("strconv.ParseUint: parsing {0:?}: invalid syntax")]
    Syntax(String),
    #[error("strconv.ParseUint: parsing {0:?}: value out of range")]
    TooLarge(String),
    #[error("invalid range specified for port: {0}")]
    Reversed(String),
}

/// A port as Docker's parser takes it: digits and nothing else.
pub fn parse_port_number(text: &str) -> Result<u16, RangeError> {
    if text.is_empty() || !text.bytes().all(|c| c.is_ascii_digit()) {
        return Err(RangeError::Syntax(text.to_owned()));
    }
    text.parse().map_err(|_| RangeError::TooLarge(text.to_owned()))
}

/// `80` or `80-90`. A second dash and what follows it is not looked at.
pub fn parse_port_range(text: &str) -> Result<(u16, u16), RangeError> {
    if text.is_empty() {
        return Err(RangeError::Empty);
    }
    let mut parts = text.split('-');
    let first = parse_port_number(parts.next().unwrap_or_default())?;
    let last = match parts.next() {
        Some(last) => parse_port_number(last)?,
        None => first,
    };
    if last < first {
        return Err(RangeError::Reversed(text.to_owned()));
    }
    Ok((first, last))
}

/// Takes `80/udp` apart into `80` and `udp`; without a protocol it is TCP.
pub fn split_protocol(text: &str) -> (&str, &str) {
    let mut parts = text.split('/');
    match (parts.next().unwrap_or_default(), parts.next()) {
        ("", _) => ("", ""),
        (port, None | Some("")) => (port, "tcp"),
        (port, Some(protocol)) => (port, protocol),
    }
}

/// The host's address in a `-p` value as it was written, without brackets.
pub fn written_address(text: &str) -> Result<&str, PortError> {
    let (address, ..) = split_parts(text);
    if !address.starts_with('[') {
        return Ok(address);
    }
    let bad = |reason| Err(PortError::Brackets(address.to_owned(), reason));
    match address[1..].split_once(']') {
        None => bad("missing ']' in address"),
        Some((_, rest)) if rest.starts_with(':') => bad("too many colons in address"),
        Some((_, rest)) if !rest.is_empty() => bad("missing port in address"),
        Some((inside, _)) if inside.contains('[') => bad("unexpected '[' in address"),
        Some((inside, _)) => Ok(inside),
    }
}

/// Parses one `-p` value into the bindings it stands for.
pub fn parse_port_spec(text: &str) -> Result<Vec<PortBinding>, PortError> {
    let (_, host, container) = split_parts(text);
    let (container, protocol) = split_protocol(container);
    let host_ip = match written_address(text)? {
        "" => None,
        ip => Some(ip.parse().map_err(|_| PortError::Address(ip.to_owned()))?),
    };
    if container.is_empty() {
        return Err(PortError::Empty(text.to_owned()));
    }
    let (first, last) =
        parse_port_range(container).map_err(|_| PortError::Container(container.to_owned()))?;
    let host_range = match host {
        "" => None,
        host => Some(parse_port_range(host).map_err(|_| PortError::Host(host.to_owned()))?),
    };
    if let Some((host_first, host_last)) = host_range {
        let equal = host_last - host_first == last - first;
        if !equal && first != last {
            return Err(PortError::Ranges(container.to_owned(), host.to_owned()));
        }
    }
    let protocol = protocol.parse()?;
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

/// From the end: whatever is before two ports must be an address.
fn split_parts(text: &str) -> (&str, &str, &str) {
    let parts: Vec<&str> = text.rsplitn(3, ':').collect();
    match parts.as_slice() {
        [container, host, ip] => (ip, host, container),
        [container, host] => ("", host, container),
        _ => ("", "", text),
    }
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
    fn as_dockers_parser_words_it() {
        let says = |text: &str| parse_port_spec(text).unwrap_err().to_string();
        for (text, words) in [
            ("", "no port specified: <empty>"),
            ("80:/tcp", "no port specified: 80:/tcp<empty>"),
            ("80/xyz", "invalid proto: xyz"),
            ("bogus/xyz", "invalid containerPort: bogus"),
            ("82-80", "invalid containerPort: 82-80"),
            ("1.2.3.4:80", "invalid hostPort: 1.2.3.4"),
            ("host:80:80", "invalid IP address: host"),
            ("[::1]:80", "invalid IP address [:: address [::: missing ']' in address"),
            ("[::1]x:80:80", "invalid IP address [::1]x: address [::1]x:: missing port in address"),
            (
                "8000-8001:80-82",
                "invalid ranges specified for container and host Ports: 80-82 and 8000-8001",
            ),
        ] {
            assert_eq!(says(text), words, "{text}");
        }
        assert_eq!(written_address("[0:0::1]:80:80"), Ok("0:0::1"));
        assert_eq!(parse_port_spec("8080:80/tcp/udp").unwrap()[0].container.to_string(), "80/tcp");
        assert_eq!(parse_port_spec("80/").unwrap()[0].container.to_string(), "80/tcp");
        assert_eq!(parse_port_spec("[]:80:80").unwrap()[0].host_ip, None);
        let range = |text: &str| parse_port_range(text).map_err(|error| error.to_string());
        assert_eq!(range("80-82-84"), Ok((80, 82)));
        assert_eq!(
            range("99999").unwrap_err(),
            "strconv.ParseUint: parsing \"99999\": value out of range"
        );
        assert_eq!(range("82-80").unwrap_err(), "invalid range specified for port: 82-80");
    }

    #[test]
    fn refused() {
        for bad in [
            "",
            "a",
            "80/xyz",
            "1:2:3:4",
            "[::1]:80",
            "[fe80::1%eth0]:80:80",
            "010.0.0.1:80:80",
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
