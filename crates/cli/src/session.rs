//! An attached session: standard streams, signals and the window's size, in one loop.
//!
//! Nothing here blocks on one side while the other has something to say: input that the engine
//! does not take yet waits in one buffer while output goes on.

use std::io::{self, BufRead as _, Write as _};
use std::time::Duration;

use hoy_client::{Client, Hijacked, Response};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SendFlags, send};

use crate::failure::{Failure, Result};
use crate::signals::{INT, Signals, TERM, WINCH};
use crate::terminal::{self, DetachKeys, RawMode};

/// As many times as somebody must insist before this command gives up on a container.
const INSISTENCE: u32 = 3;

/// What the session is about.
pub struct Session<'a> {
    pub client: &'a Client,
    /// Where to send sizes: `/containers/ID` or `/exec/ID`.
    pub object: String,
    /// Where to send signals on to, if anywhere: `/containers/ID`.
    pub proxy_to: Option<String>,
    pub tty: bool,
    pub stdin: bool,
    pub keys: DetachKeys,
}

/// How a session came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The engine has nothing more to say.
    Output,
    /// The user typed the keys that leave.
    Detached,
}

/// The running session's descriptors and state.
pub struct Running<'a> {
    about: Session<'a>,
    signals: Option<Signals>,
    raw: Option<RawMode>,
    insisted: u32,
}

impl<'a> Running<'a> {
    /// Catches signals. To be called before anything runs that they could be meant for.
    pub fn prepare(about: Session<'a>) -> Result<Self> {
        let signals = match (about.tty, &about.proxy_to) {
            (true, _) => Some(Signals::of_terminal()?),
            (false, Some(_)) => Some(Signals::proxied()?),
            (false, None) => None,
        };
        Ok(Self { about, signals, raw: None, insisted: 0 })
    }

    /// Makes the terminal raw, if the session has one.
    pub fn take_terminal(&mut self) -> Result<()> {
        if self.about.tty && self.about.stdin {
            self.raw = Some(RawMode::enter()?);
        }
        Ok(())
    }

    /// Gives the terminal back.
    pub fn restore(&mut self) {
        self.raw = None;
    }

    /// Tells the engine the window's size; anew for a while, since what runs may just begin.
    pub fn send_first_size(&self) {
        if !self.about.tty {
            return;
        }
        for attempt in 1..=10 {
            if self.send_size() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10 * attempt));
        }
    }

    /// A program that has drawn for somebody else draws anew when the size changes: so it is made
    /// to change.
    pub fn ask_to_redraw(&self) {
        if let (true, Some((rows, columns))) = (self.about.tty, terminal::size()) {
            self.send(rows.saturating_add(1), columns.saturating_add(1));
        }
    }

    fn send_size(&self) -> bool {
        terminal::size().is_none_or(|(rows, columns)| self.send(rows, columns))
    }

    fn send(&self, rows: u16, columns: u16) -> bool {
        let request = self.about.client.post(format!("{}/resize", self.about.object));
        request.query("h", rows.to_string()).query("w", columns.to_string()).send().is_ok()
    }

    /// Carries bytes both ways until one side ends.
    pub fn pump(&mut self, mut streams: Hijacked) -> Result<End> {
        let end = self.carry(&mut streams);
        self.restore();
        end
    }

    fn carry(&mut self, streams: &mut Hijacked) -> Result<End> {
        let mut output = Output::new(self.about.tty);
        let mut input = Input::new(self.about.stdin);
        loop {
            if !streams.reader.buffer().is_empty() {
                let bytes = streams.reader.buffer().len();
                output.take(streams.reader.buffer())?;
                streams.reader.consume(bytes);
                continue;
            }
            let ready = self.wait(streams, &input)?;
            if ready.signal {
                self.handle_signals()?;
            }
            if ready.typed && input.read(self.about.tty, &mut self.about.keys)? {
                return Ok(End::Detached);
            }
            if ready.writable || ready.typed {
                input.write(streams)?;
            }
            if ready.output {
                match streams.reader.fill_buf() {
                    Ok([]) => return Ok(End::Output),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // The engine has ended in the middle: what it sent is all there is.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                        return Ok(End::Output);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }

    fn wait(&self, streams: &Hijacked, input: &Input) -> Result<Ready> {
        let stdin = io::stdin();
        let socket = streams.reader.get_ref();
        let mut interest = PollFlags::IN;
        if !input.pending.is_empty() {
            interest |= PollFlags::OUT;
        }
        let mut fds = vec![PollFd::new(socket, interest)];
        let signals = self.signals.as_ref().map(|signals| {
            fds.push(PollFd::new(signals, PollFlags::IN));
            fds.len() - 1
        });
        let typed = (input.open && input.pending.is_empty()).then(|| {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
            fds.len() - 1
        });
        loop {
            match poll(&mut fds, None) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        let some = |index: Option<usize>| index.is_some_and(|i| !fds[i].revents().is_empty());
        let socket = fds[0].revents();
        Ok(Ready {
            signal: some(signals),
            typed: some(typed),
            writable: socket.contains(PollFlags::OUT),
            output: socket.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
        })
    }

    fn handle_signals(&mut self) -> Result<()> {
        while let Some(number) = self.signals.as_mut().and_then(Signals::next) {
            if self.about.tty {
                if number == WINCH {
                    self.send_size();
                    continue;
                }
                self.restore();
                return Err(Failure::silent(u8::try_from(128 + number).unwrap_or(1)));
            }
            if matches!(number, INT | TERM) {
                self.insisted += 1;
                if self.insisted >= INSISTENCE {
                    return Err(Failure::new("\ngot 3 SIGTERM/SIGINTs, forcefully exiting"));
                }
            }
            let (Some(object), Some(signal)) =
                (&self.about.proxy_to, hoy_types::Signal::from_number(number))
            else {
                continue;
            };
            let name = signal.to_string();
            let name = name.strip_prefix("SIG").unwrap_or(&name);
            let kill = self.about.client.post(format!("{object}/kill"));
            // A container that has just ended needs no signal.
            let _ = kill.query("signal", name).send();
        }
        Ok(())
    }

    /// Waits for an answer that comes when something ends, handing on signals meanwhile.
    pub fn await_answer(&mut self, answer: Response) -> Result<serde_json::Value> {
        while !answer.has_buffered() {
            let mut fds = vec![PollFd::new(&answer, PollFlags::IN)];
            if let Some(signals) = &self.signals {
                fds.push(PollFd::new(signals, PollFlags::IN));
            }
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
            let done = !fds[0].revents().is_empty();
            self.handle_signals()?;
            if done {
                break;
            }
        }
        Ok(answer.json()?)
    }
}

struct Ready {
    signal: bool,
    typed: bool,
    writable: bool,
    output: bool,
}

/// Standard input on its way.
struct Input {
    open: bool,
    pending: Vec<u8>,
    /// End of input is to be told once what is pending has gone.
    closing: bool,
}

impl Input {
    fn new(open: bool) -> Self {
        Self { open, pending: Vec::new(), closing: false }
    }

    /// Reads once; true if the user leaves.
    fn read(&mut self, tty: bool, keys: &mut DetachKeys) -> Result<bool> {
        let mut buffer = [0; 32 << 10];
        // Past the standard library's buffer: poll must see what is left.
        match rustix::io::read(io::stdin(), &mut buffer) {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => Ok(false),
            // A terminal that has hung up reads as an error.
            Ok(0) | Err(_) => {
                self.open = false;
                self.closing = true;
                Ok(false)
            }
            Ok(read) if tty => Ok(keys.filter(&buffer[..read], &mut self.pending)),
            Ok(read) => {
                self.pending.extend_from_slice(&buffer[..read]);
                Ok(false)
            }
        }
    }

    /// Writes as much as the engine takes now.
    fn write(&mut self, streams: &Hijacked) -> Result<()> {
        while !self.pending.is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match send(&streams.writer, &self.pending, flags) {
                Ok(sent) => drop(self.pending.drain(..sent)),
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                // The container takes no more input; its output may still come.
                Err(_) => {
                    self.pending.clear();
                    self.open = false;
                    self.closing = false;
                }
            }
        }
        if std::mem::take(&mut self.closing) {
            let _ = streams.writer.shutdown_write();
        }
        Ok(())
    }
}

/// What a container says: raw from a terminal, else in frames of one stream each.
pub struct Output {
    raw: bool,
    head: Vec<u8>,
    left: usize,
    to_stderr: bool,
}

impl Output {
    pub fn new(raw: bool) -> Self {
        Self { raw, head: Vec::with_capacity(8), left: 0, to_stderr: false }
    }

    /// Writes what can be written of `bytes`.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        if self.raw {
            return put(false, bytes);
        }
        while !bytes.is_empty() {
            if self.left == 0 {
                let missing = (8 - self.head.len()).min(bytes.len());
                self.head.extend_from_slice(&bytes[..missing]);
                bytes = &bytes[missing..];
                if let [stream, _, _, _, a, b, c, d] = self.head[..] {
                    self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                    self.to_stderr = stream == 2;
                    if stream > 3 {
                        return Err(Failure::new(format!("Unrecognized input header: {stream}")));
                    }
                    self.head.clear();
                }
                continue;
            }
            let now = self.left.min(bytes.len());
            put(self.to_stderr, &bytes[..now])?;
            self.left -= now;
            bytes = &bytes[now..];
        }
        Ok(())
    }
}

fn put(to_stderr: bool, bytes: &[u8]) -> Result<()> {
    if to_stderr {
        io::stderr().lock().write_all(bytes)?;
    } else {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()?;
    }
    Ok(())
}

/// Copies framed or raw output to its end.
pub fn copy_output(mut from: impl io::Read, raw: bool) -> Result<()> {
    let mut output = Output::new(raw);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => output.take(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}
