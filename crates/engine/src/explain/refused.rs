//! Why a start has failed: what was said of it beside what the container's files say. Pure.

use hoy_look::{Elf, Format, Kind, Program};

use super::causes::{Causes, Sure};
use super::facts::{Facts, machine_name, own_machine};

const SHEBANG: &str = "its first line";

pub(crate) fn causes(facts: &Facts, out: &mut Causes) {
    let error = facts.error.as_str();
    let says = |part: &str| error.contains(part);
    let hint_of_image = "build or load the image again with it";
    let began = says("unable to start container process") || says("exec format error");
    // Of what hangs nobody knows what it would have been.
    if (began || says("exec ")) && !out.has("file-system-hangs") {
        program(facts, out);
    }
    if says("unable to find user ") {
        let user = between(error, "unable to find user ", ":").unwrap_or(&facts.user);
        let near = facts.files.as_ref().map_or(&[][..], |files| &files.near_users);
        out.add(
            Sure::Certain,
            "user-unknown",
            format!("Its user {user:?} is not in the image's /etc/passwd."),
            match near {
                [] => "name a user that is, or a number: --user 1000".to_owned(),
                near => format!("did you mean {}?", near.join(" or ")),
            },
        );
    } else if says("unable to find group ") {
        let group = between(error, "unable to find group ", ":").unwrap_or_default();
        out.add(
            Sure::Certain,
            "group-unknown",
            format!("Its group {group:?} is not in the image's /etc/group."),
            "name a group that is, or a number",
        );
    } else if says("chdir to cwd") || says("the working directory") {
        let what = match facts.files.as_ref().map(|files| files.cwd) {
            Some(Kind::File) => "is a file",
            Some(Kind::Missing) => "is not there",
            _ => "cannot be entered",
        };
        out.add(
            Sure::Certain,
            "working-directory",
            format!("Its working directory {} {what}.", facts.cwd),
            "say another with --workdir, or make it in the image",
        );
    } else if says("bind source path does not exist") || says("bind mount of") {
        let said = error.rsplit(": ").next().unwrap_or_default();
        let path = facts.gone.first().map_or(said, String::as_str);
        out.add(
            Sure::Certain,
            "mount-source-missing",
            format!("What it mounts is not there (any more): {path}"),
            "make it, or make the container anew without that mount",
        );
    } else if says("port is already allocated") || says("address already in use") {
        let port = between(error, "Bind for ", " failed")
            .or_else(|| between(error, "failed to bind host port ", ":"))
            .unwrap_or("a port");
        out.add(
            Sure::Certain,
            "port-in-use",
            format!("A port that it publishes is somebody else's: {port}."),
            match facts.holders.as_slice() {
                [] => "end who has it, or publish another: -p OTHER:PORT".to_owned(),
                holders => format!("hoy stop {}, or publish another: -p OTHER:PORT", holders[0]),
            },
        );
        for holder in &facts.holders {
            out.because(format!("the container {holder} has it"));
        }
    } else if says("layer of the image is missing") {
        out.add(
            Sure::Certain,
            "layer-missing",
            "A layer of its image is gone from the store.",
            "load the image again: hoy load -i FILE",
        );
    } else if says("o space left on device") {
        out.add(
            Sure::Certain,
            "disk-full",
            "The disk of the data root is full.",
            "hoy system df shows who has what, and hoy system prune makes room",
        );
    } else if says("quota exceeded") {
        out.add(Sure::Certain, "quota", "A limit of the disk is reached.", "hoy system df");
    } else if says("of a non running container") || says("No such container") {
        let other = between(error, "container: container ", " is").unwrap_or("another container");
        let other: String = other.chars().take(12).collect();
        out.add(
            Sure::Certain,
            "needs-another-container",
            format!("It needs what {other} has, and that one does not run."),
            format!("hoy start {other}"),
        );
    } else if says("gathering device information") {
        let device = between(error, "custom device \"", "\"").unwrap_or_default();
        out.add(
            Sure::Certain,
            "device-missing",
            format!("A device that it is to have is not there: {device}"),
            "see --device; the machine's drivers make devices",
        );
    }
    if out.is_empty() {
        let hint = if says("image") { hint_of_image } else { "the daemon's log may say more" };
        out.add(Sure::Certain, "start-failed", "Its start has failed.", hint);
    }
    out.because(format!("the start said: {error}"));
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    let end = rest.find(after).unwrap_or(rest.len());
    rest.get(..end).filter(|found| !found.is_empty())
}

/// What is wrong with what was to be executed.
fn program(facts: &Facts, out: &mut Causes) {
    let error = facts.error.as_str();
    let wanted = facts.program();
    if error.contains("chdir to cwd") {
        return;
    }
    let Some(files) = &facts.files else {
        return by_words(facts, out);
    };
    let Some(found) = &files.program else {
        if facts.is_mounted(wanted) {
            out.add(
                Sure::Likely,
                "program-missing",
                format!("There is no {wanted} in what is mounted there."),
                "look into the source of the mount",
            );
            return;
        }
        return missing(facts, &files.near, out);
    };
    if facts.is_mounted(&found.path) {
        return by_words(facts, out);
    }
    if found.kind == Kind::Directory {
        out.add(
            Sure::Certain,
            "is-a-directory",
            format!("{} is a directory, and no program.", found.path),
            "name the program in it",
        );
        return;
    }
    // What is wrong inside of it comes before whether it may be executed at all.
    if found.executable || !error.contains("permission denied") {
        format(found, &found.path, out);
    }
    if !found.executable {
        out.add(
            Sure::Certain,
            "not-executable",
            format!("{} is there, but nobody may execute it.", found.path),
            format!("chmod +x {} in the image (COPY --chmod=755)", found.path),
        );
    }
    if out.is_empty() {
        by_words(facts, out);
    }
}

fn missing(facts: &Facts, near: &[String], out: &mut Causes) {
    let wanted = facts.program();
    let mut hint = match near {
        [] => "is it in the image? Everything after the image's name is the command".to_owned(),
        near => format!("did you mean {}?", near.join(" or ")),
    };
    if wanted.contains(' ') {
        hint =
            "the command's words must be words of their own: [\"a\", \"b\"], not [\"a b\"]".into();
    } else if wanted.starts_with('-') {
        hint = "options of hoy come before the image's name".into();
    }
    match wanted.contains('/') {
        true => out.add(
            Sure::Certain,
            "program-missing",
            format!("There is no {wanted} in the image."),
            hint,
        ),
        false => out.add(
            Sure::Certain,
            "not-in-path",
            format!("There is no program {wanted} in the directories of its PATH."),
            hint,
        ),
    }
}

/// Only by what the start said, where nobody has looked at the file.
fn by_words(facts: &Facts, out: &mut Causes) {
    let error = facts.error.as_str();
    let wanted = facts.program();
    if error.contains("executable file not found") || error.contains(&format!("stat {wanted}:")) {
        missing(facts, &[], out);
    } else if error.contains("no such file or directory") {
        out.add(
            Sure::Likely,
            "interpreter-missing",
            format!(
                "{wanted} is there, but what it needs to run is not: its interpreter or loader."
            ),
            "look at its first line, or at what readelf -l says of it",
        );
    } else if error.contains("exec format error") {
        out.add(
            Sure::Likely,
            "wrong-architecture",
            format!("{wanted} is no program for this machine ({}).", machine_name(own_machine())),
            "is it for another machine, or a script without a first line?",
        );
    } else if error.contains("permission denied") {
        out.add(
            Sure::Likely,
            "not-executable",
            format!("{wanted} may not be executed by its user, or where it lies."),
            "see its mode, --user, and the options of its mount (noexec)",
        );
    } else if error.contains("is a directory") {
        let what = format!("{wanted} is a directory, and no program.");
        out.add(Sure::Certain, "is-a-directory", what, "name the program in it");
    }
}

/// What the kernel could not make of a file. `asked`: what was to be executed at first.
fn format(program: &Program, asked: &str, out: &mut Causes) {
    let path = program.path.as_str();
    match &program.format {
        Format::Elf(elf) => of_elf(elf, path, asked, out),
        Format::Script { interpreter, carriage_return: true, .. } => out.add(
            Sure::Certain,
            "line-endings",
            format!(
                "{path} has lines that end as on Windows: {SHEBANG} asks for {interpreter:?} with \
                 a carriage return behind it, which is not there."
            ),
            format!("sed -i 's/\\r$//' {path}, or let git keep the line ends (eol=lf)"),
        ),
        Format::Script { interpreter, program: None, .. } => out.add(
            Sure::Certain,
            "interpreter-missing",
            format!("{path} is a script for {interpreter}, which is not in the image."),
            match interpreter.as_str() {
                "/bin/bash" | "/usr/bin/bash" => {
                    "install bash, or begin the script with #!/bin/sh".to_owned()
                }
                other => format!("install {other}, or name another in {SHEBANG}"),
            },
        ),
        Format::Script { program: Some(program), .. } if program.executable => {
            format(program, asked, out);
        }
        Format::Script { program: Some(program), .. } => out.add(
            Sure::Certain,
            "not-executable",
            format!("{path} is a script for {}, which nobody may execute.", program.path),
            format!("chmod +x {} in the image", program.path),
        ),
        Format::Empty => out.add(
            Sure::Certain,
            "empty-program",
            format!("{path} is an empty file."),
            "copy it into the image again",
        ),
        Format::Text => out.add(
            Sure::Certain,
            "no-interpreter-line",
            format!("{path} is text, and {SHEBANG} does not say who is to run it."),
            "begin it with #!/bin/sh, or run it as: sh FILE",
        ),
        Format::Foreign(system) => out.add(
            Sure::Certain,
            "foreign-program",
            format!("{path} is a program for {system}."),
            "build it for Linux",
        ),
        Format::Other => out.add(
            Sure::Likely,
            "no-program",
            format!("{path} is no program that the kernel knows."),
            "look at it with: file",
        ),
        Format::Unknown => {}
    }
}

fn of_elf(elf: &Elf, path: &str, asked: &str, out: &mut Causes) {
    let needs = match path == asked {
        true => String::new(),
        false => format!(", which {asked} needs,"),
    };
    if !runs_here(elf.machine) {
        out.add(
            Sure::Certain,
            "wrong-architecture",
            format!(
                "{path}{needs} is built for {}, and this machine is {}.",
                machine_name(elf.machine),
                machine_name(own_machine())
            ),
            format!("use an image for linux/{}", machine_name(own_machine())),
        );
    } else if !elf.interpreter_there {
        let hint = match elf.interpreter.contains("musl") {
            true => "it is built for musl (Alpine): use such an image, or build it for this one",
            false => {
                "it is built for glibc: use an image with it (Debian), or build it statically \
                 (CGO_ENABLED=0)"
            }
        };
        out.add(
            Sure::Certain,
            "loader-missing",
            format!("{path}{needs} asks for the loader {}, which is not there.", elf.interpreter),
            hint,
        );
    }
}

/// Machines of a family run their smaller kin, mostly.
fn runs_here(machine: u16) -> bool {
    match own_machine() {
        62 => matches!(machine, 62 | 3),
        183 => matches!(machine, 183 | 40),
        own => machine == own,
    }
}
