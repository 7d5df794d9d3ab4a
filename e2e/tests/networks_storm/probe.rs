//! What goes on in test hosts and containers while somebody pulls the carpet away: threads that
//! have entered their network namespace and use nothing but the standard library's sockets.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hoy_testkit::wait_until;

/// How long one attempt may take: longer than any repair, shorter than a client's patience.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(10);

/// The calling thread sees this network from now on.
pub fn enter(netns: &str) {
    let file = std::fs::File::open(netns).expect("open a network namespace");
    let kind = rustix::thread::LinkNameSpaceType::Network;
    rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(kind))
        .expect("enter a network namespace");
}

/// Something done again and again until the end; what went wrong is kept.
pub struct Probe {
    what: &'static str,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Probe {
    /// Every ten milliseconds in a namespace. `make` runs there once, before the first time.
    pub fn start<F>(
        what: &'static str,
        netns: &str,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> Self
    where
        F: FnMut() -> Result<(), String>,
    {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (seen, count, netns) = (Arc::clone(&stop), Arc::clone(&done), netns.to_owned());
        let thread = std::thread::spawn(move || {
            enter(&netns);
            let mut attempt = make();
            let started = Instant::now();
            let mut failed = Vec::new();
            while !seen.load(Ordering::Relaxed) {
                if let Err(error) = attempt() {
                    failed.push(format!("after {:?}: {error}", started.elapsed()));
                }
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(PAUSE);
            }
            failed
        });
        Self { what, stop, done, thread: Some(thread) }
    }

    /// Waits until it has been done so many times more.
    #[track_caller]
    pub fn more(&self, times: usize) {
        let before = self.done.load(Ordering::Relaxed);
        wait_until(self.what, || self.done.load(Ordering::Relaxed) >= before + times);
    }

    /// Ends it: nothing may have gone wrong, and something must have been done.
    #[track_caller]
    pub fn finish(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("finished once");
        let failed = thread.join().unwrap_or_else(|_| panic!("{} panicked", self.what));
        let done = self.done.load(Ordering::Relaxed);
        assert!(failed.is_empty(), "{}: {} of {done} failed: {failed:#?}", self.what, failed.len());
        assert!(done > 10, "{}: done {done} times only", self.what);
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A server in a namespace that says back what it hears, by TCP; and counts what comes by UDP.
pub struct Echo {
    stop: Arc<AtomicBool>,
    datagrams: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    /// On this port, in both families.
    pub fn start(netns: &str, port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (datagrams, connections) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (seen, count, place) = (Arc::clone(&stop), Arc::clone(&connections), netns.to_owned());
        let (ready, listens) = std::sync::mpsc::channel();
        let tell = ready.clone();
        let tcp = std::thread::spawn(move || {
            enter(&place);
            let listener = TcpListener::bind(("::", port)).expect("listen in the container");
            listener.set_nonblocking(true).expect("set a flag");
            let _ = tell.send(());
            while !seen.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        count.fetch_add(1, Ordering::Relaxed);
                        let _ = stream.set_nonblocking(false);
                        std::thread::spawn(move || echo(stream));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        let (seen, count, place) = (Arc::clone(&stop), Arc::clone(&datagrams), netns.to_owned());
        let udp = std::thread::spawn(move || {
            enter(&place);
            let socket = UdpSocket::bind(("::", port)).expect("listen in the container");
            socket.set_read_timeout(Some(Duration::from_millis(20))).expect("set a timeout");
            let _ = ready.send(());
            while !seen.load(Ordering::Relaxed) {
                if socket.recv_from(&mut [0; 64]).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        // Both, or a thread has failed.
        (0..2).for_each(|_| listens.recv().expect("a server that listens"));
        Self { stop, datagrams, connections, threads: vec![tcp, udp] }
    }

    /// What has come by UDP.
    pub fn datagrams(&self) -> usize {
        self.datagrams.load(Ordering::Relaxed)
    }

    /// What has come by TCP.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn echo(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let mut bytes = [0; 64];
    loop {
        match stream.read(&mut bytes) {
            Ok(count @ 1..) if stream.write_all(&bytes[..count]).is_ok() => {}
            // One that was stopped and goes on.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// A connection to an echo server.
pub fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE);
    let stream = stream.map_err(|error| format!("connect to {address}: {error}"))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    Ok(stream)
}

/// A word to an echo server and back.
pub fn converse(stream: &mut TcpStream) -> Result<(), String> {
    let mut answer = [0; 4];
    stream
        .write_all(b"word")
        .and_then(|()| stream.read_exact(&mut answer))
        .map_err(|error| format!("talk: {error}"))?;
    if &answer == b"word" { Ok(()) } else { Err(format!("{answer:?} came back")) }
}

/// A new connection each time.
pub fn client(address: SocketAddr) -> impl FnOnce() -> Box<dyn FnMut() -> Result<(), String>> {
    move || Box::new(move || converse(&mut connect(address)?))
}

/// Sends to addresses that must not be reached, by UDP and by TCP.
pub fn intruder(
    targets: Vec<SocketAddr>,
) -> impl FnOnce() -> Box<dyn FnMut() -> Result<(), String>> {
    move || {
        let socket = UdpSocket::bind("[::]:0").expect("a socket");
        let mut turn = 0;
        Box::new(move || {
            for target in &targets {
                let mapped = match target.ip() {
                    IpAddr::V4(address) => address.to_ipv6_mapped(),
                    IpAddr::V6(address) => address,
                };
                // A refusal by an earlier answer of ICMP is as good as silence.
                let _ = socket.send_to(b"leak", (mapped, target.port()));
            }
            turn = (turn + 1) % targets.len();
            match TcpStream::connect_timeout(&targets[turn], Duration::from_millis(5)) {
                Ok(_) => Err(format!("{} was reached", targets[turn])),
                Err(_) => Ok(()),
            }
        })
    }
}

/// The question for the address of a name, as in RFC 1035.
pub fn question(id: u16, name: &str) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).expect("a short label"));
        out.extend(label.as_bytes());
    }
    out.extend([0, 0, 1, 0, 1]);
    out
}

/// Asks the container's name server: as a resolver does, again after five seconds, twice.
pub fn resolve(id: u16, name: &str) -> Result<Ipv4Addr, String> {
    let failed = |error: std::io::Error| format!("ask for {name}: {error}");
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(failed)?;
    socket.connect("127.0.0.11:53").map_err(failed)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let question = question(id, name);
    let mut answer = [0; 512];
    for _ in 0..3 {
        socket.send(&question).map_err(failed)?;
        let Ok(length) = socket.recv(&mut answer) else { continue };
        let answer = &answer[..length];
        if length < question.len() + 16 || answer[..2] != id.to_be_bytes() || answer[3] & 15 != 0 {
            return Err(format!("{name}: a wrong answer: {answer:?}"));
        }
        // The first record follows the question: a pointer to the name, type, class, time, length.
        let address = &answer[question.len() + 12..question.len() + 16];
        return Ok(Ipv4Addr::new(address[0], address[1], address[2], address[3]));
    }
    Err(format!("{name}: no answer"))
}

/// Asks for a name whose address is known.
pub fn asks(
    name: &'static str,
    address: Ipv4Addr,
) -> impl FnOnce() -> Box<dyn FnMut() -> Result<(), String>> {
    move || {
        let mut id = 0_u16;
        Box::new(move || {
            id = id.wrapping_add(1);
            match resolve(id, name)? {
                right if right == address => Ok(()),
                wrong => Err(format!("{name} is {wrong}, not {address}")),
            }
        })
    }
}
