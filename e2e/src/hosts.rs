//! Test hosts: a daemon's own and a neighbour, joined by a wire, with both families; servers that
//! tell who asked them, resolvers that count.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hoy_testkit::{Daemon, KernelCounts, NetNs, Output, wait_until};

use crate::give_busybox;

/// The addresses of the wire: the daemon's host, and its neighbour.
pub const HERE: [&str; 2] = ["10.77.0.1", "fd77::1"];
pub const THERE: [&str; 2] = ["10.77.0.2", "fd77::2"];

/// A host with a daemon, and one beside it that takes it for its router.
pub struct Host {
    pub daemon: Daemon,
    pub neighbour: NetNs,
    before: KernelCounts,
    /// The daemon that was counted.
    pid: u32,
}

/// Whether the kernel shows bridged packets to the rules of IP, in the namespaces of tests.
fn set_bridge_filter(netns: &NetNs, on: bool) {
    for name in ["iptables", "ip6tables"] {
        let path = format!("/proc/sys/net/bridge/bridge-nf-call-{name}");
        netns.sh(&format!("[ ! -e {path} ] || echo {} >{path}", u8::from(on)));
    }
}

/// An address in a URL.
pub fn url(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// The words of a line; a template is one, with its spaces.
fn words(line: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        match out.last_mut() {
            Some(last) if last.matches("{{").count() > last.matches("}}").count() => {
                last.push(' ');
                last.push_str(word);
            }
            _ => out.push(word.to_owned()),
        }
    }
    out
}

impl Host {
    pub fn start() -> Self {
        Self::start_with(true, &[])
    }

    /// The test on a host of its own for each way to see bridged packets.
    pub fn each(test: impl Fn(&mut Self) + Sync) {
        Self::each_with(&[], test);
    }

    /// The same with a daemon of these arguments.
    pub fn each_with(arguments: &[&str], test: impl Fn(&mut Self) + Sync) {
        let one = |filter: bool| {
            let mut host = Self::start_with(filter, arguments);
            test(&mut host);
            host.end();
        };
        // Both at once: much of it is waiting for answers that must not come.
        std::thread::scope(|scope| {
            scope.spawn(|| one(true));
            one(false);
        });
    }

    /// Its daemon asks the neighbour's resolver.
    pub fn start_with(bridge_filter: bool, arguments: &[&str]) -> Self {
        let resolver = format!("nameserver {}\n", THERE[0]);
        let mut daemon = Daemon::prepare(arguments).with_etc("resolv.conf", &resolver);
        let neighbour = NetNs::new();
        for netns in [daemon.netns(), &neighbour] {
            netns.sh("echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad");
        }
        set_bridge_filter(daemon.netns(), bridge_filter);
        daemon.netns().link(&neighbour, "wire0", "10.77.0.1/24", "10.77.0.2/24");
        daemon
            .netns()
            .sh("ip addr add fd77::1/64 dev wire0 nodad; ip route add default via 10.77.0.2");
        neighbour
            .sh("ip addr add fd77::2/64 dev wire0 nodad; ip route add default via 10.77.0.1; \
             ip route add default via fd77::1");
        daemon.launch();
        give_busybox(&daemon);
        let www = daemon.path("www/cgi-bin");
        std::fs::create_dir_all(&www).expect("make a directory");
        let script =
            "#!/bin/sh\necho Content-Type: text/plain\necho\necho $(hostname) $REMOTE_ADDR\n";
        std::fs::write(www.join("who"), script).expect("write a script");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(www.join("who"), mode).expect("chmod");
        // Forwarding of IPv6 is turned on, and fenced, with the first network that has it.
        daemon.hoy(&["network", "create", "--ipv6", "first"]).run().ok();
        daemon.hoy(&["network", "rm", "first"]).run().ok();
        crate::counts(&daemon);
        // Loopback, the wire, the default bridge: the kernel takes a moment to remove a veth.
        wait_until("no interface is left", || daemon.netns().sh("ip -o link").lines().count() == 3);
        let before = KernelCounts::of(&daemon);
        let pid = daemon.pid();
        Self { daemon, neighbour, before, pid }
    }

    /// What a line of words prints, by Docker's own client.
    #[track_caller]
    pub fn docker(&self, line: &str) -> String {
        let words = words(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = self.daemon.docker(&words).run();
        assert_eq!(output.code, Some(0), "docker {line}: {output:?}");
        output.stdout.trim().to_owned()
    }

    /// What one that fails says.
    #[track_caller]
    pub fn refused(&self, line: &str) -> String {
        let words = words(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = self.daemon.docker(&words).run();
        assert_ne!(output.code, Some(0), "docker {line}: {output:?}");
        output.stderr.trim().trim_start_matches("docker: ").to_owned()
    }

    /// A container that does nothing.
    #[track_caller]
    pub fn idle(&self, name: &str, flags: &str) {
        self.docker(&format!("run -d --name {name} {flags} busybox sleep 1000"));
    }

    /// A container with a web server that says its host's name, which is the container's, and who
    /// asked; and with a server of names on port 53 that knows `who.test`.
    #[track_caller]
    pub fn site(&self, name: &str, flags: &str) {
        let www = self.daemon.path("www");
        let volume = format!("{}:/www:ro", www.display());
        let mut args = vec!["run", "-d", "--name", name, "-h", name, "-v", &volume];
        args.extend(flags.split_whitespace());
        let line = "echo who.test 192.0.2.80 >/etc/dnsd.conf; dnsd -d -i ::; \
                    exec httpd -f -p 80 -h /www";
        args.extend(["busybox", "sh", "-c", line]);
        self.daemon.docker(&args).run().ok();
        let listens = "grep -q ':0050 .* 0A ' /proc/net/tcp /proc/net/tcp6";
        wait_until("it listens", || self.inside(name, listens).code == Some(0));
    }

    /// A shell line in a container.
    pub fn inside(&self, name: &str, line: &str) -> Output {
        self.daemon.hoy(&["exec", name, "sh", "-c", line]).run()
    }

    /// The answer that a container gets from a site, empty if none.
    pub fn get(&self, from: &str, address: &str) -> String {
        let place = if address.parse::<std::net::Ipv6Addr>().is_ok() {
            url(address)
        } else {
            address.to_owned()
        };
        let line = format!("wget -q -T 20 -O - http://{place}/cgi-bin/who 2>/dev/null");
        self.inside(from, &line).stdout.trim().to_owned()
    }

    /// Asserts that no address answers: all are asked at once.
    #[track_caller]
    pub fn nothing(&self, from: &str, addresses: &[&str]) {
        let mut line = String::new();
        for address in addresses {
            let place = if address.parse::<std::net::Ipv6Addr>().is_ok() {
                url(address)
            } else {
                (*address).to_owned()
            };
            line += &format!("wget -q -T 1 -O - http://{place}/cgi-bin/who 2>/dev/null & ");
        }
        assert_eq!(
            self.inside(from, &format!("{line} wait")).stdout,
            "",
            "{from} reached one of {addresses:?}"
        );
    }

    /// What `curl` gets in a namespace: for what must not answer, or is asked again.
    pub fn curl(netns: &NetNs, address: &str) -> String {
        Self::asked(netns, address, "2")
    }

    /// What must answer at the first time, however long this machine takes.
    pub fn answer(netns: &NetNs, address: &str) -> String {
        Self::asked(netns, address, "30")
    }

    fn asked(netns: &NetNs, address: &str, seconds: &str) -> String {
        let place = format!("http://{address}/cgi-bin/who");
        netns
            .run("curl")
            .args(["-s", "-g", "--max-time", seconds, &place])
            .run()
            .stdout
            .trim()
            .to_owned()
    }

    /// An address of a container on a network: 0 for IPv4, 1 for IPv6.
    #[track_caller]
    pub fn address(&self, name: &str, network: &str, family: usize) -> String {
        let key = ["IPAddress", "GlobalIPv6Address"][family];
        let template = format!("{{{{(index .NetworkSettings.Networks \"{network}\").{key}}}}}");
        crate::field(&self.daemon, name, &template)
    }

    /// Takes all back, and sees that nothing is left.
    #[track_caller]
    pub fn end(mut self) {
        self.clear();
        if self.daemon.pid() != self.pid {
            // A later daemon holds what it needs, and may not have needed all.
            self.before.daemon_descriptors = KernelCounts::of(&self.daemon).daemon_descriptors;
        }
        self.before.wait_for(&self.daemon);
    }

    /// Removes every container and every network of the test.
    #[track_caller]
    pub fn clear(&self) {
        let ids = self.docker("ps -aq");
        if !ids.is_empty() {
            self.docker(&format!("rm -f {}", ids.replace('\n', " ")));
        }
        self.docker("network prune -f");
        assert_eq!(self.docker("network ls -q -f type=custom"), "");
    }
}

/// A thread's work in a network namespace.
pub fn within<T: Send + 'static>(
    netns: &NetNs,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let file = std::fs::File::open(netns.path()).expect("open the namespace");
    std::thread::spawn(move || {
        hoy_sys::process::setns(file.as_fd(), hoy_sys::process::NEWNET)
            .expect("enter the namespace");
        work()
    })
}

/// A socket in a namespace.
pub fn udp(netns: &NetNs, address: &str) -> UdpSocket {
    let address: SocketAddr = address.parse().expect("an address");
    let socket = within(netns, move || UdpSocket::bind(address).expect("bind")).join();
    let socket = socket.expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    socket
}

/// A question for the address of `name`, as resolvers send it.
pub fn question(id: u16, name: &str) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).expect("a label"));
        out.extend(label.as_bytes());
    }
    out.extend([0, 0, 1, 0, 1]);
    out
}

/// Asks a server of names for `who.test`; whether it says what a site's says. What comes late is no
/// answer to the next question.
pub fn knows(socket: &UdpSocket, server: &str) -> bool {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let server: SocketAddr = server.parse().expect("an address");
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let _ = socket.send_to(&question(id, "who.test"), server);
    let mut buffer = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let answer = &buffer[..length];
        if from == server && answer.starts_with(&id.to_be_bytes()) {
            return answer.ends_with(&[192, 0, 2, 80]);
        }
    }
    false
}

/// A resolver that says 192.0.2.53 to everything and remembers what it was asked.
pub struct Resolver {
    asked: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Resolver {
    pub fn start(netns: &NetNs, address: IpAddr) -> Self {
        let socket = udp(netns, &SocketAddr::new(address, 53).to_string());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicBool::new(false));
        let (names, end) = (Arc::clone(&asked), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !end.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let (name, after) = read_name(&buffer[..length]);
                let mut answer = buffer[..after + 4].to_vec();
                let for_ip4 = buffer.get(after + 1) == Some(&1);
                answer[2..12].copy_from_slice(&[
                    0x81,
                    0x80,
                    0,
                    1,
                    0,
                    u8::from(for_ip4),
                    0,
                    0,
                    0,
                    0,
                ]);
                if for_ip4 {
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 53]);
                }
                names.lock().expect("lock").push(name);
                let _ = socket.send_to(&answer, from);
            }
        });
        Self { asked, ended, thread: Some(thread) }
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("lock").clone()
    }
}

/// The name in a question, and where it ends.
fn read_name(packet: &[u8]) -> (String, usize) {
    let (mut name, mut at) = (String::new(), 12);
    while let Some(&length) = packet.get(at).filter(|length| **length != 0) {
        let label = packet.get(at + 1..at + 1 + usize::from(length)).unwrap_or_default();
        name += &format!("{}.", String::from_utf8_lossy(label));
        at += 1 + usize::from(length);
    }
    (name, at + 1)
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
