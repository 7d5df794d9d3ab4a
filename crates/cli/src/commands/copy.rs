//! `cp`: files of containers in and out, by Docker's rules for what becomes of which name.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use hoy_tree::{Below, Options, Packer, Tree, extract};
use serde_json::Value;

use super::{App, segment};
use crate::failure::{Failure, Result};
use crate::format::human;
use crate::go_path::{
    asserts_directory, base, clean, dir, ends_with_separator, join, rebased, split_entry,
    with_end_of,
};
use crate::say;

/// Bits of Go's file modes.
const DIRECTORY: u64 = 1 << 31;
const LINK: u64 = 1 << 27;
const DEVICE: u64 = 1 << 26;
const IRREGULAR: u64 = 1 << 19;
const MAX_LINKS: usize = 10;
/// Bytes of an archive on their way.
const PIECE: usize = 256 << 10;
const STAT: &str = "X-Docker-Container-Path-Stat";

/// One end of a copy.
#[derive(Clone, Debug, Default)]
struct End {
    path: String,
    exists: bool,
    is_directory: bool,
    /// What it is to be called instead of its own name.
    rename: String,
}

/// The engine's answer about a path.
struct Stat {
    mode: u64,
    target: String,
}

pub fn copy(app: &App<'_>) -> Result<u8> {
    let (from, to) = (app.arg(0), app.arg(1));
    if from.is_empty() {
        return Err(Failure::new("source can not be empty"));
    }
    if to.is_empty() {
        return Err(Failure::new("destination can not be empty"));
    }
    let ((source, source_path), (target, target_path)) = (split(from), split(to));
    match (source, target) {
        (Some(container), None) => out_of(app, container, source_path, target_path),
        (None, Some(container)) => into(app, container, source_path, target_path),
        (Some(_), Some(_)) => Err(Failure::new("copying between containers is not supported")),
        (None, None) => Err(Failure::new("must specify at least one container source")),
    }
}

/// `CONTAINER:PATH`; a local path with a colon begins with a slash or a dot.
fn split(argument: &str) -> (Option<&str>, &str) {
    match argument.split_once(':') {
        Some((container, path))
            if !container.is_empty()
                && !argument.starts_with('/')
                && !container.starts_with('.') =>
        {
            (Some(container), path)
        }
        _ => (None, argument),
    }
}

fn quiet(app: &App<'_>) -> bool {
    app.flags.switch("quiet") || !io::stderr().is_terminal()
}

fn told(app: &App<'_>, bytes: u64, to: &str) {
    if !quiet(app) {
        let size = human::size(i64::try_from(bytes).unwrap_or(i64::MAX));
        say(&format!("Successfully copied {size} to {to}"));
    }
}

/// The words of Go's errors about files.
fn failed(operation: &str, path: &str) -> impl FnOnce(io::Error) -> Failure {
    let about = format!("{operation} {path}");
    move |error| {
        let full = error.to_string();
        let text = full.split(" (os error").next().unwrap_or(&full).to_lowercase();
        Failure::new(format!("{about}: {text}"))
    }
}

fn absolute(path: &str) -> Result<String> {
    let whole = if path.starts_with('/') {
        clean(path)
    } else {
        let here = std::env::current_dir()?;
        join(&here.to_string_lossy(), path)
    };
    Ok(with_end_of(whole, path))
}

fn query_stat(app: &App<'_>, container: &str, path: &str) -> Result<Option<Stat>> {
    let request = app.client.request("HEAD", format!("/containers/{}/archive", segment(container)));
    match request.query("path", path).send() {
        Ok(answer) => Ok(Some(parse_stat(answer.header(STAT))?)),
        // Clients of Docker learn of an error by a head alone, and go on.
        Err(_) => Ok(None),
    }
}

fn parse_stat(header: Option<&str>) -> Result<Stat> {
    let value: Option<Value> =
        header.and_then(unbase64).and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let value = value.ok_or_else(|| {
        Failure::new("unable to decode container path stat header: it is not there or not whole")
    })?;
    Ok(Stat {
        mode: value["mode"].as_u64().unwrap_or(0),
        target: value["linkTarget"].as_str().unwrap_or_default().to_owned(),
    })
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    let value = |letter: u8| match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut out = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text.trim().trim_end_matches('=').bytes() {
        bits = bits << 6 | u32::from(value(letter)?);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 255) as u8);
        }
    }
    Some(out)
}

fn out_of(app: &App<'_>, container: &str, source: &str, target: &str) -> Result<u8> {
    let target = if target == "-" { "-".to_owned() } else { absolute(target)? };
    may_be_written(&target)?;
    let mut from = End { path: source.to_owned(), exists: true, ..End::default() };
    if app.flags.switch("follow-link")
        && let Some(stat) = query_stat(app, container, source)?
        && stat.mode & LINK != 0
    {
        let target = match stat.target.starts_with('/') {
            true => stat.target,
            false => join(&split_entry(source).0, &stat.target),
        };
        (from.path, from.rename) = rebased(source, target);
    }
    let request = app.client.get(format!("/containers/{}/archive", segment(container)));
    let mut answer = request.query("path", &from.path).send()?;
    let stat = parse_stat(answer.header(STAT))?;
    from.is_directory = stat.mode & DIRECTORY != 0;
    if target == "-" {
        let mut stdout = io::stdout().lock();
        io::copy(&mut answer, &mut stdout)?;
        stdout.flush()?;
        return Ok(0);
    }
    let to = local_target(&target)?;
    let (directory, name) = place(&from, &to)?;
    let mut renames = Vec::new();
    let mut own = split_entry(&from.path).1;
    if !from.rename.is_empty() {
        renames.push((own.clone(), from.rename.clone()));
        own = from.rename.clone();
    }
    renames.extend(name.map(|name| (if own == "/" { String::new() } else { own }, name)));
    let opened: OwnedFd = File::open(&directory).map_err(failed("open", &directory))?.into();
    let options = Options {
        keep_kinds: true,
        no_owner: true,
        renames: &renames,
        shown: &directory,
        ..Options::default()
    };
    let mut counted = Counted { inner: answer, bytes: 0 };
    extract(&mut counted, Below::Beneath(&opened), options)
        .map_err(|error| Failure::new(error.to_string()))?;
    told(app, counted.bytes, &target);
    Ok(0)
}

/// Docker's look at where something is to go, before it is asked for.
fn may_be_written(path: &str) -> Result<()> {
    let above = dir(&clean(path));
    let missing = |path: &str| {
        std::fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    if above != "." && missing(&above) {
        return Err(Failure::new(format!(
            "invalid output path: directory {above:?} does not exist"
        )));
    }
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("stat", path)(error)),
        Ok(found) => {
            let kind = found.file_type();
            if kind.is_char_device() || kind.is_block_device() {
                return Err(Failure::new(format!(
                    "invalid output path: {path:?} must be a directory or a regular file: got a \
                     device"
                )));
            }
            Ok(())
        }
    }
}

/// The target of a copy on this machine: links are followed, also to what is not there.
fn local_target(path: &str) -> Result<End> {
    let mut current = path.to_owned();
    for _ in 0..=MAX_LINKS {
        match std::fs::symlink_metadata(&current) {
            Ok(found) if found.is_symlink() => {
                let target = std::fs::read_link(&current).map_err(failed("readlink", &current))?;
                let target = target.to_string_lossy();
                current = match target.starts_with('/') {
                    true => target.into_owned(),
                    false => join(&split_entry(&current).0, &target),
                };
            }
            Ok(found) => {
                let is_directory = found.is_dir();
                return Ok(End { path: current, exists: true, is_directory, ..End::default() });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (above, _) = split_entry(&current);
                let found = std::fs::metadata(&above).map_err(failed("stat", &above))?;
                if !found.is_dir() {
                    return Err(Failure::new("not a directory"));
                }
                return Ok(End { path: current, ..End::default() });
            }
            Err(error) => return Err(failed("lstat", &current)(error)),
        }
    }
    Err(Failure::new(format!("too many symlinks in {path}")))
}

/// The directory that the archive goes to, and the name that its root gets there if that is
/// another one.
fn place(from: &End, to: &End) -> Result<(String, Option<String>)> {
    let (above, name) = split_entry(&to.path);
    if to.exists && to.is_directory {
        return Ok((to.path.clone(), None));
    }
    if to.exists && from.is_directory {
        return Err(Failure::new("cannot copy directory"));
    }
    if !to.exists && !from.is_directory && asserts_directory(&to.path) {
        return Err(Failure::new("no such directory"));
    }
    Ok((above, Some(name)))
}

fn into(app: &App<'_>, container: &str, source: &str, target: &str) -> Result<u8> {
    let source = if source == "-" { "-".to_owned() } else { absolute(source)? };
    let mut to = End { path: target.to_owned(), ..End::default() };
    let mut stat = query_stat(app, container, target)?;
    if let Some(found) = &stat
        && found.mode & LINK != 0
    {
        to.path = match found.target.starts_with('/') {
            true => found.target.clone(),
            false => join(&split_entry(target).0, &found.target),
        };
        stat = query_stat(app, container, &to.path)?;
    }
    if let Some(found) = &stat {
        let what = match found.mode {
            mode if mode & DEVICE != 0 => Some("got a device"),
            mode if mode & IRREGULAR != 0 => Some("got an irregular file"),
            _ => None,
        };
        if let Some(what) = what {
            return Err(Failure::new(format!(
                "destination \"{container}:{target}\" must be a directory or a regular file: {what}"
            )));
        }
        (to.exists, to.is_directory) = (true, found.mode & DIRECTORY != 0);
    }
    if source == "-" {
        if !to.is_directory {
            let text = format!("destination \"{container}:{target}\" must be a directory");
            return Err(Failure::new(text));
        }
        return send(app, container, &to.path, &mut io::stdin().lock()).map(|()| 0);
    }
    let from = local_source(&source, app.flags.switch("follow-link"))?;
    let (directory, name) = place(&from, &to)?;
    let (above, own) = split_entry(&from.path);
    let called = match (name, from.rename.as_str()) {
        (Some(name), _) => name,
        (None, "") => own.clone(),
        (None, rename) => rename.to_owned(),
    };
    let opened: OwnedFd = File::open(&above).map_err(failed("open", &above))?.into();
    let (reader, writer) = io::pipe()?;
    let mut counted = Counted { inner: reader, bytes: 0 };
    let packed = std::thread::spawn(move || {
        let mut packer = Packer::new(io::BufWriter::with_capacity(PIECE, writer));
        match own.as_str() {
            "." | "/" => {
                let name = if called == "/" { "" } else { &called };
                let name = Some(name.as_bytes());
                packer.tree(Tree { directory: &opened, name })?;
            }
            name => {
                let name = std::ffi::CString::new(name)?;
                packer.entry(&opened, &name, called.as_bytes())?;
            }
        }
        packer.finish()?.flush()
    });
    let sent = send(app, container, &directory, &mut counted);
    let bytes = counted.bytes;
    // Who still writes sees that nobody reads.
    drop(counted);
    let packed = packed.join().unwrap_or_else(|_| Err(io::Error::other("the archive was lost")));
    sent?;
    packed?;
    told(app, bytes, &format!("{container}:{}", to.path));
    Ok(0)
}

/// The source of a copy on this machine, by Docker's rules for links.
fn local_source(path: &str, follow: bool) -> Result<End> {
    let resolve = |path: &str| -> Result<String> {
        let found = std::fs::canonicalize(path).map_err(failed("lstat", path))?;
        Ok(found.to_string_lossy().into_owned())
    };
    let (resolved, rename) = if follow {
        rebased(path, resolve(path)?)
    } else {
        let (above, name) = path.rsplit_once('/').unwrap_or((".", path));
        let above = resolve(if above.is_empty() { "/" } else { above })?;
        let resolved = format!("{}/{name}", above.trim_end_matches('/'));
        let other = ends_with_separator(path) && base(path) != base(&resolved);
        let rename = if other { base(path).to_owned() } else { String::new() };
        (resolved, rename)
    };
    let found = std::fs::symlink_metadata(Path::new(&resolved)).map_err(|error| {
        match error.kind() {
            // Docker finds out by itself, and names nothing.
            io::ErrorKind::NotADirectory if ends_with_separator(path) => {
                Failure::new("not a directory")
            }
            _ => failed("lstat", &resolved)(error),
        }
    });
    let is_directory = found?.is_dir();
    Ok(End { path: resolved, exists: true, is_directory, rename })
}

fn send(app: &App<'_>, container: &str, directory: &str, archive: &mut dyn Read) -> Result<()> {
    let mut request =
        app.client.request("PUT", format!("/containers/{}/archive", segment(container)));
    if app.flags.switch("archive") {
        request = request.query("copyUIDGID", "true");
    }
    let request = request.query("noOverwriteDirNonDir", "true").query("path", directory);
    request.stream("text/plain", archive).send()?;
    Ok(())
}

struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.bytes += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        assert_eq!(split("box:/a"), (Some("box"), "/a"));
        assert_eq!(split("box:"), (Some("box"), ""));
        assert_eq!(split("/a:b"), (None, "/a:b"));
        assert_eq!(split("./a:b"), (None, "./a:b"));
        assert_eq!(split("-"), (None, "-"));
        assert_eq!(unbase64("Zm9vYj8+").unwrap(), b"foob?>");
        assert_eq!(unbase64("Zg==").unwrap(), b"f");
    }

    #[test]
    fn places() {
        let end = |path: &str, exists, is_directory| End {
            path: path.to_owned(),
            exists,
            is_directory,
            rename: String::new(),
        };
        let directory = end("/src", true, true);
        let file = end("/file", true, false);
        let at = |path: &str, name: Option<&str>| (path.to_owned(), name.map(str::to_owned));
        assert_eq!(place(&file, &end("/d", true, true)).unwrap(), at("/d", None));
        assert_eq!(place(&file, &end("/d/new", false, false)).unwrap(), at("/d", Some("new")));
        assert_eq!(place(&directory, &end("/n/", false, false)).unwrap(), at("/", Some("n")));
        assert!(place(&directory, &end("/f", true, false)).is_err());
        assert!(place(&file, &end("/n/", false, false)).is_err());
    }
}
