//! What a new container's mounts are: `-v`, `--mount`, `--tmpfs`, `--volumes-from` and the image's
//! volumes become records and wishes for volumes. Pure; Docker's rules, Docker's messages.

use hoy_volumes::{LOCAL, VolumeRequest};
use hoy_wire::HostConfig;

use crate::error::{Error, Result};
use crate::record::{MountKind, MountRecord, Record};

/// A mount, and the volume that it needs: one by name may be there, one without is made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub mount: MountRecord,
    pub volume: Option<VolumeRequest>,
    /// The volume was asked for by this request, not taken over from another container.
    pub own: bool,
}

/// Where programs look for Docker's socket.
pub(crate) fn is_docker_socket(source: &str) -> bool {
    matches!(source, "/var/run/docker.sock" | "/run/docker.sock")
}

impl Wanted {
    fn plain(mount: MountRecord) -> Self {
        Self { mount, volume: None, own: true }
    }
}

/// All mounts of a request. `declared` are the volumes of the image and of the request; `others`
/// are the containers that `--volumes-from` names, and whether what is writable there is so here.
pub(crate) fn wanted<'a>(
    host: &HostConfig,
    declared: impl IntoIterator<Item = &'a String>,
    others: &[(std::sync::Arc<Record>, bool)],
) -> Result<Vec<Wanted>> {
    let mut own = Vec::new();
    for bind in host.binds.iter().flatten() {
        own.push(parse_bind(bind, &host.volume_driver)?);
    }
    for mount in &host.mounts {
        own.push(typed_mount(mount)?);
    }
    for (target, options) in &host.tmpfs {
        let mount = parse_tmpfs(target, options)?;
        check_target(&mount.target).map_err(|reason| bad_mount("tmpfs", reason))?;
        own.push(Wanted::plain(mount));
    }
    for (index, wanted) in own.iter().enumerate() {
        let target = &wanted.mount.target;
        if own[..index].iter().any(|earlier| earlier.mount.target == *target) {
            return Err(Error::invalid(format!("Duplicate mount point: {target}")));
        }
    }
    let mut out: Vec<Wanted> = Vec::new();
    for (other, writable) in others {
        for mount in &other.mounts {
            if let Some(taken) = taken_over(mount, *writable) {
                out.retain(|earlier| earlier.mount.target != taken.mount.target);
                out.push(taken);
            }
        }
    }
    for wanted in own {
        out.retain(|earlier| earlier.mount.target != wanted.mount.target);
        out.push(wanted);
    }
    for path in declared {
        let target = clean_declared(path);
        if target == "/" {
            return Err(Error::invalid(format!(
                "invalid volume specification: '{path}': the destination can't be '/'"
            )));
        }
        if !out.iter().any(|earlier| earlier.mount.target == target) {
            out.push(volume(target, "", &host.volume_driver, String::new()));
        }
    }
    // What lies deeper is mounted later.
    out.sort_by_key(|wanted| wanted.mount.target.matches('/').count());
    Ok(out)
}

/// `--volumes-from NAME[:MODE]`: the name, and whether what is writable there is so here.
pub(crate) fn parse_volumes_from(text: &str) -> Result<(&str, bool)> {
    let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
    if name.is_empty() {
        return Err(Error::invalid("invalid volumes-from specification: ''".to_string()));
    }
    let known = |word: &str| matches!(word, "rw" | "ro" | "z" | "Z");
    if mode.is_empty() || !mode.split(',').all(known) {
        return Err(Error::invalid(format!("invalid mode: {mode}")));
    }
    Ok((name, !mode.split(',').any(|word| word == "ro")))
}

fn taken_over(mount: &MountRecord, writable: bool) -> Option<Wanted> {
    let request = match &mount.kind {
        MountKind::Tmpfs { .. } => return None,
        MountKind::Volume { name, .. } => {
            Some(VolumeRequest { name: name.clone(), existing: true, ..VolumeRequest::default() })
        }
        MountKind::Bind { .. } | MountKind::Image { .. } => None,
    };
    let mut mount = mount.clone();
    mount.readonly |= !writable;
    mount.mode.clear();
    if let MountKind::Volume { anonymous, copy, .. } = &mut mount.kind {
        (*anonymous, *copy) = (false, false);
    }
    Some(Wanted { mount, volume: request, own: false })
}

fn volume(target: String, name: &str, driver: &str, mode: String) -> Wanted {
    let request = VolumeRequest {
        name: name.to_owned(),
        driver: driver.to_owned(),
        ..VolumeRequest::default()
    };
    Wanted {
        mount: MountRecord {
            target,
            kind: MountKind::Volume {
                name: name.to_owned(),
                driver: driver.to_owned(),
                anonymous: name.is_empty(),
                copy: true,
                subpath: String::new(),
            },
            readonly: false,
            mode,
            propagation: String::new(),
        },
        volume: Some(request),
        own: true,
    }
}

/// Docker shows this for volumes of the local driver that say nothing.
pub(crate) fn shown_mode(mount: &mut MountRecord, driver: &str) {
    if let MountKind::Volume { anonymous, .. } = &mount.kind
        && driver == LOCAL
        && mount.mode.is_empty()
        && !*anonymous
    {
        mount.mode = "z".to_owned();
    }
}

/// What is shared with the container must be shared on the host, by its table of mounts.
pub(crate) fn check_propagation(table: &str, source: &str, propagation: &str) -> Result<()> {
    let (fits, says): (fn(&str) -> bool, _) = match propagation {
        "shared" | "rshared" => (|tag| tag.starts_with("shared:"), "a shared mount"),
        "slave" | "rslave" => (
            |tag| tag.starts_with("shared:") || tag.starts_with("master:"),
            "a shared or slave mount",
        ),
        _ => return Ok(()),
    };
    // The last one of the longest is what is seen.
    let mut found: Option<(String, bool)> = None;
    for line in table.lines() {
        let mut fields = line.split(' ');
        let Some(at) = fields.nth(4).map(unescaped) else { continue };
        let below = at == "/"
            || source == at
            || source.strip_prefix(&at).is_some_and(|rest| rest.starts_with('/'));
        if below && found.as_ref().is_none_or(|(known, _)| at.len() >= known.len()) {
            found = Some((at, fields.skip(1).take_while(|tag| *tag != "-").any(fits)));
        }
    }
    match found {
        Some((at, false)) => {
            Err(Error::system(format!("path {source} is mounted on {at} but it is not {says}")))
        }
        _ => Ok(()),
    }
}

/// Spaces and the like are written as octal numbers there.
fn unescaped(field: &str) -> String {
    let known = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    known.iter().fold(field.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Why a target cannot be one.
fn check_target(target: &str) -> std::result::Result<(), String> {
    if !target.starts_with('/') {
        return Err(format!("invalid mount path: '{target}' mount path must be absolute"));
    }
    if target.split('/').all(|part| matches!(part, "" | ".")) {
        return Err("invalid specification: destination can't be '/'".to_owned());
    }
    if target.split('/').any(|part| part == "..") || target.contains('\0') {
        return Err(format!("invalid mount path: '{target}'"));
    }
    Ok(())
}

pub(crate) fn clean(target: &str) -> String {
    let parts: Vec<&str> = target.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let slash = if target.starts_with('/') { "/" } else { "" };
    format!("{slash}{}", parts.join("/"))
}

/// A path that an image declares: whatever it says, it lies below the container's root.
fn clean_declared(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The words after the second colon of `-v`.
#[derive(Default)]
struct Mode {
    readonly: bool,
    nocopy: bool,
    nonrecursive: bool,
    propagation: Option<String>,
}

fn parse_mode(text: &str) -> Result<Mode> {
    let invalid = || Error::invalid(format!("invalid mode: {text}"));
    let mut out = Mode::default();
    let (mut access, mut label, mut copy, mut consistency) = (0, 0, 0, 0);
    for word in text.split(',').filter(|word| !word.is_empty()) {
        match word {
            "ro" | "rw" => {
                access += 1;
                out.readonly = word == "ro";
            }
            // Labels for SELinux: without effect where that is not in use, as Docker.
            "z" | "Z" => label += 1,
            "nocopy" => {
                copy += 1;
                out.nocopy = true;
            }
            "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" => {
                if out.propagation.replace(word.to_owned()).is_some() {
                    return Err(invalid());
                }
            }
            "bind-nonrecursive" => out.nonrecursive = true,
            "cached" | "delegated" | "consistent" => consistency += 1,
            _ => return Err(invalid()),
        }
    }
    if [access, label, copy, consistency].iter().any(|count| *count > 1) {
        return Err(invalid());
    }
    Ok(out)
}

fn parse_bind(text: &str, driver: &str) -> Result<Wanted> {
    let invalid = || Error::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts.as_slice() {
        [source, target] => (*source, *target, ""),
        [source, target, mode] => (*source, *target, *mode),
        [target] => ("", *target, ""),
        _ => return Err(invalid()),
    };
    if target.is_empty() || (source.is_empty() && parts.len() > 1) {
        return Err(invalid());
    }
    // A target and a mode are no volume: those have none of their own.
    if parts.len() == 2 && !target.starts_with('/') && parse_mode(target).is_ok() {
        return Err(invalid());
    }
    let words = parse_mode(mode)?;
    let kind = if source.starts_with('/') { "bind" } else { "volume" };
    let bad = |reason: &str| {
        let said = format!("invalid volume specification: '{text}': invalid mount config for type");
        Error::invalid(format!("{said} \"{kind}\": {reason}"))
    };
    check_target(&clean(target)).map_err(|reason| bad(&reason))?;
    if source.starts_with('/') {
        if words.nocopy {
            return Err(bad("field VolumeOptions must not be specified"));
        }
        return Ok(Wanted::plain(MountRecord {
            target: clean(target),
            kind: MountKind::Bind {
                source: clean(source),
                recursive: !words.nonrecursive,
                create: true,
                readonly_top_only: false,
            },
            readonly: words.readonly,
            mode: mode.to_owned(),
            propagation: words.propagation.unwrap_or_else(|| "rprivate".to_owned()),
        }));
    }
    if words.propagation.is_some() || words.nonrecursive {
        return Err(bad("field BindOptions must not be specified"));
    }
    let mut wanted = volume(clean(target), source, driver, mode.to_owned());
    wanted.mount.readonly = words.readonly;
    if let MountKind::Volume { copy, .. } = &mut wanted.mount.kind {
        *copy = !words.nocopy;
    }
    Ok(wanted)
}

/// Docker's words for a typed mount that is wrong.
fn bad_mount(kind: &str, reason: impl std::fmt::Display) -> Error {
    Error::invalid(format!("invalid mount config for type \"{kind}\": {reason}"))
}

fn typed_mount(mount: &hoy_wire::Mount) -> Result<Wanted> {
    let kind = mount.kind.as_str();
    if mount.target.is_empty() && matches!(kind, "bind" | "volume" | "tmpfs" | "image") {
        return Err(bad_mount(kind, "field Target must not be empty"));
    }
    for (field, of, said) in [
        ("BindOptions", "bind", mount.bind_options.is_some()),
        ("VolumeOptions", "volume", mount.volume_options.is_some()),
        ("TmpfsOptions", "tmpfs", mount.tmpfs_options.is_some()),
        ("ImageOptions", "image", mount.image_options.is_some()),
    ] {
        if said && of != kind {
            return Err(bad_mount(kind, format!("field {field} must not be specified")));
        }
    }
    let known = matches!(kind, "bind" | "volume" | "tmpfs" | "image");
    if known {
        check_target(&clean(&mount.target)).map_err(|reason| bad_mount(kind, reason))?;
    }
    match kind {
        "bind" => typed_bind(mount).map(Wanted::plain),
        "tmpfs" => typed_tmpfs(mount).map(Wanted::plain),
        "volume" => typed_volume(mount),
        "image" => typed_image(mount).map(Wanted::plain),
        other => Err(bad_mount(other, "mount type unknown")),
    }
}

fn typed_bind(mount: &hoy_wire::Mount) -> Result<MountRecord> {
    if mount.source.is_empty() {
        return Err(bad_mount("bind", "field Source must not be empty"));
    }
    if !mount.source.starts_with('/') {
        let reason = format!("invalid mount path: '{}' mount path must be absolute", mount.source);
        return Err(bad_mount("bind", reason));
    }
    let options = mount.bind_options.clone().unwrap_or_default();
    let propagation = match options.propagation.as_str() {
        "" => "rprivate".to_owned(),
        known @ ("private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared") => {
            known.to_owned()
        }
        other => return Err(bad_mount("bind", format!("invalid propagation mode: {other}"))),
    };
    if options.read_only_non_recursive && options.read_only_force_recursive {
        return Err(bad_mount(
            "bind",
            "ReadOnlyNonRecursive and ReadOnlyForceRecursive are mutually exclusive",
        ));
    }
    for (said, field) in [
        (options.read_only_non_recursive, "ReadOnlyNonRecursive"),
        (options.read_only_force_recursive, "ReadOnlyForceRecursive"),
    ] {
        if said && !mount.read_only {
            return Err(bad_mount("bind", format!("mount is not read-only: {field}")));
        }
    }
    if options.read_only_force_recursive && options.non_recursive {
        return Err(bad_mount("bind", "ReadOnlyForceRecursive conflicts with NonRecursive"));
    }
    if options.read_only_force_recursive && propagation != "rprivate" {
        return Err(bad_mount(
            "bind",
            "ReadOnlyForceRecursive requires Propagation to be explicitly specified as rprivate",
        ));
    }
    Ok(MountRecord {
        target: clean(&mount.target),
        kind: MountKind::Bind {
            source: clean(&mount.source),
            recursive: !options.non_recursive,
            create: options.create_mountpoint,
            readonly_top_only: options.read_only_non_recursive,
        },
        readonly: mount.read_only,
        mode: String::new(),
        propagation,
    })
}

fn typed_tmpfs(mount: &hoy_wire::Mount) -> Result<MountRecord> {
    if !mount.source.is_empty() {
        return Err(bad_mount("tmpfs", "field Source must not be specified"));
    }
    let options = mount.tmpfs_options.clone().unwrap_or_default();
    let (mut exec, mut suid, mut dev) = (false, false, false);
    for option in &options.options {
        match option.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["exec"] => exec = true,
            ["noexec"] => exec = false,
            ["suid"] => suid = true,
            ["nosuid"] => suid = false,
            ["dev"] => dev = true,
            ["nodev"] => dev = false,
            other => {
                let reason = format!("invalid option: {:?}", other.join("="));
                return Err(bad_mount("tmpfs", reason));
            }
        }
    }
    if options.size_bytes < 0 {
        return Err(bad_mount("tmpfs", "the size must not be negative"));
    }
    Ok(MountRecord {
        target: clean(&mount.target),
        kind: MountKind::Tmpfs {
            size: (options.size_bytes > 0).then_some(options.size_bytes as u64),
            mode: (options.mode != 0).then_some(options.mode & 0o7777),
            exec,
            suid,
            dev,
        },
        readonly: mount.read_only,
        mode: String::new(),
        propagation: String::new(),
    })
}

fn typed_volume(mount: &hoy_wire::Mount) -> Result<Wanted> {
    let options = mount.volume_options.clone().unwrap_or_default();
    let driver = options.driver_config.unwrap_or_default();
    if mount.source.is_empty() && !options.subpath.is_empty() {
        return Err(bad_mount("volume", "must not set Subpath when using anonymous volumes"));
    }
    if options.subpath.starts_with('/') || options.subpath.split('/').any(|part| part == "..") {
        let reason = "subpath must be a relative path within the volume";
        return Err(bad_mount("volume", reason));
    }
    let mut wanted = volume(clean(&mount.target), &mount.source, &driver.name, String::new());
    wanted.mount.readonly = mount.read_only;
    if let MountKind::Volume { copy, subpath, .. } = &mut wanted.mount.kind {
        *copy = !options.no_copy && options.subpath.is_empty();
        subpath.clone_from(&options.subpath);
    }
    if let Some(request) = &mut wanted.volume {
        request.labels = options.labels;
        request.options = driver.options;
    }
    Ok(wanted)
}

fn typed_image(mount: &hoy_wire::Mount) -> Result<MountRecord> {
    if mount.source.is_empty() {
        return Err(bad_mount("image", "field Source must not be empty"));
    }
    let subpath = mount.image_options.clone().unwrap_or_default().subpath;
    if subpath.starts_with('/') || subpath.split('/').any(|part| part == "..") {
        let reason = "subpath must be a relative path within the image";
        return Err(bad_mount("image", reason));
    }
    Ok(MountRecord {
        target: clean(&mount.target),
        kind: MountKind::Image { source: mount.source.clone(), layers: Vec::new(), subpath },
        // What an image holds is never written to.
        readonly: true,
        mode: String::new(),
        propagation: String::new(),
    })
}

fn parse_tmpfs(target: &str, options: &str) -> Result<MountRecord> {
    let (mut size, mut mode, mut readonly) = (None, None, false);
    let (mut exec, mut suid, mut dev) = (false, false, false);
    for word in options.split(',').filter(|word| !word.is_empty()) {
        let bad = || Error::invalid(format!("invalid tmpfs option [{word:?}]"));
        match word.split_once('=') {
            Some(("size", text)) => {
                let bytes = hoy_types::parse_bytes(text).map_err(|_| bad())?;
                size = Some(u64::try_from(bytes).map_err(|_| bad())?);
            }
            Some(("mode", text)) => mode = Some(u32::from_str_radix(text, 8).map_err(|_| bad())?),
            Some(_) => return Err(bad()),
            None => match word {
                "ro" => readonly = true,
                "rw" => readonly = false,
                "exec" => exec = true,
                "noexec" => exec = false,
                "suid" => suid = true,
                "nosuid" => suid = false,
                "dev" => dev = true,
                "nodev" => dev = false,
                _ => return Err(bad()),
            },
        }
    }
    Ok(MountRecord {
        target: clean(target),
        kind: MountKind::Tmpfs { size, mode, exec, suid, dev },
        readonly,
        mode: options.to_owned(),
        propagation: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(binds: &[&str]) -> HostConfig {
        let binds = binds.iter().map(|bind| (*bind).to_owned()).collect();
        HostConfig { binds: Some(binds), ..HostConfig::default() }
    }

    fn targets(wanted: &[Wanted]) -> Vec<&str> {
        wanted.iter().map(|wanted| wanted.mount.target.as_str()).collect()
    }

    #[test]
    fn binds_and_volumes() {
        let all = wanted(&host(&["/a/../b:/c//d/:ro", "data:/d:nocopy", "/e"]), [], &[]).unwrap();
        assert_eq!(targets(&all), ["/d", "/e", "/c/d"]);
        let volume = all[0].volume.as_ref().unwrap();
        assert_eq!(volume.name, "data");
        assert!(matches!(&all[0].mount.kind, MountKind::Volume { copy: false, .. }));
        assert!(matches!(&all[1].mount.kind, MountKind::Volume { anonymous: true, .. }));
        assert!(all[2].mount.readonly && all[2].volume.is_none());
    }

    #[test]
    fn refused() {
        for bad in [
            &[":/b"][..],
            &["/a:"],
            &["/a:/b:xx"],
            &["/a:/b:ro:x"],
            &["/a:/b:ro,rw"],
            &["/a:/b:nocopy"],
            &["data:/b:rshared"],
            &["/a:/"],
            &["/a:b"],
            &["/a:/x", "b:/x/"],
            &["/a:/x/../y"],
        ] {
            assert!(wanted(&host(bad), [], &[]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_an_image_declares_lies_inside() {
        let declared = ["/../../etc".to_owned(), "data".to_owned(), "/a/./b/".to_owned()];
        let all = wanted(&host(&["x1:/data"]), &declared, &[]).unwrap();
        assert_eq!(targets(&all), ["/data", "/etc", "/a/b"]);
        assert!(wanted(&host(&[]), &["/..".to_owned()], &[]).is_err());
    }

    #[test]
    fn propagation_needs_a_shared_source() {
        let table = "1 0 8:1 / / rw shared:1 - ext4 x rw\n\
                     2 1 0:5 / /a\\040b rw,nosuid - tmpfs x rw\n\
                     3 1 0:6 / /m rw master:4 - tmpfs x rw\n";
        check_propagation(table, "/x", "rshared").unwrap();
        check_propagation(table, "/a b/c", "rprivate").unwrap();
        check_propagation(table, "/m/x", "slave").unwrap();
        check_propagation(table, "/mx", "shared").unwrap();
        let error = check_propagation(table, "/a b/c", "shared").unwrap_err().to_string();
        assert_eq!(error, "path /a b/c is mounted on /a b but it is not a shared mount");
        check_propagation(table, "/a b", "rslave").unwrap_err();
        check_propagation(table, "/m", "rshared").unwrap_err();
    }

    #[test]
    fn from_others() {
        assert_eq!(parse_volumes_from("a").unwrap(), ("a", true));
        assert_eq!(parse_volumes_from("a:ro,z").unwrap(), ("a", false));
        for bad in ["", ":ro", "a:", "a:x"] {
            assert!(parse_volumes_from(bad).is_err(), "{bad}");
        }
    }
}
