//! Descriptors that are held open for daemons to come: what a container's clients wait at must not
//! close while there is no daemon.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const MAX_NAMES: usize = 8;
const MAX_LENGTH: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Kept {
    by_name: BTreeMap<String, Vec<OwnedFd>>,
}

impl Kept {
    /// Replaces what was kept under a name; false if that is too much.
    pub fn keep(&mut self, name: String, descriptors: Vec<OwnedFd>) -> bool {
        if descriptors.is_empty() {
            self.by_name.remove(&name);
            return true;
        }
        let new = !self.by_name.contains_key(&name);
        if name.len() > MAX_LENGTH || new && self.by_name.len() >= MAX_NAMES {
            return false;
        }
        self.by_name.insert(name, descriptors);
        true
    }

    pub fn get(&self, name: &str) -> Vec<BorrowedFd<'_>> {
        self.by_name.get(name).into_iter().flatten().map(AsFd::as_fd).collect()
    }

    pub fn forget(&mut self) {
        self.by_name.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use rustix::event::{PollFd, PollFlags};
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
        socketpair,
    };

    use super::*;
    use crate::codec::{self, Received};
    use crate::message::{Call, FromShim, Reply, Request};
    use crate::supervise::Shim;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn bounded_and_replaced() {
        let mut kept = Kept::default();
        for number in 0..MAX_NAMES {
            assert!(kept.keep(number.to_string(), vec![null()]));
        }
        assert!(!kept.keep("one more".into(), vec![null()]));
        assert!(!kept.keep("x".repeat(MAX_LENGTH + 1), vec![null()]));
        let two = vec![null(), null()];
        let numbers: Vec<_> = two.iter().map(AsRawFd::as_raw_fd).collect();
        assert!(kept.keep("0".into(), two));
        assert_eq!(kept.get("0").iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>(), numbers);
        assert!(kept.keep("0".into(), Vec::new()));
        assert!(kept.get("0").is_empty());
        assert!(kept.keep("one more".into(), vec![null()]));
        kept.forget();
        assert!(kept.get("one more").is_empty());
    }

    fn call(socket: &OwnedFd, request: Request, descriptors: &[OwnedFd]) -> (Reply, Vec<OwnedFd>) {
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        assert!(codec::send(socket.as_fd(), &Call { sequence: 7, request }, &borrowed).unwrap());
        rustix::event::poll(&mut [PollFd::new(socket, PollFlags::IN)], None).unwrap();
        match codec::receive(socket.as_fd()).unwrap() {
            Received::Message(FromShim::Reply { sequence: 7, reply }, given) => (reply, given),
            _ => panic!("no reply"),
        }
    }

    /// As a daemon that is followed by another one would.
    #[test]
    fn the_next_daemon_gets_them_back() {
        let directory = std::env::temp_dir().join(format!("hoy-kept-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("x.sock");
        let flags = SocketFlags::CLOEXEC;
        let kind = SocketType::SEQPACKET;
        let listener = socket_with(AddressFamily::UNIX, kind, flags, None).unwrap();
        let address = SocketAddrUnix::new(&path).unwrap();
        bind(&listener, &address).unwrap();
        listen(&listener, 1).unwrap();
        let (first, theirs) = socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
        let work = std::thread::spawn(move || Shim::new(theirs, listener, path).work());

        let keep = |name: &str| Request::Keep { name: name.to_owned() };
        let kept = |name: &str| Request::Kept { name: name.to_owned() };
        let file = |number: usize| codec::sealed(&vec![0; number]).unwrap();
        let files: Vec<_> = (1..=8).map(file).collect();
        assert_eq!(call(&first, keep("eight"), &files).0, Reply::Done);
        assert_eq!(call(&first, keep("one"), &files[..1]).0, Reply::Done);
        drop(files);
        let second = socket_with(AddressFamily::UNIX, kind, flags, None).unwrap();
        connect(&second, &address).unwrap();
        for _ in 0..3 {
            let (reply, given) = call(&second, kept("eight"), &[]);
            assert_eq!(reply, Reply::Kept);
            let sizes = given.iter().map(|fd| rustix::fs::fstat(fd).unwrap().st_size);
            assert_eq!(sizes.collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8]);
        }
        let (reply, given) = call(&second, kept("other"), &[]);
        assert_eq!((reply, given.len()), (Reply::Kept, 0));
        assert_eq!(call(&second, keep("eight"), &[]).0, Reply::Done);
        assert!(call(&second, kept("eight"), &[]).1.is_empty());
        drop((first, second));
        assert_eq!(work.join().unwrap(), 0);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
