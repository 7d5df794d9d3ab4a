//! Health checks: what is probed and when, what is said of it, and that nothing of a probe is left.

use std::time::Duration;

use hoy_e2e::{daemon, field, import, pid};
use hoy_testkit::{Daemon, wait_until};
use serde_json::Value;

fn run(daemon: &Daemon, line: &str) -> String {
    daemon.hoy(&line.split(' ').collect::<Vec<_>>()).run().ok().trim().to_owned()
}

/// A container that sleeps and is probed.
fn probed(daemon: &Daemon, name: &str, probe: &str, flags: &str) {
    let mut args = vec!["run", "-d", "--name", name, "--health-cmd", probe];
    args.extend(flags.split_whitespace());
    args.extend(["busybox", "sleep", "1000"]);
    daemon.hoy(&args).run().ok();
}

fn status(daemon: &Daemon, name: &str) -> String {
    field(daemon, name, "{{.State.Health.Status}}")
}

fn streak(daemon: &Daemon, name: &str) -> u32 {
    field(daemon, name, "{{.State.Health.FailingStreak}}").parse().unwrap()
}

fn log(daemon: &Daemon, name: &str) -> Value {
    serde_json::from_str(&field(daemon, name, "{{json .State.Health.Log}}")).unwrap()
}

fn listed(daemon: &Daemon, filter: &str) -> Vec<String> {
    let filter = format!("health={filter}");
    let output = daemon.docker(&["ps", "-a", "--format", "{{.Names}}", "-f", &filter]).run();
    let mut names: Vec<String> = output.ok().lines().map(str::to_owned).collect();
    names.sort();
    names
}

/// Now, to the nanosecond: Docker's client rounds its own.
fn until() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("{}.{:09}", now.as_secs(), now.subsec_nanos())
}

fn happened(daemon: &Daemon, name: &str) -> Vec<String> {
    let filter = format!("container={name}");
    let format = "{{.Action}} {{.Actor.Attributes.exitCode}}";
    let until = until();
    let args = ["events", "--since", "1", "--until", &until, "-f", &filter, "--format", format];
    let output = daemon.docker(&args).run();
    output.ok().replace("<no value>", "").lines().map(|line| line.trim().to_owned()).collect()
}

/// Each failure leaves a line.
const MARKED: &str = "echo said; echo also >&2; test -e /mark || { echo >>/failed; false; }";

const OFTEN: &str = "--health-interval 50ms --health-retries 2";

#[test]
fn probes() {
    let mut daemon = daemon();
    import(&daemon, "checked", ":", &["HEALTHCHECK --interval=50ms --retries=2 CMD cat /mark"]);
    run(&daemon, "run -d --name image checked sleep 1000");
    run(&daemon, "run -d --name without --no-healthcheck checked sleep 1000");
    probed(&daemon, "seldom", "true", "--health-interval 1h");
    probed(
        &daemon,
        "patient",
        "exit 3",
        &format!("{OFTEN} --health-start-period 1h --health-start-interval 50ms"),
    );
    probed(&daemon, "marked", MARKED, OFTEN);
    probed(&daemon, "loud", "head -c 5000 /dev/zero | tr '\\0' x", OFTEN);
    probed(
        &daemon,
        "slow",
        "echo before; (sleep 77 & sleep 77)",
        &format!("{OFTEN} --health-timeout 100ms"),
    );
    let body = r#"{"Image":"busybox","Cmd":["sleep","1000"],"Healthcheck":{"Test":["CMD","/missing","x"],
        "Interval":50000000,"Retries":2}}"#;
    let url = "http://hoy/v1.45/containers/create?name=missing";
    daemon.curl(&["-H", "Content-Type: application/json", "-d", body, url]).ok();
    run(&daemon, "start missing");

    wait_until("a failure counts", || status(&daemon, "marked") == "unhealthy");
    run(&daemon, "exec marked touch /mark");
    wait_until("a success counts", || status(&daemon, "marked") == "healthy");
    assert_eq!(streak(&daemon, "marked"), 0);
    wait_until("five are remembered", || log(&daemon, "marked").as_array().unwrap().len() == 5);
    let last = log(&daemon, "marked")[4].clone();
    assert_eq!((&last["ExitCode"], &last["Output"]), (&0.into(), &"said\nalso\n".into()));
    assert!(last["Start"].as_str() < last["End"].as_str(), "{last}");
    let events = happened(&daemon, "marked");
    let probe = format!("/bin/sh -c {MARKED}");
    let first: Vec<&str> = events.iter().map(String::as_str).take(5).collect();
    assert_eq!(
        first,
        [
            "create",
            "start",
            &format!("exec_create: {probe}"),
            &format!("exec_start: {probe}"),
            "exec_die 1"
        ]
    );
    let told: Vec<&String> = events.iter().filter(|line| line.starts_with("health")).collect();
    assert_eq!(told, ["health_status: unhealthy", "health_status: healthy"]);

    // What the image says, and what nobody says.
    wait_until("the image's probe is run", || status(&daemon, "image") == "unhealthy");
    let output = log(&daemon, "image")[0]["Output"].as_str().unwrap().to_owned();
    assert!(output.contains("/mark"), "{output}");
    assert_eq!(field(&daemon, "without", "{{json .State.Health}}"), "null");
    assert_eq!(status(&daemon, "seldom"), "starting");
    assert_eq!(log(&daemon, "seldom").as_array().map(Vec::len), Some(0));
    wait_until("it is asked", || log(&daemon, "patient").as_array().unwrap().len() > 2);
    assert_eq!((status(&daemon, "patient"), streak(&daemon, "patient")), ("starting".into(), 0));
    wait_until("it speaks", || log(&daemon, "loud").as_array().unwrap().len() > 1);
    let said = log(&daemon, "loud")[0]["Output"].as_str().unwrap().to_owned();
    assert_eq!((said.len(), said.ends_with("x...")), (4099, true));

    // Whoever takes too long is ended, with all that it has begun.
    wait_until("it is late", || status(&daemon, "slow") == "unhealthy");
    let late = log(&daemon, "slow")[0].clone();
    assert_eq!(late["ExitCode"], -1);
    let says = "Health check exceeded timeout (100ms): ";
    assert!(late["Output"].as_str().unwrap().starts_with(says), "{late}");
    // One may be too late even for its first word.
    let whole = Value::from(format!("{says}before\n"));
    wait_until("it has said something", || {
        log(&daemon, "slow").as_array().unwrap().iter().any(|one| one["Output"] == whole)
    });
    wait_until("it is late again", || streak(&daemon, "slow") > 3);
    // Those of the probe that may run at this moment.
    let sleeping = daemon.hoy(&["exec", "slow", "pgrep", "-fx", "sleep 77"]).run().stdout;
    assert!(sleeping.lines().count() <= 2, "{sleeping}");
    wait_until("what is not there fails", || status(&daemon, "missing") == "unhealthy");
    let missing = log(&daemon, "missing")[0].clone();
    assert_eq!(missing["ExitCode"], -1, "{missing}");
    let output = missing["Output"].as_str().unwrap();
    assert!(
        output.starts_with("OCI runtime exec failed: ") && output.contains("/missing"),
        "{output}"
    );
    let events = happened(&daemon, "missing");
    assert!(events.contains(&"exec_start: /missing x".to_owned()), "{events:?}");
    assert!(!events.iter().any(|line| line.starts_with("exec_die")), "{events:?}");

    assert_eq!(listed(&daemon, "healthy"), ["loud", "marked"]);
    assert_eq!(listed(&daemon, "unhealthy"), ["image", "missing", "slow"]);
    assert_eq!(listed(&daemon, "starting"), ["patient", "seldom"]);
    assert_eq!(listed(&daemon, "none"), ["without"]);
    for (name, end) in
        [("marked", " (healthy)"), ("slow", " (unhealthy)"), ("seldom", " (health: starting)")]
    {
        for client in [daemon.docker(&["ps"]), daemon.hoy(&["ps"])] {
            let filter = format!("name={name}");
            let output = client.args(["--format", "{{.Status}}", "-f", &filter]).run();
            assert!(output.ok().trim().ends_with(end), "{}", output.stdout);
        }
    }

    // Nobody is asked who could not answer.
    run(&daemon, "pause marked");
    let paused = log(&daemon, "marked");
    assert_eq!(status(&daemon, "marked"), "unhealthy");
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(log(&daemon, "marked"), paused);
    run(&daemon, "unpause marked");
    wait_until("it is asked again", || status(&daemon, "marked") == "healthy");

    // Probes go on while there is no daemon; what they have found is told by the next one.
    let root = std::path::PathBuf::from(format!("/proc/{}/root", pid(&daemon, "marked")));
    daemon.kill();
    std::fs::remove_file(root.join("failed")).unwrap();
    std::fs::remove_file(root.join("mark")).unwrap();
    let failed = || std::fs::read(root.join("failed")).unwrap_or_default().len();
    // With the third, two have been counted.
    wait_until("three have failed", || failed() >= 3);
    daemon.launch();
    assert_eq!(status(&daemon, "marked"), "unhealthy");
    assert!(streak(&daemon, "marked") >= 2);
    assert!(happened(&daemon, "marked").contains(&"health_status: unhealthy".to_owned()));

    run(&daemon, "stop -t 0 marked");
    assert_eq!(status(&daemon, "marked"), "unhealthy");
    run(&daemon, "start marked");
    assert_eq!(log(&daemon, "marked").as_array().map(Vec::len), Some(5));
}

#[test]
fn refusals() {
    let daemon = daemon();
    for (flags, text) in [
        (&["--health-interval", "5ns"][..], "Interval in Healthcheck cannot be less than 1ms"),
        (&["--health-retries", "-1"], "cannot be negative"),
        (&["--health-cmd", "x", "--no-healthcheck"], "conflicts with --health-* options"),
        (&["--health-timeout", "-1s"], "cannot be negative"),
    ] {
        for client in [daemon.docker(&["create"]), daemon.hoy(&["create"])] {
            let output = client.args(flags).args(["busybox", "true"]).run();
            assert_ne!(output.code, Some(0), "{flags:?}");
            assert!(output.stderr.contains(text), "{flags:?}: {}", output.stderr);
        }
    }
}
