//! Messages on a SOCK_SEQPACKET socket: one byte that says where the document is, then the
//! document, or a descriptor of a sealed file that holds it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, memfd_create};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// A longer document travels in a file.
const INLINE: usize = 32 * 1024;
/// No honest document is longer: arguments and environment are at most 2 MiB.
const LONGEST: u64 = 8 << 20;

const HERE: u8 = 0;
const IN_FILE: u8 = 1;

/// Sends one message; false if the socket's buffer is full for now.
pub(crate) fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> Result<bool, Error> {
    let mut bytes = vec![HERE];
    bytes.extend(postcard::to_stdvec(message)?);
    let file;
    let mut all = descriptors.to_vec();
    if bytes.len() > INLINE {
        file = sealed(&bytes[1..]).map_err(Error::io("make a message's file"))?;
        all.insert(0, file.as_fd());
        bytes = vec![IN_FILE];
    }
    match hoy_sys::socket::send(socket, &bytes, &all) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(Error::io("send to the shim's socket")(error)),
    }
}

/// What a receive came to.
pub(crate) enum Received<T> {
    Message(T, Vec<OwnedFd>),
    Nothing,
    Closed,
}

/// Receives one message without waiting.
pub(crate) fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> Result<Received<T>, Error> {
    let flags = RecvFlags::DONTWAIT;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(Received::Nothing),
        io::ErrorKind::ConnectionReset => Ok(Received::Closed),
        _ => Err(Error::io("receive from the shim's socket")(error)),
    };
    // Most messages are small: as much memory as this one needs.
    let peek = flags | RecvFlags::PEEK | RecvFlags::TRUNC;
    let length = match rustix::net::recv(socket, &mut [0], peek) {
        Ok((_, 0)) => return Ok(Received::Closed),
        Ok((_, length)) => length.min(INLINE + 1),
        Err(errno) => return failed(errno.into()),
    };
    let mut buffer = vec![0; length];
    let (length, mut descriptors) = match hoy_sys::socket::receive(socket, &mut buffer, flags) {
        Ok(received) => received,
        Err(error) => return failed(error),
    };
    let message = match buffer.first() {
        Some(&HERE) => postcard::from_bytes(buffer.get(1..length).unwrap_or_default())?,
        Some(&IN_FILE) if !descriptors.is_empty() => {
            let file = File::from(descriptors.remove(0));
            let mut bytes = Vec::new();
            let mut bounded = io::Seek::rewind(&mut &file).map(|()| file.take(LONGEST));
            bounded
                .as_mut()
                .map_err(|error| io::Error::from(error.kind()))
                .and_then(|file| file.read_to_end(&mut bytes))
                .map_err(Error::io("read a message's file"))?;
            postcard::from_bytes(&bytes)?
        }
        _ => return Err(Error::Encoding(postcard::Error::DeserializeBadEncoding)),
    };
    Ok(Received::Message(message, descriptors))
}

/// A file in memory that nobody can change any more, nor make one that cannot be executed: a
/// container sees it as the program of the process that becomes the container's.
pub(crate) fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match memfd_create("hoy-shim", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create("hoy-shim", flags)?,
        other => other?,
    };
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    let content = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    match rustix::fs::fcntl_add_seals(&file, content | SealFlags::EXEC) {
        // Before Linux 6.3 the mode cannot be sealed: see `client::spawn`.
        Err(Errno::INVAL) => rustix::fs::fcntl_add_seals(&file, content)?,
        other => other?,
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn a_sealed_file_stays_as_it_is() {
        let fd = sealed(b"program").unwrap();
        let mut file = File::from(fd);
        assert_eq!(file.write_all(b"x").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(file.set_len(0).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let seals = rustix::fs::fcntl_get_seals(&file).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o0);
        let changed = file.set_permissions(mode).is_ok();
        assert_ne!(changed, seals.contains(SealFlags::EXEC));
    }

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    fn message(socket: &OwnedFd) -> (Vec<String>, Vec<OwnedFd>) {
        match receive(socket.as_fd()).unwrap() {
            Received::Message(message, descriptors) => (message, descriptors),
            Received::Nothing => panic!("nothing"),
            Received::Closed => panic!("closed"),
        }
    }

    #[test]
    fn any_length_with_descriptors_in_order() {
        let (ours, theirs) = pair();
        let file = |text: &[u8]| sealed(text).unwrap();
        for length in [0, 1, 100, INLINE - 64, INLINE, INLINE + 64, 2 << 20] {
            let text = vec!["x".repeat(length)];
            let (first, second) = (file(b"first"), file(b"second!"));
            assert!(send(ours.as_fd(), &text, &[first.as_fd(), second.as_fd()]).unwrap());
            let (received, descriptors) = message(&theirs);
            assert!(received == text, "{length}");
            let sizes = descriptors.iter().map(|fd| rustix::fs::fstat(fd).unwrap().st_size);
            assert_eq!(sizes.collect::<Vec<_>>(), [5, 7]);
        }
        assert!(matches!(receive::<u8>(theirs.as_fd()).unwrap(), Received::Nothing));
        drop(ours);
        // A process that another test is just making has a copy for a moment.
        for _ in 0..500 {
            match receive::<u8>(theirs.as_fd()).unwrap() {
                Received::Closed => return,
                _ => std::thread::sleep(std::time::Duration::from_millis(20)),
            }
        }
        panic!("it is not closed");
    }

    #[test]
    fn a_full_socket_is_said() {
        let (ours, _theirs) = pair();
        let text = vec!["x".repeat(10_000)];
        let mut sent = 0;
        while send(ours.as_fd(), &text, &[]).unwrap() {
            sent += 1;
            assert!(sent < 10_000);
        }
    }

    #[test]
    fn garbage_is_an_error() {
        let (ours, theirs) = pair();
        for bytes in [&[HERE][..], &[IN_FILE], &[7, 7], &[HERE, 0xff, 0xff, 0xff], &[HERE; 40_000]]
        {
            hoy_sys::socket::send(ours.as_fd(), bytes, &[]).unwrap();
            assert!(receive::<Vec<String>>(theirs.as_fd()).is_err(), "{}", bytes.len());
        }
    }

    #[test]
    fn what_is_sealed_stays() {
        let fd = sealed(b"text").unwrap();
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let file = File::options().write(true).open(path);
        assert!(file.and_then(|mut file| file.write_all(b"other")).is_err());
    }
}
