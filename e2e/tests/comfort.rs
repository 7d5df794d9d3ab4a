//! What makes the command line and the daemon at home where Docker was: contexts, plugins,
//! endpoints, templates, completion and settings beside the real client on one daemon; TLS, sockets
//! of a service manager, settings read again, and hoy's socket where Docker's is absent.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use hoy_e2e::{both, daemon, give_busybox, pid};
use hoy_testkit::{Daemon, Run, docker_cli, programs, wait_until};

/// Both clients say the same, but for the program's name; tells all that differ. Some lines at once:
/// they wait more than they work.
#[track_caller]
fn all_same(daemon: &Daemon, lines: &str) {
    let lines: Vec<&str> = lines.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let wrong: String = std::thread::scope(|scope| {
        let compare =
            |part: &[&str]| part.iter().filter_map(|line| differs(daemon, line)).collect();
        let parts = lines.chunks(lines.len().div_ceil(4));
        let all: Vec<_> =
            parts.map(|part| scope.spawn(move || -> String { compare(part) })).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{wrong}");
}

/// What differs between the clients at this line.
fn differs(daemon: &Daemon, line: &str) -> Option<String> {
    // Words between these signs may have spaces in them.
    let parts = line.split('§').enumerate();
    let args: Vec<&str> = parts
        .flat_map(|(index, part)| match index % 2 {
            0 => part.split_whitespace().collect::<Vec<_>>(),
            _ => vec![part],
        })
        .collect();
    let [docker, hoy] = both(daemon, &args).map(Run::run);
    let plain = |text: &str| text.replace("docker", "hoy");
    let same = docker.code == hoy.code
        && plain(&docker.stdout) == plain(&hoy.stdout)
        && plain(&docker.stderr) == plain(&hoy.stderr);
    (!same).then(|| format!("{line}\ndocker {docker:?}\nhoy {hoy:?}\n"))
}

fn write_program(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Says what it got; with `wait` it waits for the end of the socket that it was told of.
const PLUGIN: &str = r#"#!/usr/bin/perl
use Socket;
$| = 1;
if (($ARGV[0] // '') eq 'docker-cli-plugin-metadata') {
    print '{"SchemaVersion":"0.1.0","Vendor":"Test","Version":"v1","ShortDescription":"Greets"}';
    exit;
}
if (($ARGV[1] // '') eq 'docker-cli-plugin-hooks') {
    print '{"Type":0,"Template":"after {{.Name}} {{flag . \"format\"}}{{arg . 0}}\nand"}';
    exit;
}
print "args: @ARGV\nhost: $ENV{DOCKER_HOST} builder: $ENV{BUILDX_BUILDER}\n";
exit 7 if "@ARGV" =~ /fail/;
exit unless "@ARGV" =~ /wait/;
$SIG{TERM} = 'IGNORE';
my $name = $ENV{DOCKER_CLI_PLUGIN_SOCKET};
$name =~ s/^@/\0/;
socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die;
connect($s, pack_sockaddr_un($name)) or die "connect: $!";
print "waiting\n";
my $read = sysread($s, my $byte, 1);
print "told ", $read // $!, "\n";
exit 9;
"#;

#[test]
fn the_client_at_home() {
    let daemon = daemon();
    let hello = [
        "create",
        "--name",
        "c1",
        "--label",
        "a=b",
        "--label",
        "com.x-y.z=1",
        "busybox",
        "sleep",
        "9",
    ];
    daemon.docker(&hello).run().ok();
    daemon.docker(&["volume", "create", "--label", "k=v", "v1"]).run().ok();
    let client = daemon.path("client");
    write_program(&client.join("cli-plugins/docker-greet"), PLUGIN);
    write_program(&client.join("cli-plugins/docker-buildx"), PLUGIN);
    write_program(&client.join("cli-plugins/docker-broken"), "#!/bin/sh\nexit 1\n");
    templates(&daemon);
    plugins(&daemon);
    contexts(&daemon);
    endpoints(&daemon);
    completion(&daemon);
    settings(&daemon);
}

fn templates(daemon: &Daemon) {
    all_same(
        daemon,
        "ps -a --format §{{.Names}} {{.Image}} {{.Command}} {{.State}}§
        ps -a --format §table {{.Names}}\\t{{.Image}}§
        ps -a --format §table {{.Names}}\\t{{.Label \"a\"}}\\t{{.Label \"com.x-y.z\"}}§
        ps -a --format §{{json .Names}} {{json .Labels}}§
        ps -a --format §{{upper .Names}} {{lower .Image}} {{title .State}} {{len .Names}}§
        ps -a --format §{{pad .Names 2 3}}x {{truncate .Names 1}}§
        ps -a --format §{{join (split .Labels \",\") \";\"}}§
        ps -a --format §{{range split .Labels \",\"}}[{{.}}]{{else}}none{{end}}§
        ps -a --format §{{range $i, $l := split .Labels \",\"}}{{if $i}}, {{end}}{{$i}}={{$l}}{{end}}§
        ps -a --format §{{if eq .State \"created\"}}new{{else if ne .State \"x\"}}other{{end}}§
        ps -a --format §{{with .Label \"a\"}}has {{.}}{{else}}no{{end}}{{with .Label \"q\"}}{{.}}{{else}} none{{end}}§
        ps -a --format §{{printf \"%-8s/%5s/%q/%v\" .Names .State .Image true}}§
        ps -a --format §{{printf \"%05d %x %t %.2f %%\" 42 255 true 1.5}}§
        ps -a --format §{{print 1 2 \"a\" \"b\" 3}} {{println .Names \"x\"}}§
        ps -a --format §{{$n := .Names}}{{$n}}{{$n = \"y\"}}{{$n}}{{/* nothing */}}§
        ps -a --format §{{- .Names -}}   {{.State}}§
        ps -a --format §{{and .Names .State}} {{or \"\" .Names}} {{not .Names}} {{and true false}}§
        ps -a --format §{{lt 1 2}}{{le 2 2}}{{gt 1 2}}{{ge 1 2}}{{ne 1 2}}{{eq 1 2 1}}§
        ps -a --format §{{index (split .Labels \",\") 0}}§
        ps -a --format §{{.Names | printf \"%s-%s\" \"x\" | upper}}§
        ps -a --format §{{html \"<a>\"}} {{urlquery \"a b&c\"}} {{js \"it's\"}}§
        ps -a --format §a\\tb\\n{{.Names}}§
        ps -a -q --no-trunc --format §{{.Names}}§
        inspect -f §{{.Name}} {{.Config.Image}} {{.State.Status}} {{.HostConfig.NetworkMode}}§ c1
        inspect -f §{{json .Config.Labels}} {{json .Config.Cmd}}§ c1
        inspect -f §{{range .Config.Cmd}}{{.}};{{end}}{{index .Config.Labels \"a\"}}§ c1
        inspect -f §{{range $k, $v := .Config.Labels}}{{$k}}={{println $v}}{{end}}§ c1
        inspect -f §{{len .Config.Cmd}} {{index .Config.Cmd 1}} {{.Config.Labels.nope}}§ c1
        inspect -f §{{join .Config.Cmd \" \"}} {{.State.Running}} {{.State.ExitCode}}§ c1
        inspect -f §{{if .State.Running}}up{{else}}down{{end}} {{.RestartCount}}§ c1
        inspect -f §{{.NetworkSettings.Networks.bridge.NetworkID}}§ nope
        inspect -f §{{.Nope§ c1
        volume ls --format §{{.Name}}:{{.Driver}}:{{.Labels}}:{{.Label \"k\"}}§
        volume inspect -f §{{.Name}} {{.Labels.k}} {{json .Labels}}§ v1
        network ls --format §{{.Name}} {{.Driver}} {{.Internal}} {{.IPv6}}§
        network inspect -f §{{range .IPAM.Config}}{{.Subnet}} {{end}}{{.Driver}}§ bridge
        images --format §{{.Repository}}:{{.Tag}}§
        version -f §{{.Server.Os}} {{.Client.Context}}§
        info -f §{{.Driver}} {{.Containers}} {{join .Plugins.Network \"/\"}}§",
    );
}

fn plugins(daemon: &Daemon) {
    all_same(
        daemon,
        "greet a --b c
        -D greet fail
        help greet
        greet --help
        broken
        build -t x .
        image build .
        builder prune --force
        buildx ls
        info -f §{{range .ClientInfo.Plugins}}{{.Name}};{{end}}§
        __completeNoDesc gre",
    );
    let help = daemon.hoy(&["help"]).run();
    let text = help.ok();
    assert!(
        text.contains("\n  greet*      Greets\n") && text.contains("\nInvalid Plugins:\n  broken "),
        "{text}"
    );
    hooks(daemon);
    // Our engine is where Docker's rules do not look: a plugin is told.
    let own = Run::new(programs().join("hoy"))
        .args(["greet", "x"])
        .env("HOY_HOST", daemon.host())
        .env("DOCKER_HOST", "")
        .env("DOCKER_CONFIG", daemon.path("client"))
        .run();
    assert!(own.ok().contains(&format!("host: {} ", daemon.host())), "{own:?}");
    // One that waits is told of the end by the socket, and its code is ours.
    let mut child = daemon.hoy(&["greet", "wait"]).spawn();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(out.any(|line| line == "waiting"));
    Run::new("kill").args(["-TERM", &child.id().to_string()]).run().ok();
    assert_eq!(out.next().as_deref(), Some("told 0"));
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

/// What a plugin has to say after a command, on a terminal alone.
fn hooks(daemon: &Daemon) {
    let file = daemon.path("client/config.json");
    let text = r#"{"features": {"hooks": "true"}, "plugins": {"greet": {
        "hooks": "container ls,volume", "error-hooks": "ps"}}}"#;
    std::fs::write(&file, text).unwrap();
    let say = |program: &Path, line: &str| {
        let whole = format!("{} {line}", program.display());
        let run = Run::new("script").args(["-qec", &whole, "/dev/null"]);
        let run = run.env("DOCKER_HOST", daemon.host()).env("HOY_HOST", daemon.host());
        run.env("DOCKER_CONFIG", daemon.path("client")).run().stdout
    };
    let (docker, hoy) = (docker_cli(), programs().join("hoy"));
    for line in
        ["container ps -aq --format {{.Names}}", "volume ls -q --format {{.Name}} ", "ps -aq"]
    {
        assert_eq!(say(&docker, line), say(&hoy, line), "{line}");
    }
    let said = say(&hoy, "container ps --all --format {{.Names}}");
    let lines = "c1\r\n\x1b[1m\r\nWhat's next:\x1b[0m\r\n    after ls {{.Names}}\r\n    and\r\n";
    assert_eq!(said, lines);
    // Docker's newer clients know hooks for what has failed.
    assert!(say(&hoy, "ps --format {{.Nope}}").contains("    after ps {{.Nope}}\r\n"));
    assert!(!daemon.hoy(&["container", "ps"]).run().stderr.contains("next"));
    std::fs::remove_file(file).unwrap();
}

fn contexts(daemon: &Daemon) {
    let home = daemon.path("contexts");
    let say = |program: &Path, args: &[&str]| {
        let run =
            Run::new(program).args(args).env("DOCKER_CONFIG", &home).env("HOY_AUTOSTART", "0");
        run.env("DOCKER_HOST", "").env("HOY_HOST", "").run()
    };
    let (docker, hoy) = (docker_cli(), programs().join("hoy"));
    let host = format!("host={}", daemon.host());
    say(&hoy, &["context", "create", "ours", "--docker", &host, "--description", "by hoy"]).ok();
    say(&docker, &["context", "create", "theirs", "--docker", &host]).ok();
    // Each knows what the other has written, and uses it.
    for args in [
        &["context", "inspect", "ours", "theirs"][..],
        &["context", "ls", "-q"],
        &["context", "use", "nope"],
        &["context", "create", "ours"],
        &["context", "rm", "default", "nope"],
        &["--context", "ours", "ps", "-a", "--format", "{{.Names}}"],
        &["-c", "theirs", "version", "-f", "{{.Client.Context}}"],
        &["-c", "gone", "ps"],
        &["-c", "ours", "-H", "unix:///x", "ps"],
    ] {
        let [theirs, ours] = [&docker, &hoy].map(|program| say(program, args));
        assert_eq!((theirs.code, &theirs.stdout), (ours.code, &ours.stdout), "{args:?}");
        assert_eq!(
            theirs.stderr.replace("docker", "hoy"),
            ours.stderr.replace("docker", "hoy"),
            "{args:?}"
        );
    }
    say(&hoy, &["context", "use", "theirs"]).ok();
    assert_eq!(say(&docker, &["context", "show"]).ok(), "theirs\n");
    assert_eq!(say(&docker, &["ps", "-aq", "--filter", "name=c1"]).ok().len(), 13);
    let file = home.join("x.tar").display().to_string();
    say(&docker, &["context", "export", "ours", &file]).ok();
    say(&hoy, &["context", "import", "again", &file]).ok();
    assert!(say(&docker, &["context", "inspect", "again"]).ok().contains(&daemon.host()));
    // A zip file, as other programs write them.
    let zip = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/cli/golden/context.zip");
    let [theirs, ours] = [(&docker, "zip1"), (&hoy, "zip2")].map(|(program, name)| {
        say(program, &["context", "import", name, zip]).ok();
        let format = "{{json .Metadata}} {{json .Endpoints}} {{json .TLSMaterial}}";
        say(&docker, &["context", "inspect", "-f", format, name]).ok().replace(name, "zip")
    });
    assert_eq!(theirs, ours);
    assert!(ours.contains("from a zip") && ours.contains("ca.pem"), "{ours}");
    say(&hoy, &["context", "rm", "zip1", "zip2"]).ok();
    assert!(say(&hoy, &["context", "rm", "theirs"]).fails_with(1).stderr.contains("is in use"));
    say(&hoy, &["context", "rm", "-f", "theirs", "again", "ours"]).ok();
    assert_eq!(say(&docker, &["context", "ls", "-q"]).ok(), "default\n");
}

/// By a program that leads there: the remote end is `system dial-stdio`.
fn endpoints(daemon: &Daemon) {
    let bin = daemon.path("bin");
    // What sshd would do with the last words.
    let ssh = "#!/bin/sh\nwhile [ \"$1\" != far ]; do shift; done\nshift\nexec sh -c \"$*\"\n";
    write_program(&bin.join("ssh"), ssh);
    for name in ["hoy", "docker"] {
        std::os::unix::fs::symlink(programs().join("hoy"), bin.join(name)).unwrap();
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    for program in [docker_cli(), programs().join("hoy")] {
        let run = |args: &[&str]| {
            let run = Run::new(&program).args(["-H", "ssh://me@far:2222"]).args(args);
            run.env("PATH", &path).env("DOCKER_HOST", daemon.host()).env("HOY_HOST", "").run()
        };
        assert_eq!(run(&["ps", "-a", "--format", "{{.Names}}"]).ok(), "c1\n");
        assert_eq!(run(&["run", "--rm", "busybox", "echo", "by ssh"]).ok(), "by ssh\n");
    }
    let ask = "GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let said = daemon.hoy(&["system", "dial-stdio"]).input(ask).run();
    assert!(said.ok().starts_with("HTTP/1.1 200 OK\r\n") && said.stdout.ends_with("OK"));
}

fn completion(daemon: &Daemon) {
    all_same(
        daemon,
        "__completeNoDesc start §§
        __completeNoDesc rm c
        __completeNoDesc rename §§
        __completeNoDesc volume rm §§
        __completeNoDesc context use ",
    );
    let words = |args: &[&str]| daemon.hoy(args).run().ok().to_owned();
    assert_eq!(words(&["__completeNoDesc", "start", ""]), "c1\n:4\n");
    assert_eq!(words(&["__complete", "run", "--publish-"]).lines().count(), 2);
    let script = words(&["completion", "bash"]);
    let line = format!(
        "{script}\nhoy() {{ {}/hoy \"$@\"; }}; compopt() {{ :; }}
        ask() {{ COMP_LINE=$1 COMP_POINT=${{#1}} COMP_CWORD=$2; shift 2; COMP_WORDS=(\"$@\"); _hoy; echo \"${{COMPREPLY[*]}}\"; }}
        ask 'hoy start ' 2 hoy start ''
        ask 'hoy run --link=c1:' 5 hoy run --link = c1 :
        ask 'hoy run --network=br' 4 hoy run --network = br
        ask 'docker -D cp c' 3 docker -D cp c",
        programs().display()
    );
    let env = |run: Run| run.env("HOY_HOST", daemon.host());
    let shown = env(Run::new("bash").args(["--norc", "-c", &line])).run();
    // Behind the last sign at which bash cuts a word.
    assert_eq!(shown.ok(), "c1\n\nbridge\nc1:\n", "{shown:?}");
}

fn settings(daemon: &Daemon) {
    let text = r#"{
        "psFormat": "{{.Names}} by psFormat", "volumesFormat": "table {{.Name}}\\t{{.Driver}}",
        "networksFormat": "{{.Name}}", "imagesFormat": "{{.Repository}}", "HttpHeaders": {"X-A": "b"},
        "proxies": {"default": {"httpProxy": "http://p:1", "noProxy": "n"}}
    }"#;
    std::fs::write(daemon.path("client/config.json"), text).unwrap();
    all_same(
        daemon,
        "ps -a
        ps -aq
        volume ls
        network ls
        images
        ps -a --format §{{.Image}}§",
    );
    let run =
        ["run", "--rm", "-e", "NO_PROXY=own", "busybox", "sh", "-c", "env | grep -i _proxy | sort"];
    let [docker, hoy] = both(daemon, &run).map(Run::run);
    assert_eq!(docker.ok(), hoy.ok());
    assert_eq!(hoy.stdout.lines().count(), 4);
    std::fs::remove_file(daemon.path("client/config.json")).unwrap();
}

/// A certificate authority, a server and a client.
fn certificates(directory: &Path) {
    std::fs::create_dir_all(directory).unwrap();
    let script = r#"
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=ca -days 2 -keyout ca.key -out ca.pem
        for who in server client; do
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=$who -keyout $who.key -out $who.csr
            printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n' > ext
            openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out $who.pem
        done
        mkdir client; cp ca.pem client/ca.pem; mv client.pem client/cert.pem; mv client.key client/key.pem
        mkdir bare; cp ca.pem bare/
    "#;
    Run::new("sh").args(["-ec", &format!("cd {}\n{script}", directory.display())]).run().ok();
}

#[test]
fn the_daemon_at_home() {
    let mut daemon = Daemon::prepare(&[]);
    let pki = daemon.path("pki");
    certificates(&pki);
    let config = daemon.path("daemon.json");
    std::fs::write(&config, r#"{"labels": ["a=1"]}"#).unwrap();
    let file = |name: &str| pki.join(name).display().to_string();
    let arguments = [
        "--config-file".to_owned(),
        config.display().to_string(),
        "--host=tcp://127.0.0.1:2376".to_owned(),
        "--tlsverify".to_owned(),
        format!("--tlscacert={}", file("ca.pem")),
        format!("--tlscert={}", file("server.pem")),
        format!("--tlskey={}", file("server.key")),
    ];
    daemon.set_arguments(&arguments.each_ref().map(String::as_str));
    daemon.launch();
    give_busybox(&daemon);
    tls(&daemon, &pki);
    socket_of_docker(&daemon);
    // What may change while it runs.
    let labels =
        |daemon: &Daemon| daemon.docker(&["info", "-f", "{{json .Labels}}"]).run().ok().to_owned();
    assert_eq!(labels(&daemon), "[\"a=1\"]\n");
    let hangup = |text: &str| {
        std::fs::write(&config, text).unwrap();
        Run::new("kill").args(["-HUP", &daemon.pid().to_string()]).run().ok();
    };
    hangup(r#"{"labels": ["a=2"], "default-shm-size": "1m"}"#);
    wait_until("the new label", || labels(&daemon) == "[\"a=2\"]\n");
    let size = ["run", "--rm", "busybox", "sh", "-c", "df -k /dev/shm | tail -1"];
    assert!(daemon.docker(&size).run().ok().contains(" 1024 "));
    hangup(r#"{"labels": "#);
    wait_until("it complains", || daemon.log().contains("settings stay as they are"));
    assert_eq!(labels(&daemon), "[\"a=2\"]\n");
    let filter = ["events", "--since", "1", "--until", "0s", "--filter", "event=reload"];
    let told = || daemon.docker(&filter).args(["--format", "{{json .}}"]).run().ok().to_owned();
    // Its end is a whole second, by the client's clock.
    wait_until("the event", || told().contains(r#"\"a=2\""#));
    assert_eq!(told().lines().count(), 1);
    // The file is looked at without a daemon.
    let hoyd = |args: &[&str]| Run::new(programs().join("hoyd")).args(args).run();
    let path = config.display().to_string();
    assert!(
        hoyd(&["--validate", "--config-file", &path]).fails_with(1).stderr.contains("not JSON")
    );
    std::fs::write(&config, r#"{"mtu": 1400}"#).unwrap();
    assert_eq!(hoyd(&["--validate", "--config-file", &path]).ok(), "configuration OK\n");
}

fn tls(daemon: &Daemon, pki: &Path) {
    let net = format!("--net={}", daemon.netns().path());
    let ask = |program: &Path, certs: &str, more: &[&str], args: &[&str]| {
        let host = ["-H", "tcp://127.0.0.1:2376"];
        let run =
            Run::new("nsenter").args([net.as_str(), "--"]).args([program]).args(host).args(more);
        run.args(args)
            .env("DOCKER_CERT_PATH", pki.join(certs))
            .env("DOCKER_CONFIG", daemon.path("none"))
            .run()
    };
    for program in [docker_cli(), programs().join("hoy")] {
        let run = ask(
            &program,
            "client",
            &["--tlsverify"],
            &["run", "--rm", "busybox", "echo", "by TLS"],
        );
        assert_eq!(run.ok(), "by TLS\n");
        let typed = ask(&program, "client", &["--tls"], &["version", "-f", "{{.Server.Os}}"]);
        assert_eq!(typed.ok(), "linux\n");
        // Without a certificate, and without TLS.
        ask(&program, "bare", &["--tlsverify"], &["ps"]).fails_with(1);
        ask(&program, "bare", &[], &["ps"]).fails_with(1);
        let missing = ask(&program, "nowhere", &["--tlsverify"], &["ps"]);
        let says = "unable to resolve docker endpoint: open ";
        assert!(missing.fails_with(1).stderr.contains(says), "{missing:?}");
    }
}

/// A program that looks for Docker's socket finds ours, where there is no other.
fn socket_of_docker(daemon: &Daemon) {
    let path = "/var/run/docker.sock";
    if std::fs::symlink_metadata(path).is_ok() {
        return;
    }
    let volume = format!("{path}:{path}:ro");
    daemon
        .docker(&["run", "-d", "--name", "watcher", "-v", &volume, "busybox", "sleep", "999"])
        .run()
        .ok();
    let inside = format!("/proc/{}/root{path}", pid(daemon, "watcher"));
    let said = Run::new("curl")
        .args(["--silent", "--unix-socket", &inside, "http://d/containers/watcher/json"])
        .run();
    assert!(said.ok().contains("\"Name\":\"/watcher\""), "{said:?}");
    let mount = ["inspect", "-f", "{{(index .Mounts 0).Source}}", "watcher"];
    assert_eq!(daemon.docker(&mount).run().ok(), format!("{path}\n"));
    let typed = format!("type=bind,src={path},dst=/s,ro");
    daemon.docker(&["run", "--rm", "--mount", &typed, "busybox", "test", "-S", "/s"]).run().ok();
    assert!(std::fs::symlink_metadata(path).is_err(), "nothing is made on the host");
}

/// The socket is a service manager's: it is there before the daemon and after it.
#[test]
fn a_socket_of_the_service_manager() {
    let mut daemon = Daemon::prepare(&[]);
    let folder = daemon.path("programs");
    let wrapper = format!(
        r#"#!/usr/bin/perl
use Socket;
use POSIX;
$^F = 9;
my @words = grep {{ !/^unix:/ && $_ ne '--host' }} @ARGV;
unlink '{socket}';
socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die;
bind($s, pack_sockaddr_un('{socket}')) or die;
listen($s, 16) or die;
POSIX::dup2(fileno($s), 3) or die;
@ENV{{qw(LISTEN_PID LISTEN_FDS)}} = ($$, 1);
exec '{hoyd}', @words, '--host', 'fd://' or die;
"#,
        socket = daemon.path("sock").display(),
        hoyd = programs().join("hoyd").display(),
    );
    write_program(&folder.join("hoyd"), &wrapper);
    daemon.use_programs(folder);
    daemon.launch();
    give_busybox(&daemon);
    assert_eq!(daemon.hoy(&["run", "--rm", "busybox", "echo", "hi"]).run().ok(), "hi\n");
    let hosts = daemon.log();
    assert!(hosts.contains("fd://"), "{hosts}");
    assert_eq!(daemon.terminate(), Some(0));
    assert!(daemon.path("sock").exists(), "it is not the daemon's to remove");
}
