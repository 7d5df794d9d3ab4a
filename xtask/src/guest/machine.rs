//! The machine: qemu with two serial lines, one for the kernel and one for the tests.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::programs::run;

/// How the guest says that it has ended.
const END: &str = "@@ the guest ends with ";

/// As the guest sees them: /dev/vda for swap, /dev/vdb for whatever a test does to disks, and
/// /dev/vdc, an ext4 for /tmp, where daemons have their roots: that is where people have them.
const DISKS: &[(&str, u64)] = &[("swap", 512 << 20), ("disk", 1 << 30), (FILES, 8 << 30)];
const FILES: &str = "files";

/// How much of the kernel's own words is shown when the guest ends without an answer.
const SHOWN_LINES: usize = 40;

/// What to boot.
pub struct Machine<'a> {
    pub kernel: PathBuf,
    pub archive: PathBuf,
    /// Further words for the kernel.
    pub append: &'a str,
    pub deadline: Duration,
    /// Where its disks and the kernel's log lie.
    pub directory: &'a Path,
}

/// Ended with its owner, whatever happens.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine<'_> {
    /// Boots, shows what the tests say while they say it, and answers with the guest's code.
    pub fn run(&self) -> Result<u8> {
        let started = Instant::now();
        let mut child = self.command()?.spawn().context("run qemu-system-x86_64")?;
        let lines = child.stdout.take().context("qemu's output")?;
        let running = Running(child);
        let (send, receive) = channel();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(lines).split(b'\n') {
                let Ok(line) = line else { break };
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let mut out = std::io::stdout();
        let code = loop {
            let left = self.deadline.saturating_sub(started.elapsed());
            match receive.recv_timeout(left) {
                Ok(line) => {
                    let text = String::from_utf8_lossy(&line);
                    if let Some(code) = text.trim_end().strip_prefix(END) {
                        break code.parse::<u8>().ok();
                    }
                    let _ = writeln!(out, "{text}");
                }
                Err(RecvTimeoutError::Disconnected) => break None,
                Err(RecvTimeoutError::Timeout) => {
                    self.show_kernel_log();
                    bail!("the guest did not end in {:?}", self.deadline);
                }
            }
        };
        drop(running);
        let _ = reader.join();
        match code {
            Some(code) => Ok(code),
            None => {
                self.show_kernel_log();
                bail!("the guest ended without an answer");
            }
        }
    }

    fn command(&self) -> Result<Command> {
        // The kernel ends it should we be killed.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3000"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.archive)
            .arg("-append")
            // The check of the timer fails now and then where the processor is emulated and shared.
            .arg(format!(
                "console=ttyS0 quiet no_timer_check panic=-1 oops=panic cgroup_no_v1=all rdinit=/init {}",
                self.append
            ))
            .arg("-serial")
            .arg(format!("file:{}", self.kernel_log().display()))
            .args(["-serial", "stdio", "-device", "virtio-rng-pci"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        for (name, size) in DISKS {
            let path = self.directory.join(name);
            let made = File::create(&path).and_then(|file| file.set_len(*size));
            made.with_context(|| format!("make {}", path.display()))?;
            if *name == FILES {
                run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&path))?;
            }
            let drive = format!("file={},format=raw,if=virtio,cache=unsafe", path.display());
            qemu.arg("-drive").arg(drive);
        }
        Ok(qemu)
    }

    fn kernel_log(&self) -> PathBuf {
        self.directory.join("kernel.log")
    }

    fn show_kernel_log(&self) {
        let text = std::fs::read(self.kernel_log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        crate::tasks::say("the guest's kernel says:");
        for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
            crate::tasks::say(line);
        }
    }
}
