//! Facts in, causes out: those that no test can provoke cheaply, and what comes first.

use std::collections::VecDeque;

use hoy_look::{Elf, Findings, Format, Kind, Program};
use hoy_shim::{Asked, EndRecord, Room, Task};

use super::*;

fn ended(code: i32) -> Facts {
    Facts {
        name: "c".into(),
        status: "exited".into(),
        exit_code: code,
        command: vec!["/app".into()],
        ..Facts::default()
    }
}

fn refused(error: &str, program: Option<Program>) -> Facts {
    let files = Findings { program, user_known: true, ..Findings::default() };
    Facts {
        name: "c".into(),
        status: "created".into(),
        error: format!("unable to start container process: {error}"),
        command: vec!["/app".into()],
        files: Some(files),
        ..Facts::default()
    }
}

fn program(format: Format) -> Option<Program> {
    Some(Program { path: "/app".into(), kind: Kind::File, executable: true, format })
}

fn first(facts: &Facts) -> (String, String) {
    let found = causes(facts);
    assert!(!found.is_empty(), "{facts:?}");
    (found[0].kind.clone(), found[0].confidence.clone())
}

#[track_caller]
fn is(facts: &Facts, kind: &str, confidence: &str) {
    assert_eq!(first(facts), (kind.to_owned(), confidence.to_owned()), "{:#?}", causes(facts));
}

#[test]
fn something_is_always_said() {
    for status in ["created", "running", "paused", "restarting", "exited", "removing", "dead"] {
        for code in -1..=255 {
            let facts = Facts { status: status.into(), exit_code: code, ..Facts::default() };
            let found = causes(&facts);
            assert!(!found.is_empty() && found.iter().all(|cause| !cause.what.is_empty()));
        }
    }
}

#[test]
fn mounts_that_hang_or_are_gone() {
    let running = Facts { status: "running".into(), ..Facts::default() };
    is(&running, "running", "certain");
    let one = super::super::waiting::Waiting {
        pid: 7,
        name: "cat".into(),
        place: "request_wait_answer".into(),
    };
    let served = |names: &[&str]| {
        names.iter().map(|name| ((*name).to_owned(), "fuse".to_owned())).collect::<Vec<_>>()
    };
    let waits = Facts { waits: vec![one], served: served(&["/data"]), ..running.clone() };
    is(&waits, "file-system-hangs", "certain");
    assert!(causes(&waits)[0].what.contains("cat (7) waits for /data (fuse)"));
    let several = Facts { served: served(&["/a", "/b"]), ..waits };
    assert!(causes(&several)[0].evidence[1].contains("/a (fuse), /b (fuse)"));
    let silent = Facts { silent: Some("/srv/x".into()), ..running.clone() };
    is(&silent, "file-system-hangs", "certain");
    let gone = Facts { gone: vec!["/srv/x".into()], ..running };
    is(&gone, "mount-source-missing", "likely");
    let text = "exec: \"/app\": it has waited in the kernel for too long, as for a file system";
    let late = refused(text, None);
    let found = causes(&late);
    assert!(found.len() == 1 && found[0].kind == "file-system-hangs", "{found:?}");
    let failed = Facts { gone: vec!["/srv/x".into()], ..ended(3) };
    is(&failed, "program-failed", "certain");
    assert!(causes(&failed).iter().any(|cause| cause.kind == "mount-source-missing"));
}

#[test]
fn a_loader_of_another_c_library_and_another_machine() {
    let elf = |machine, interpreter: &str, there| {
        let interpreter = interpreter.to_owned();
        Format::Elf(Elf { machine, interpreter, interpreter_there: there, missing: Vec::new() })
    };
    let here = super::super::facts::own_machine();
    let missing = "exec: \"/app\": /app: no such file or directory";
    let facts = refused(missing, program(elf(here, "/lib/ld-musl-x86_64.so.1", false)));
    is(&facts, "loader-missing", "certain");
    assert!(causes(&facts)[0].hint.contains("Alpine"));
    let format = "exec /app: exec format error";
    let other = if here == 183 { 62 } else { 183 };
    is(&refused(format, program(elf(other, "", true))), "wrong-architecture", "certain");
    // Through the script that names it.
    let inner = Program { path: "/bin/x".into(), ..program(elf(here, "/lib64/l", false)).unwrap() };
    let script = Format::Script {
        interpreter: "/bin/x".into(),
        carriage_return: false,
        program: Some(Box::new(inner)),
    };
    let facts = refused(missing, program(script));
    is(&facts, "loader-missing", "certain");
    assert!(causes(&facts)[0].what.starts_with("/bin/x, which /app needs,"));
}

#[test]
fn what_lies_in_a_mount_was_not_looked_at() {
    let mut facts = refused("exec: \"/app\": /app: no such file or directory", None);
    facts.targets = vec!["/app".into()];
    is(&facts, "program-missing", "likely");
    facts.files = None;
    is(&facts, "interpreter-missing", "likely");
}

#[test]
fn who_was_ended_from_outside_did_not_fail() {
    let mut facts = ended(143);
    let asked = Asked { signal: 15, all: false, at: 0 };
    facts.end = Some(EndRecord {
        signal: Some(15),
        asked: VecDeque::from([asked.clone()]),
        ..EndRecord::default()
    });
    facts.log = vec!["connect: Connection refused".into()];
    is(&facts, "stopped-on-request", "certain");
    assert_eq!(causes(&facts)[1].confidence, "possible");
    let kill = Asked { signal: 9, all: true, at: 10_000_000_000 };
    facts.end = Some(EndRecord {
        signal: Some(9),
        asked: VecDeque::from([asked, kill]),
        ..EndRecord::default()
    });
    is(&facts, "stop-timeout", "certain");
    assert!(causes(&facts)[0].what.contains("within 10 s"));
    facts.end = Some(EndRecord { signal: Some(9), ..EndRecord::default() });
    is(&facts, "killed-by-others", "likely");
    facts.end = Some(EndRecord { signal: Some(31), ..EndRecord::default() });
    is(&facts, "system-call-refused", "certain");
    facts.end = None;
    is(&facts, "child-killed", "likely");
}

#[test]
fn memory_names_who_had_it() {
    let mut facts = Facts { oom_killed: true, memory: Some(64 << 20), ..ended(137) };
    let tasks = vec![Task { pid: 7, name: "hog".into(), rss: 60 << 20, killed: true }];
    facts.end = Some(EndRecord { signal: Some(9), tasks, ..EndRecord::default() });
    is(&facts, "out-of-memory", "certain");
    let found = causes(&facts);
    assert!(found[0].what.contains("its process hog (7)"), "{found:?}");
    assert_eq!(found[0].evidence, ["hog (7): 60.0 MiB, ended by the kernel"]);
    assert!(found[0].hint.contains("hoy update --memory 128m c"), "{found:?}");
    assert_eq!(found.len(), 1);
}

#[test]
fn a_full_disk_is_told_from_another_full_place() {
    let mut facts = ended(1);
    facts.log = vec!["write: No space left on device".into()];
    is(&facts, "disk-full", "likely");
    facts.room = Some(Room { bytes: 4096, inodes: 5, all_inodes: 10 });
    is(&facts, "disk-full", "certain");
    assert!(causes(&facts)[0].what.contains("data root"));
    facts.size = Some("10m".into());
    assert!(causes(&facts)[0].what.contains("its own disk (10m)"));
    facts.room = Some(Room { bytes: 1 << 30, inodes: 0, all_inodes: 10 });
    assert!(causes(&facts)[0].what.contains("inodes"));
}

#[test]
fn a_lost_supervisor_and_a_new_machine() {
    let facts = Facts { error: LOST.into(), started: 5, booted: 1, ..ended(137) };
    is(&facts, "supervisor-lost", "certain");
    is(&Facts { booted: 9, ..facts }, "machine-restarted", "certain");
}

#[test]
fn health_and_loops() {
    let health = hoy_wire::Health {
        status: "unhealthy".into(),
        failing_streak: 3,
        log: Some(vec![hoy_wire::HealthcheckResult {
            exit_code: 1,
            output: "no answer\n".into(),
            ..Default::default()
        }]),
    };
    let facts = Facts { status: "running".into(), health: Some(health), ..Facts::default() };
    is(&facts, "unhealthy", "certain");
    assert_eq!(causes(&facts)[0].evidence, ["the last probe said: no answer"]);
    let looping = Facts {
        status: "restarting".into(),
        restarting: true,
        restarts: 4,
        policy: "always".into(),
        ..ended(1)
    };
    let found = causes(&looping);
    assert!(found.iter().any(|cause| cause.kind == "restart-loop"), "{found:?}");
    assert!(found.iter().any(|cause| cause.kind == "program-failed"), "{found:?}");
}
