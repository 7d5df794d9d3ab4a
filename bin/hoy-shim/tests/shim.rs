//! A real shim with real containers: their output, their ends, and what remains of them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, and prints its figures"
)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use common::{
    Place, attach_request, exec_request, exists, log_helpers, netns, signal, unframe, wait_until,
};
use hoy_runtime::FailureReason;
use hoy_shim::message::{Event, ExitRecord, LogPlan, Reply, Request, Status};
use rustix::process::Signal;

fn read_all(mut client: std::os::unix::net::UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn to_its_exit_with_output_in_log_and_attachment() {
    let place = Place::new();
    let mut shim = place.shim("a");
    assert_eq!(shim.status(), Status::New);
    let client = shim.attach(attach_request(false, true));
    let pid = shim.start(place.start_request("a", "echo out; echo err >&2; exit 7"));
    let record = shim.exited();
    assert_eq!((record.code, record.pid, record.oom_killed), (7, pid, false));
    assert!(record.started_at <= record.finished_at);
    assert_eq!(ExitRecord::read(&place.path("a")), Some(record.clone()));
    assert_eq!(shim.status(), Status::Exited(record));
    let (stdout, stderr) = unframe(&read_all(client));
    assert_eq!((stdout.as_slice(), stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    let mut lines: Vec<String> = place.log_text("a").lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["err", "out"]);
    shim.release();
    assert!(place.find("a").is_none());
    assert!(std::fs::read_dir(place.path("shims")).unwrap().next().is_none());
}

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    let place = Place::new();
    let mut shim = place.shim("a");
    let mut request = place.start_request("a", "");
    request.plan.process.args = vec!["nosuch".to_owned()];
    match shim.call(Request::Start(Box::new(request)), &[netns().as_fd()]) {
        Reply::Failed(failure) => {
            assert_eq!(failure.reason, FailureReason::NotFound);
            assert!(failure.message.contains("nosuch"), "{}", failure.message);
        }
        other => panic!("started: {other:?}"),
    }
    wait_until("the shim is gone", || !exists(shim.pid));
    assert!(place.find("a").is_none());
    // The next attempt is a new one.
    let mut shim = place.shim("a");
    shim.start(place.start_request("a", "true"));
    assert_eq!(shim.exited().code, 0);
    shim.release();
}

#[test]
fn input_until_half_close_and_then_the_output() {
    let place = Place::new();
    let mut shim = place.shim("a");
    let mut attach = attach_request(true, false);
    attach.early = b"early ".to_vec();
    let mut client = shim.attach(attach);
    let mut request = place.start_request("a", "cat; echo end");
    (request.open_stdin, request.stdin_once) = (true, true);
    shim.start(request);
    let input: Vec<u8> = (0..300_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    let sender = {
        let mut client = client.try_clone().unwrap();
        let input = input.clone();
        std::thread::spawn(move || {
            client.write_all(&input).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        })
    };
    let mut output = Vec::new();
    client.read_to_end(&mut output).unwrap();
    sender.join().unwrap();
    let expected = [b"early ", input.as_slice(), b"end\n"].concat();
    assert!(output == expected, "{} of {} bytes", output.len(), expected.len());
    assert_eq!(shim.exited().code, 0);
    shim.release();
}

#[test]
fn input_of_a_client_that_hangs_up_is_not_lost() {
    let place = Place::new();
    let mut shim = place.shim("a");
    let mut request = place.start_request("a", "wc -c");
    (request.open_stdin, request.stdin_once) = (true, true);
    shim.start(request);
    let mut client = shim.attach(attach_request(true, false));
    client.write_all(&[b'x'; 150_000]).unwrap();
    drop(client);
    assert_eq!(shim.exited().code, 0);
    assert_eq!(place.log_text("a").trim(), "150000");
    shim.release();
}

#[test]
fn a_terminal_with_resize_detach_and_reattach() {
    let place = Place::new();
    let mut shim = place.shim("a");
    let mut request = place.start_request(
        "a",
        "echo ready; while read line; do case $line in size) stty size;; \
         *) echo got $line;; esac; done; echo bye",
    );
    request.open_stdin = true;
    request.plan.process.tty = true;
    request.plan.process.console_size = Some((24, 80));
    let mut attach = attach_request(true, false);
    attach.detach_keys = vec![16, 17];
    let mut client = shim.attach(attach.clone());
    shim.start(request);
    let expect = |client: &mut std::os::unix::net::UnixStream, wanted: &str| {
        let mut seen = Vec::new();
        let mut buffer = [0; 1024];
        while !String::from_utf8_lossy(&seen).contains(wanted) {
            let length = client.read(&mut buffer).unwrap();
            assert!(length > 0, "end before {wanted}: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&buffer[..length]);
        }
    };
    expect(&mut client, "ready\r\n");
    client.write_all(b"one\n").unwrap();
    // The terminal echoes, and ends lines as terminals do.
    expect(&mut client, "one\r\ngot one\r\n");
    shim.done(Request::Resize { exec: None, rows: 50, columns: 132 });
    client.write_all(b"size\n").unwrap();
    expect(&mut client, "50 132");
    client.write_all(b"\x10").unwrap();
    client.write_all(b"\x11").unwrap();
    assert_eq!(shim.event(), Event::Detached { exec: None });
    read_all(client);
    let mut again = shim.attach(attach);
    again.write_all(b"three\n").unwrap();
    expect(&mut again, "got three\r\n");
    again.write_all(b"\x04").unwrap();
    expect(&mut again, "bye\r\n");
    assert_eq!(shim.exited().code, 0);
    read_all(again);
    shim.release();
}

#[test]
fn a_daemon_that_is_killed_is_not_noticed() {
    let place = Place::new();
    let mut shim = place.shim("a");
    let pid = shim.start(place.start_request(
        "a",
        "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done; \
                                  sleep 0.3; exit 3",
    ));
    let shim_pid = shim.pid;
    // As SIGKILL does: every descriptor at once, without a word.
    drop(shim);
    let mut again = place.find("a").expect("the shim goes on");
    assert_eq!(again.pid, shim_pid);
    match again.status() {
        Status::Running { pid: found, paused, .. } => assert_eq!((found, paused), (pid, false)),
        other => panic!("not running: {other:?}"),
    }
    drop(again);
    // It ends meanwhile: the record says how.
    wait_until("the shim is gone", || !exists(shim_pid));
    let record = ExitRecord::read(&place.path("a")).expect("an exit record");
    assert_eq!((record.code, record.pid), (3, pid));
    let expected: String = (0..20000).map(|n| format!("{n}\n")).collect();
    assert!(place.log_text("a") == expected);
    assert!(place.find("a").is_none());
}

#[test]
fn execs_with_codes_input_and_a_terminal() {
    let place = Place::new();
    let mut shim = place.shim("a");
    shim.start(place.start_request("a", "exec sleep 100"));
    let request =
        exec_request("one", "echo out; echo err >&2; exit 5", Some(attach_request(false, true)));
    let (_, client) = shim.exec(request);
    let (stdout, stderr) = unframe(&read_all(client.unwrap()));
    assert_eq!((stdout.as_slice(), stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!(shim.event(), Event::ExecExited { id: "one".to_owned(), code: 5 });
    // Detached, several at once.
    for number in 0..5 {
        shim.exec(exec_request(&number.to_string(), &format!("exit {number}"), None));
    }
    let mut codes: Vec<i32> = (0..5)
        .map(|_| match shim.event() {
            Event::ExecExited { id, code } => {
                assert_eq!(id, code.to_string());
                code
            }
            other => panic!("{other:?}"),
        })
        .collect();
    codes.sort_unstable();
    assert_eq!(codes, [0, 1, 2, 3, 4]);
    // Input, half-closed.
    let (_, client) = shim.exec(exec_request("in", "wc -c", Some(attach_request(true, false))));
    let mut client = client.unwrap();
    client.write_all(&[b'x'; 100_000]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(client), b"100000\n");
    assert!(matches!(shim.event(), Event::ExecExited { code: 0, .. }));
    // A terminal of its own.
    let mut request = exec_request("tty", "stty size; exit 2", Some(attach_request(true, false)));
    request.plan.process.tty = true;
    request.plan.process.console_size = Some((10, 20));
    let (_, client) = shim.exec(request);
    assert_eq!(read_all(client.unwrap()), b"10 20\r\n");
    assert!(matches!(shim.event(), Event::ExecExited { code: 2, .. }));
    // One outlives its client, and the container ends it.
    let (pid, client) =
        shim.exec(exec_request("long", "sleep 100", Some(attach_request(false, true))));
    drop(client);
    match shim.status() {
        Status::Running { execs, .. } => {
            assert!(execs.iter().any(|exec| exec.id == "long" && exec.code.is_none()));
            assert!(execs.iter().any(|exec| exec.id == "one" && exec.code == Some(5)));
        }
        other => panic!("not running: {other:?}"),
    }
    assert!(exists(pid));
    // What cannot be started is told, and harms nothing.
    let mut request = exec_request("no", "", None);
    request.plan.process.args = vec!["nosuch".to_owned()];
    match shim.call(Request::Exec(Box::new(request)), &[]) {
        Reply::Failed(failure) => assert_eq!(failure.reason, FailureReason::NotFound),
        other => panic!("started: {other:?}"),
    }
    shim.done(Request::Kill { signal: 9, all: false });
    let (mut ended, mut exited) = (false, false);
    while !(ended && exited) {
        match shim.event() {
            Event::ExecExited { id, code } => {
                assert_eq!((id.as_str(), code), ("long", 137));
                ended = true;
            }
            Event::Exited(record) => {
                assert_eq!(record.code, 137);
                exited = true;
            }
            other => panic!("{other:?}"),
        }
    }
    shim.release();
}

#[test]
fn a_client_that_never_reads_slows_but_loses_nothing() {
    let place = Place::new();
    let mut shim = place.shim("a");
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let client = shim.attach(attach_request(false, false));
            std::thread::spawn(move || read_all(client))
        })
        .collect();
    let silent = shim.attach(attach_request(false, false));
    let mut request = place.start_request("a", "seq 1 500000");
    request.log = LogPlan::None;
    shim.start(request);
    // As in a pipe, the container waits for the slowest.
    std::thread::sleep(Duration::from_millis(300));
    assert!(matches!(shim.status(), Status::Running { .. }));
    drop(silent);
    assert_eq!(shim.exited().code, 0);
    let expected: String = (1..=500_000).map(|n| format!("{n}\n")).collect();
    for reader in readers {
        assert!(reader.join().unwrap() == expected.as_bytes());
    }
    shim.release();
}

#[test]
fn the_exit_is_told_before_a_slow_client_has_read_everything() {
    let place = Place::new();
    let mut shim = place.shim("a");
    let client = shim.attach(attach_request(false, false));
    shim.start(place.start_request("a", "seq 1 60000"));
    assert_eq!(shim.exited().code, 0);
    shim.done(Request::Release);
    let expected: String = (1..=60_000).map(|n| format!("{n}\n")).collect();
    assert!(read_all(client) == expected.as_bytes());
    wait_until("the shim is gone", || !exists(shim.pid));
}

#[test]
fn pause_resume_signals_and_a_kill_while_paused() {
    let place = Place::new();
    let mut shim = place.shim("a");
    shim.start(place.start_request("a", "trap 'echo hup' HUP; while :; do sleep 0.01; done"));
    wait_until("the trap is set", || {
        shim.done(Request::Kill { signal: 1, all: false });
        place.log_text("a").contains("hup") || matches!(shim.status(), Status::Exited(_))
    });
    shim.done(Request::Pause);
    assert!(matches!(shim.status(), Status::Running { paused: true, .. }));
    shim.done(Request::Resume);
    assert!(matches!(shim.status(), Status::Running { paused: false, .. }));
    shim.done(Request::Pause);
    shim.call(Request::Kill { signal: 9, all: true }, &[]);
    assert_eq!(shim.exited().code, 137);
    match shim.call(Request::Kill { signal: 9, all: true }, &[]) {
        Reply::Failed(failure) => assert_eq!(failure.reason, FailureReason::State),
        other => panic!("{other:?}"),
    }
    shim.release();
}

#[test]
fn memory_kill_is_on_record() {
    let place = Place::new();
    let mut shim = place.shim("a");
    let mut request = place.start_request("a", "exec dd if=/dev/zero of=/dev/null bs=64M count=2");
    request.plan.cgroup.limits.memory = Some(hoy_cgroup::Bound::At(16 << 20));
    shim.start(request);
    let record = shim.exited();
    assert_eq!((record.code, record.oom_killed), (137, true));
    shim.release();
}

#[test]
fn a_blocked_disk_stalls_neither_exec_nor_output_and_the_log_says_so() {
    let place = Place::new();
    let mut shim = place.shim("a");
    let until = |name: &str| format!("while [ ! -e /tmp/{name} ]; do sleep 0.01; done");
    let script = format!(
        "echo begin; {}; seq 1 1000000; : > /tmp/done; {}; echo end",
        until("go"),
        until("end"),
    );
    shim.start(place.start_request("a", &script));
    wait_until("the log has begun", || place.log_text("a").contains("begin"));
    let [helper] = log_helpers(shim.pid)[..] else { panic!("one helper") };
    // It has nothing of the shim's but its socket.
    let fds = std::fs::read_dir(format!("/proc/{helper}/fd")).unwrap().count();
    assert!(fds <= 5, "{fds} descriptors");
    // As if its disk were blocked.
    signal(helper, Signal::STOP);
    shim.exec(exec_request("go", ": > /tmp/go", None));
    let done = place.path("a/tree/upper/tmp/done");
    wait_until("the output goes on without the log", || done.exists());
    signal(helper, Signal::CONT);
    shim.exec(exec_request("end", ": > /tmp/end", None));
    let mut lost = 0;
    loop {
        match shim.event() {
            Event::LogDropped { records } => lost = records,
            Event::Exited(record) => break assert_eq!(record.code, 0),
            Event::ExecExited { code, .. } => assert_eq!(code, 0),
            other => panic!("{other:?}"),
        }
    }
    let text = place.log_text("a");
    assert!(lost > 0);
    assert!(text.contains(&format!("hoy: {lost} log records were lost here\n")));
    assert!(text.ends_with("end\n"));
    // Every line is in the log or counted; the mark is one more.
    assert_eq!(text.lines().count() as u64 - 1 + lost, 1_000_002);
    shim.release();
}

#[test]
fn a_blocked_disk_does_not_hold_the_exit_back() {
    let place = Place::new();
    let mut shim = place.shim("a");
    let script = "echo begin; while [ ! -e /tmp/go ]; do sleep 0.01; done; seq 1 1000; exit 4";
    shim.start(place.start_request("a", script));
    wait_until("the log has begun", || place.log_text("a").contains("begin"));
    let [helper] = log_helpers(shim.pid)[..] else { panic!("one helper") };
    signal(helper, Signal::STOP);
    shim.exec(exec_request("go", ": > /tmp/go", None));
    assert!(matches!(shim.event(), Event::ExecExited { code: 0, .. }));
    let started = Instant::now();
    assert_eq!(shim.exited().code, 4);
    assert!(started.elapsed() < Duration::from_secs(30));
    shim.release();
    // What it was handed is written when the disk is there again.
    signal(helper, Signal::CONT);
    wait_until("the helper is gone", || !exists(helper));
    assert!(place.log_text("a").ends_with("\n999\n1000\n"));
}

#[test]
fn a_killed_shim_loses_nothing_of_the_log_that_it_had_read() {
    let place = Place::new();
    let mut shim = place.shim("a");
    let pid = shim.start(place.start_request("a", "echo begin; seq 1 1000; exec sleep 100"));
    wait_until("the log has begun", || place.log_text("a").contains("\n1000\n"));
    let [helper] = log_helpers(shim.pid)[..] else { panic!("one helper") };
    signal(helper, Signal::STOP);
    shim.exec(exec_request("more", "seq 2000 3000 > /proc/1/fd/1", None));
    assert!(matches!(shim.event(), Event::ExecExited { code: 0, .. }));
    signal(shim.pid, Signal::KILL);
    wait_until("the shim is gone", || !exists(shim.pid));
    signal(helper, Signal::CONT);
    wait_until("the helper is gone", || !exists(helper));
    assert!(place.log_text("a").ends_with("\n2999\n3000\n"));
    // What the daemon does about a container without a shim.
    signal(pid, Signal::KILL);
    wait_until("the container is gone", || !exists(pid));
    let plan = place.start_request("a", "").plan.cgroup;
    hoy_cgroup::Cgroup::open(&plan).unwrap().unwrap().remove();
}

#[test]
fn in_the_hosts_pid_namespace_the_rest_ends_with_the_first() {
    let place = Place::new();
    let mut shim = place.shim("a");
    let mut request = place.start_request("a", "sleep 100 & echo $!; exit 6");
    request.plan.namespaces.pid = hoy_runtime::NamespaceMode::Host;
    shim.start(request);
    let started = Instant::now();
    assert_eq!(shim.exited().code, 6);
    assert!(started.elapsed() < Duration::from_secs(50), "its pipes were held by the rest");
    let other: i32 = place.log_text("a").trim().parse().unwrap();
    wait_until("the rest is gone", || !exists(other));
    shim.release();
}

#[test]
fn a_shim_that_was_never_told_anything_goes() {
    let place = Place::new();
    let shim = place.shim("a");
    let pid = shim.pid;
    drop(shim);
    wait_until("the shim is gone", || !exists(pid));
    assert!(place.find("a").is_none());
}

#[test]
fn nothing_is_left_behind() {
    let place = Place::new();
    // Others mount and unmount meanwhile, elsewhere.
    let own = place.directory.path().display().to_string();
    let mounts = || {
        let all = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        all.lines().filter(|line| line.contains(&own)).count()
    };
    let before = mounts();
    for number in 0..10 {
        let id = format!("c{number}");
        let mut shim = place.shim(&id);
        shim.start(place.start_request(&id, "echo hello; sleep 100 & exit 0"));
        assert_eq!(shim.exited().code, 0);
        let plan = place.start_request(&id, "").plan.cgroup;
        shim.release();
        assert!(hoy_cgroup::Cgroup::open(&plan).unwrap().is_none());
    }
    assert_eq!(mounts(), before);
    assert_eq!(hoy_shim::client::list(place.directory.path()).unwrap(), Vec::<String>::new());
}

/// Kilobytes of a process: those that it alone has written to, and those that are its own.
fn private_memory(pid: i32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let sum = |start: &str| -> u64 {
        let lines = text.lines().filter(|line| line.starts_with(start));
        lines.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum()
    };
    (sum("Private_Dirty"), sum("Private_"))
}

#[test]
fn an_idle_shim_is_small() {
    let place = Place::new();
    let mut shims = ["a", "b"].map(|id| place.shim(id));
    for (shim, id) in shims.iter_mut().zip(["a", "b"]) {
        shim.start(place.start_request(id, "seq 1 100000; exec sleep 100"));
        wait_until("the log is written", || place.log_text(id).ends_with("\n100000\n"));
    }
    for shim in &shims {
        wait_until("the log's helper rests", || log_helpers(shim.pid).is_empty());
        // The program itself is shared by all shims of a daemon.
        let (written, private) = private_memory(shim.pid);
        println!("an idle shim has {private} KiB of private memory, {written} of them written to");
        // One that was built for this test alone is larger: nothing in it is optimised.
        let most = if std::env::var_os("HOY_PROGRAMS").is_some() { 256 } else { 1024 };
        assert!(private <= most, "{private} KiB");
    }
    for mut shim in shims {
        shim.done(Request::Kill { signal: 9, all: true });
        assert_eq!(shim.exited().code, 137);
        shim.release();
    }
}
