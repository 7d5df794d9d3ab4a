//! The default bridge on the real kernel, in a network namespace of the test's own.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::Duration;

use hoy_network::{
    Driver, Endpoint, EndpointSpec, Forwarding, NetworkRequest, Networks, PoolRequest, SandboxSpec,
    Settings, Ticket,
};
use hoy_sys::process;

fn settings() -> Settings {
    let options = [("com.docker.network.bridge.name".to_owned(), "hoy0".to_owned())];
    Settings {
        default: Some(NetworkRequest {
            id: "b".repeat(64),
            name: "bridge".into(),
            driver: Driver::Bridge,
            ipv4: true,
            ipv6: false,
            internal: false,
            options: options.into(),
            pools: vec![PoolRequest {
                subnet: Some("10.99.0.0/24".parse().unwrap()),
                ..PoolRequest::default()
            }],
        }),
        supplies: Vec::new(),
        mtu: 1500,
        forward: true,
        open: false,
        direct: false,
        host_ip4: Ipv4Addr::UNSPECIFIED,
        host_ip6: Ipv6Addr::UNSPECIFIED,
        proxied: false,
        keeper: None,
        resolv_conf: "/dev/null".into(),
    }
}

/// Runs in a namespace of its own, with loopback up.
fn in_own_namespace(test: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        process::unshare(process::NEWNET).expect("root");
        hoy_netlink::Socket::open(hoy_netlink::SocketKind::Route).unwrap().set_up(1).unwrap();
        test();
    })
    .join()
    .unwrap();
}

/// Runs something inside a container's namespace.
fn inside<T: Send + 'static>(
    ticket: &Ticket,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let netns = ticket.netns.try_clone().unwrap();
    std::thread::spawn(move || {
        process::setns(netns.as_fd(), process::NEWNET).unwrap();
        work()
    })
}

/// Answers `count` connections with the client's address.
fn serve(ticket: &Ticket, port: u16, count: usize) -> std::thread::JoinHandle<()> {
    let (ready, wait) = std::sync::mpsc::channel();
    let server = inside(ticket, move || {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
        ready.send(()).unwrap();
        for _ in 0..count {
            let (mut stream, peer) = listener.accept().unwrap();
            stream.write_all(peer.ip().to_string().as_bytes()).unwrap();
        }
    });
    wait.recv().unwrap();
    server
}

fn ask(address: &str) -> std::io::Result<String> {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(30))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn spec(ports: &[&str]) -> SandboxSpec {
    let ports = ports.iter().flat_map(|text| hoy_types::parse_port_spec(text).unwrap()).collect();
    let endpoint = EndpointSpec { network: "b".repeat(64), ..EndpointSpec::default() };
    SandboxSpec { name: "web".into(), endpoints: vec![endpoint], ports, ..SandboxSpec::default() }
}

fn address(ticket: &Ticket) -> IpAddr {
    ticket.endpoints[0].v4.unwrap().address
}

#[test]
fn published_ports_by_every_way() {
    in_own_namespace(|| {
        let network =
            Networks::open(settings(), Vec::new(), &[], Forwarding::default(), None).unwrap();
        let one = network.sandbox(&spec(&["8080:80", "127.0.0.1:8081:81", "5353:53/udp"])).unwrap();
        let two = network.sandbox(&spec(&[])).unwrap();
        assert_eq!(address(&one).to_string(), "10.99.0.2");
        assert_eq!(address(&two).to_string(), "10.99.0.3");

        let server = serve(&one, 80, 6);
        assert_eq!(ask("127.0.0.1:8080").unwrap(), "10.99.0.1");
        assert_eq!(ask("10.99.0.1:8080").unwrap(), "10.99.0.1");
        assert_eq!(ask("10.99.0.2:80").unwrap(), "10.99.0.1");
        // Container to container, and to itself by the host's address.
        assert_eq!(inside(&two, || ask("10.99.0.2:80").unwrap()).join().unwrap(), "10.99.0.3");
        assert_eq!(inside(&two, || ask("10.99.0.1:8080").unwrap()).join().unwrap(), "10.99.0.1");
        assert_eq!(inside(&one, || ask("10.99.0.1:8080").unwrap()).join().unwrap(), "10.99.0.1");
        server.join().unwrap();

        let server = serve(&one, 81, 1);
        assert!(ask("10.99.0.1:8081").is_err(), "published on loopback only");
        assert_eq!(ask("127.0.0.1:8081").unwrap(), "10.99.0.1");
        server.join().unwrap();

        let (ready, wait) = std::sync::mpsc::channel();
        let echo = inside(&one, move || {
            let socket = UdpSocket::bind("0.0.0.0:53").unwrap();
            ready.send(()).unwrap();
            let mut buffer = [0; 64];
            let (length, peer) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..length], peer).unwrap();
        });
        wait.recv().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket.send_to(b"ping", "127.0.0.1:5353").unwrap();
        let mut buffer = [0; 64];
        assert_eq!(socket.recv(&mut buffer).unwrap(), 4);
        echo.join().unwrap();

        let busy = network.sandbox(&spec(&["8080:80"])).unwrap_err().to_string();
        assert!(
            busy.ends_with("Bind for 0.0.0.0:8080 failed: port is already allocated"),
            "{busy}"
        );
        network.release(&one.endpoints);
        assert!(ask("127.0.0.1:8080").is_err());
        network.release(&two.endpoints);
        drop((one, two));
        network.clean().unwrap();
        let links = hoy_netlink::Socket::open(hoy_netlink::SocketKind::Route).unwrap().links();
        assert!(!links.unwrap().iter().any(|link| link.name == "hoy0"));
    });
}

#[test]
fn a_daemon_that_died_is_succeeded() {
    in_own_namespace(|| {
        let network =
            Networks::open(settings(), Vec::new(), &[], Forwarding::default(), None).unwrap();
        let one = network.sandbox(&spec(&["8080:80"])).unwrap();
        let stale = network.sandbox(&spec(&["9090:90"])).unwrap();
        let forwarding = network.forwarding();
        let endpoints: Vec<Endpoint> = one.endpoints.clone();
        drop(network);
        let network = Networks::open(settings(), Vec::new(), &endpoints, forwarding, None).unwrap();
        let server = serve(&one, 80, 1);
        assert_eq!(ask("127.0.0.1:8080").unwrap(), "10.99.0.1");
        server.join().unwrap();
        let links = hoy_netlink::Socket::open(hoy_netlink::SocketKind::Route).unwrap().links();
        let ours = links.unwrap().iter().filter(|link| link.name.starts_with("hv")).count();
        assert_eq!(ours, 1, "the stale interface is gone");
        drop(stale);
        assert!(network.sandbox(&spec(&["8080:80"])).is_err(), "the port is still reserved");
        let next = network.sandbox(&spec(&["9090:90"])).unwrap();
        assert_ne!(address(&next), address(&one));
        network.clean().unwrap();
    });
}

/// A gateway that no container could reach is refused, however the bridge came to its subnet.
#[test]
fn another_gateway_is_in_the_subnet() {
    in_own_namespace(|| {
        let mut settings = settings();
        let default = settings.default.as_mut().unwrap();
        let outside = |default: &mut NetworkRequest, name: &str, address: &str| {
            default.pools[0].set_aside =
                [(name.to_owned(), address.parse().unwrap())].into_iter().collect();
        };
        outside(default, hoy_network::OTHER_GATEWAY4, "10.98.0.254");
        let open = |settings: &Settings| {
            Networks::open(settings.clone(), Vec::new(), &[], Forwarding::default(), None)
                .map(drop)
                .map_err(|error| error.to_string())
        };
        let says = "invalid gateway 10.98.0.254: it is not in the subnet 10.99.0.0/24";
        assert_eq!(open(&settings), Err(says.to_owned()));
        // The bridge is there already, and no subnet is asked for.
        let mut route = hoy_netlink::Socket::open(hoy_netlink::SocketKind::Route).unwrap();
        route.create_bridge("hoy0", [2, 0, 0, 0, 0, 1], 1500).unwrap();
        let bridge = route.link("hoy0").unwrap().unwrap().index;
        route.add_address(bridge, "10.99.0.1".parse().unwrap(), 24).unwrap();
        settings.default.as_mut().unwrap().pools[0].subnet = None;
        assert_eq!(open(&settings), Err(says.to_owned()));
        let default = settings.default.as_mut().unwrap();
        outside(default, hoy_network::OTHER_GATEWAY4, "10.99.0.254");
        assert_eq!(open(&settings), Ok(()));
    });
}
