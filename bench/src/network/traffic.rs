//! Sender and receiver. A socket belongs to the network namespace of the thread that made it, so
//! that nothing needs to be put into a container: its namespace is enough, and everyone is
//! measured with the same two ends.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_linger;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Nobody waits longer for the other end.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How soon a server notices that it shall end.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
const REQUEST: usize = 64;

/// What a connection is for: its first byte.
const SINK: u8 = b's';
const ECHO: u8 = b'e';
const ONCE: u8 = b'o';

/// Runs something in a thread inside a namespace.
pub fn within<T: Send>(netns: &File, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let inside = || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
            .context("enter a network namespace")?;
        work()
    };
    std::thread::scope(|scope| scope.spawn(inside).join())
        .map_err(|_| anyhow!("a thread was lost"))?
}

/// One thread that serves one connection after another.
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(netns: &File, port: u16) -> Result<Self> {
        let bind = || {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).with_context(|| format!("port {port}"))
        };
        Self::on(within(netns, bind)?)
    }

    fn on(listener: TcpListener) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 256 << 10];
            while !told.load(Ordering::Relaxed) {
                match listener.accept() {
                    // A client that went away is its own loss.
                    Ok((stream, _)) => drop(serve(stream, &mut buffer)),
                    Err(_) => {
                        let _ = poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&TICK));
                    }
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut kind = [0; 1];
    stream.read_exact(&mut kind)?;
    match kind[0] {
        SINK => {
            let (started, mut bytes) = (Instant::now(), 0);
            loop {
                let count = stream.read(buffer)?;
                if count == 0 {
                    break;
                }
                bytes += count as u64;
            }
            let nanoseconds = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            stream.write_all(&bytes.to_be_bytes())?;
            stream.write_all(&nanoseconds.to_be_bytes())
        }
        ECHO => loop {
            let request = &mut buffer[..REQUEST];
            if stream.read_exact(request).is_err() {
                return Ok(());
            }
            stream.write_all(request)?;
        },
        _ => stream.write_all(&kind),
    }
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("to {to}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Processor time of this process, in microseconds: of both ends, and of what the kernel does for
/// them on the way.
fn processor() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Gbit/s of one stream, as the receiver counts them, and microseconds of the processor for each
/// megabyte: what else runs on the machine changes that much less.
pub fn throughput(to: SocketAddr, time: Duration) -> Result<(f64, f64)> {
    let before = processor();
    let mut stream = connect(to)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&[SINK])?;
    let bytes = vec![0; 128 << 10];
    let started = Instant::now();
    while started.elapsed() < time {
        stream.write_all(&bytes)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut number = || -> Result<f64> {
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes).context("the receiver's count")?;
        Ok(u64::from_be_bytes(bytes) as f64)
    };
    let (received, nanoseconds) = (number()?, number()?);
    ensure!(nanoseconds > 0.0 && received > 0.0, "nothing was received");
    let spent = processor() - before;
    Ok((received * 8.0 / nanoseconds, spent / (received / 1e6)))
}

/// Connections per second, one after another: opened, a byte there and back, closed. Closed with a
/// reset: so no address waits, and the tenth second is as the first.
pub fn connections(to: SocketAddr, time: Duration) -> Result<f64> {
    let (started, mut count) = (Instant::now(), 0.0);
    while started.elapsed() < time {
        let mut stream = connect(to)?;
        let mut byte = [ONCE];
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte).with_context(|| format!("a byte back from {to}"))?;
        set_socket_linger(&stream, Some(Duration::ZERO))?;
        count += 1.0;
    }
    Ok(count / started.elapsed().as_secs_f64())
}

/// Microseconds of each request over one connection, one after another, in rising order.
pub fn requests(to: SocketAddr, time: Duration) -> Result<Vec<f64>> {
    let mut stream = connect(to)?;
    stream.write_all(&[ECHO])?;
    let mut request = [7; REQUEST];
    let (started, mut all) = (Instant::now(), Vec::new());
    while started.elapsed() < time {
        let sent = Instant::now();
        stream.write_all(&request)?;
        stream.read_exact(&mut request).with_context(|| format!("a reply from {to}"))?;
        all.push(sent.elapsed().as_secs_f64() * 1e6);
    }
    all.sort_by(f64::total_cmp);
    Ok(all)
}

/// The value below which this part of the sorted values lies. Of none, nothing is a number.
pub fn part(sorted: &[f64], percent: usize) -> f64 {
    sorted.get(sorted.len() * percent / 100).or(sorted.last()).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_understand_each_other_and_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let server = Server::on(listener).unwrap();
        let time = Duration::from_millis(20);
        let (rate, spent) = throughput(to, time).unwrap();
        assert!(rate > 0.0 && spent > 0.0);
        assert!(connections(to, time).unwrap() > 0.0);
        let all = requests(to, time).unwrap();
        assert!(!all.is_empty() && part(&all, 50) <= part(&all, 99));
        drop(server);
        assert!(requests(to, time).is_err());
    }

    #[test]
    fn parts() {
        let hundred: Vec<f64> = (0..100).map(f64::from).collect();
        assert_eq!((part(&hundred, 50), part(&hundred, 99)), (50.0, 99.0));
        assert_eq!((part(&[3.0], 99), part(&[3.0, 4.0], 100)), (3.0, 4.0));
        assert!(part(&[], 50).is_nan());
    }
}
