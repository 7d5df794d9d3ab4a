//! The embedded DNS server by every way that a container's programs take: UDP, TCP, musl's and
//! glibc's resolvers, in namespaces of its own, with resolvers that are dead, slow, lying or cut
//! their answers short.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hoy_network::{Dns, DnsClient, DnsSockets, EndpointNames, Forward, open_sockets};
use hoy_sys::process;

const A: u16 = 1;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;
const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 11), 53);

/// For what takes a moment.
const PATIENCE: Duration = Duration::from_secs(60);

fn loopback_up() {
    hoy_netlink::Socket::open(hoy_netlink::SocketKind::Route).unwrap().set_up(1).unwrap();
}

/// The daemon's side, in a namespace of its own, with its resolv.conf.
struct Host {
    runtime: tokio::runtime::Runtime,
    directory: tempfile::TempDir,
    dns: Dns,
}

impl Host {
    fn resolvers(&self, addresses: &[&str]) {
        let text: String = addresses.iter().map(|a| format!("nameserver {a}\n")).collect();
        let new = self.directory.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.directory.path().join("resolv.conf")).unwrap();
    }

    fn start(&mut self) {
        (self.runtime, self.dns) = daemon(self.directory.path());
    }

    fn names(&self, network: &str, endpoint: &str, names: &[&str], v4: &str, v6: &str) {
        let names = EndpointNames {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            network_name: "net".into(),
            v4: v4.parse().ok(),
            v6: v6.parse().ok(),
        };
        self.dns.set_names(network, endpoint, names);
    }
}

fn daemon(directory: &Path) -> (tokio::runtime::Runtime, Dns) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let dns = Dns::start(runtime.handle().clone(), directory.join("resolv.conf"));
    (runtime, dns)
}

/// Runs in a namespace of its own, with loopback up.
fn in_own_namespace(test: impl FnOnce(Host) + Send + 'static) {
    std::thread::spawn(move || {
        process::unshare(process::NEWNET).expect("root");
        loopback_up();
        let directory = tempfile::tempdir().unwrap();
        let (runtime, dns) = daemon(directory.path());
        test(Host { runtime, directory, dns });
    })
    .join()
    .unwrap();
}

struct Container {
    netns: Arc<OwnedFd>,
    sockets: DnsSockets,
}

impl Container {
    fn new() -> Self {
        let make = || {
            process::unshare(process::NEWNET).unwrap();
            loopback_up();
            let netns = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
            Self { netns: Arc::new(netns.into()), sockets: open_sockets().unwrap() }
        };
        std::thread::spawn(make).join().unwrap()
    }

    fn sockets(&self) -> DnsSockets {
        let copy = |fd: &OwnedFd| fd.try_clone().unwrap();
        DnsSockets { udp: copy(&self.sockets.udp), tcp: copy(&self.sockets.tcp) }
    }

    fn begin<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let netns = self.netns.clone();
        std::thread::spawn(move || {
            process::setns(netns.as_fd(), process::NEWNET).unwrap();
            work()
        })
    }

    fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.begin(work).join().unwrap()
    }

    fn ask_once(&self, name: &str, kind: u16) -> Answer {
        let packet = question(name, kind);
        self.inside(move || Answer::read(&over_udp(&packet)))
    }

    /// Over both transports.
    fn ask(&self, name: &str, kind: u16) -> Answer {
        let by_udp = self.ask_once(name, kind);
        let packet = question(name, kind);
        let by_tcp = self.inside(move || Answer::read(&over_tcp(&packet)));
        if !by_udp.truncated {
            assert_eq!(by_udp, by_tcp);
        }
        by_udp
    }

    /// What a program prints, with `resolv.conf` naming the embedded server.
    fn run(&self, root: Option<&Path>, line: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let resolv = directory.path().join("resolv.conf");
        std::fs::write(&resolv, "nameserver 127.0.0.11\noptions ndots:0\n").unwrap();
        let root = root.map_or(String::new(), |root| root.display().to_string());
        let chroot = if root.is_empty() { String::new() } else { format!("chroot {root} ") };
        let script = format!(
            "mount --bind {} {root}/etc/resolv.conf && exec {chroot}{line}",
            resolv.display()
        );
        self.inside(move || {
            let output =
                Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
        })
    }
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(label.len() as u8);
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
    packet.extend_from_slice(&kind.to_be_bytes());
    packet.extend_from_slice(&[0, 1]);
    packet
}

fn udp() -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect(SERVER).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

/// As a resolver asks: what finds no room in the server's queue is asked again.
fn over_udp(packet: &[u8]) -> Vec<u8> {
    let socket = udp();
    let mut buffer = vec![0; 65_535];
    for _ in 0..3 {
        socket.send(packet).unwrap();
        if let Ok(length) = socket.recv(&mut buffer) {
            buffer.truncate(length);
            return buffer;
        }
    }
    panic!("no answer");
}

fn over_tcp(packet: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(SERVER).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    tcp_write(&mut stream, packet);
    tcp_read(&mut stream).expect("an answer")
}

fn tcp_write(stream: &mut TcpStream, packet: &[u8]) {
    let message = [&(packet.len() as u16).to_be_bytes()[..], packet].concat();
    stream.write_all(&message).unwrap();
}

fn tcp_read(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut packet)?;
    Ok(packet)
}

#[derive(Debug, PartialEq)]
struct Answer {
    code: u8,
    truncated: bool,
    records: Vec<String>,
}

impl Answer {
    /// Names in records may be compressed to the question's.
    fn read(packet: &[u8]) -> Self {
        assert_eq!(packet[..2], [0x12, 0x34]);
        assert!(packet[2] & 0x80 != 0);
        let number = |at: usize| usize::from(packet[at]) << 8 | usize::from(packet[at + 1]);
        let skip = |mut at: usize| loop {
            match packet[at] {
                0 => return at + 1,
                192.. => return at + 2,
                length => at += 1 + usize::from(length),
            }
        };
        let mut at = if number(4) == 1 { skip(12) + 4 } else { 12 };
        let mut records = Vec::new();
        for _ in 0..number(6) {
            at = skip(at);
            let (kind, length) = (number(at) as u16, number(at + 8));
            assert_eq!(packet[at + 4..at + 8], 600u32.to_be_bytes());
            let data = &packet[at + 10..at + 10 + length];
            records.push(match kind {
                A => IpAddr::from(<[u8; 4]>::try_from(data).unwrap()).to_string(),
                AAAA => IpAddr::from(<[u8; 16]>::try_from(data).unwrap()).to_string(),
                _ => String::from_utf8_lossy(data).into_owned(),
            });
            at += 10 + length;
        }
        Self { code: packet[3] & 15, truncated: packet[2] & 2 != 0, records }
    }
}

fn found(records: &[&str]) -> Answer {
    let records = records.iter().map(|record| (*record).to_owned()).collect();
    Answer { code: 0, truncated: false, records }
}

fn code(code: u8) -> Answer {
    Answer { code, truncated: false, records: Vec::new() }
}

/// An answer with one address.
fn says(question: &[u8], address: [u8; 4]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer[7] = 1;
    answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 2, 88, 0, 4]);
    answer.extend_from_slice(&address);
    answer
}

fn fails(question: &[u8], code: u8) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer[3] |= code;
    answer
}

/// A resolver of the test's, with both transports, until it is dropped.
struct Resolver {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

type Replies = Vec<(Duration, Vec<u8>)>;

impl Resolver {
    /// `udp` says what is sent when, `tcp` what is answered.
    fn new(
        address: &str,
        udp: impl Fn(&[u8]) -> Replies + Send + 'static,
        tcp: impl Fn(&[u8]) -> Vec<u8> + Send + 'static,
    ) -> Self {
        let (stop, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let heard = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let socket = UdpSocket::bind((address, 53)).unwrap();
        let listener = TcpListener::bind((address, 53)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stopped, count, hears) = (stop.clone(), asked.clone(), heard.clone());
        let datagrams = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            let mut later: Vec<(Instant, Vec<u8>, std::net::SocketAddr)> = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    hears.lock().unwrap().push(buffer[..length].to_vec());
                    count.fetch_add(1, Ordering::Relaxed);
                    let replies = udp(&buffer[..length]).into_iter();
                    later.extend(replies.map(|(when, what)| (Instant::now() + when, what, from)));
                }
                later.retain(|(when, what, to)| {
                    let due = *when <= Instant::now();
                    if due {
                        let _ = socket.send_to(what, to);
                    }
                    !due
                });
            }
        });
        let (stopped, count, hears) = (stop.clone(), asked.clone(), heard.clone());
        let connections = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                while let Ok(packet) = tcp_read(&mut stream) {
                    hears.lock().unwrap().push(packet.clone());
                    count.fetch_add(1, Ordering::Relaxed);
                    tcp_write(&mut stream, &tcp(&packet));
                }
            }
        });
        Self { stop, asked, heard, threads: vec![datagrams, connections] }
    }

    fn honest(address: &str, answer: [u8; 4]) -> Self {
        let udp = move |packet: &[u8]| vec![(Duration::ZERO, says(packet, answer))];
        Self::new(address, udp, move |packet| says(packet, answer))
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Whether it was ever asked for this name.
    fn heard(&self, name: &str) -> bool {
        let question = question(name, A);
        let name = &question[12..question.len() - 4];
        self.heard.lock().unwrap().iter().any(|packet| packet[12..].starts_with(name))
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

fn client(forward: Forward) -> DnsClient {
    DnsClient { networks: vec!["n1".into()], forward, ..DnsClient::default() }
}

#[test]
fn names_by_every_resolver() {
    in_own_namespace(|host| {
        let container = Container::new();
        host.names("n1", "e1", &["Web", "0123456789ab", "all"], "10.0.0.2", "fd00::2");
        host.names("n1", "e2", &["db", "all"], "10.0.0.3", "");
        host.names("n2", "e3", &["hidden"], "10.1.0.2", "");
        let links = vec![("mine".to_owned(), "db".to_owned())];
        let says = DnsClient { links, ..client(Forward::Never) };
        host.dns.serve("c1", container.sockets(), says).unwrap();
        for name in ["web", "WEB", "0123456789ab", "web.net"] {
            assert_eq!(container.ask(name, A), found(&["10.0.0.2"]), "{name}");
            assert_eq!(container.ask(name, AAAA), found(&["fd00::2"]), "{name}");
        }
        assert_eq!(container.ask("mine", A), found(&["10.0.0.3"]));
        assert_eq!(container.ask("db", AAAA), found(&[]));
        assert_eq!(container.ask("hidden", A), code(SERVER_FAILURE));
        assert_eq!(container.ask("2.0.0.10.in-addr.arpa", PTR), found(&["\u{3}Web\u{3}net\0"]));

        // glibc's resolver asks for both families at once.
        let text = container.run(None, "getent ahosts web");
        assert!(text.contains("10.0.0.2") && text.contains("fd00::2"), "{text}");
        let text = container.run(None, "getent hosts 10.0.0.3");
        assert!(text.contains("db.net"), "{text}");
        // musl's, and busybox's own that tells addresses by names.
        let alpine = tempfile::tempdir().unwrap();
        let archive = hoy_testkit::alpine_rootfs();
        let mut unpack = Command::new("tar");
        unpack.arg("-xzf").arg(archive).arg("-C").arg(alpine.path());
        assert!(unpack.status().unwrap().success());
        std::fs::write(alpine.path().join("etc/resolv.conf"), "").unwrap();
        let text = container.run(Some(alpine.path()), "getent ahosts db");
        assert!(text.contains("10.0.0.3"), "{text}");
        let text = container.run(Some(alpine.path()), "nslookup web");
        assert!(text.contains("10.0.0.2") && text.contains("fd00::2"), "{text}");
        assert!(text.contains("127.0.0.11:53"), "{text}");
        let text = container.run(Some(alpine.path()), "nslookup 10.0.0.2");
        assert!(text.contains("Web.net"), "{text}");

        // Connected to a second network, then away from both.
        let networks = vec!["n1".to_owned(), "n2".to_owned()];
        host.dns.update("c1", DnsClient { networks, ..client(Forward::Never) });
        assert_eq!(container.ask("hidden", A), found(&["10.1.0.2"]));
        assert_eq!(container.ask("mine", A), code(SERVER_FAILURE));
        host.dns.update("c1", DnsClient::default());
        assert_eq!(container.ask("web", A), code(SERVER_FAILURE));
    });
}

/// The namespace belongs to a user namespace: the kernel lets the machine's root do there as much.
#[test]
fn where_the_container_owns_its_network() {
    in_own_namespace(|host| {
        let ids = "0 200000 65536\n";
        let made = hoy_sys::userns::user_and_network(ids, ids).unwrap();
        let netns = Arc::new(made.net);
        let inside = netns.clone();
        let open = move || {
            process::setns(inside.as_fd(), process::NEWNET).unwrap();
            loopback_up();
            open_sockets().unwrap()
        };
        let container = Container { netns, sockets: std::thread::spawn(open).join().unwrap() };
        host.names("n1", "e1", &["web"], "10.0.0.2", "");
        host.dns.serve("c1", container.sockets(), client(Forward::Never)).unwrap();
        assert_eq!(container.ask("web", A), found(&["10.0.0.2"]));
    });
}

#[test]
fn round_robin() {
    in_own_namespace(|host| {
        let container = Container::new();
        for number in 1..4 {
            let endpoint = format!("e{number}");
            host.names("n1", &endpoint, &["search"], &format!("10.0.0.{number}"), "");
        }
        host.dns.serve("c1", container.sockets(), client(Forward::Never)).unwrap();
        let first = move || {
            let mut first: Vec<_> = (0..3)
                .map(|_| Answer::read(&over_udp(&question("search", A))).records.remove(0))
                .collect();
            first.sort();
            first
        };
        assert_eq!(container.inside(first), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        host.dns.unset_names("n1", "e2");
        assert_eq!(
            container
                .inside(move || { Answer::read(&over_udp(&question("search", A))).records.len() }),
            2
        );
    });
}

#[test]
fn beside_a_server_of_the_containers_own() {
    in_own_namespace(|host| {
        let container = Container::new();
        host.names("n1", "e1", &["web"], "10.0.0.2", "");
        host.dns.serve("c1", container.sockets(), client(Forward::Never)).unwrap();
        let own = container.inside(|| Resolver::honest("0.0.0.0", [9, 9, 9, 9]));
        assert_eq!(container.ask("web", A), found(&["10.0.0.2"]));
        assert_eq!(own.asked(), 0);
        let answer = container.inside(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            socket.send_to(&question("web", A), "127.0.0.1:53").unwrap();
            let mut buffer = [0; 512];
            let length = socket.recv(&mut buffer).unwrap();
            Answer::read(&buffer[..length])
        });
        assert_eq!(answer, found(&["9.9.9.9"]));
        assert_eq!(own.asked(), 1);
    });
}

#[test]
fn resolvers_of_the_host() {
    in_own_namespace(|host| {
        let container = Container::new();
        host.names("n1", "e1", &["web", "www.example.org"], "10.0.0.2", "");
        let first = Resolver::honest("127.0.0.2", [1, 1, 1, 1]);
        let second = Resolver::honest("127.0.0.3", [2, 2, 2, 2]);
        host.resolvers(&["127.0.0.2", "127.0.0.3"]);
        host.dns.serve("c1", container.sockets(), client(Forward::Host)).unwrap();
        // The first, unless it is late: then the second is asked, too.
        let says = |address: &str| {
            let begin = Instant::now();
            while container.ask_once("example.com", A) != found(&[address]) {
                assert!(begin.elapsed() < PATIENCE, "never {address}");
            }
        };
        says("1.1.1.1");
        assert!(first.heard("example.com"));
        // What is known here does not leave.
        for (name, kind) in [("web", A), ("web", AAAA), ("web", TXT), ("www.example.org", AAAA)] {
            assert_eq!(container.ask(name, kind).code, 0, "{name}");
        }
        assert_eq!(container.ask("2.0.0.10.in-addr.arpa", PTR).records.len(), 1);
        for name in ["web", "www.example.org", "2.0.0.10.in-addr.arpa"] {
            assert!(!first.heard(name) && !second.heard(name), "{name}");
        }

        // The file is replaced: followed before a second has passed.
        host.resolvers(&["127.0.0.3"]);
        says("2.2.2.2");

        // The user's word on dots: a client with search domains comes back.
        let says = DnsClient { ndots_set: true, ..client(Forward::Host) };
        host.dns.update("c1", says);
        assert_eq!(container.ask("single", A), found(&[]));
        assert_eq!(container.ask("example.com", A), found(&["2.2.2.2"]));

        // The container moves to internal networks: nothing leaves any more.
        host.dns.update("c1", client(Forward::Never));
        for name in ["never.example.com", "single", "1.1.168.192.in-addr.arpa"] {
            for kind in [A, AAAA, PTR, TXT] {
                assert_eq!(container.ask(name, kind), code(SERVER_FAILURE), "{name}");
            }
            assert!(!first.heard(name) && !second.heard(name), "{name}");
        }
    });
}

#[test]
fn resolvers_from_inside() {
    in_own_namespace(|host| {
        let container = Container::new();
        let _outside = Resolver::honest("127.0.0.2", [1, 1, 1, 1]);
        let own = container.inside(|| Resolver::honest("127.0.0.2", [3, 3, 3, 3]));
        let servers = |servers: &[&str]| Forward::Servers {
            servers: servers.iter().map(|server| server.parse().unwrap()).collect(),
            netns: container.netns.clone(),
        };
        let forward = servers(&["127.0.0.2"]);
        host.dns.serve("c1", container.sockets(), client(forward)).unwrap();
        for _ in 0..20 {
            assert_eq!(container.ask("example.com", A), found(&["3.3.3.3"]));
        }
        assert_eq!(own.asked(), 40);
        // Ourselves, and one that cannot be reached from there.
        host.dns.update("c1", client(servers(&["127.0.0.11"])));
        assert_eq!(container.ask("example.com", A), code(SERVER_FAILURE));
        host.dns.update("c1", client(servers(&["192.0.2.1", "fd00::1", "127.0.0.2"])));
        assert_eq!(container.ask("example.com", A), found(&["3.3.3.3"]));
    });
}

#[test]
fn bad_resolvers() {
    in_own_namespace(|host| {
        let container = Container::new();
        host.names("n1", "e1", &["web"], "10.0.0.2", "");
        let silent = |_: &[u8]| Vec::new();
        let now = |packet: Vec<u8>| (Duration::ZERO, packet);
        let none = |packet: &[u8]| fails(packet, SERVER_FAILURE);
        // Nobody listens at 127.0.0.99.
        let _silent = Resolver::new("127.0.0.2", silent, none);
        let _failing = Resolver::new(
            "127.0.0.3",
            move |packet| vec![now(fails(packet, SERVER_FAILURE))],
            none,
        );
        let slow = |packet: &[u8]| vec![(Duration::from_millis(900), says(packet, [4, 4, 4, 4]))];
        let _slow = Resolver::new("127.0.0.4", slow, none);
        let slower =
            |packet: &[u8]| vec![(Duration::from_millis(3500), says(packet, [4, 4, 4, 5]))];
        let _slower = Resolver::new("127.0.0.10", slower, none);
        // Another id, another name, a question instead of an answer, garbage; then the truth.
        let lies = move |packet: &[u8]| {
            let lie = says(packet, [6, 6, 6, 6]);
            let (mut id, mut name, mut query) = (lie.clone(), lie.clone(), lie.clone());
            id[0] ^= 1;
            name[13] = b'X';
            query[2] &= 0x7f;
            let mut all: Replies = [id, name, query, lie[..5].to_vec(), vec![]].map(now).into();
            all.push((Duration::from_millis(100), says(packet, [5, 5, 5, 5])));
            all
        };
        let _lying = Resolver::new("127.0.0.5", lies, none);
        // Too much for a datagram.
        let cuts = move |packet: &[u8]| {
            let mut cut = fails(packet, 0);
            cut[2] |= 2;
            vec![now(cut)]
        };
        let much = |packet: &[u8]| {
            let mut all = says(packet, [7, 7, 7, 7]);
            for number in 1..100 {
                let one = says(packet, [7, 7, 7, number]);
                all.extend_from_slice(&one[packet.len()..]);
            }
            all[7] = 100;
            all
        };
        let _cutting = Resolver::new("127.0.0.6", cuts, much);
        let little = |packet: &[u8]| says(packet, [8, 8, 8, 8]);
        let _cutting_little = Resolver::new("127.0.0.7", cuts, little);
        let denies = move |packet: &[u8]| vec![now(fails(packet, NO_SUCH_NAME))];
        let _denying = Resolver::new("127.0.0.8", denies, none);
        let _honest = Resolver::honest("127.0.0.9", [9, 9, 9, 9]);

        host.dns.serve("c1", container.sockets(), client(Forward::Host)).unwrap();
        // Until the file is looked at again.
        let use_these = |resolvers: &[&str]| {
            host.resolvers(resolvers);
            std::thread::sleep(Duration::from_millis(600));
        };
        // On a machine that stands still for a moment a good resolver is late, too, and the next
        // one is asked: then it is asked again.
        let is = |resolvers: &[&str], answer: Answer| {
            use_these(resolvers);
            let begin = Instant::now();
            loop {
                let found = container.ask_once("example.com", A);
                if found == answer {
                    return;
                }
                assert!(begin.elapsed() < PATIENCE, "{resolvers:?}: {found:?}");
            }
        };
        for bad in ["127.0.0.2", "127.0.0.3", "127.0.0.99", "192.0.2.1", "fd00::1"] {
            is(&[bad, "127.0.0.9"], found(&["9.9.9.9"]));
        }
        is(&["127.0.0.99", "127.0.0.3", "127.0.0.9"], found(&["9.9.9.9"]));
        is(&["127.0.0.4"], found(&["4.4.4.4"]));
        is(&["127.0.0.10", "127.0.0.9"], found(&["9.9.9.9"]));
        is(&["127.0.0.5"], found(&["5.5.5.5"]));
        is(&["127.0.0.7"], found(&["8.8.8.8"]));
        is(&["127.0.0.8", "127.0.0.9"], code(NO_SUCH_NAME));
        for bad in ["127.0.0.2", "127.0.0.3", "127.0.0.99"] {
            is(&[bad], code(SERVER_FAILURE));
        }
        // Nobody is there, and that is known at once: not only after one has been waited for.
        use_these(&["127.0.0.97", "127.0.0.98", "127.0.0.99"]);
        let soon = (0..3).any(|_| {
            let begin = Instant::now();
            assert_eq!(container.ask_once("example.com", A), code(SERVER_FAILURE));
            begin.elapsed() < Duration::from_secs(2)
        });
        assert!(soon);
        use_these(&["127.0.0.6"]);
        let cut = container.ask_once("example.com", A);
        assert!(cut.truncated && cut.code == 0, "{cut:?}");
        let whole = container.inside(|| Answer::read(&over_tcp(&question("example.com", A))));
        assert_eq!((whole.records.len(), whole.truncated), (100, false));
    });
}

/// However many wait for resolvers that say nothing, by both transports.
#[test]
fn what_is_known_waits_for_nobody() {
    in_own_namespace(|host| {
        let (container, other) = (Container::new(), Container::new());
        host.names("n1", "e1", &["web"], "10.0.0.2", "");
        let _silent = Resolver::new("127.0.0.2", |_| Vec::new(), |packet| packet.to_vec());
        let good = |packet: &[u8]| vec![(Duration::ZERO, says(packet, [9, 9, 9, 9]))];
        let _good = Resolver::new("127.0.0.3", good, |packet| packet.to_vec());
        host.resolvers(&["127.0.0.2"]);
        host.dns.serve("c1", container.sockets(), client(Forward::Host)).unwrap();
        host.dns.serve("c2", other.sockets(), client(Forward::Host)).unwrap();
        container.inside(|| {
            let socket = udp();
            // Room for all that will be said.
            rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20).unwrap();
            let mut buffer = [0; 512];
            let mut refused = 0;
            let mut read = |wait: bool| {
                socket.set_nonblocking(!wait).unwrap();
                while let Ok(length) = socket.recv(&mut buffer) {
                    assert_eq!(Answer::read(&buffer[..length]), code(SERVER_FAILURE));
                    refused += 1;
                }
                refused
            };
            for number in 0..2000 {
                socket.send(&question(&format!("n{number}.example.com"), A)).unwrap();
                read(false);
                if number % 50 == 0 {
                    // Its queue is read in order: it has room for the next ones.
                    assert_eq!(Answer::read(&over_udp(&question("web", A))), found(&["10.0.0.2"]));
                }
            }
            let idle: Vec<_> = (0..100).map(|_| TcpStream::connect(SERVER).unwrap()).collect();
            let soon = |_: &u32| {
                let begin = Instant::now();
                assert_eq!(Answer::read(&over_udp(&question("web", A))), found(&["10.0.0.2"]));
                begin.elapsed() < Duration::from_secs(2)
            };
            // Who waited for resolvers would do so each time, a machine that stands still does not.
            let soon = (0..100).filter(soon).count();
            assert!(soon > 90, "{soon}");
            // Those that are too many hear it; none of them hears anything else.
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let begin = Instant::now();
            while read(true) < 1000 {
                assert!(begin.elapsed() < PATIENCE, "{}", read(false));
            }
            let refused = read(true);
            assert!(refused <= 2000, "{refused}");
            drop(idle);
        });
        // Another container has its own share.
        host.resolvers(&["127.0.0.3"]);
        std::thread::sleep(Duration::from_millis(600));
        assert_eq!(
            other.inside(|| Answer::read(&over_udp(&question("example.com", A)))),
            found(&["9.9.9.9"])
        );
    });
}

#[test]
fn malformed_packets_harm_nobody() {
    in_own_namespace(|host| {
        let container = Container::new();
        host.names("n1", "e1", &["web"], "10.0.0.2", "");
        host.dns.serve("c1", container.sockets(), client(Forward::Never)).unwrap();
        container.inside(|| {
            let socket = udp();
            let good = question("web", A);
            for length in 0..good.len() {
                socket.send(&good[..length]).unwrap();
            }
            let mut looped = good.clone();
            looped[12..14].copy_from_slice(&[0xc0, 12]);
            socket.send(&looped).unwrap();
            for number in 0..5000u32 {
                let noise: Vec<u8> = (0..number % 300)
                    .map(|at| (at.wrapping_mul(number * 7919) >> 3) as u8)
                    .collect();
                let _ = socket.send(&noise);
            }
            let _ = socket.send(&vec![0; 60_000]);
            for mut bytes in [vec![0, 0], vec![0, 5, 1, 2, 3, 4, 5], vec![0xff; 100], vec![0]] {
                let mut stream = TcpStream::connect(SERVER).unwrap();
                stream.write_all(&bytes).unwrap();
                let _ = stream.shutdown(std::net::Shutdown::Write);
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                bytes.clear();
                // Closed, whatever it was.
                let _ = stream.read_to_end(&mut bytes);
            }
            assert_eq!(Answer::read(&over_udp(&good)), found(&["10.0.0.2"]));
            // Several questions over one connection, one of them in pieces.
            let mut stream = TcpStream::connect(SERVER).unwrap();
            tcp_write(&mut stream, &good);
            tcp_write(&mut stream, &good);
            stream.write_all(&[0]).unwrap();
            for _ in 0..2 {
                assert_eq!(Answer::read(&tcp_read(&mut stream).unwrap()), found(&["10.0.0.2"]));
            }
            stream.write_all(&[good.len() as u8]).unwrap();
            stream.write_all(&good).unwrap();
            assert_eq!(Answer::read(&tcp_read(&mut stream).unwrap()), found(&["10.0.0.2"]));
        });
    });
}

/// The sockets outlive the daemon: questions of the time between are answered by the next one.
#[test]
fn asked_while_no_daemon_runs() {
    in_own_namespace(|mut host| {
        let container = Container::new();
        let names = |host: &Host| host.names("n1", "e1", &["web"], "10.0.0.2", "");
        names(&host);
        host.dns.serve("c1", container.sockets(), client(Forward::Never)).unwrap();
        assert_eq!(container.ask("web", A), found(&["10.0.0.2"]));
        // As if it was killed: nothing is said to anybody.
        host.dns.forget("c1");
        let (sent, wait) = std::sync::mpsc::channel();
        let clients = container.begin(move || {
            let sockets: Vec<_> = (0..1000).map(|_| udp()).collect();
            sockets.iter().for_each(|socket| {
                socket.send(&question("web", A)).unwrap();
            });
            let mut stream = TcpStream::connect(SERVER).unwrap();
            tcp_write(&mut stream, &question("web", A));
            sent.send(()).unwrap();
            for socket in sockets {
                let mut buffer = [0; 512];
                let length = socket.recv(&mut buffer).unwrap();
                assert_eq!(Answer::read(&buffer[..length]), found(&["10.0.0.2"]));
            }
            assert_eq!(Answer::read(&tcp_read(&mut stream).unwrap()), found(&["10.0.0.2"]));
        });
        wait.recv().unwrap();
        host.start();
        names(&host);
        host.dns.serve("c1", container.sockets(), client(Forward::Never)).unwrap();
        clients.join().unwrap();
    });
}

/// When all who know of a namespace have let it go, the server does not hold it.
#[test]
fn nothing_is_held() {
    in_own_namespace(|host| {
        let container = Container::new();
        let netns = Arc::downgrade(&container.netns);
        let forward = Forward::Servers {
            servers: vec!["192.0.2.1".parse().unwrap(), "127.0.0.2".parse().unwrap()],
            netns: container.netns.clone(),
        };
        let socket = std::fs::read_link(format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&container.sockets.udp)
        ));
        let socket = socket.unwrap();
        host.dns.serve("c1", container.sockets(), client(forward)).unwrap();
        container.inside(|| udp().send(&question("example.com", A)).unwrap());
        container.inside(|| TcpStream::connect(SERVER).unwrap());
        host.dns.forget("c1");
        drop(container);
        let held = || {
            let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            open.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|fd| fd == socket)
        };
        let deadline = Instant::now() + PATIENCE;
        while netns.strong_count() > 0 || held() {
            assert!(Instant::now() < deadline, "still held");
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}
