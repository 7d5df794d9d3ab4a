//! Interactive sessions as somebody at a terminal has them, by both command lines.

use std::process::Command;

use hoy_e2e::{daemon, field};
use hoy_testkit::{Daemon, programs, wait_until};

/// A terminal with a shell in it.
struct Terminal {
    socket: String,
}

impl Terminal {
    fn open(daemon: &Daemon, name: &str) -> Self {
        let terminal = Self { socket: daemon.path(&format!("tmux-{name}")).display().to_string() };
        let shell = format!(
            "env DOCKER_HOST={0} HOY_HOST={0} PS1='host> ' PATH={1}:$PATH sh",
            daemon.host(),
            programs().display()
        );
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-s",
            "t",
            "-x",
            "90",
            "-y",
            "25",
            &shell,
        ]);
        terminal.sees("host>");
        terminal
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = Command::new("tmux").arg("-S").arg(&self.socket).args(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-J", "-t", "t", "-S", "-500"])
    }

    #[track_caller]
    fn sees(&self, text: &str) {
        wait_until(&format!("{text:?} on the screen"), || {
            let screen = self.screen();
            screen.lines().any(|line| line.starts_with(text))
        });
    }

    fn types(&self, line: &str) {
        self.tmux(&["send-keys", "-t", "t", "-l", line]);
        self.tmux(&["send-keys", "-t", "t", "Enter"]);
    }

    fn key(&self, key: &str) {
        self.tmux(&["send-keys", "-t", "t", key]);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the screen:\n{}", self.screen());
        }
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn a_session_from_begin_to_end() {
    let daemon = daemon();
    for cli in ["docker", "hoy"] {
        let name = format!("tty-{cli}");
        let terminal = Terminal::open(&daemon, cli);
        terminal.types(&format!("{cli} run -it --name {name} busybox sh"));
        terminal.sees("/ #");
        terminal.types("stty size; tty; echo pid=$$");
        terminal.sees("25 90");
        terminal.sees("/dev/pts/0");
        terminal.sees("pid=1");
        terminal.tmux(&["resize-window", "-t", "t", "-x", "101", "-y", "33"]);
        terminal.types("while [ \"$(stty size)\" != '33 101' ]; do sleep 0.1; done; echo resized");
        terminal.sees("resized");
        terminal.types("sleep 1000");
        wait_until("the sleep runs", || {
            daemon.hoy(&["top", &name]).run().stdout.contains("sleep 1000")
        });
        terminal.key("C-c");
        terminal.types("echo interrupted=$?");
        terminal.sees("interrupted=130");
        terminal.types("sleep 2000");
        wait_until("it runs", || daemon.hoy(&["top", &name]).run().stdout.contains("sleep 2000"));
        terminal.key("C-z");
        terminal.types("jobs; kill -9 %1; wait; echo jobs-done");
        terminal.sees("jobs-done");
        terminal.key("C-p");
        terminal.key("C-q");
        wait_until("the host's prompt", || terminal.screen().trim_end().ends_with("host>"));
        terminal.types("echo detached=$?; stty -a | grep -c ' icanon'");
        terminal.sees("detached=0");
        assert_eq!(field(&daemon, &name, "{{.State.Running}}"), "true");
        terminal.types(&format!("{cli} attach {name}"));
        // The prompt comes anew without a key, since the size was made to change.
        wait_until("the prompt again", || terminal.screen().trim_end().ends_with("/ #"));
        terminal.types("echo attached; exit 42");
        terminal.sees("attached");
        wait_until("the host's prompt", || terminal.screen().trim_end().ends_with("host>"));
        terminal.types("echo code=$?; stty -a | grep -c ' icanon'");
        terminal.sees("code=42");
        // The host's own terminal is as it was.
        wait_until("the terminal is as it was, twice", || {
            terminal.screen().lines().filter(|line| *line == "1").count() == 2
        });
        terminal.types(&format!("{cli} start -ai {name}"));
        wait_until("the prompt", || terminal.screen().trim_end().ends_with("/ #"));
        terminal.types("exit 3");
        wait_until("the host's prompt", || terminal.screen().trim_end().ends_with("host>"));
        terminal.types("echo second=$?");
        terminal.sees("second=3");
        daemon.docker(&["rm", "-f", &name]).run().ok();
    }
}

#[test]
fn exec_and_an_end_from_elsewhere() {
    let daemon = daemon();
    daemon.hoy(&["run", "-d", "--name", "host", "busybox", "sleep", "1000"]).run().ok();
    for cli in ["docker", "hoy"] {
        let terminal = Terminal::open(&daemon, cli);
        terminal.types(&format!("{cli} exec -it -e X=y host sh"));
        terminal.sees("/ #");
        terminal.types("echo $X; stty size; exit 7");
        terminal.sees("y");
        terminal.sees("25 90");
        wait_until("the host's prompt", || terminal.screen().trim_end().ends_with("host>"));
        terminal.types("echo code=$?");
        terminal.sees("code=7");
        // The container goes while somebody sits in it: the terminal comes back all the same.
        let name = format!("doomed-{cli}");
        terminal.types(&format!("{cli} run -it --rm --name {name} busybox sh"));
        wait_until("it runs", || {
            daemon.docker(&["ps", "-q", "-f", &format!("name={name}")]).run().stdout.len() > 5
        });
        wait_until("the prompt", || terminal.screen().trim_end().ends_with("/ #"));
        daemon.docker(&["kill", &name]).run().ok();
        wait_until("the host's prompt", || terminal.screen().trim_end().ends_with("host>"));
        terminal.types("echo killed=$?; stty -a | grep -c ' icanon'");
        terminal.sees("killed=137");
        terminal.sees("1");
    }
    let output = daemon.hoy(&["run", "-it", "--rm", "busybox", "true"]).run();
    output.fails_with(1);
    assert!(output.stderr.contains("the input device is not a TTY"));
}
