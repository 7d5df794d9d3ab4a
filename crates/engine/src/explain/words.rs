//! What a container's last lines say. Pure.

use hoy_look::Format;

use super::causes::{Causes, Sure};
use super::facts::{Facts, own_machine};

/// Characters of a line that are shown.
const SHOWN: usize = 200;

pub(crate) const NO_FORK: [&str; 4] = [
    "can't fork",
    "cannot fork",
    "resource temporarily unavailable",
    "unable to create native thread",
];
const LIBRARY: [&str; 3] =
    ["error while loading shared libraries:", "error loading shared library", "version `glibc_"];
const NO_ROOM: [&str; 2] = ["no space left on device", "enospc"];

/// What a line with certain words is a sign of, and what to do about it.
struct Sign {
    words: &'static [&'static str],
    kind: &'static str,
    what: &'static str,
    hint: &'static str,
}

const SIGNS: [Sign; 8] = [
    Sign {
        words: &["address already in use", "address in use", "eaddrinuse"],
        kind: "address-in-use",
        what: "It wanted to listen where somebody in its network listens already.",
        hint: "is another server in it, or, with --network host or container:, beside it?",
    },
    Sign {
        words: &["quota exceeded", "edquot"],
        kind: "quota",
        what: "A limit of the disk is reached.",
        hint: "hoy system df shows who has what",
    },
    Sign {
        words: &["too many open files", "no file descriptors available", "emfile", "error 24"],
        kind: "open-files",
        what: "It has reached its limit of open files.",
        hint: "give it more: --ulimit nofile=65536",
    },
    Sign {
        words: &["cannot allocate memory", "out of memory", "outofmemoryerror", "enomem"],
        kind: "memory-refused",
        what: "It asked for memory that it did not get.",
        hint: "give it more with --memory, or let it use less",
    },
    Sign {
        words: &[
            "temporary failure in name resolution",
            "name or service not known",
            "could not resolve host",
            "bad address '",
            "no such host",
            "getaddrinfo",
        ],
        kind: "name-resolution",
        what: "It could not find another by its name.",
        hint: "is that one running, and on the same network? The default bridge has no names",
    },
    Sign {
        words: &["connection refused", "econnrefused"],
        kind: "connection-refused",
        what: "Nobody listened where it wanted to connect to.",
        hint: "is that one ready yet? localhost is the container itself",
    },
    Sign {
        words: &["operation not permitted"],
        kind: "not-permitted",
        what: "It did what its capabilities or its filter of system calls do not allow.",
        hint: "see --cap-add and --security-opt seccomp=",
    },
    Sign {
        words: &["permission denied", "eacces"],
        kind: "permission-denied",
        what: "It may not use a file or directory as the user that it is.",
        hint: "see --user, and who owns what is mounted",
    },
];

/// What a fact bears out, too.
fn surer(sure: Sure) -> Sure {
    if sure == Sure::Likely { Sure::Certain } else { sure }
}

pub(crate) fn cut(text: &str) -> String {
    text.trim().chars().take(SHOWN).collect()
}

/// The last line that has one of some words.
fn line<'a>(facts: &'a Facts, words: &[&str]) -> Option<&'a str> {
    let has = |line: &str| {
        let small = line.to_lowercase();
        words.iter().any(|word| small.contains(word))
    };
    facts.log.iter().rev().map(String::as_str).find(|line| has(line))
}

pub(crate) fn says(facts: &Facts, words: &[&str]) -> bool {
    line(facts, words).is_some()
}

pub(crate) fn causes(facts: &Facts, out: &mut Causes) {
    if facts.exit_code == 0 {
        return;
    }
    // Whoever was ended from outside would not have ended by what it said.
    let sure = if out.is_empty() { Sure::Likely } else { Sure::Possible };
    library(facts, out);
    command(facts, sure, out);
    room(facts, sure, out);
    if let Some(found) = line(facts, &["read-only file system", "erofs"]) {
        let (sure, what, hint) = match facts.readonly {
            true => (
                surer(sure),
                "It wanted to write, and its root file system is read-only (--read-only).",
                "give it a volume or --tmpfs where it writes",
            ),
            false => (
                sure,
                "It wanted to write where all is read-only.",
                "is a mount of it read-only (:ro)? Else look at the machine's disk",
            ),
        };
        out.add(sure, "read-only", what, hint);
        out.because(format!("it said: {}", cut(found)));
    }
    for sign in &SIGNS {
        if let Some(found) = line(facts, sign.words) {
            out.add(sure, sign.kind, sign.what, sign.hint);
            out.because(format!("it said: {}", cut(found)));
        }
    }
    if let (Some(found), false) = (line(facts, &NO_FORK), out.has("pids-limit")) {
        let what = "It could begin no more processes or threads.";
        out.add(sure, "pids-limit", what, "see --pids-limit and --ulimit nproc");
        out.because(format!("it said: {}", cut(found)));
    }
}

/// `NAME` of "prog: error while loading shared libraries: NAME: cannot open shared object file" and
/// of "Error loading shared library NAME: No such file or directory (needed by prog)".
fn library_name(line: &str) -> Option<&str> {
    let at = line.find("loading shared librar")?;
    let rest = line.get(at..)?.split_once(' ')?.1.split_once(' ')?.1;
    let rest = rest.split_once(' ')?.1;
    let name = rest.split(':').next()?.trim();
    (!name.is_empty()).then_some(name)
}

fn library(facts: &Facts, out: &mut Causes) {
    let missing = facts.files.as_ref().and_then(|files| files.program.as_ref());
    let missing = match missing.map(|program| &program.format) {
        Some(Format::Elf(elf)) => elf.missing.clone(),
        _ => Vec::new(),
    };
    let hint = "install the package that has it in the image; ldd shows all that a program needs";
    // One that could not be opened for want of descriptors is there.
    let other = |found: &&str| found.to_lowercase().contains("error 24");
    if let Some(found) = line(facts, &LIBRARY).filter(|found| !other(found)) {
        let sure = if facts.exit_code == 127 { Sure::Certain } else { Sure::Likely };
        match library_name(found) {
            Some(name) => out.add(
                sure,
                "library-missing",
                format!("A program in it needs the library {name}, which is not there."),
                hint,
            ),
            None => out.add(
                sure,
                "libc-too-old",
                "A program in it is built for a newer C library than the image has.",
                "use a newer image, or build the program in one like it",
            ),
        }
        out.because(format!("it said: {}", cut(found)));
    } else if facts.exit_code == 127 && !missing.is_empty() {
        out.add(
            Sure::Likely,
            "library-missing",
            format!("Its program needs libraries that are not there: {}.", missing.join(", ")),
            hint,
        );
    }
}

fn command(facts: &Facts, sure: Sure, out: &mut Causes) {
    if !matches!(facts.exit_code, 126 | 127) || out.has("library-missing") {
        return;
    }
    let words = ["not found", "no such file or directory", "permission denied", "bad interpreter"];
    if let Some(found) = line(facts, &words) {
        let what = match facts.exit_code {
            127 => "A command in its script was not found.",
            _ => "A command in its script could not be executed.",
        };
        out.add(surer(sure), "command-not-found", what, "is it in the image, and spelled right?");
        out.because(format!("it said: {}", cut(found)));
    } else if let Some(found) = line(facts, &["exec format error", "syntax error"]) {
        let here = super::facts::machine_name(own_machine());
        let what = format!("A command in its script is no program for this machine ({here}).");
        out.add(sure, "wrong-architecture", what, "use an image for this machine");
        out.because(format!("it said: {}", cut(found)));
    }
}

fn room(facts: &Facts, sure: Sure, out: &mut Causes) {
    /// Less is none.
    const LITTLE: u64 = 1 << 20;
    let Some(found) = line(facts, &NO_ROOM) else { return };
    let at_end = facts.end.as_ref().and_then(|end| end.room);
    let rooms = || at_end.iter().chain(&facts.room);
    let bytes = rooms().any(|room| room.bytes < LITTLE);
    let inodes = rooms().any(|room| room.all_inodes > 0 && room.inodes == 0);
    let (what, hint) = match (&facts.size, bytes, inodes) {
        (Some(size), true, _) => (
            format!("It has filled its own disk ({size})."),
            "let it write less, or make it anew with a larger --storage-opt size=",
        ),
        (_, _, true) => (
            "The disk has no room for another file: its inodes are used up.".to_owned(),
            "many small files are somewhere: hoy system df -v",
        ),
        (_, true, _) => (
            "The disk of the data root is full.".to_owned(),
            "hoy system df shows who has what, and hoy system prune makes room",
        ),
        _ => (
            "Somewhere that it writes to was full: a volume, a tmpfs (/dev/shm), or its disk."
                .to_owned(),
            "see --shm-size, the sizes of its tmpfs mounts, and hoy system df",
        ),
    };
    let sure = if bytes || inodes { surer(sure) } else { sure };
    out.add(sure, "disk-full", what, hint);
    out.because(format!("it said: {}", cut(found)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_that_a_loader_names() {
        let glibc = "true: error while loading shared libraries: libc.so.6: cannot open shared object file: No such file";
        let musl =
            "Error loading shared library libz.so.1: No such file or directory (needed by /x)";
        assert_eq!(library_name(glibc), Some("libc.so.6"));
        assert_eq!(library_name(musl), Some("libz.so.1"));
        assert_eq!(library_name("./a: /lib/libc.so.6: version `GLIBC_2.38' not found"), None);
        assert_eq!(library_name("loading shared librar"), None);
    }
}
