//! As much of D-Bus as units of systemd need: method calls and their answers, blocking, with one
//! deadline for all of a connection.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// For everything that is said over one connection.
const DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of an answer, head or body.
const MAX_ANSWER: u32 = 1 << 20;
/// Bytes of a line before there are messages.
const MAX_LINE: usize = 512;
/// Messages of others that may come before an answer.
const MAX_OTHERS: usize = 1000;

/// systemd itself, for root alone.
const PRIVATE: &str = "/run/systemd/private";
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{text} ({name})")]
    Refused { name: String, text: String },
    #[error("an answer that makes no sense: {0}")]
    Malformed(&'static str),
}

impl BusError {
    /// Whether it is systemd's error of this name.
    pub(crate) fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { name, .. }
            if name.strip_prefix("org.freedesktop.systemd1.") == Some(wanted))
    }
}

/// A value of a unit's property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Flag(bool),
    Number(u64),
    Pids(Vec<u32>),
    Bytes(Vec<u8>),
    Pairs(Vec<(String, String)>),
}

pub(crate) type Property = (&'static str, Value);

/// A message's content: every value is padded to its own size.
#[derive(Default)]
pub(crate) struct Body(Vec<u8>);

impl Body {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_ne_bytes());
    }

    fn long(&mut self, value: u64) {
        self.align(8);
        self.0.extend(value.to_ne_bytes());
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.number(text.len() as u32);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn array(&mut self, align: usize, fill: impl FnOnce(&mut Self)) {
        self.number(0);
        let length_at = self.0.len() - 4;
        self.align(align);
        let start = self.0.len();
        fill(self);
        let length = (self.0.len() - start) as u32;
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_ne_bytes());
    }

    pub(crate) fn flag(&mut self, value: bool) {
        self.number(value.into());
    }

    /// `a(sv)`.
    pub(crate) fn properties(&mut self, list: &[Property]) {
        self.array(8, |body| {
            for (name, value) in list {
                body.align(8);
                body.text(name);
                body.variant(value);
            }
        });
    }

    /// `a(sa(sv))` without an element.
    pub(crate) fn no_more_units(&mut self) {
        self.array(8, |_| ());
    }

    fn variant(&mut self, value: &Value) {
        match value {
            Value::Text(text) => {
                self.signature("s");
                self.text(text);
            }
            Value::Flag(flag) => {
                self.signature("b");
                self.flag(*flag);
            }
            Value::Number(number) => {
                self.signature("t");
                self.long(*number);
            }
            Value::Pids(pids) => {
                self.signature("au");
                self.array(4, |body| pids.iter().for_each(|pid| body.number(*pid)));
            }
            Value::Bytes(bytes) => {
                self.signature("ay");
                self.array(1, |body| body.0.extend(bytes));
            }
            Value::Pairs(pairs) => {
                self.signature("a(ss)");
                self.array(8, |body| {
                    for (first, second) in pairs {
                        body.align(8);
                        body.text(first);
                        body.text(second);
                    }
                });
            }
        }
    }
}

/// Whom a call is for.
struct Target {
    destination: &'static str,
    path: &'static str,
    interface: &'static str,
}

const MANAGER: Target = Target {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const BUS: Target = Target {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

const ORDER: u8 = if cfg!(target_endian = "big") { b'B' } else { b'l' };

fn call(target: &Target, member: &str, signature: &str, body: &Body, serial: u32) -> Vec<u8> {
    let mut head = Body(vec![ORDER, CALL, 0, 1]);
    head.number(body.0.len() as u32);
    head.number(serial);
    head.array(8, |head| {
        for (code, kind, text) in [
            (1, "o", target.path),
            (2, "s", target.interface),
            (3, "s", member),
            (6, "s", target.destination),
            (8, "g", signature),
        ] {
            if text.is_empty() {
                continue;
            }
            head.align(8);
            head.0.push(code);
            head.signature(kind);
            match kind {
                "g" => head.signature(text),
                _ => head.text(text),
            }
        }
    });
    head.align(8);
    head.0.extend(&body.0);
    head.0
}

/// What is known of a message that came.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    kind: u8,
    to: u32,
    error: String,
    signature: String,
}

/// Reads values from the head of a message.
struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Reader<'b> {
    fn take(&mut self, length: usize) -> Result<&'b [u8], BusError> {
        let end = self.at.checked_add(length).ok_or(BusError::Malformed("a length"))?;
        let found = self.bytes.get(self.at..end).ok_or(BusError::Malformed("it is too short"))?;
        self.at = end;
        Ok(found)
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn byte(&mut self) -> Result<u8, BusError> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    fn number(&mut self) -> Result<u32, BusError> {
        self.align(4);
        let bytes = self.take(4)?.try_into().map_err(|_| BusError::Malformed("a number"))?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn text(&mut self) -> Result<String, BusError> {
        let length = self.number()?;
        self.rest_of_text(length as usize)
    }

    fn signature(&mut self) -> Result<String, BusError> {
        let length = self.byte()?;
        self.rest_of_text(length.into())
    }

    fn rest_of_text(&mut self, length: usize) -> Result<String, BusError> {
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Ok(text)
    }
}

/// The fields of a head; `kind` was read before.
fn fields(kind: u8, bytes: &[u8]) -> Result<Answer, BusError> {
    let mut answer = Answer { kind, ..Answer::default() };
    let mut reader = Reader { bytes, at: 0 };
    while reader.at < bytes.len() {
        reader.align(8);
        let code = reader.byte()?;
        match (code, reader.signature()?.as_str()) {
            (4, "s") => answer.error = reader.text()?,
            (_, "s" | "o") => drop(reader.text()?),
            (8, "g") => answer.signature = reader.signature()?,
            (_, "g") => drop(reader.signature()?),
            (5, "u") => answer.to = reader.number()?,
            (_, "u") => drop(reader.number()?),
            _ => return Err(BusError::Malformed("a field of unknown type")),
        }
    }
    Ok(answer)
}

/// A connection to systemd.
pub(crate) struct Bus {
    socket: UnixStream,
    serial: u32,
    deadline: Instant,
}

impl Bus {
    pub(crate) fn connect() -> Result<Self, BusError> {
        let deadline = Instant::now() + DEADLINE;
        match open(PRIVATE) {
            Ok(socket) => Self::begin(socket, deadline),
            Err(_) => {
                let mut bus = Self::begin(open(SYSTEM_BUS)?, deadline)?;
                bus.ask(&BUS, "Hello", "", &Body::default())?;
                Ok(bus)
            }
        }
    }

    fn begin(socket: UnixStream, deadline: Instant) -> Result<Self, BusError> {
        let mut bus = Self { socket, serial: 0, deadline };
        let uid = rustix::process::geteuid().as_raw().to_string();
        let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        bus.write(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            bus.read(&mut byte)?;
            line.extend(byte);
            if line.len() > MAX_LINE {
                return Err(BusError::Malformed("an endless line"));
            }
        }
        if !line.starts_with(b"OK ") {
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            return Err(BusError::Refused { name: "authentication".into(), text });
        }
        bus.write(b"BEGIN\r\n")?;
        Ok(bus)
    }

    /// Calls a method of systemd's manager.
    pub(crate) fn call(
        &mut self,
        member: &str,
        signature: &str,
        body: &Body,
    ) -> Result<(), BusError> {
        self.ask(&MANAGER, member, signature, body)
    }

    fn ask(
        &mut self,
        target: &Target,
        member: &str,
        signature: &str,
        body: &Body,
    ) -> Result<(), BusError> {
        self.serial += 1;
        self.write(&call(target, member, signature, body, self.serial))?;
        for _ in 0..MAX_OTHERS {
            let (answer, body) = self.receive()?;
            match answer.kind {
                RETURN if answer.to == self.serial => return Ok(()),
                ERROR if answer.to == self.serial => {
                    let mut reader = Reader { bytes: &body, at: 0 };
                    let said = answer.signature.starts_with('s').then(|| reader.text());
                    let text = said.transpose()?.unwrap_or_default();
                    return Err(BusError::Refused { name: answer.error, text });
                }
                // Signals, which everybody on a bus gets.
                _ => {}
            }
        }
        Err(BusError::Malformed("no answer among many messages"))
    }

    fn receive(&mut self) -> Result<(Answer, Vec<u8>), BusError> {
        let mut head = [0; 16];
        self.read(&mut head)?;
        if head[0] != ORDER || head[3] != 1 {
            return Err(BusError::Malformed("not this machine's byte order, or not version 1"));
        }
        let mut reader = Reader { bytes: &head, at: 4 };
        let (body, _serial, length) = (reader.number()?, reader.number()?, reader.number()?);
        if body > MAX_ANSWER || length > MAX_ANSWER {
            return Err(BusError::Malformed("it is too long"));
        }
        let mut rest = vec![0; length as usize];
        self.read(&mut rest)?;
        self.read(&mut vec![0; (length as usize).next_multiple_of(8) - length as usize])?;
        let mut content = vec![0; body as usize];
        self.read(&mut content)?;
        Ok((fields(head[1], &rest)?, content))
    }

    fn left(&self) -> Result<Option<Duration>, BusError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let text = "systemd did not answer in time";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text).into());
        }
        Ok(Some(left))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BusError> {
        self.socket.set_write_timeout(self.left()?)?;
        Ok(self.socket.write_all(bytes)?)
    }

    fn read(&mut self, mut bytes: &mut [u8]) -> Result<(), BusError> {
        while !bytes.is_empty() {
            self.socket.set_read_timeout(self.left()?)?;
            match self.socket.read(bytes) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(length) => bytes = bytes.get_mut(length..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What a socket calls a time that has passed.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => drop(self.left()?),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn open(path: &str) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // A queue of connections that is full is waited for, too.
    set_socket_timeout(&socket, Timeout::Send, Some(DEADLINE))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `dbus-send` writes it, told by strace: the reference for sizes and padding.
    #[test]
    fn a_call() {
        let mut body = Body::default();
        body.text("u");
        let message = call(&MANAGER, "ResetFailedUnit", "s", &body, 7);
        let mut reader = Reader { bytes: &message, at: 4 };
        assert_eq!((reader.number().unwrap(), reader.number().unwrap()), (6, 7));
        let length = reader.number().unwrap() as usize;
        let head = &message[16..16 + length];
        let answer = fields(CALL, head).unwrap();
        assert_eq!(answer.signature, "s");
        assert_eq!(message.len(), (16 + length).next_multiple_of(8) + 6);
        assert_eq!(&message[message.len() - 6..], b"\x01\0\0\0u\0");
    }

    #[test]
    fn values_are_padded() {
        let mut body = Body::default();
        body.text("abc");
        body.properties(&[
            ("A", Value::Number(5)),
            ("Bytes", Value::Bytes(vec![3])),
            ("P", Value::Pairs(vec![("/dev/null".into(), "rwm".into())])),
        ]);
        let expected = [
            &[3, 0, 0, 0][..],
            b"abc\0",
            &[75, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0],
            b"A\0\x01t\0\0\0\0\0\0\0\0",
            &[5, 0, 0, 0, 0, 0, 0, 0],
            &[5, 0, 0, 0],
            b"Bytes\0\x02ay\0\0\0",
            &[1, 0, 0, 0, 3, 0, 0, 0],
            // The last one begins where eight divides.
        ]
        .concat();
        if cfg!(target_endian = "little") {
            assert_eq!(&body.0[12..expected.len()], &expected[12..]);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [&b"\x05\x01u\0"[..], b"\x04\x01s\0\xff\xff\xff\xff", b"\x01\x01x\0", b"\x01"]
        {
            assert!(matches!(fields(RETURN, bytes), Err(BusError::Malformed(_))), "{bytes:?}");
        }
    }
}
