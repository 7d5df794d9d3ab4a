//! What long work says about itself: JSON lines of the engine as lines or bars.

use std::io::{BufRead as _, BufReader, IsTerminal as _, Read, Write as _};

use serde_json::Value;

use crate::failure::{Failure, Result};

/// The longest message that makes sense.
const MAX_LINE: u64 = 1 << 20;

/// Shows a stream of messages to its end; an error in it is the command's.
pub fn show(stream: impl Read, quiet: bool) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let stdout = std::io::stdout();
    let live = stdout.is_terminal();
    let mut out = stdout.lock();
    // The lines on the screen that may change, by their subject.
    let mut subjects: Vec<String> = Vec::new();
    loop {
        let mut line = Vec::new();
        (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            out.flush()?;
            return Ok(());
        }
        let Ok(message) = serde_json::from_slice::<Value>(&line) else { continue };
        if let Some(error) =
            message["errorDetail"]["message"].as_str().or(message["error"].as_str())
        {
            return Err(Failure::new(error));
        }
        if quiet {
            continue;
        }
        if let Some(text) = message["stream"].as_str() {
            out.write_all(text.as_bytes())?;
            subjects.clear();
            continue;
        }
        let status = message["status"].as_str().unwrap_or_default();
        let Some(subject) = message["id"].as_str().filter(|_| live) else {
            match message["id"].as_str() {
                // Bars that nobody can see move are noise.
                Some(_) if !message["progressDetail"]["total"].is_null() => {}
                Some(subject) => writeln!(out, "{subject}: {status}")?,
                None => writeln!(out, "{status}")?,
            }
            continue;
        };
        let up = match subjects.iter().rev().position(|known| known == subject) {
            Some(index) => index + 1,
            None => {
                subjects.push(subject.to_owned());
                writeln!(out)?;
                1
            }
        };
        let bar = bar(&message["progressDetail"]);
        write!(out, "\x1b[{up}A\x1b[2K\r{subject}: {status} {bar}\x1b[{up}B\r")?;
        out.flush()?;
    }
}

/// `[=====>     ]  1.2MB/3.4MB`
fn bar(detail: &Value) -> String {
    let (Some(current), Some(total)) = (detail["current"].as_i64(), detail["total"].as_i64())
    else {
        return String::new();
    };
    let size = crate::format::human::size;
    if total <= 0 || current > total {
        return size(current);
    }
    const WIDTH: i64 = 50;
    let done = usize::try_from(current.saturating_mul(WIDTH) / total).unwrap_or(0);
    let left = 50_usize.saturating_sub(done);
    format!("[{}>{}] {}/{}", "=".repeat(done), " ".repeat(left), size(current), size(total))
}
