//! The questions, answered by the files that this process sees as its own. Inside the jail only:
//! paths are strings here.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use crate::elf;
use crate::near::near;
use crate::{Elf, Findings, Format, Kind, Program, Question};

/// The kernel's own limit of a first line.
const HEAD: usize = 256;
/// Interpreters of interpreters.
const DEEPEST: u32 = 3;
/// Libraries that are followed, and names that are looked at for one that is like another.
const LIBRARIES: usize = 256;
const NAMES: usize = 20_000;
/// Bytes of a password file or the loader's configuration.
const TEXT: u64 = 1 << 20;
/// Characters of a name that are told.
const SHOWN: usize = 300;
/// Where loaders look.
const USUAL: [&str; 12] = [
    "/lib64",
    "/usr/lib64",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib",
    "/usr/lib",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/usr/local/lib/x86_64-linux-gnu",
    "/usr/local/lib/aarch64-linux-gnu",
];

pub(crate) fn answer(question: &Question) -> Findings {
    let program = find(question);
    let near = match &program {
        None => near_names(question),
        Some(_) => Vec::new(),
    };
    let passwd = text("/etc/passwd");
    let users = || passwd.lines().filter_map(|line| line.split(':').next());
    let user = question.user.as_str();
    Findings {
        program,
        near,
        cwd: kind(std::fs::metadata(&question.cwd).ok().as_ref()),
        user_known: user.is_empty() || users().any(|name| name == user),
        near_users: near_users(user, users()),
    }
}

fn near_users<'a>(user: &str, users: impl Iterator<Item = &'a str>) -> Vec<String> {
    let users: Vec<&str> = users.take(NAMES).collect();
    if user.is_empty() { Vec::new() } else { near(user, users.into_iter()) }
}

fn kind(meta: Option<&Metadata>) -> Kind {
    match meta {
        None => Kind::Missing,
        Some(meta) if meta.is_file() => Kind::File,
        Some(meta) if meta.is_dir() => Kind::Directory,
        Some(_) => Kind::Other,
    }
}

/// A regular file, and never one that makes its reader wait.
fn open(path: &str) -> Option<File> {
    const NONBLOCK: i32 = 0o4000;
    const NOCTTY: i32 = 0o400;
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let flags = NONBLOCK | NOCTTY;
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

fn text(path: &str) -> String {
    let mut bytes = Vec::new();
    if let Some(file) = open(path) {
        let _ = file.take(TEXT).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

fn absolute(question: &Question, path: &str) -> String {
    match path.strip_prefix('/') {
        Some(_) => path.to_owned(),
        None => format!("{}/{path}", question.cwd.trim_end_matches('/')),
    }
}

/// As the supervisor looks for it: what can be executed comes first.
fn find(question: &Question) -> Option<Program> {
    let command = question.command.as_str();
    if command.is_empty() {
        return None;
    }
    if command.contains('/') {
        return examine(&absolute(question, command), question, 0);
    }
    let mut first = None;
    for directory in question.path.iter().filter(|directory| directory.starts_with('/')) {
        if let Some(found) = examine(&format!("{directory}/{command}"), question, 0)
            && found.kind == Kind::File
        {
            if found.executable {
                return Some(found);
            }
            first.get_or_insert(found);
        }
    }
    first
}

fn examine(path: &str, question: &Question, depth: u32) -> Option<Program> {
    let meta = std::fs::metadata(path).ok()?;
    let executable = meta.permissions().mode() & 0o111 != 0;
    let kind = kind(Some(&meta));
    let format = match (kind, open(path)) {
        (Kind::File, Some(file)) => format(&file, path, question, depth),
        _ => Format::Unknown,
    };
    Some(Program { path: shown(path), kind, executable, format })
}

fn format(file: &File, path: &str, question: &Question, depth: u32) -> Format {
    if let Some(image) = elf::read_image(file) {
        let interpreter_there = image.interpreter.is_empty() || open(&image.interpreter).is_some();
        let missing = if interpreter_there { missing(&image, path, question) } else { Vec::new() };
        return Format::Elf(Elf {
            machine: image.machine,
            interpreter: shown(&image.interpreter),
            interpreter_there,
            missing,
        });
    }
    let mut head = Vec::new();
    if file.take(HEAD as u64).read_to_end(&mut head).is_err() {
        return Format::Unknown;
    }
    classify(&head, |interpreter| {
        (depth < DEEPEST)
            .then(|| examine(&absolute(question, interpreter), question, depth + 1))
            .flatten()
    })
}

/// What a file is by its first bytes, for what is no ELF.
fn classify(head: &[u8], interpreter: impl FnOnce(&str) -> Option<Program>) -> Format {
    match head {
        [] => Format::Empty,
        [b'#', b'!', rest @ ..] => {
            let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let carriage_return = line.last() == Some(&b'\r');
            let line = String::from_utf8_lossy(line).into_owned();
            // The kernel takes what ends the line for a part of the name.
            let line = line.trim_matches([' ', '\t']);
            let name = line.split([' ', '\t']).next().unwrap_or_default();
            let program = interpreter(name).map(Box::new);
            let interpreter = shown(name.trim_end_matches('\r'));
            Format::Script { interpreter, carriage_return, program }
        }
        [b'M', b'Z', ..] => Format::Foreign("Windows".to_owned()),
        [0xcf | 0xce, 0xfa, 0xed, 0xfe, ..] | [0xca, 0xfe, 0xba, 0xbe, ..] => {
            Format::Foreign("macOS".to_owned())
        }
        text if std::str::from_utf8(text).is_ok_and(|text| !text.contains('\0')) => Format::Text,
        _ => Format::Other,
    }
}

fn directories(question: &Question) -> Vec<String> {
    let mut out = question.libraries.clone();
    let mut files = vec!["/etc/ld.so.conf".to_owned()];
    for arch in ["x86_64", "aarch64"] {
        files.push(format!("/etc/ld-musl-{arch}.path"));
    }
    if let Ok(entries) = std::fs::read_dir("/etc/ld.so.conf.d") {
        let names = entries.flatten().take(64).map(|entry| entry.path());
        files.extend(names.filter_map(|path| path.to_str().map(str::to_owned)));
    }
    for file in files {
        let text = text(&file);
        let lines = text.split(['\n', ':']).map(str::trim).filter(|line| line.starts_with('/'));
        out.extend(lines.take(64).map(str::to_owned));
    }
    out.extend(USUAL.map(str::to_owned));
    out
}

/// Libraries that are nowhere where the loader would look.
fn missing(image: &elf::Image, path: &str, question: &Question) -> Vec<String> {
    let usual = directories(question);
    let mut out = Vec::new();
    let mut known = BTreeSet::new();
    let mut queue = VecDeque::from([(image.clone(), path.to_owned())]);
    while let Some((image, path)) = queue.pop_front() {
        let origin = Path::new(&path).parent().and_then(Path::to_str).unwrap_or("/");
        let own = image
            .path
            .iter()
            .map(|one| one.replace("$ORIGIN", origin).replace("${ORIGIN}", origin));
        let own: Vec<String> = own.collect();
        for name in image.needed {
            if known.len() >= LIBRARIES || !known.insert(name.clone()) {
                continue;
            }
            let at = |directory: &String| format!("{directory}/{name}");
            let places = match name.contains('/') {
                true => vec![name.clone()],
                false => own.iter().chain(&usual).map(at).collect(),
            };
            // The musl loader is its own C library.
            let is_loader = name.starts_with("libc.musl") || name.starts_with("ld-");
            match places.iter().find_map(|place| open(place).map(|file| (file, place))) {
                Some((file, place)) => {
                    if let Some(image) = elf::read_image(&file) {
                        queue.push_back((image, place.clone()));
                    }
                }
                None if is_loader => {}
                None => out.push(shown(&name)),
            }
        }
    }
    out
}

fn near_names(question: &Question) -> Vec<String> {
    let (directories, wanted): (Vec<String>, &str) = match question.command.rsplit_once('/') {
        Some((directory, name)) => (vec![absolute(question, directory)], name),
        None => (question.path.clone(), question.command.as_str()),
    };
    let mut names = BTreeSet::new();
    for directory in directories.iter().filter(|directory| directory.starts_with('/')) {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let found = entries.take(NAMES).filter_map(|entry| entry.file_name().into_string().ok());
        names.extend(found.filter(|name| name.len() <= 64));
    }
    near(wanted, names.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(head: &str) -> (String, bool) {
        match classify(head.as_bytes(), |_| None) {
            Format::Script { interpreter, carriage_return, .. } => (interpreter, carriage_return),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_line_names_the_interpreter() {
        assert_eq!(script("#!/bin/sh\necho"), ("/bin/sh".into(), false));
        assert_eq!(script("#! /usr/bin/env python3\n"), ("/usr/bin/env".into(), false));
        assert_eq!(script("#!/bin/sh\r\necho\r\n"), ("/bin/sh".into(), true));
        assert!(script("#!/bin/sh -e\r\n").1);
        assert_eq!(script("#!"), (String::new(), false));
    }

    #[test]
    fn other_files_are_told_apart() {
        let of = |head: &[u8]| classify(head, |_| None);
        assert_eq!(of(b""), Format::Empty);
        assert_eq!(of(b"echo hello\n"), Format::Text);
        assert_eq!(of(b"MZ\x90\0"), Format::Foreign("Windows".into()));
        assert_eq!(of(b"\0\xff"), Format::Other);
    }
}
