//! Whoever changes the rules of the host, ours are looked at right after.
//!
//! Where the kernel has tables with an owner (6.9 and later), nobody can take ours away, and this
//! only finds that all is well. Elsewhere, from somebody's flush until the table is back (some
//! milliseconds; half a second at most while others keep changing things), published ports do not
//! answer new connections, and what our forward chain would have dropped goes by the host's other
//! rules: the kernel has nothing to close it with. Connections that are known to the kernel go on.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hoy_netlink::nft::Monitor;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::NetworkError;

/// Between two looks, while changes follow one another.
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(500);

/// A thread that waits for changes; it ends when this is dropped.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// In the network namespace of the calling thread. `look` is called once at the beginning, and
    /// after changes of the rules, however many, made by whomever (ours as well); typically it
    /// calls `Firewall::repair`. If it fails it is called again a little later.
    pub fn start(
        look: impl FnMut() -> Result<bool, NetworkError> + Send + 'static,
    ) -> Result<Self, NetworkError> {
        // Before the first look: what is changed from now on is heard of.
        let monitor = Monitor::open()?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)
            .map_err(|errno| NetworkError::io("make an event")(errno.into()))?;
        let stop = Arc::new(stop);
        let seen = stop.clone();
        let thread = std::thread::Builder::new()
            .name("rules".into())
            .spawn(move || watch(&monitor, &seen, look))
            .map_err(NetworkError::io("start a thread"))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take()
            // The last owner of what is watched may be the look itself.
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

fn watch(monitor: &Monitor, stop: &OwnedFd, mut look: impl FnMut() -> Result<bool, NetworkError>) {
    let mut pause = SHORTEST;
    loop {
        // What is said from here on is about something that this look may not see.
        monitor.clear();
        let failed = look().is_err();
        // Not more often than now and then, whatever others do.
        if wait(None, stop, Some(pause)) {
            return;
        }
        if failed {
            pause = (pause * 2).min(LONGEST);
            continue;
        }
        let busy = is_readable(monitor);
        pause = if busy { (pause * 2).min(LONGEST) } else { SHORTEST };
        if !busy && wait(Some(monitor), stop, None) {
            return;
        }
    }
}

/// Waits for a change or for the time; says whether it is to stop.
fn wait(monitor: Option<&Monitor>, stop: &OwnedFd, time: Option<Duration>) -> bool {
    let time = time.map(|time| Timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: time.subsec_nanos().into(),
    });
    loop {
        let mut fds = vec![PollFd::new(stop, PollFlags::IN)];
        let descriptor = monitor.map(Monitor::descriptor);
        if let Some(descriptor) = &descriptor {
            fds.push(PollFd::new(descriptor, PollFlags::IN));
        }
        match poll(&mut fds, time.as_ref()) {
            Ok(_) => return !fds[0].revents().is_empty(),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return true,
        }
    }
}

fn is_readable(monitor: &Monitor) -> bool {
    let descriptor = monitor.descriptor();
    let mut fds = [PollFd::from_borrowed_fd(descriptor.as_fd(), PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
}
