//! A client for names that asks as fast as it is answered: many questions with one system call.
//! A client that asks one by one would measure itself.

use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hoy_sys::batches::{MANY, Received, ToSend};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

/// Questions on their way at a time.
const WINDOW: usize = 4 * MANY;
/// What is not answered then is lost. Longer than a loaded machine lets a program wait: what comes
/// late is not lost.
const LOST: Duration = Duration::from_secs(2);
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// What came of it.
pub struct Asked {
    /// Answers per second.
    pub rate: f64,
    /// Microseconds, in rising order.
    pub times: Vec<f64>,
    pub lost: usize,
    /// What the kernel says that it dropped meanwhile.
    pub dropped: Dropped,
}

/// Packets that the kernel had no room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// In the queues of the machine's processors, which all namespaces share
    /// (net.core.netdev_max_backlog).
    pub queues: u64,
    /// In the buffers of sockets of this network namespace.
    pub buffers: u64,
}

impl Dropped {
    /// Since the machine began, in the namespace of the calling thread.
    fn so_far() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            queues: queues(&read("/proc/net/softnet_stat")),
            buffers: buffers(&read("/proc/thread-self/net/snmp")),
        }
    }

    fn since(self) -> Self {
        let now = Self::so_far();
        Self {
            queues: now.queues.saturating_sub(self.queues),
            buffers: now.buffers.saturating_sub(self.buffers),
        }
    }

    pub fn add(&mut self, other: Self) {
        self.queues += other.queues;
        self.buffers += other.buffers;
    }
}

/// The second number of each processor, in hexadecimal digits.
fn queues(softnet: &str) -> u64 {
    let dropped = softnet.lines().filter_map(|line| line.split_whitespace().nth(1));
    dropped.filter_map(|number| u64::from_str_radix(number, 16).ok()).sum()
}

/// `RcvbufErrors` of UDP: a line of names, then one of numbers.
fn buffers(snmp: &str) -> u64 {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (Some(names), Some(numbers)) = (lines.next(), lines.next()) else { return 0 };
    let mut both = names.split_whitespace().zip(numbers.split_whitespace());
    let found = both.find(|(name, _)| *name == "RcvbufErrors");
    found.and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

/// A question for the IPv4 address of a name.
fn question(name: &str, id: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// The question's number, if this is an answer that has an address.
fn answered(bytes: &[u8]) -> Result<u16> {
    let [high, low, flags, code, _, _, count_high, count_low, ..] = bytes else {
        anyhow::bail!("an answer of {} bytes", bytes.len());
    };
    ensure!(flags & 0x80 != 0 && code & 15 == 0, "answered with code {}", code & 15);
    ensure!((*count_high, *count_low) != (0, 0), "answered without an address");
    Ok(u16::from_be_bytes([*high, *low]))
}

/// Asks one after another.
pub fn each(server: SocketAddrV4, name: &str, time: Duration) -> Result<Asked> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(LOST))?;
    let before = Dropped::so_far();
    let (started, mut times, mut bytes) = (Instant::now(), Vec::new(), [0; 1500]);
    let mut lost = 0_usize;
    let mut id = 0_u16;
    while started.elapsed() < time {
        id = id.wrapping_add(1);
        let sent = Instant::now();
        socket.send(&question(name, id)).with_context(|| format!("ask {server}"))?;
        loop {
            match socket.recv(&mut bytes) {
                // The answer to one that was given up.
                Ok(count) if answered(&bytes[..count])? != id => lost = lost.saturating_sub(1),
                Ok(_) => break times.push(sent.elapsed().as_secs_f64() * 1e6),
                Err(_) => break lost += 1,
            }
        }
    }
    finish(started.elapsed(), times, lost, before)
}

/// Asks many at a time.
pub fn many(server: SocketAddrV4, name: &str, time: Duration) -> Result<Asked> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // Best effort: a smaller one loses some, which is counted.
    let _ = set_socket_recv_buffer_size_force(&socket, 4 << 20);
    let mut out = ToSend::default();
    let mut received = Received::new(1500);
    // A slot's next question has another number: a late answer is known.
    let mut slots: Vec<(u16, Option<Instant>)> =
        (0..WINDOW).map(|slot| (u16::try_from(slot).unwrap_or(0), None)).collect();
    let window = u16::try_from(WINDOW).context("a window of 16 bits")?;
    let before = Dropped::so_far();
    let (started, mut times, mut lost) = (Instant::now(), Vec::new(), 0_usize);
    while started.elapsed() < time {
        let free: Vec<usize> =
            (0..WINDOW).filter(|slot| slots[*slot].1.is_none()).take(MANY).collect();
        if free.len() == MANY {
            out.clear();
            for slot in &free {
                slots[*slot].0 = slots[*slot].0.wrapping_add(window);
                out.bytes.extend(question(name, slots[*slot].0));
                out.end(server);
            }
            let now = Instant::now();
            // As one piece through the network, or this program would be the slowest of all.
            let sent = out.send_joined(socket.as_fd(), 0).unwrap_or(0);
            for slot in free.into_iter().take(sent) {
                slots[slot].1 = Some(now);
            }
        }
        if received.receive(socket.as_fd()).is_err() {
            let ready = poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&WAIT))?;
            if ready == 0 {
                let late =
                    slots.iter_mut().filter(|slot| slot.1.is_some_and(|at| at.elapsed() > LOST));
                for slot in late {
                    slot.1 = None;
                    lost += 1;
                }
            }
            continue;
        }
        let now = Instant::now();
        for (bytes, _, _) in received.iter() {
            let id = answered(bytes)?;
            let slot = &mut slots[usize::from(id) % WINDOW];
            match slot.1.take_if(|_| slot.0 == id) {
                Some(sent) => times.push((now - sent).as_secs_f64() * 1e6),
                None => lost = lost.saturating_sub(1),
            }
        }
    }
    let time = started.elapsed();
    // What is on its way may come yet.
    lost += slots.iter().filter(|slot| slot.1.is_some()).count();
    let end = Instant::now();
    while lost > 0 && end.elapsed() < LOST {
        if received.receive(socket.as_fd()).is_err() {
            poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&WAIT))?;
            continue;
        }
        lost = lost.saturating_sub(received.iter().count());
    }
    finish(time, times, lost, before)
}

fn finish(time: Duration, mut times: Vec<f64>, lost: usize, before: Dropped) -> Result<Asked> {
    ensure!(!times.is_empty(), "no answer ({lost} questions lost)");
    times.sort_by(f64::total_cmp);
    let rate = times.len() as f64 / time.as_secs_f64();
    Ok(Asked { rate, times, lost, dropped: before.since() })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    /// Answers so many questions with one address each, or with a code.
    fn server(code: u8) -> SocketAddrV4 {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(address) = socket.local_addr().unwrap() else { panic!() };
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 1500];
            while let Ok((count, from)) = socket.recv_from(&mut bytes) {
                (bytes[2], bytes[3], bytes[7]) = (0x85, code, 1);
                let _ = socket.send_to(&bytes[..count], from);
            }
        });
        address
    }

    #[test]
    fn what_is_answered_is_counted() {
        let time = Duration::from_millis(30);
        for asked in [each(server(0), "web", time), many(server(0), "web.here", time)] {
            let asked = asked.unwrap();
            assert!(asked.rate > 0.0 && asked.times.is_sorted());
        }
    }

    #[test]
    fn what_the_kernel_dropped() {
        assert_eq!(queues("0c09 0000092a 27\n0890 00000001 23\n"), 0x92b);
        let snmp = "Ip: A B\nIp: 1 2\nUdp: InDatagrams RcvbufErrors\nUdp: 7 9\nUdpLite: x\n";
        assert_eq!((buffers(snmp), buffers("")), (9, 0));
    }

    #[test]
    fn a_wrong_answer_is_no_answer() {
        let time = Duration::from_millis(30);
        assert!(each(server(3), "web", time).is_err());
        assert!(many(server(3), "web", time).is_err());
        assert!(answered(&[0; 4]).is_err());
    }

    #[test]
    fn questions_are_well_formed() {
        let bytes = question("web.here", 0x1234);
        assert_eq!(&bytes[..6], [0x12, 0x34, 1, 0, 0, 1]);
        assert_eq!(&bytes[12..], b"\x03web\x04here\0\0\x01\0\x01");
    }
}
