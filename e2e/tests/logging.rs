//! Logs as their driver keeps them: what is read back, and which options are refused in which words.

use hoy_e2e::{daemon, field};
use hoy_testkit::{Daemon, Output, wait_until};

fn docker(daemon: &Daemon, words: &[&str]) -> Output {
    daemon.docker(words).run()
}

fn files_of(daemon: &Daemon, name: &str) -> Vec<String> {
    let id = field(daemon, name, "{{.Id}}");
    let found = walk(&daemon.path("data"));
    found.into_iter().filter(|path| path.contains(&id)).collect()
}

fn walk(directory: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut out = Vec::new();
    for entry in entries {
        match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true if entry.file_name() == "layers" => {}
            true => out.extend(walk(&entry.path())),
            false => out.push(entry.path().display().to_string()),
        }
    }
    out
}

#[test]
fn kept_and_read_back() {
    let daemon = daemon();
    let lines = "i=0; while [ $i -lt 3000 ]; do echo \"line number $i of many\"; i=$((i+1)); done";
    let local = ["run", "-d", "--network", "none", "--name", "local", "--log-driver", "local"];
    let options = ["--log-opt", "max-size=40k", "--log-opt", "max-file=3"];
    docker(&daemon, &[&local[..], &options, &["busybox", "sh", "-c", lines]].concat()).ok();
    let said = "echo out; echo err >&2; printf end";
    let json =
        ["run", "-d", "--network", "none", "--name", "json", "--label", "a=b", "-e", "Q=1 2"];
    let options =
        ["--log-opt", "labels=a", "--log-opt", "env-regex=^Q", "--log-opt", "tag=T{{.Name}}"];
    docker(&daemon, &[&json[..], &options, &["busybox", "sh", "-c", said]].concat()).ok();
    for name in ["local", "json"] {
        docker(&daemon, &["wait", name]).ok();
    }

    let all = docker(&daemon, &["logs", "local"]).ok().to_owned();
    assert!(all.ends_with("line number 2998 of many\nline number 2999 of many\n"), "{}", all.len());
    let first: usize = all.split_whitespace().nth(2).unwrap().parse().unwrap();
    assert!(first > 0, "older files go");
    let numbers: Vec<usize> =
        all.lines().map(|line| line.split(' ').nth(2).unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (first..3000).collect::<Vec<_>>());
    let last = docker(&daemon, &["logs", "-n", "2", "-t", "local"]).ok().to_owned();
    assert_eq!(last.lines().count(), 2);
    assert!(last.lines().all(|line| line.contains("Z line number 299")), "{last}");
    let files = files_of(&daemon, "local");
    let packed = files.iter().filter(|path| path.ends_with("container.log.1.gz")).count();
    assert_eq!(packed, 1, "{files:?}");
    assert_eq!(field(&daemon, "local", "{{.LogPath}}"), "");

    let seen = docker(&daemon, &["logs", "--details", "json"]);
    assert_eq!(seen.stdout, "Q=1+2,a=b,tag=Tjson out\nQ=1+2,a=b,tag=Tjson end");
    assert_eq!(seen.stderr, "Q=1+2,a=b,tag=Tjson err\n");
    assert_eq!(docker(&daemon, &["logs", "json"]).stdout, "out\nend");
    let file = std::fs::read_to_string(field(&daemon, "json", "{{.LogPath}}")).unwrap();
    let attrs = r#""stream":"stdout","attrs":{"Q":"1 2","a":"b","tag":"Tjson"},"time":"#;
    assert!(file.contains(attrs), "{file}");
    let none = docker(&daemon, &["logs", "--details", "--since", "1h", "local", "-n", "1"]);
    assert_eq!(none.stdout, " line number 2999 of many\n");

    for (driver, option, says) in [
        ("bogus", "", "error looking up logging plugin bogus: plugin \"bogus\" not found"),
        ("json-file", "bogus=1", "unknown log opt 'bogus' for json-file log driver"),
        ("json-file", "max-size=x", "failed to initialize logging driver: invalid size: 'x'"),
        ("json-file", "max-file=0", "max-file cannot be less than 1"),
        ("json-file", "compress=true", "compress cannot be true when max-file is less than 2"),
        ("json-file", "mode=x", "logger: logging mode not supported: x"),
        ("json-file", "tag={{.ID", "template: log-tag:1: unclosed action"),
        ("local", "tag=x", "unknown log opt 'tag' for log driver local"),
        ("local", "max-file=1", "compression cannot be enabled when max file count is 1"),
        ("local", "compress=x", "strconv.ParseBool: parsing \"x\": invalid syntax"),
    ] {
        let mut words = vec!["run", "--rm", "--network", "none", "--log-driver", driver];
        if !option.is_empty() {
            words.extend(["--log-opt", option]);
        }
        words.extend(["busybox", "true"]);
        let output = docker(&daemon, &words);
        assert_eq!(output.code, Some(125), "{words:?}");
        assert!(output.stderr.contains(says), "{words:?}: {}", output.stderr);
    }
    // One that waits for nobody says all that there is room for.
    let quick = ["run", "--rm", "--network", "none", "--log-opt", "mode=non-blocking"];
    docker(&daemon, &[&quick[..], &["busybox", "sh", "-c", lines]].concat()).ok();
    wait_until("the refused ones are gone", || {
        docker(&daemon, &["ps", "-aq"]).ok().lines().count() == 2
    });
}
