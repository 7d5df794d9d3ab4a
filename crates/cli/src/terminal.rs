//! The user's terminal: raw while a container has it, restored whatever happens.

use std::io::{self, IsTerminal as _};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::failure::{Failure, Result};

/// Docker's way out of a session.
const DETACH: &str = "ctrl-p,ctrl-q";

/// A terminal in raw mode; the old mode comes back when this is dropped.
#[derive(Debug)]
pub struct RawMode {
    before: Option<Termios>,
}

impl RawMode {
    /// Takes standard input's terminal; does nothing where there is none.
    pub fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(Self { before: None });
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Self { before: Some(before) })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Nothing better can be done when the terminal is gone.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Rows and columns of the terminal that output goes to.
pub fn size() -> Option<(u16, u16)> {
    let stdout = io::stdout();
    let size = if stdout.is_terminal() { tcgetwinsize(&stdout) } else { return None };
    size.ok()
        .map(|size| (size.ws_row, size.ws_col))
        .filter(|&(rows, columns)| rows > 0 && columns > 0)
}

pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

pub fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Finds the keys that leave a session in what is typed.
#[derive(Debug, Default)]
pub struct DetachKeys {
    keys: Vec<u8>,
    seen: usize,
}

impl DetachKeys {
    /// From `ctrl-p,ctrl-q`; an empty text means the default.
    pub fn parse(text: &str) -> Result<Self> {
        let text = if text.is_empty() { DETACH } else { text };
        let key = |key: &str| {
            let unknown = || {
                Failure::new(format!("invalid detach keys ({text}): Unknown character: '{key}'"))
            };
            match key.strip_prefix("ctrl-") {
                Some(control) => match control.as_bytes() {
                    [letter @ b'a'..=b'z'] => Ok(letter - b'a' + 1),
                    b"@" => Ok(0),
                    [sign @ b'['..=b'_'] => Ok(sign - b'@'),
                    _ => Err(unknown()),
                },
                None => match key.as_bytes() {
                    [byte] => Ok(*byte),
                    _ => Err(unknown()),
                },
            }
        };
        Ok(Self { keys: text.split(',').map(key).collect::<Result<_>>()?, seen: 0 })
    }

    /// Appends to `out` what of `typed` goes on; true if the session is to be left.
    pub fn filter(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        for &byte in typed {
            if self.keys.get(self.seen) == Some(&byte) {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    self.seen = 0;
                    return true;
                }
                continue;
            }
            // It only looked like the beginning.
            out.extend_from_slice(&self.keys[..self.seen]);
            self.seen = usize::from(self.keys.first() == Some(&byte));
            if self.seen == 0 {
                out.push(byte);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_across_reads() {
        let mut keys = DetachKeys::parse("").unwrap();
        let mut out = Vec::new();
        assert!(!keys.filter(b"ab\x10", &mut out));
        assert!(!keys.filter(b"c\x10\x10", &mut out));
        assert_eq!(out, b"ab\x10c\x10");
        assert!(keys.filter(b"\x11rest", &mut out));
        assert_eq!(DetachKeys::parse("ctrl-a,x,ctrl-@").unwrap().keys, [1, b'x', 0]);
        assert!(DetachKeys::parse("ctrl-1").is_err() && DetachKeys::parse("ab").is_err());
    }
}
