//! The container's log: from the shim to a helper process that writes the files.
//!
//! Between them is a socket whose buffer is the bounded ring. A helper, because a disk may block:
//! it then stalls neither the terminal, nor exec, nor the exit; and what it was handed reaches the
//! disk although the shim is killed. A process, because one that makes processes has no threads.
//! It comes with the first output and goes when there was none for a while.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use hoy_logs::{Format, LogOptions, Stream, Writer};
use hoy_runtime::{FailureReason, StartError};
use hoy_sys::apart::spawn_apart;
use hoy_types::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, SocketType,
    recv, sendmsg, shutdown, socketpair,
};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::message::LogPlan;
use crate::session::CHUNK;

/// The ring between shim and helper.
const RING: usize = 512 * 1024;
/// What may wait on our side of a full ring: both streams' pipes at the container's end.
const WAITING: usize = 4 << 20;
/// A helper that takes nothing for this long is blocked by its disk: until then the container
/// waits, from then on its output goes on without the log, which will say how much it lost.
const BLOCKED: Duration = Duration::from_secs(1);
/// A helper without work ends.
const REST: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// What precedes the bytes in a packet: what they are, and when they were heard or how many
/// records are missing.
const HEAD: usize = 16;
/// The longest packet.
const PACKET: usize = HEAD + CHUNK;

const STDOUT: u8 = 0;
const STDERR: u8 = 1;
const MISSING: u8 = 2;

/// The shim's end.
#[derive(Debug)]
pub(crate) struct Log {
    plan: LogPlan,
    /// What may wait, and whether the container never waits for it.
    room: usize,
    nonblocking: bool,
    helper: Helper,
    /// Packets that the ring had no room for.
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    /// Since when nothing moved although packets wait.
    stuck_since: Option<Instant>,
    /// Records that were not handed over, and of which the helper does not know.
    missing: u64,
    /// All that is known to be lost.
    lost: u64,
    finishing: bool,
}

#[derive(Debug)]
enum Helper {
    None,
    /// It ends, and has closed its end; what comes now is for another one.
    Live {
        socket: OwnedFd,
        pidfd: OwnedFd,
        closing: bool,
        lost: u64,
    },
    /// It has written everything and only needs to be reaped.
    Ended(OwnedFd),
}

impl Log {
    /// The log of a plan that has one. A file that cannot be opened is an error now, not later.
    pub fn new(plan: &LogPlan) -> Result<Option<Self>, StartError> {
        if open(plan)
            .map_err(|error| StartError::new(FailureReason::System, error.to_string()))?
            .is_none()
        {
            return Ok(None);
        }
        let nonblocking = match plan {
            LogPlan::JsonFile { nonblocking, .. } | LogPlan::Local { nonblocking, .. } => {
                *nonblocking
            }
            LogPlan::None => None,
        };
        let room = nonblocking.and_then(|bytes| usize::try_from(bytes).ok());
        Ok(Some(Self {
            plan: plan.clone(),
            room: room.unwrap_or(WAITING),
            nonblocking: nonblocking.is_some(),
            helper: Helper::None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            stuck_since: None,
            missing: 0,
            lost: 0,
            finishing: false,
        }))
    }

    /// Takes output. Look at `has_room` before reading more.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) {
        for bytes in bytes.chunks(CHUNK) {
            self.write_packet(stream, bytes);
        }
    }

    fn write_packet(&mut self, stream: Stream, bytes: &[u8]) {
        let number = match stream {
            Stream::Stdout => STDOUT,
            Stream::Stderr => STDERR,
        };
        let head = head(number, now().nanos());
        self.push();
        if self.waiting.is_empty() && self.missing == 0 && self.hand_over(&head, bytes) {
            return;
        }
        if self.is_blocked() || self.waiting_bytes + bytes.len() > self.room {
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count().max(1) as u64;
            self.missing += lines;
            self.lost += lines;
            return;
        }
        self.tell_missing();
        let mut packet = Vec::with_capacity(HEAD + bytes.len());
        packet.extend_from_slice(&head);
        packet.extend_from_slice(bytes);
        self.wait(packet);
        self.push();
    }

    fn tell_missing(&mut self) {
        let missing = std::mem::take(&mut self.missing);
        if missing > 0 {
            self.wait(head(MISSING, missing as i64).to_vec());
        }
    }

    fn wait(&mut self, packet: Vec<u8>) {
        self.waiting_bytes += packet.len();
        self.waiting.push_back(packet);
        self.stuck_since.get_or_insert_with(Instant::now);
    }

    /// Whether more output may be read: it is held back while the ring is full, but not for ever.
    pub fn has_room(&self) -> bool {
        self.waiting.is_empty() || self.nonblocking || self.is_blocked()
    }

    fn is_blocked(&self) -> bool {
        self.stuck_since.is_some_and(|since| since.elapsed() >= BLOCKED)
    }

    /// How many records are not in the log.
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// No more output comes.
    pub fn finish(&mut self) {
        self.finishing = true;
        self.tell_missing();
        self.push();
    }

    /// Whether everything is written, as far as it can be.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty() && !matches!(self.helper, Helper::Live { .. })
    }

    /// What to wait for.
    pub fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.helper {
            Helper::None => None,
            Helper::Live { socket, closing, .. } if self.waiting.is_empty() || *closing => {
                Some((socket.as_fd(), PollFlags::IN))
            }
            Helper::Live { socket, .. } => Some((socket.as_fd(), PollFlags::IN | PollFlags::OUT)),
            Helper::Ended(pidfd) => Some((pidfd.as_fd(), PollFlags::IN)),
        }
    }

    /// When to look again although nothing happens.
    pub fn deadline(&self) -> Option<Duration> {
        let left = BLOCKED.checked_sub(self.stuck_since?.elapsed())?;
        (!left.is_zero()).then_some(left)
    }

    /// Acts on what poll found.
    pub fn handle(&mut self) {
        self.listen();
        self.push();
    }

    /// Hands over what waits, as far as the ring has room.
    fn push(&mut self) {
        while let Some(packet) = self.waiting.pop_front() {
            let (head, bytes) = packet.split_at(HEAD.min(packet.len()));
            if !self.hand_over(head, bytes) {
                self.waiting.push_front(packet);
                return;
            }
            self.waiting_bytes -= packet.len();
            self.stuck_since = (!self.waiting.is_empty()).then(Instant::now);
        }
        self.waiting.shrink_to(0);
        if self.finishing
            && let Helper::Live { socket, .. } = &self.helper
        {
            // It ends when it has written the rest; nothing else could be done about a failure.
            let _ = shutdown(socket, Shutdown::Write);
        }
    }

    /// False if it must be tried again later.
    fn hand_over(&mut self, head: &[u8], bytes: &[u8]) -> bool {
        if matches!(self.helper, Helper::None | Helper::Ended(_)) && !self.start() {
            // No memory or no process: as good as a full ring, until the next output.
            return false;
        }
        let Helper::Live { socket, closing, .. } = &mut self.helper else { return false };
        if *closing {
            return false;
        }
        let parts = [IoSlice::new(head), IoSlice::new(bytes)];
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match sendmsg(&*socket, &parts, &mut SendAncillaryBuffer::default(), flags) {
            Ok(_) => true,
            Err(Errno::PIPE) => {
                // It had no work and ends: its successor takes this when it is gone.
                *closing = true;
                false
            }
            Err(_) => false,
        }
    }

    fn start(&mut self) -> bool {
        self.reap();
        let Ok((ours, theirs)) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        else {
            return false;
        };
        // Less than asked for is still a ring.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&ours, RING);
        let Ok(plan) = postcard::to_stdvec(&self.plan) else { return false };
        match spawn_apart(run_helper, &plan, vec![theirs]) {
            Ok((_, pidfd)) => {
                self.helper = Helper::Live { socket: ours, pidfd, closing: false, lost: 0 };
                true
            }
            Err(_) => false,
        }
    }

    /// What the helper says: how many records it could not write; or its end.
    fn listen(&mut self) {
        loop {
            let Helper::Live { socket, lost, .. } = &mut self.helper else {
                self.reap();
                return;
            };
            let mut report = [0; 8];
            match recv(&*socket, &mut report, RecvFlags::DONTWAIT) {
                Ok((8, _)) => {
                    let total = u64::from_le_bytes(report);
                    self.lost += total.saturating_sub(*lost);
                    *lost = total;
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                _ => break,
            }
        }
        if let Helper::Live { pidfd, .. } = std::mem::replace(&mut self.helper, Helper::None) {
            self.helper = Helper::Ended(pidfd);
        }
        self.reap();
    }

    fn reap(&mut self) {
        if let Helper::Ended(pidfd) = &self.helper {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            if !matches!(waitid(WaitId::PidFd(pidfd.as_fd()), options), Ok(None)) {
                self.helper = Helper::None;
            }
        }
    }
}

fn head(kind: u8, number: i64) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[0] = kind;
    head[8..].copy_from_slice(&number.to_le_bytes());
    head
}

fn now() -> Timestamp {
    Timestamp::from_system(SystemTime::now())
}

fn open(plan: &LogPlan) -> Result<Option<Writer>, hoy_logs::LogError> {
    let (path, options) = match plan {
        LogPlan::None => return Ok(None),
        LogPlan::JsonFile { path, max_size, max_files, compress, attributes, .. } => {
            let (max_size, max_files, compress) = (*max_size, *max_files, *compress);
            let attributes = attributes.clone();
            let format = Format::Json;
            (path, LogOptions { format, max_size, max_files, compress, attributes })
        }
        LogPlan::Local { path, max_size, max_files, compress, .. } => {
            let (max_size, max_files, compress) = (Some(*max_size), *max_files, *compress);
            let format = Format::Local;
            (path, LogOptions { format, max_size, max_files, compress, ..LogOptions::default() })
        }
    };
    Writer::with(path, &options).map(Some)
}

/// The helper's whole life. It ends when its socket does, or when it has nothing to do.
fn run_helper(plan: &[u8], mut descriptors: Vec<OwnedFd>) -> i32 {
    let _ = rustix::thread::set_name(c"hoy-log");
    let (Ok(plan), Some(socket)) = (postcard::from_bytes(plan), descriptors.pop()) else {
        return 2;
    };
    let mut sink = Sink { plan, writer: None, unopened: 0, told: 0 };
    let mut packet = Vec::with_capacity(PACKET);
    loop {
        let rested = !sink.in_line() && !is_readable(&socket, Some(&REST));
        if rested {
            // From here on the shim is refused; what came until then is still read below.
            let _ = shutdown(&socket, Shutdown::Read);
        }
        let first = if rested { RecvFlags::DONTWAIT } else { RecvFlags::empty() };
        let ended = sink.take_all(&socket, &mut packet, first);
        if ended {
            sink.finish();
        }
        sink.report(&socket);
        if ended || rested {
            return 0;
        }
    }
}

fn is_readable(socket: &OwnedFd, timeout: Option<&Timespec>) -> bool {
    loop {
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], timeout) {
            Err(Errno::INTR) => {}
            found => return !matches!(found, Ok(0)),
        }
    }
}

/// Where the helper writes.
struct Sink {
    plan: LogPlan,
    writer: Option<Writer>,
    /// Records for which no file could be opened.
    unopened: u64,
    told: u64,
}

impl Sink {
    fn in_line(&self) -> bool {
        self.writer.as_ref().is_some_and(Writer::in_line)
    }

    /// Writes all that there is, in one go. True at the end.
    fn take_all(&mut self, socket: &OwnedFd, packet: &mut Vec<u8>, first: RecvFlags) -> bool {
        let mut flags = first;
        let ended = loop {
            packet.clear();
            match recv(socket, rustix::buffer::spare_capacity(packet), flags) {
                Ok((0, _)) => break true,
                Ok(_) => self.take(packet),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break false,
                Err(_) => break true,
            }
            flags = RecvFlags::DONTWAIT;
        };
        if let Some(writer) = &mut self.writer {
            // What could not be written is counted by the writer.
            let _ = writer.flush();
        }
        ended
    }

    fn take(&mut self, packet: &[u8]) {
        let Some((head, bytes)) = packet.split_first_chunk::<HEAD>() else { return };
        let [kind, _, _, _, _, _, _, _, number @ ..] = *head;
        let number = i64::from_le_bytes(number);
        if self.writer.is_none() {
            self.writer = open(&self.plan).ok().flatten();
            if let Some(writer) = &mut self.writer {
                writer.missing(self.unopened);
            }
        }
        let Some(writer) = &mut self.writer else {
            self.unopened += 1;
            return;
        };
        let stream = match kind {
            STDOUT => Stream::Stdout,
            STDERR => Stream::Stderr,
            _ => return writer.missing(number.unsigned_abs()),
        };
        let _ = writer.push(stream, Timestamp::from_nanos(number), bytes);
    }

    fn finish(&mut self) {
        if let Some(writer) = &mut self.writer {
            let _ = writer.finish(now());
        }
    }

    /// Tells the shim what was lost, if it is more than before.
    fn report(&mut self, socket: &OwnedFd) {
        let lost = self.unopened + self.writer.as_ref().map_or(0, Writer::lost);
        if lost > self.told {
            self.told = lost;
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let _ = rustix::net::send(socket, &lost.to_le_bytes(), flags);
        }
    }
}
