//! Docker's grammar as tables: every command and, for those that are built, every flag.
//!
//! The tables are text that is looked through only for the command at hand. They say nothing
//! about what a command does.

use std::borrow::Cow;

const COMMANDS: &str = include_str!("../grammar/commands.tsv");
const GLOBAL: &str = include_str!("../grammar/global.tsv");

/// One line of the table of commands.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// As typed, without the program's name: `container ls`, `ps`.
    pub path: &'static str,
    /// The one name under which it is built: `container ls` for both.
    pub canonical: &'static str,
    pub usage: &'static str,
    pub least: usize,
    pub most: Option<usize>,
    marks: &'static str,
    pub aliases: &'static str,
    pub about: &'static str,
}

impl Command {
    fn parse(line: &'static str) -> Option<Self> {
        let mut fields = line.split('\t');
        Some(Self {
            path: fields.next()?,
            canonical: fields.next()?,
            usage: fields.next()?,
            least: fields.next()?.parse().unwrap_or(0),
            most: fields.next()?.parse().ok(),
            marks: fields.next()?,
            aliases: fields.next()?,
            about: fields.next()?,
        })
    }

    pub fn all() -> impl Iterator<Item = Self> {
        COMMANDS.lines().filter_map(Self::parse)
    }

    /// The command of this exact path.
    pub fn find(path: &str) -> Option<Self> {
        let line = COMMANDS.lines().find(|line| line.split('\t').next() == Some(path))?;
        Self::parse(line)
    }

    /// Flags end at the first argument: what follows belongs to the container.
    pub fn stops_at_argument(&self) -> bool {
        self.marks.contains('s')
    }

    pub fn is_built(&self) -> bool {
        self.marks.contains('b')
    }

    /// Has commands of its own.
    pub fn is_group(&self) -> bool {
        self.marks.contains('g')
    }

    pub fn is_hidden(&self) -> bool {
        self.marks.contains('h')
    }

    pub fn is_alias(&self) -> bool {
        self.marks.contains('a')
    }

    /// Docker's engines have it only with experiments.
    pub fn is_experiment(&self) -> bool {
        self.marks.contains('x')
    }

    /// Is listed first in the help.
    pub fn is_common(&self) -> bool {
        self.marks.contains('c')
    }

    /// About clusters.
    pub fn is_swarm(&self) -> bool {
        self.marks.contains('w')
    }

    pub fn flags(&self) -> impl Iterator<Item = Flag> {
        flag_table(self.canonical).lines().filter_map(Flag::parse)
    }
}

/// The flags before any command.
pub fn global_flags() -> impl Iterator<Item = Flag> {
    GLOBAL.lines().filter_map(Flag::parse)
}

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Text,
    /// May be given again; every value counts.
    List,
    Int,
    Unsigned,
    Bytes,
    Duration,
    Decimal,
    /// `name=value`.
    Filter,
}

/// One line of a table of flags.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub long: &'static str,
    pub short: Option<char>,
    /// As the help shows it.
    pub shown: &'static str,
    pub default: &'static str,
    pub hidden: bool,
    pub about: &'static str,
}

impl Flag {
    fn parse(line: &'static str) -> Option<Self> {
        let mut fields = line.split('\t');
        Some(Self {
            long: fields.next()?,
            short: fields.next()?.chars().next(),
            shown: fields.next()?,
            default: fields.next()?,
            hidden: fields.next()?.contains('h'),
            about: fields.next()?,
        })
    }

    /// The flag that this one is another spelling of, else itself.
    pub fn means(&self) -> &'static str {
        match self.long {
            "net" => "network",
            "net-alias" => "network-alias",
            "dns-opt" => "dns-option",
            own => own,
        }
    }

    pub fn kind(&self) -> Kind {
        match self.shown {
            "bool" => Kind::Bool,
            "bytes" => Kind::Bytes,
            "duration" => Kind::Duration,
            "decimal" => Kind::Decimal,
            "filter" => Kind::Filter,
            "list" | "map" | "mount" | "ulimit" | "network" => Kind::List,
            text if text.starts_with("stringSlice") => Kind::List,
            text if text.starts_with("int") => Kind::Int,
            text if text.starts_with("uint") => Kind::Unsigned,
            _ => Kind::Text,
        }
    }

    /// The word behind the flag in the help; none for a switch.
    pub fn placeholder(&self) -> Cow<'static, str> {
        match self.shown {
            "bool" => "".into(),
            text => match text.split_once('<') {
                Some((_, name)) => name.trim_end_matches('>').to_owned().into(),
                None => text.into(),
            },
        }
    }
}

fn flag_table(canonical: &str) -> &'static str {
    match canonical {
        "container run" => include_str!("../grammar/container-run.tsv"),
        "container create" => include_str!("../grammar/container-create.tsv"),
        "container start" => include_str!("../grammar/container-start.tsv"),
        "container stop" => include_str!("../grammar/container-stop.tsv"),
        "container restart" => include_str!("../grammar/container-restart.tsv"),
        "container kill" => include_str!("../grammar/container-kill.tsv"),
        "container rm" => include_str!("../grammar/container-rm.tsv"),
        "container stats" => include_str!("../grammar/container-stats.tsv"),
        "container ls" => include_str!("../grammar/container-ls.tsv"),
        "container inspect" => include_str!("../grammar/container-inspect.tsv"),
        "container update" => include_str!("../grammar/container-update.tsv"),
        "container logs" => include_str!("../grammar/container-logs.tsv"),
        "container attach" => include_str!("../grammar/container-attach.tsv"),
        "container exec" => include_str!("../grammar/container-exec.tsv"),
        "container cp" => include_str!("../grammar/container-cp.tsv"),
        "container export" => include_str!("../grammar/container-export.tsv"),
        "container commit" => include_str!("../grammar/container-commit.tsv"),
        "image ls" => include_str!("../grammar/image-ls.tsv"),
        "image inspect" => include_str!("../grammar/image-inspect.tsv"),
        "image rm" => include_str!("../grammar/image-rm.tsv"),
        "image load" => include_str!("../grammar/image-load.tsv"),
        "image import" => include_str!("../grammar/image-import.tsv"),
        "image save" => include_str!("../grammar/image-save.tsv"),
        "image history" => include_str!("../grammar/image-history.tsv"),
        "inspect" => include_str!("../grammar/inspect.tsv"),
        "version" => include_str!("../grammar/version.tsv"),
        "system info" => include_str!("../grammar/system-info.tsv"),
        "system events" => include_str!("../grammar/system-events.tsv"),
        "system stop" => include_str!("../grammar/system-stop.tsv"),
        "network create" => include_str!("../grammar/network-create.tsv"),
        "network rm" => include_str!("../grammar/network-rm.tsv"),
        "network prune" => include_str!("../grammar/network-prune.tsv"),
        "network connect" => include_str!("../grammar/network-connect.tsv"),
        "network disconnect" => include_str!("../grammar/network-disconnect.tsv"),
        "network ls" => include_str!("../grammar/network-ls.tsv"),
        "network inspect" => include_str!("../grammar/network-inspect.tsv"),
        "volume create" => include_str!("../grammar/volume-create.tsv"),
        "volume ls" => include_str!("../grammar/volume-ls.tsv"),
        "volume inspect" => include_str!("../grammar/volume-inspect.tsv"),
        "volume rm" => include_str!("../grammar/volume-rm.tsv"),
        "volume prune" => include_str!("../grammar/volume-prune.tsv"),
        "volume update" => include_str!("../grammar/volume-update.tsv"),
        "container prune" => include_str!("../grammar/container-prune.tsv"),
        "image prune" => include_str!("../grammar/image-prune.tsv"),
        "builder prune" => include_str!("../grammar/builder-prune.tsv"),
        "buildx prune" => include_str!("../grammar/buildx-prune.tsv"),
        "system df" => include_str!("../grammar/system-df.tsv"),
        "system prune" => include_str!("../grammar/system-prune.tsv"),
        "context create" => include_str!("../grammar/context-create.tsv"),
        "context update" => include_str!("../grammar/context-update.tsv"),
        "context ls" => include_str!("../grammar/context-ls.tsv"),
        "context inspect" => include_str!("../grammar/context-inspect.tsv"),
        "context rm" => include_str!("../grammar/context-rm.tsv"),
        "container explain" => include_str!("../grammar/container-explain.tsv"),
        "system check" => include_str!("../grammar/system-check.tsv"),
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_whole() {
        assert_eq!(Command::all().count(), COMMANDS.lines().count());
        for command in Command::all() {
            let target = Command::find(command.canonical);
            assert!(target.is_some() || !command.is_built(), "{}", command.path);
            assert_eq!(command.flags().count(), flag_table(command.canonical).lines().count());
        }
    }

    #[test]
    fn every_table_is_used() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/grammar");
        for entry in std::fs::read_dir(directory).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let stem = name.trim_end_matches(".tsv");
            if matches!(stem, "commands" | "global") {
                continue;
            }
            let known = Command::all().any(|c| c.canonical.replace(' ', "-") == stem);
            assert!(known, "{name}");
        }
    }
}
