//! Published ports and their keeper on the real kernel, in namespaces of the tests' own.
//!
//! The test is also the keeper's program and the daemon that is killed, so it has a main function
//! of its own: without arguments it runs all tests, with words those whose names contain one.
//! `bench` measures.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use hoy_network::keeper::{self, KeeperPlace, VERSION};
use hoy_network::{BoundPort, Carrier, Families, Ports, Wanted};
use hoy_sys::process;
use hoy_types::PortBinding;

type Test = (&'static str, fn(&Host));

const TESTS: &[Test] = &[
    ("rules", rules),
    ("other_programs", other_programs),
    ("ranges_and_free_ports", ranges_and_free_ports),
    ("keeper_killed", keeper_killed),
    ("tcp_carried", tcp_carried),
    ("tcp_refused_and_released", tcp_refused_and_released),
    ("few_descriptors", few_descriptors),
    ("udp_carried", udp_carried),
    ("twenty_thousand", twenty_thousand),
    ("many_proxied", many_proxied),
    ("upgrade", upgrade),
    ("rude_peers", rude_peers),
    ("restricted", restricted),
    ("both_killed", both_killed),
    ("unreachable", unreachable),
];

/// What waits more than it works: these run beside the others.
const BESIDE: &[Test] = &[
    ("daemon_killed", daemon_killed),
    ("container_that_does_not_answer", container_that_does_not_answer),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        // A file beside the socket says that this is to be an old program.
        Some("ports") if Path::new(&args[1]).with_extension("old").exists() => {
            return keeper::main_as(&args[1..], VERSION + 1);
        }
        Some("ports") => return keeper::main(&args[1..]),
        Some("daemon") => return daemon(Path::new(&args[1]), &args[2..]),
        Some("--list") => return ExitCode::SUCCESS,
        Some("bench") => {
            start("bench", bench).end();
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let words: Vec<&String> = args.iter().filter(|word| !word.starts_with('-')).collect();
    let wanted = |(name, _): &&Test| {
        words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
    };
    let mut started: Vec<Started> =
        BESIDE.iter().filter(wanted).map(|(name, test)| start(name, *test)).collect();
    for (name, test) in TESTS.iter().filter(wanted) {
        let one = start(name, *test);
        // The test itself; its keeper's end takes its time while the next one runs.
        if one.tested.recv().is_err() {
            one.end();
            continue;
        }
        started.push(one);
    }
    started.into_iter().for_each(Started::end);
    ExitCode::SUCCESS
}

/// A network namespace with loopback, and a directory.
struct Host {
    directory: tempfile::TempDir,
}

impl Host {
    fn socket(&self) -> PathBuf {
        self.directory.path().join("ports.sock")
    }

    fn place(&self) -> KeeperPlace {
        KeeperPlace { program: std::env::current_exe().unwrap(), socket: self.socket() }
    }

    fn ports(&self) -> Ports {
        Ports::open(self.place())
    }
}

/// A test in a thread and a network namespace of its own.
struct Started {
    name: &'static str,
    thread: std::thread::JoinHandle<()>,
    /// Hears when all is asked and only the keeper's end is left.
    tested: std::sync::mpsc::Receiver<()>,
}

impl Started {
    fn end(self) {
        let well = self.thread.join().is_ok();
        println!("test {} ... {}", self.name, if well { "ok" } else { "FAILED" });
        if !well {
            std::process::exit(1);
        }
    }
}

fn start(name: &'static str, test: fn(&Host)) -> Started {
    let (done, tested) = std::sync::mpsc::channel();
    let work = move || {
        process::unshare(process::NEWNET).expect("root");
        sh("ip link set lo up");
        let host = Host { directory: tempfile::tempdir().unwrap() };
        test(&host);
        // The next daemon finds that nobody runs who has these ports. A keeper without ports
        // ends by itself, and takes its socket with it.
        host.ports().settle();
        done.send(()).unwrap();
        wait_until("the keeper's end", || keepers(&host).is_empty());
        assert!(!host.socket().exists());
    };
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work).unwrap();
    Started { name, thread, tested }
}

/// Processes that were started for this host.
fn keepers(host: &Host) -> Vec<u32> {
    let socket = host.socket().display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split('\0').any(|word| word == "ports") && line.contains(&socket)
    })
    .collect()
}

fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-ec", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn bindings(texts: &[&str]) -> Vec<PortBinding> {
    texts.iter().flat_map(|text| hoy_types::parse_port_spec(text).unwrap()).collect()
}

fn wanted(bindings: &[PortBinding]) -> Wanted<'_> {
    Wanted {
        bindings,
        target4: Some(Ipv4Addr::new(172, 17, 0, 2)),
        target6: None,
        default_v4: Ipv4Addr::UNSPECIFIED,
        default_v6: Ipv6Addr::UNSPECIFIED,
        ipv6_on_host: true,
        proxied: true,
        direct: Families::default(),
    }
}

fn reserve(ports: &mut Ports, texts: &[&str]) -> Result<Vec<BoundPort>, String> {
    ports.reserve(&wanted(&bindings(texts)))
}

fn free(address: &str) -> bool {
    TcpListener::bind(address).is_ok()
}

// Reservations.

fn rules(host: &Host) {
    let mut ports = host.ports();
    assert_eq!(keepers(host), [0_u32; 0], "none before it is needed");
    let one = reserve(&mut ports, &["8080:80", "127.0.0.1:8081:81", "53:53/udp"]).unwrap();
    let told: Vec<String> =
        one.iter().map(|p| format!("{}:{} {:?}", p.host_ip, p.host_port, p.by)).collect();
    assert_eq!(
        told,
        [
            "0.0.0.0:8080 Kernel",
            ":::8080 Keeper",
            "127.0.0.1:8081 Kernel",
            "0.0.0.0:53 Kernel",
            ":::53 Keeper"
        ]
    );
    assert_eq!(keepers(host), [ports.keeper().unwrap()]);
    for taken in ["0.0.0.0:8080", "127.0.0.1:8080", "[::]:8080", "[::1]:8080", "127.0.0.1:8081"] {
        assert!(!free(taken), "{taken}");
    }
    assert!(UdpSocket::bind("127.0.0.1:53").is_err());
    assert!(free("127.0.0.2:8081"));
    // Nobody is let in where the kernel is to carry.
    assert!(TcpStream::connect("127.0.0.1:8080").is_err());

    for (again, reason) in [
        ("8080:80", "Bind for 0.0.0.0:8080 failed: port is already allocated"),
        ("127.0.0.5:8080:80", "Bind for 127.0.0.5:8080 failed: port is already allocated"),
        ("[::1]:8080:80", "Bind for ::1:8080 failed: port is already allocated"),
        ("8081:80", "Bind for 0.0.0.0:8081 failed: port is already allocated"),
    ] {
        let error = reserve(&mut ports, &["7000:70", again]).unwrap_err();
        assert_eq!(error, reason);
        assert!(free("0.0.0.0:7000"), "all or none");
    }
    let error = reserve(&mut ports, &["10.9.8.7:80:80"]).unwrap_err();
    assert_eq!(
        error,
        "failed to bind host port for 10.9.8.7:80:172.17.0.2:80/tcp: cannot assign requested \
         address"
    );
    let other = reserve(&mut ports, &["127.0.0.2:8081:81", "8080:80/udp"]).unwrap();
    assert_eq!(other.len(), 3);
    ports.release(&one);
    assert!(free("0.0.0.0:8080") && free("[::]:8080") && !free("127.0.0.2:8081"));
    ports.release(&other);
    let again = reserve(&mut ports, &["8080:80/sctp", "8081:80"]).unwrap();
    assert_eq!(again.len(), 3);
    ports.end();
    wait_until("told to end", || keepers(host).is_empty());
    assert!(!host.socket().exists() && free("0.0.0.0:8081"));
}

fn other_programs(host: &Host) {
    let _listener = TcpListener::bind("127.0.0.1:8080").unwrap();
    let _datagrams = UdpSocket::bind("[::]:8082").unwrap();
    let mut ports = host.ports();
    let error = reserve(&mut ports, &["7000:70", "8080:80"]).unwrap_err();
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    let who = format!("It is used by {} (process {})", name.trim(), std::process::id());
    assert_eq!(
        error,
        format!(
            "failed to bind host port for 0.0.0.0:8080:172.17.0.2:80/tcp: address already in use. \
             {who}"
        )
    );
    assert!(free("0.0.0.0:7000") && free("[::]:7000"), "all or none");
    // This one has IPv4, too.
    let error = reserve(&mut ports, &["8082:80/udp"]).unwrap_err();
    assert!(error.starts_with("failed to bind host port for 0.0.0.0:8082:"), "{error}");
    assert!(error.ends_with(&who), "{error}");
    // A range goes around what is taken.
    let one = reserve(&mut ports, &["8080-8081:80"]).unwrap();
    assert_eq!(one[0].host_port, 8081);
}

fn ranges_and_free_ports(host: &Host) {
    sh("echo 40000 40003 >/proc/sys/net/ipv4/ip_local_port_range");
    let mut ports = host.ports();
    let mut seen = Vec::new();
    // Somebody has one of them, in one family.
    let other = TcpListener::bind("[::1]:40001").unwrap();
    let mut all = Vec::new();
    for _ in 0..3 {
        let some = reserve(&mut ports, &["80"]).unwrap();
        assert_eq!(some.len(), 2);
        assert_eq!(some[0].host_port, some[1].host_port, "the same in both families");
        seen.push(some[0].host_port);
        all.extend(some);
    }
    assert_eq!(seen, [40000, 40002, 40003]);
    drop(other);
    assert_eq!(reserve(&mut ports, &["81"]).unwrap()[0].host_port, 40001);
    assert_eq!(reserve(&mut ports, &["82"]).unwrap_err(), "all ports are allocated");
    // Round robin: not the one that was given back last, but the next.
    ports.release(&all);
    assert_eq!(reserve(&mut ports, &["80"]).unwrap()[0].host_port, 40002);
    assert_eq!(reserve(&mut ports, &["80"]).unwrap()[0].host_port, 40003);
    // What is fixed is given first, though it was asked for last.
    let some = reserve(&mut ports, &["80", "40000:81"]);
    assert_eq!(some.unwrap_err(), "all ports are allocated");
    let some = reserve(&mut ports, &["9000-9001:80", "9000:81"]).unwrap();
    let told: Vec<(u16, u16)> = some.iter().map(|p| (p.container.port, p.host_port)).collect();
    assert_eq!(told, [(80, 9001), (80, 9001), (81, 9000), (81, 9000)]);
    let error = reserve(&mut ports, &["9000-9001:82"]).unwrap_err();
    assert_eq!(error, "Bind for 0.0.0.0:9000-9001 failed: all ports are allocated");
}

/// What a daemon does that is killed: publishes, says so, and sleeps.
fn daemon(socket: &Path, texts: &[String]) -> ExitCode {
    let place =
        KeeperPlace { program: std::env::current_exe().unwrap(), socket: socket.to_owned() };
    let mut ports = Ports::open(place);
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let got = reserve(&mut ports, &texts).unwrap();
    println!("{}", got.len());
    std::thread::sleep(Duration::from_secs(600));
    ExitCode::SUCCESS
}

/// Another process that has published, and is ready.
fn start_daemon(host: &Host, texts: &[&str]) -> Child {
    start_limited_daemon(host, "unlimited", texts)
}

/// With fewer descriptors, which is then true of its keeper, too.
fn start_limited_daemon(host: &Host, descriptors: &str, texts: &[&str]) -> Child {
    let change = match descriptors {
        "unlimited" => String::new(),
        count => format!("ulimit -n {count}; "),
    };
    let mut child = Command::new("sh")
        .args(["-ec", &format!("{change}exec \"$0\" daemon \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .arg(host.socket())
        .args(texts)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(!line.is_empty());
    child
}

fn daemon_killed(host: &Host) {
    let mut daemon = start_daemon(host, &["8080:80", "8081:81", "5353:53/udp"]);
    let before = keepers(host);
    assert_eq!(before.len(), 1);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert!(!free("0.0.0.0:8080") && !free("[::1]:8081"), "held beyond its death");
    // Longer than a keeper without ports would stay.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(keepers(host), before);

    let mut other = Ports::without_keeper();
    let known = {
        // What the daemon's records say: a container with 8080 runs on.
        let target: SocketAddr = "172.17.0.2:80".parse().unwrap();
        let container = bindings(&["8080:80"])[0].container;
        let one =
            |ip: IpAddr, by| BoundPort { container, host_ip: ip, host_port: 8080, target, by };
        [
            one(Ipv4Addr::UNSPECIFIED.into(), Carrier::Kernel),
            one(Ipv6Addr::UNSPECIFIED.into(), Carrier::Keeper),
        ]
    };
    assert!(!other.restore(&known).is_empty(), "somebody else has it: {known:?}");
    drop(other);

    let mut ports = host.ports();
    assert_eq!(ports.restore(&known), [""; 0]);
    ports.settle();
    assert_eq!(keepers(host), before, "the same keeper");
    assert!(!free("0.0.0.0:8080") && !free("[::]:8080"));
    assert!(free("0.0.0.0:8081") && free("[::]:8081"), "nobody runs that had it");
    assert!(UdpSocket::bind("0.0.0.0:5353").is_ok());
    let error = reserve(&mut ports, &["8080:80"]).unwrap_err();
    assert_eq!(error, "Bind for 0.0.0.0:8080 failed: port is already allocated");
    ports.release(&known);
    assert!(free("0.0.0.0:8080"));
}

fn keeper_killed(host: &Host) {
    let mut ports = host.ports();
    let some = reserve(&mut ports, &["8080:80", "8081:81", "5353:53/udp"]).unwrap();
    let first = ports.keeper().unwrap();
    let container = Container::new("10.5.0");
    let carried = ports
        .reserve(&Wanted { target4: Some(container.v4), ..wanted(&bindings(&["9000:7"])) })
        .unwrap();
    let kill = |pid: u32| {
        process::kill(rustix::process::Pid::from_raw(pid as i32).unwrap(), 9).unwrap();
        wait_until("its end", || !keepers(host).contains(&pid));
    };
    kill(first);
    wait_until("another keeper", || {
        ports.keeper().is_some_and(|pid| pid != first) && !free("0.0.0.0:8080")
    });
    assert!(!free("[::]:8081") && UdpSocket::bind("0.0.0.0:5353").is_err());
    assert_eq!(echo("[::1]:9000", b"again"), b"again");
    // In the middle of a request, so to speak: nobody has noticed yet.
    let second = ports.keeper().unwrap();
    kill(second);
    let more = reserve(&mut ports, &["8085:85"]).unwrap();
    assert!(!free("0.0.0.0:8085") && !free("0.0.0.0:8080"));
    ports.release(&some);
    ports.release(&more);
    ports.release(&carried);
    assert!(free("0.0.0.0:8080") && free("0.0.0.0:8085"));
}

fn both_killed(host: &Host) {
    let mut daemon = start_daemon(host, &["8080:80", "8081:81"]);
    let pid = keepers(host)[0];
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    process::kill(rustix::process::Pid::from_raw(pid as i32).unwrap(), 9).unwrap();
    wait_until("its end", || keepers(host).is_empty());
    assert!(host.socket().exists(), "nobody could take it away");
    let containers = bindings(&["8080:80", "8081:81"]);
    let one = |index: usize, host_port| BoundPort {
        container: containers[index].container,
        host_ip: Ipv4Addr::UNSPECIFIED.into(),
        host_port,
        target: "172.17.0.2:80".parse().unwrap(),
        by: Carrier::Kernel,
    };
    let mut ports = host.ports();
    // Container by container.
    assert_eq!(ports.restore(&[one(0, 8080)]), [""; 0]);
    assert_eq!(ports.restore(&[one(1, 8081)]), [""; 0]);
    ports.settle();
    assert!(!free("0.0.0.0:8080") && !free("0.0.0.0:8081"));
}

fn unreachable(host: &Host) {
    let mut ports = host.ports();
    reserve(&mut ports, &["8080:80"]).unwrap();
    std::fs::remove_file(host.socket()).unwrap();
    assert_eq!(keepers(host).len(), 1, "the daemon has its connection");
    drop(ports);
    wait_until("its end", || keepers(host).is_empty());
    assert!(free("0.0.0.0:8080"));
}

// Traffic.

/// Another network namespace, at the end of a veth: `x.y.z.2` and `fd00:…::2`, the host has `1`.
struct Container {
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    netns: std::fs::File,
}

impl Container {
    /// With echo servers on port 7.
    fn new(prefix: &str) -> Self {
        let (v4, v6) = (format!("{prefix}.2"), "fd00:5::2");
        let (send, receive) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel();
        let address = v4.clone();
        std::thread::spawn(move || {
            process::unshare(process::NEWNET).unwrap();
            let netns = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
            send.send((netns, rustix::thread::gettid().as_raw_pid())).unwrap();
            wait.recv().unwrap();
            sh(&format!(
                "ip link set lo up; ip addr add {address}/24 dev eth0; ip link set eth0 up; \
                 ip addr add {v6}/64 dev eth0 nodad; ip route add default via {}",
                address.replace(".2", ".1")
            ));
        });
        let (netns, task) = receive.recv().unwrap();
        sh(&format!(
            "ip link add v0 type veth peer name eth0 netns {task}; ip addr add {prefix}.1/24 dev \
             v0; ip addr add fd00:5::1/64 dev v0 nodad; ip link set v0 up"
        ));
        go.send(()).unwrap();
        let out = Self { v4: v4.parse().unwrap(), v6: v6.parse().unwrap(), netns };
        wait_until("the container's address", || {
            let address = SocketAddr::new(out.v4.into(), 1);
            TcpStream::connect_timeout(&address, Duration::from_millis(200))
                .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        });
        out.serve_echo();
        out
    }

    fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let netns = self.netns.try_clone().unwrap();
        std::thread::spawn(move || {
            process::setns(netns.as_fd(), process::NEWNET).unwrap();
            work()
        })
    }

    fn serve_echo(&self) {
        let (ready, wait) = std::sync::mpsc::channel();
        let tcp = ready.clone();
        self.inside(move || {
            let listener = TcpListener::bind("[::]:7").unwrap();
            tcp.send(()).unwrap();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut from = stream.try_clone().unwrap();
                    let _ = std::io::copy(&mut from, &mut stream);
                    let _ = stream.shutdown(Shutdown::Write);
                });
            }
        });
        self.inside(move || {
            let socket = UdpSocket::bind("[::]:7").unwrap();
            ready.send(()).unwrap();
            let mut buffer = vec![0; 70_000];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], peer);
            }
        });
        wait.recv().unwrap();
        wait.recv().unwrap();
    }
}

/// Says something, closes its half, and hears until the end.
fn echo(address: &str, bytes: &[u8]) -> Vec<u8> {
    let address: SocketAddr = address.parse().unwrap();
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(30)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let mut reader = stream;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut out = Vec::new();
        reader.read_to_end(&mut out).unwrap();
        out
    })
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

fn tcp_carried(host: &Host) {
    let container = Container::new("10.5.0");
    let mut ports = host.ports();
    let only4 = bindings(&["9000:7", "[::1]:9001:7"]);
    let wanted4 = Wanted { target4: Some(container.v4), ..wanted(&only4) };
    ports.reserve(&wanted4).unwrap();
    let only6 = bindings(&["9002:7"]);
    let wanted6 = Wanted { target4: None, target6: Some(container.v6), ..wanted(&only6) };
    let by: Vec<Carrier> = ports.reserve(&wanted6).unwrap().iter().map(|port| port.by).collect();
    assert_eq!(by, [Carrier::Keeper, Carrier::Both]);

    let large = noise(20_000_000);
    for address in ["[::1]:9000", "[::1]:9001", "127.0.0.1:9002", "[::1]:9002", "[fd00:5::1]:9000"]
    {
        assert_eq!(echo(address, b"hello"), b"hello", "{address}");
        // The other half is open for as long as there is something to say.
        assert!(echo(address, &large) == large, "{address}");
    }
    assert!(TcpStream::connect("127.0.0.1:9000").is_err(), "that is the kernel's");
    assert!(TcpStream::connect("[fd00:5::1]:9001").is_err(), "published on ::1 alone");
    // Others reach what is published everywhere, and no more.
    let got = container.inside(|| echo("[fd00:5::1]:9000", b"inside")).join().unwrap();
    assert_eq!(got, b"inside");
    let got = container.inside(|| TcpStream::connect("[fd00:5::1]:9001").is_err());
    assert!(got.join().unwrap());

    // Many at once, each with its own bytes.
    std::thread::scope(|scope| {
        for number in 0..200_usize {
            let large = &large;
            scope.spawn(move || {
                let part = &large[number * 1000..number * 1000 + 50_000];
                assert!(echo("[::1]:9000", part) == part, "{number}");
            });
        }
    });
    // Somebody who does not read holds up nobody but himself.
    let mut stuck = TcpStream::connect("[::1]:9000").unwrap();
    stuck.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    while stuck.write(&large).is_ok() {}
    assert_eq!(echo("[::1]:9000", b"others"), b"others");
    drop(stuck);
    let pid = ports.keeper().unwrap();
    let descriptors = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    wait_until("descriptors are given back", || descriptors() < 8 + 6 + 2 * 32 + 4);
}

fn tcp_refused_and_released(host: &Host) {
    let container = Container::new("10.5.0");
    let mut ports = host.ports();
    let list = bindings(&["9000:7", "9001:9"]);
    let wanted = Wanted { target4: Some(container.v4), ..wanted(&list) };
    let some = ports.reserve(&wanted).unwrap();
    // Nobody listens in the container.
    let mut stream = TcpStream::connect("[::1]:9001").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let end = stream.read(&mut [0; 8]);
    assert!(end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    // A server that resets is seen to.
    let mut kept = TcpStream::connect("[::1]:9000").unwrap();
    kept.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    kept.write_all(b"x").unwrap();
    kept.read_exact(&mut [0]).unwrap();
    ports.release(&some);
    let end = kept.read(&mut [0; 8]);
    assert!(end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    // At once, for another container, in spite of connections that ended a moment ago.
    let some = ports.reserve(&wanted).unwrap();
    assert_eq!(echo("[::1]:9000", b"again"), b"again");
    assert_eq!(echo("[::1]:9000", b"more"), b"more");
    ports.release(&some);
    ports.reserve(&wanted).unwrap();
    assert_eq!(echo("[::1]:9000", b"more"), b"more");
}

/// What finds no room waits for it, and is served; sessions make room for each other.
fn few_descriptors(host: &Host) {
    let container = Container::new("172.17.0");
    let mut daemon = start_limited_daemon(host, "300", &["9000:7", "9001:7/udp"]);
    let pid = keepers(host)[0];
    let bytes = noise(100_000);
    let most = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..150 {
            scope.spawn(|| {
                assert!(echo("[::1]:9000", &bytes) == bytes);
                let now = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
                most.fetch_max(now, std::sync::atomic::Ordering::Relaxed);
            });
        }
    });
    let clients: Vec<UdpSocket> = (0..400).map(|_| UdpSocket::bind("[::1]:0").unwrap()).collect();
    for client in &clients {
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        client.send_to(b"ping", "[::1]:9001").unwrap();
        assert_eq!(client.recv(&mut [0; 8]).unwrap(), 4);
    }
    assert!(most.into_inner() < 300);
    assert_eq!(echo("[::1]:9000", b"more"), b"more");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    drop(container);
}

fn container_that_does_not_answer(host: &Host) {
    let container = Container::new("10.5.0");
    let silent = || {
        sh("nft add table t; nft add chain t i '{type filter hook input priority 0;}'; \
                        nft add rule t i tcp dport 9 drop")
    };
    container.inside(silent).join().unwrap();
    let mut ports = host.ports();
    let list = bindings(&["9000:7", "9001:9"]);
    ports.reserve(&Wanted { target4: Some(container.v4), ..wanted(&list) }).unwrap();
    let mut waiting = TcpStream::connect("[::1]:9001").unwrap();
    waiting.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    waiting.write_all(b"anybody?").unwrap();
    assert_eq!(echo("[::1]:9000", b"meanwhile"), b"meanwhile");
    let end = waiting.read(&mut [0; 8]);
    assert!(end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
}

fn udp_carried(host: &Host) {
    sh("ip addr add fd00:9::1/128 dev lo; ip addr add fd00:9::2/128 dev lo");
    let container = Container::new("10.5.0");
    let mut ports = host.ports();
    let list = bindings(&["9000:7/udp"]);
    let only4 = Wanted { target4: Some(container.v4), ..wanted(&list) };
    let some = ports.reserve(&only4).unwrap();
    let list6 = bindings(&["9002:7/udp"]);
    let only6 = Wanted { target4: None, target6: Some(container.v6), ..wanted(&list6) };
    ports.reserve(&only6).unwrap();
    let ask = |from: &str, to: &str, bytes: &[u8]| {
        let socket = UdpSocket::bind(from).unwrap();
        // What comes from another address than was asked is not heard.
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket.send(bytes).unwrap();
        let mut buffer = vec![0; 70_000];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], bytes, "{to}");
    };
    for to in ["[::1]:9000", "[fd00:9::1]:9000", "[fd00:9::2]:9000", "[fd00:5::1]:9000"] {
        ask("[::]:0", to, b"ping");
        ask("[::]:0", to, &noise(40_000));
    }
    ask("0.0.0.0:0", "127.0.0.1:9002", b"by IPv4");
    ask("[::]:0", "[::1]:9002", b"by IPv6");
    container
        .inside(|| {
            sh("ip route add fd00:9::/64 via fd00:5::1");
            let socket = UdpSocket::bind("[::]:0").unwrap();
            socket.connect("[fd00:9::2]:9000").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            socket.send(b"from outside").unwrap();
            assert_eq!(socket.recv(&mut [0; 64]).unwrap(), 12);
        })
        .join()
        .unwrap();
    // Many clients: each hears its own.
    let clients: Vec<UdpSocket> = (0..500)
        .map(|_| {
            let socket = UdpSocket::bind("[::1]:0").unwrap();
            socket.connect("[::1]:9000").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            socket
        })
        .collect();
    for (number, client) in clients.iter().enumerate() {
        client.send(&number.to_le_bytes()).unwrap();
        let mut buffer = [0; 8];
        client.recv(&mut buffer).unwrap();
        assert_eq!(usize::from_le_bytes(buffer), number);
    }
    ports.release(&some);
    let socket = UdpSocket::bind("[::1]:0").unwrap();
    socket.connect("[::1]:9000").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let _ = socket.send(b"gone");
    assert!(socket.recv(&mut [0; 8]).is_err());
}

// Bounds.

fn twenty_thousand(host: &Host) {
    let mut ports = host.ports();
    let list = bindings(&["20000-39999:20000-39999"]);
    let started = Instant::now();
    let all = ports.reserve(&wanted(&list)).unwrap();
    let took = started.elapsed();
    println!("20,000 ports: {took:?}");
    // With IPv6 addresses of the host, if there are descriptors for as many sockets.
    let proxied = descriptors() >= 40_000;
    assert_eq!(all.len(), if proxied { 40_000 } else { 20_000 });
    assert_eq!(ports.keeper().is_some(), proxied);
    assert!(free("0.0.0.0:39999"), "what the kernel carries is not held");
    let error = reserve(&mut ports, &["30000:80"]).unwrap_err();
    assert_eq!(error, "Bind for 0.0.0.0:30000 failed: port is already allocated");
    ports.release(&all);
    let other = TcpListener::bind("127.0.0.1:25000").unwrap();
    let error = ports.reserve(&wanted(&list)).unwrap_err();
    assert!(
        error.starts_with(
            "failed to bind host port for 0.0.0.0:25000:172.17.0.2:25000/tcp: address already in \
             use. It is used by "
        ),
        "{error}"
    );
    drop(other);
    let dual = Wanted { target6: Some(Ipv6Addr::LOCALHOST), ..wanted(&list) };
    let started = Instant::now();
    let all = ports.reserve(&dual).unwrap();
    println!("20,000 ports in both families: {:?}", started.elapsed());
    assert_eq!(all.len(), 40_000);
    ports.release(&all);
    let only = bindings(&["[::1]:2000-65000:2000-65000", "[::1]:2000-65000:2000-65000/udp"]);
    if descriptors() < 100_000 {
        let error = ports.reserve(&wanted(&only)).unwrap_err();
        assert!(error.contains("needs a proxy"), "{error}");
    }
    // As many as are held.
    let list = bindings(&["20000-20999:20000-20999"]);
    let started = Instant::now();
    let all = ports.reserve(&wanted(&list)).unwrap();
    println!("1,000 ports held in both families: {:?}", started.elapsed());
    assert_eq!(all.len(), 2000);
    assert!(!free("[::]:20999"));
    // Beyond the bound they are checked only.
    let mut some = Vec::new();
    for first in (21_000..30_000).step_by(1000) {
        let text = format!("{first}-{0}:{first}-{0}", first + 999);
        some.push(reserve(&mut ports, &[&text]).unwrap());
    }
    assert!(some.iter().any(|part| part.len() == 1000), "{}", some.len());
    for part in &some {
        ports.release(part);
    }
    ports.release(&all);
}

/// The bound that the keeper's sockets are half of.
fn descriptors() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(20_000)
}

/// More ports than are held of what the kernel carries: the proxied ones serve, after a restart of
/// the daemon, too.
fn many_proxied(host: &Host) {
    let container = Container::new("10.5.0");
    let list = bindings(&["[::1]:20000-21100:20000-21100", "[::1]:9001:7", "9000:7"]);
    let wanted = Wanted { target4: Some(container.v4), ..wanted(&list) };
    let mut daemon = host.ports();
    let all = daemon.reserve(&wanted).unwrap();
    assert_eq!(all.len(), 1104);
    assert!(!free("[::1]:20500") && free("0.0.0.0:9000"));
    let serves = |port: u16| {
        let mut stream = TcpStream::connect(("::1", port)).unwrap();
        stream.write_all(b"word").unwrap();
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"word");
    };
    [9000, 9001].into_iter().for_each(serves);
    drop(daemon);
    let mut daemon = host.ports();
    assert_eq!(daemon.restore(&all), Vec::<String>::new());
    daemon.settle();
    [9000, 9001].into_iter().for_each(serves);
    daemon.release(&all);
    assert!(free("[::1]:20500") && free("[::]:9000"));
}

fn upgrade(host: &Host) {
    let old = host.socket().with_extension("old");
    std::fs::write(&old, "").unwrap();
    let container = Container::new("10.5.0");
    let list = bindings(&["9000:7", "9001:7/udp", "9002:9"]);
    let wanted = Wanted { target4: Some(container.v4), ..wanted(&list) };
    let mut daemon = Ports::open_as(host.place(), VERSION + 1);
    let all = daemon.reserve(&wanted).unwrap();
    let first = daemon.keeper().unwrap();
    let stream = TcpStream::connect("[::1]:9000").unwrap();
    let say = |mut stream: &TcpStream, text: &[u8; 4]| {
        stream.write_all(text).unwrap();
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, text);
    };
    say(&stream, b"one.");
    drop(daemon);
    std::fs::remove_file(&old).unwrap();

    // Somebody who waits for his chance never gets it.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let started = Instant::now();
            let stopped = || stop.load(std::sync::atomic::Ordering::Relaxed);
            while !stopped() && started.elapsed() < Duration::from_secs(30) {
                assert!(!free("0.0.0.0:9000") && !free("[::]:9000") && !free("0.0.0.0:9002"));
            }
        });
        let mut ports = host.ports();
        let (kept, gone) = all.split_at(4);
        assert_eq!(ports.restore(kept), [""; 0]);
        let second = ports.keeper().unwrap();
        assert_ne!(first, second);
        assert_eq!(keepers(host).len(), 2, "the old one has a connection");
        say(&stream, b"two.");
        assert_eq!(echo("[::1]:9000", b"new"), b"new");
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        socket.connect("[::1]:9001").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket.send(b"ping").unwrap();
        assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 4);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        watch.join().unwrap();
        ports.settle();
        assert!(!gone.is_empty() && free("0.0.0.0:9002") && !free("0.0.0.0:9000"));
        say(&stream, b"end.");
        drop(stream);
        wait_until("the old one's end", || keepers(host) == [second]);
        assert!(host.socket().exists());
    });
}

fn rude_peers(host: &Host) {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
    let mut ports = host.ports();
    reserve(&mut ports, &["8080:80"]).unwrap();
    let pid = ports.keeper().unwrap();
    let mut open = Vec::new();
    for message in [&b"x"[..], b"", &[0xff; 60_000], b"hoy ports ", b"\x00\xff\xff\xff\xff"] {
        let address = rustix::net::SocketAddrUnix::new(host.socket()).unwrap();
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        connect(&socket, &address).unwrap();
        let _ = rustix::net::send(&socket, message, rustix::net::SendFlags::NOSIGNAL);
        open.push(socket);
    }
    for _ in 0..100 {
        let address = rustix::net::SocketAddrUnix::new(host.socket()).unwrap();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let _ = connect(&socket, &address);
        open.push(socket);
    }
    let more = reserve(&mut ports, &["8081:80"]).unwrap();
    assert_eq!((more.len(), ports.keeper()), (2, Some(pid)));
    assert!(!free("0.0.0.0:8080") && !free("0.0.0.0:8081"));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(host.socket()).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

fn restricted(host: &Host) {
    let mut ports = host.ports();
    reserve(&mut ports, &["80:80", "1:1/udp"]).unwrap();
    let pid = ports.keeper().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), 1 << 10, "{set}");
    }
    assert_eq!((field("NoNewPrivs:"), field("CapInh:")), ("1".into(), "0000000000000000".into()));
    assert_eq!(field("Threads:"), "1");
    assert_eq!(std::fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    assert_eq!(fields[3], pid.to_string(), "a session of its own");
    assert_ne!(fields[1], std::process::id().to_string(), "nobody's child");
    // Standard streams, epoll, door and its directory, the daemon, four ports.
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert!(open <= 3 + 4 + 4, "{open}");
}

// Figures.

fn bench(host: &Host) {
    let container = Container::new("10.5.0");
    container.inside(|| {
        let listener = TcpListener::bind("[::]:70").unwrap();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = vec![0; 256 * 1024];
                while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
            });
        }
    });
    std::thread::sleep(Duration::from_millis(200));
    let mut ports = host.ports();
    let list = bindings(&["9000:70", "9001:7"]);
    let wanted = Wanted { target4: Some(container.v4), ..wanted(&list) };
    ports.reserve(&wanted).unwrap();
    let pid = ports.keeper().unwrap();
    let cpu = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let all: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        all[11].parse::<u64>().unwrap() + all[12].parse::<u64>().unwrap()
    };
    let before = cpu();
    let many = bindings(&["20000-20999:20000-20999"]);
    let started = Instant::now();
    ports.reserve(&self::wanted(&many)).unwrap();
    println!("1,000 ports held: {:?}, keeper {} ticks", started.elapsed(), cpu() - before);
    for _ in 0..3 {
        let started = Instant::now();
        let one = ports.reserve(&self::wanted(&bindings(&["8080:80"]))).unwrap();
        println!("another one: {:?}", started.elapsed());
        ports.release(&one);
    }
    let direct = format!("{}:70", container.v4);
    for round in 0..3 {
        for (name, address) in [("veth", direct.as_str()), ("keeper", "[::1]:9000")] {
            let before = cpu();
            let mut stream = TcpStream::connect(address).unwrap();
            let block = vec![7; 256 * 1024];
            let started = Instant::now();
            let mut sent = 0_u64;
            while started.elapsed() < Duration::from_secs(2) {
                stream.write_all(&block).unwrap();
                sent += block.len() as u64;
            }
            let rate = sent as f64 * 8.0 / started.elapsed().as_secs_f64() / 1e9;
            println!("{round} {name}: {rate:.1} Gbit/s, keeper {} ticks", cpu() - before);
        }
    }
    for (name, address) in
        [("veth", format!("{}:7", container.v4)), ("keeper", "[::1]:9001".into())]
    {
        let started = Instant::now();
        let mut count = 0;
        while started.elapsed() < Duration::from_secs(2) {
            assert_eq!(echo(&address, b"x"), b"x");
            count += 1;
        }
        println!("{name}: {:.0} connections/s", f64::from(count) / started.elapsed().as_secs_f64());
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    for line in status.lines().filter(|line| line.starts_with("Pss") || line.starts_with("Private"))
    {
        println!("{line}");
    }
}
