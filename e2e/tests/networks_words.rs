//! The words of networks: `hoy` says to an engine what `docker` says, and to people what it says;
//! and the daemon answers as Docker's.

mod words;

use hoy_e2e::{both, daemon};
use hoy_testkit::{Daemon, docker_cli, programs};
use serde_json::{Value, json};
use words::{Recorder, all_same, same, same_typing};

#[test]
fn network_commands() {
    let recorder = Recorder::start(json!({}));
    all_same(
        &recorder,
        "network create x
        network create -d macvlan --subnet 10.1.0.0/16 --gateway 10.1.0.1 --ip-range 10.1.1.0/24 -o parent=eth1 --label l=v --internal --ipv6 n
        network create --ipv4 --ipv6=false --attachable --scope swarm --ipam-driver foo --ipam-opt z=1 --ipam-opt a=2 n
        network create --config-only --subnet 10.0.0.0/8 --aux-address b=10.0.0.9 --aux-address a=10.0.0.8 n
        network create --config-from base --ingress n
        network create --subnet 10.2.0.0/16 --ip-range 10.3.0.0/24 n
        network create --subnet 10.2.0.0/16 --subnet 10.2.3.0/24 n
        network create --gateway 10.3.0.1 n
        network create --subnet a\"b n
        network create --label =c n
        network create
        network create a b
        network create --nosuch a
        network create --ipv4=maybe x
        network connect n c
        network connect --ip 10.1.0.5 --ip6 fd00::5 --alias al --alias b,c --link x:y --link-local-ip 169.254.1.1 --driver-opt c=d,a=f --gw-priority -3 n c
        network connect --gw-priority x n c
        network connect --driver-opt a n c
        network connect --link a:b:c n c
        network connect n
        network disconnect n c
        network disconnect -f n c
        network inspect n
        network inspect -v n m
        network inspect -f {{.Name}} n m
        network inspect -f {{.X n
        network inspect --format json n m
        network inspect
        network ls -q --filter driver=bridge -f name=x -f name=y -f label=a=b
        network ls -f bogus
        network ls x
        network rm a b
        network rm
        network remove a
        network prune
        network prune -f
        network prune -f --filter until=24h --filter label=a --filter label!=b
        network prune x
        network foo
        network --foo",
    );
    same_typing(&recorder, &["network", "prune"], "y\n");
    same(&recorder, &["network", "connect", "", "c"]);
    same(&recorder, &["network", "connect", "n", ""]);
    same(&recorder, &["network", "rm", "", "b"]);
    same(&recorder, &["network", "rm", " n "]);
    same(&recorder, &["network", "inspect", ""]);
    same(&recorder, &["network", "inspect", " n "]);
    same(&recorder, &["image", "inspect", ""]);
    same(&recorder, &["inspect", ""]);
    same(&recorder, &["network", "create", "--subnet", "", "n"]);
}

#[test]
fn networks_of_a_new_container() {
    let recorder = Recorder::start(json!({}));
    all_same(
        &recorder,
        "create x
        create --network n x
        create --network default x
        create --network container:abc x
        create --net n --network m x
        create --network bridge --network m x
        create --network name=n x
        create --network name=n,alias=a,alias=B,ip=10.0.0.5,ip6=fd00::1,mac-address=02:42:ac:11:00:05,link-local-ip=169.254.1.1,driver-opt=c=d,driver-opt=a=b,gw-priority=5 x
        create --network name=n,alias=a --network name=m,gw-priority=-2 --network k x
        create --network n --network-alias a --net-alias c --ip 1.2.3.4 --ip6 fd00::1 --link-local-ip 169.254.1.1 --mac-address 02-42-ac-11-00-05 --link x:y x
        create --network m --network n --ip 1.2.3.4 x
        create --network name=n,alias=a --network-alias b x
        create --network name=n,ip=1.2.3.4 --ip 1.2.3.4 x
        create --network name=n,ip6=fd00::1 --ip6 fd00::2 x
        create --network name=n,mac-address=02:42:ac:11:00:05 --mac-address 02:42:ac:11:00:06 x
        create --network name=n,link-local-ip=169.254.1.1 --link-local-ip 169.254.1.2 x
        create --network name=n,foo=bar x
        create --network name=n,foo x
        create --network alias=a x
        create --network name=n,gw-priority=x x
        create --network name=n,driver-opt=a x
        create --network name=n,\"driver-opt=a=b,c\" x
        create --network name=n,driver-opt=\"a=b\" x
        create --network name=n,mac-address=bogus x
        create --network n --network n x
        create --network-alias foo x
        create --network host --link a:b x
        create --link a:b:c x
        create -p 80 -p 8080:81/udp -p 127.0.0.1::82 -p [::1]:80:80 -p ::1:80:90 -p 8000-8002:100-102 -p 9000-9010:443 x
        create -p 80/xyz x
        create -p 8000-8001:80-82 x
        create -p host:80:80 x
        create -p 1.2.3.4:80 x
        create -p [::1]:80 x
        create -p published=8080,target=80,protocol=udp,mode=host x
        create -p a=1,b x
        create -P --expose 80 --expose 100-101/udp x
        create --expose 8080:80 x
        create --expose 99999 x
        create --expose 82-80 x
        create --dns 1.1.1.1 --dns ::1 --dns-search A.b. --dns-search . --dns-option ndots:1 --dns-opt timeout:3 x
        create --dns bogus x
        create --dns-search a..b x
        create --add-host a:1.2.3.4 --add-host b=[::1] --add-host d:host-gateway x
        create --add-host a x
        create --add-host a=b=c x",
    );
    same(&recorder, &["create", "--network", "", "x"]);
    same(&recorder, &["create", "-p", "", "x"]);
    same(&recorder, &["create", "--network", "n", "--network-alias", "", "x"]);
}

#[test]
fn what_engines_answer_is_shown_alike() {
    let container = json!({
        "Id": "c0",
        "Ports": {
            "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
            "443/tcp": null,
            "8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}],
            "9/udp": [{"HostIp": "::1", "HostPort": "9"}],
        },
    });
    let container = json!({"Id": "c0", "NetworkSettings": {"Ports": container["Ports"]}});
    let port = |ip: &str, private: u16, public: u16, kind: &str| json!({"IP": ip, "PrivatePort": private, "PublicPort": public, "Type": kind});
    let mut ports: Vec<Value> = (8000..8003)
        .flat_map(|number| ["0.0.0.0", "::"].map(|ip| port(ip, number, number, "tcp")))
        .collect();
    ports.extend([
        port("0.0.0.0", 80, 9000, "tcp"),
        port("::", 80, 9000, "tcp"),
        port("0.0.0.0", 8001, 8001, "udp"),
        port("::1", 8002, 8002, "udp"),
        port("0.0.0.0", 8004, 8004, "udp"),
        json!({"PrivatePort": 443, "Type": "tcp"}),
        json!({"PrivatePort": 444, "Type": "tcp"}),
    ]);
    let recorder = Recorder::start(json!({
        "DELETE /networks/b": [404, {"message": "network b not found"}],
        "DELETE /networks/c": [403, {"message": "network c has active endpoints"}],
        "GET /networks/g": [404, {"message": "network g not found"}],
        "GET /networks/i": [200, {"Name": "i", "Id": "ii", "Ingress": true}],
        "POST /networks/prune": [200, {"NetworksDeleted": ["x", "y"]}],
        "POST /networks/n/connect": [403, {"message": "no"}],
        "POST /networks/n/disconnect": [500, {"message": "no"}],
        "POST /networks/create": [409, {"message": "network with name x already exists"}],
        "GET /containers/n/json": [404, {"message": "No such container: n"}],
        "GET /images/n/json": [404, {"message": "No such image: n"}],
        "GET /containers/c/json": [200, container],
        "GET /containers/json": [200, [{
            "Id": "aaaaaaaaaaaaaaaaaaaa", "Names": ["/c1"], "Image": "i", "ImageID": "sha256:1",
            "Command": "x", "Created": 1, "Ports": ports, "Labels": {}, "State": "running",
            "Status": "Up", "HostConfig": {"NetworkMode": "b"},
            "NetworkSettings": {"Networks": {"b": {}}}, "Mounts": [],
        }]],
        "GET /networks": [200, [
            {"Name": "zz", "Id": "aaaaaaaaaaaaaaaaaaaaaaaaaa", "Created": "2024-01-02T03:04:05.678901234Z", "Scope": "local", "Driver": "bridge", "EnableIPv4": true, "Labels": {"com.x.some-name": "1"}},
            {"Name": "net10", "Id": "bbbbbbbbbbbbbbbbbbbbbb", "Created": "2024-01-02T03:04:05+02:00", "Scope": "swarm", "Driver": "macvlan", "EnableIPv6": true, "Internal": true, "Labels": null},
            {"Name": "net2", "Id": "cc", "Scope": "local", "Driver": "null"},
        ]],
    }));
    all_same(
        &recorder,
        "network rm a b c
        network rm -f b a
        network rm -f b c
        network rm i
        network prune -f
        network create x
        network connect n c
        network disconnect n c
        network inspect g n
        network inspect -f {{.Name}} n g n
        inspect n
        inspect --type network g
        inspect --type network n
        network ls
        network ls -q
        network ls -q --no-trunc
        network ls --format json
        network ls --format {{json .}}
        network ls --format raw
        network ls -q --format raw
        network ls -q --format {{.Name}}
        port c
        port c 80
        port c 443
        port c 80/xyz
        port c bogus
        port c 9/udp
        ps
        ps --format raw",
    );
    let table = "table {{.ID}}\t{{.Name}}\t{{.IPv4}}\t{{.IPv6}}\t{{.Internal}}\t{{.Labels}}\t\
                 {{.CreatedAt}}\t{{.Label \"com.x.some-name\"}}";
    same(&recorder, &["network", "ls", "--no-trunc", "--format", table]);
    same(&recorder, &["ps", "--format", "{{.Ports}}"]);
    let shown = recorder.run(&programs().join("hoy"), &["ps", "--format", "{{.Ports}}"]).run();
    let range = "0.0.0.0:8000-8002->8000-8002/tcp, [::]:8000-8002->8000-8002/tcp";
    assert!(shown.ok().contains(range), "{shown:?}");
}

#[test]
fn questions_are_asked_and_answers_heard() {
    let recorder = Recorder::start(json!({
        "POST /networks/prune": [200, {"NetworksDeleted": ["x"]}],
    }));
    for (answer, asked) in [("y\n", 1), ("Y\n", 1), ("n\n", 0), ("yes\n", 0), ("", 0)] {
        let outputs = [docker_cli(), programs().join("hoy")].map(|program| {
            let output = recorder.run(&program, &["network", "prune"]).input(answer).run();
            assert_eq!(recorder.requests().len(), asked, "{answer:?}");
            (output.code, output.stdout)
        });
        assert_eq!(outputs[0], outputs[1], "{answer:?}");
    }
}

/// The status and the body of a request by an independent client.
fn ask(daemon: &Daemon, method: &str, path: &str, headers: &[&str], body: &str) -> (u16, String) {
    let url = format!("http://d{path}");
    let mut args = vec!["-X", method, "-w", "\n%{http_code}", "-g", url.as_str()];
    for header in headers {
        args.extend(["-H", header]);
    }
    if !body.is_empty() {
        args.extend(["--data-binary", body]);
    }
    let output = daemon.curl(&args);
    let (text, status) = output.ok().trim_end().rsplit_once('\n').expect("a status");
    (status.parse().expect("a number"), text.trim().to_owned())
}

fn message(answer: &(u16, String)) -> String {
    let document: Value = serde_json::from_str(&answer.1).unwrap_or_default();
    document["message"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_daemons_doors() {
    let daemon = daemon();
    let json = "Content-Type: application/json";
    // Bodies that are none, by each route that takes one.
    for path in ["/networks/create", "/v1.50/networks/bridge/connect", "/networks/x/disconnect"] {
        for (header, body, says) in [
            (json, "", "EOF"),
            (json, "{", "invalid JSON"),
            (json, "{\"Name\":1,\"Container\":1}", "invalid JSON"),
            (json, "[1]", "invalid JSON"),
            ("Content-Type: text/foo", "{}", "unsupported Content-Type header (text/foo)"),
        ] {
            let answer = ask(&daemon, "POST", path, &[header], body);
            assert_eq!(answer.0, 400, "{path} {body}: {answer:?}");
            assert!(message(&answer).contains(says), "{path} {body}: {answer:?}");
        }
    }
    let list = |filters: &str| {
        let encoded: String = filters.bytes().map(|byte| format!("%{byte:02X}")).collect();
        ask(&daemon, "GET", &format!("/v1.50/networks?filters={encoded}"), &[], "")
    };
    let names = |answer: (u16, String)| -> Vec<String> {
        assert_eq!(answer.0, 200, "{answer:?}");
        let all: Value = serde_json::from_str(&answer.1).expect("JSON");
        let all = all.as_array().expect("a list").clone();
        assert!(all.iter().all(|network| network["Containers"] == json!({})), "{all:?}");
        let mut names: Vec<String> = all
            .iter()
            .map(|network| network["Name"].as_str().expect("a name").to_owned())
            .collect();
        names.sort_unstable();
        names
    };
    assert_eq!(names(list("{}")), ["bridge", "host", "none"]);
    assert_eq!(names(ask(&daemon, "GET", "/v1.41/networks/", &[], "")), ["bridge", "host", "none"]);
    assert_eq!(names(list(r#"{"name":["^b"]}"#)), ["bridge"]);
    assert_eq!(names(list(r#"{"driver":{"null":true,"host":true}}"#)), ["host", "none"]);
    assert_eq!(names(list(r#"{"type":["custom"]}"#)), [""; 0]);
    assert_eq!(names(list(r#"{"dangling":["false"]}"#)), ["bridge", "host", "none"]);
    assert_eq!(names(list(r#"{"scope":["swarm"]}"#)), [""; 0]);
    for (filters, says) in [
        (r#"{"foo":["x"]}"#, "invalid filter 'foo'"),
        (r#"{"type":["x"]}"#, "invalid filter: 'type'='x'"),
        (r#"{"dangling":["maybe"]}"#, "invalid value for filter 'dangling'"),
        ("[]", "invalid filter"),
    ] {
        let answer = list(filters);
        assert_eq!(answer.0, 400, "{filters}: {answer:?}");
        assert!(message(&answer).starts_with(says), "{filters}: {answer:?}");
    }
    for (filters, says) in [
        ("%7B%22foo%22:[%22x%22]%7D", "invalid filter 'foo'"),
        ("%7B%22until%22:[%22bogus%22]%7D", "failed to parse value as time or duration"),
        ("%7B%22until%22:[%221h%22,%222h%22]%7D", "more than one until filter specified"),
    ] {
        let answer = ask(&daemon, "POST", &format!("/networks/prune?filters={filters}"), &[], "");
        assert_eq!(answer.0, 400, "{filters}: {answer:?}");
        assert!(message(&answer).starts_with(says), "{filters}: {answer:?}");
    }
    for (method, path, status) in [
        ("GET", "/networks/nosuch", 404),
        ("GET", "/networks/bridge?verbose=x", 400),
        ("GET", "/networks/bridge?verbose=true", 200),
        ("DELETE", "/networks/nosuch", 404),
        ("PUT", "/networks/bridge", 404),
        ("POST", "/networks/bridge/nosuch", 404),
    ] {
        let answer = ask(&daemon, method, path, &[], "");
        assert_eq!(answer.0, status, "{method} {path}: {answer:?}");
    }
    assert_eq!(
        message(&ask(&daemon, "GET", "/networks/nosuch", &[], "")),
        "network nosuch not found"
    );
}

/// Both clients against the daemon itself.
#[test]
fn the_networks_that_are_always_there() {
    let daemon = daemon();
    for args in [
        &["network", "ls", "--no-trunc"][..],
        &["network", "ls", "-f", "driver=null", "--format", "{{json .}}"],
        &["network", "inspect", "bridge", "nosuch"],
        &["network", "inspect", "-f", "{{.Name}} {{.Driver}} {{.Scope}} {{json .IPAM}}", "none"],
        &["inspect", "--type", "network", "host"],
        &["network", "rm", "nosuch"],
        &["network", "rm", "-f", "nosuch"],
    ] {
        let [docker, hoy] = both(&daemon, args).map(|run| run.run());
        assert_eq!((docker.code, &docker.stdout), (hoy.code, &hoy.stdout), "{args:?}");
        let stderr = docker.stderr.replace("\nexit status 1\n", "\n");
        assert_eq!(stderr, hoy.stderr, "{args:?}");
    }
}
