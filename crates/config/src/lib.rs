//! Door: daemon settings: defaults, then daemon.json, then flags.
//!
//! One table (`keys.rs`) names every setting of dockerd: what hoy has, what it takes without
//! effect since it has no such part, and what it refuses by name. Parsing is pure: the caller
//! reads the file.

mod keys;
mod network;
mod remap;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;

use keys::{Effect, KEYS, Key, Kind};

pub use network::{AddressPool, Networking, Subnet};
pub use remap::{IdFiles, RemapError, remap};

/// Whose stops do not wait for a signal that has no effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InstantStop {
    /// Those of our own client.
    #[default]
    Hoy,
    All,
    None,
}

/// The daemon's settings, complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub instant_stop: InstantStop,
    pub data_root: PathBuf,
    pub exec_root: PathBuf,
    pub pidfile: PathBuf,
    /// Where to listen: `unix://…`, `tcp://…` and `fd://…`.
    pub hosts: Vec<String>,
    pub group: Option<String>,
    pub debug: bool,
    pub log_level: String,
    /// Default driver of the containers' logs.
    pub log_driver: String,
    pub log_opts: BTreeMap<String, String>,
    pub bridge: String,
    /// Address and prefix of the default bridge, `172.17.0.1/16`.
    pub bip: Option<String>,
    pub mtu: u32,
    /// Default host address of published ports.
    pub ip: Option<IpAddr>,
    pub ip_forward: bool,
    pub ip_masq: bool,
    pub icc: bool,
    pub networking: Networking,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_opts: Vec<String>,
    pub labels: Vec<String>,
    pub init: bool,
    pub init_path: Option<PathBuf>,
    pub no_new_privileges: bool,
    /// A file, `builtin` or `unconfined`.
    pub seccomp_profile: String,
    pub default_shm_size: u64,
    pub default_ipc_mode: String,
    /// Where CDI documents lie; empty for Docker's own places.
    pub cdi_spec_dirs: Vec<String>,
    /// Docker's `features`, as far as somebody has said something of them.
    pub features: BTreeMap<String, bool>,
    pub default_cgroupns_mode: String,
    /// Soft and hard limit by name.
    pub default_ulimits: BTreeMap<String, (i64, i64)>,
    /// Empty: what the driver's default is.
    pub cgroup_parent: String,
    /// Nothing said: systemd where it alone may change cgroups, else cgroupfs.
    pub cgroup_driver: Option<CgroupDriver>,
    /// Microseconds of real-time time that the parents of containers get, of each period.
    pub cpu_rt_runtime: i64,
    pub cpu_rt_period: i64,
    /// `default`, `user`, `uid`, `user:group` or `uid:gid`.
    pub userns_remap: Option<String>,
    /// Containers get labels where the host has SELinux.
    pub selinux_enabled: bool,
    /// Other OCI runtimes than the built-in one, by name.
    pub runtimes: BTreeMap<String, Runtime>,
    pub default_runtime: String,
    pub tls: Tls,
}

/// TLS on TCP sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub on: bool,
    /// Clients need a certificate.
    pub verify: bool,
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Default for Tls {
    fn default() -> Self {
        // Where Docker's daemon looks.
        let file = |name: &str| PathBuf::from("/root/.docker").join(name);
        Self {
            on: false,
            verify: false,
            ca: file("ca.pem"),
            cert: file("cert.pem"),
            key: file("key.pem"),
        }
    }
}

/// An OCI runtime that is a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// A path, or a name that is looked for in the usual directories.
    pub path: PathBuf,
    /// Before all other arguments.
    pub args: Vec<String>,
}

/// Names of the built-in runtime: what Docker calls its own, and ours.
pub const BUILT_IN_RUNTIMES: &[&str] = &["runc", "hoy", "io.containerd.runc.v2"];

impl Settings {
    /// Whether there is a runtime of this name.
    pub fn has_runtime(&self, name: &str) -> bool {
        BUILT_IN_RUNTIMES.contains(&name) || self.runtimes.contains_key(name)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_root: "/var/lib/hoy".into(),
            exec_root: "/run/hoy".into(),
            pidfile: "/run/hoy.pid".into(),
            hosts: Vec::new(),
            group: None,
            debug: false,
            log_level: "info".into(),
            log_driver: "json-file".into(),
            log_opts: BTreeMap::new(),
            bridge: DEFAULT_BRIDGE.into(),
            bip: None,
            mtu: 1500,
            ip: None,
            ip_forward: true,
            ip_masq: true,
            icc: true,
            networking: Networking::default(),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_opts: Vec::new(),
            labels: Vec::new(),
            init: false,
            init_path: None,
            no_new_privileges: false,
            seccomp_profile: "builtin".into(),
            default_shm_size: 64 << 20,
            default_ipc_mode: "private".to_owned(),
            cdi_spec_dirs: Vec::new(),
            features: BTreeMap::new(),
            default_cgroupns_mode: "private".to_owned(),
            instant_stop: InstantStop::Hoy,
            default_ulimits: BTreeMap::new(),
            cgroup_parent: String::new(),
            cgroup_driver: None,
            cpu_rt_runtime: 0,
            cpu_rt_period: 0,
            userns_remap: None,
            selinux_enabled: false,
            runtimes: BTreeMap::new(),
            default_runtime: "runc".into(),
            tls: Tls::default(),
        }
    }
}

/// Who makes the containers' cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    Cgroupfs,
    Systemd,
}

impl CgroupDriver {
    pub fn name(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }
}

/// The default bridge's name when nothing else is said.
pub const DEFAULT_BRIDGE: &str = "hoy0";
/// The socket that clients try when nothing else is said.
pub const DEFAULT_HOST: &str = "unix:///run/hoy.sock";
/// Read when there is no `--config-file`; may be missing.
pub const DEFAULT_FILE: &str = "/etc/hoy/daemon.json";

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Invocation {
    Run(Flags),
    /// Check the settings and end.
    Validate(Flags),
    Version,
    Help,
}

/// The command line, understood but not yet merged with the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flags {
    /// `--config-file`; the default one may be missing, this one may not.
    pub config_file: Option<PathBuf>,
    values: Vec<(usize, Vec<String>)>,
}

/// Why the settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("unknown flag: --{0}")]
    UnknownFlag(String),
    #[error("unexpected argument: {0:?}")]
    Argument(String),
    #[error("flag needs an argument: --{0}")]
    MissingValue(String),
    #[error("{key}: hoy does not offer this setting yet")]
    Unavailable { key: String },
    #[error("{key}: invalid value {value:?}: {reason}")]
    Invalid { key: String, value: String, reason: String },
    #[error("the configuration file is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the configuration file is not a JSON object")]
    NotAnObject,
    #[error("unknown key in the configuration file: {0}")]
    UnknownKey(String),
    #[error("specified default runtime '{0}' does not exist")]
    DefaultRuntime(String),
    #[error("{0}")]
    Network(String),
    #[error("{0} is given both as a flag and in the configuration file")]
    Conflict(String),
}

/// Parses the daemon's command line, without the program's name.
pub fn parse_flags(args: &[String]) -> Result<Invocation, ConfigError> {
    let mut flags = Flags::default();
    let mut validate = false;
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let (name, inline) = split_flag(arg)?;
        match name.as_str() {
            "help" | "h" => return Ok(Invocation::Help),
            "version" | "v" => return Ok(Invocation::Version),
            "validate" => {
                validate = true;
                continue;
            }
            _ => {}
        }
        if name == "config-file" {
            let value = inline.or_else(|| rest.next().cloned());
            flags.config_file = Some(value.ok_or(ConfigError::MissingValue(name))?.into());
            continue;
        }
        let found = KEYS.iter().position(|key| key.flag == name || key.short == name);
        let index = found.ok_or(ConfigError::UnknownFlag(name))?;
        let key = &KEYS[index];
        let value = match (key.kind, inline) {
            (_, Some(value)) => value,
            (Kind::Bool, None) => "true".to_owned(),
            (_, None) => match rest.next() {
                Some(value) => value.clone(),
                None => return Err(ConfigError::MissingValue(key.flag.to_owned())),
            },
        };
        match flags.values.iter_mut().find(|(known, _)| *known == index) {
            Some((_, values)) if key.kind.repeats() => values.push(value),
            Some((_, values)) => *values = vec![value],
            None => flags.values.push((index, vec![value])),
        }
    }
    Ok(if validate { Invocation::Validate(flags) } else { Invocation::Run(flags) })
}

fn split_flag(arg: &str) -> Result<(String, Option<String>), ConfigError> {
    let argument = || ConfigError::Argument(arg.to_owned());
    let (body, long) = match arg.strip_prefix("--") {
        Some(body) => (body, true),
        None => (arg.strip_prefix('-').ok_or_else(argument)?, false),
    };
    if body.is_empty() {
        return Err(argument());
    }
    if let Some((name, value)) = body.split_once('=') {
        return Ok((name.to_owned(), Some(value.to_owned())));
    }
    // -Hunix:///x
    match body.char_indices().nth(1) {
        Some((at, _)) if !long => Ok((body[..at].to_owned(), Some(body[at..].to_owned()))),
        _ => Ok((body.to_owned(), None)),
    }
}

/// Merges the file's text (if there is one) and the flags over the defaults.
pub fn resolve(file: Option<&str>, flags: &Flags) -> Result<Settings, ConfigError> {
    let mut settings = Settings::default();
    if let Some(text) = file.filter(|text| !text.trim().is_empty()) {
        let Value::Object(object) = serde_json::from_str(text)? else {
            return Err(ConfigError::NotAnObject);
        };
        for (name, value) in &object {
            let found = KEYS.iter().position(|key| key.file == name.as_str());
            let index = found.ok_or_else(|| ConfigError::UnknownKey(name.clone()))?;
            let key = &KEYS[index];
            let given = flags.values.iter().any(|(given, _)| KEYS[*given].flag == key.flag);
            if given && key.kind != Kind::Named {
                return Err(ConfigError::Conflict(name.clone()));
            }
            apply(&mut settings, key, &texts(key, value)?)?;
        }
    }
    for (index, values) in &flags.values {
        apply(&mut settings, &KEYS[*index], values)?;
    }
    if settings.hosts.is_empty() {
        settings.hosts.push(DEFAULT_HOST.to_owned());
    }
    if settings.default_runtime.is_empty() {
        settings.default_runtime = Settings::default().default_runtime;
    }
    if !settings.has_runtime(&settings.default_runtime) {
        return Err(ConfigError::DefaultRuntime(settings.default_runtime));
    }
    network::check(&settings).map_err(ConfigError::Network)?;
    Ok(settings)
}

/// A JSON value as the texts that the flag of the same key would have been given.
fn texts(key: &Key, value: &Value) -> Result<Vec<String>, ConfigError> {
    let scalar = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let wrong = || invalid(key, &value.to_string(), "wrong JSON type");
    match (key.kind, value) {
        (Kind::List, Value::Array(items)) => {
            items.iter().map(|item| scalar(item).ok_or_else(wrong)).collect()
        }
        (Kind::Map, Value::Object(items)) => {
            let pair = |(name, item): (&String, &Value)| {
                scalar(item).map(|text| format!("{name}={text}")).ok_or_else(wrong)
            };
            items.iter().map(pair).collect()
        }
        (Kind::Ulimits, Value::Object(items)) => {
            let one = |(name, item): (&String, &Value)| {
                let (soft, hard) = (item["Soft"].as_i64()?, item["Hard"].as_i64()?);
                Some(format!("{name}={soft}:{hard}"))
            };
            items.iter().map(|item| one(item).ok_or_else(wrong)).collect()
        }
        (Kind::Named, Value::Object(items)) => {
            Ok(items.iter().map(|(name, item)| format!("{name}={item}")).collect())
        }
        (Kind::Pools, Value::Array(_)) | (Kind::Options, Value::Object(_)) => {
            Ok(vec![value.to_string()])
        }
        (Kind::Any, _) => Ok(vec![value.to_string()]),
        (Kind::List | Kind::Map | Kind::Ulimits | Kind::Named | Kind::Pools | Kind::Options, _) => {
            Err(wrong())
        }
        (_, value) => Ok(vec![scalar(value).ok_or_else(wrong)?]),
    }
}

fn apply(settings: &mut Settings, key: &Key, values: &[String]) -> Result<(), ConfigError> {
    match key.effect {
        Effect::Unavailable => Err(ConfigError::Unavailable { key: key.flag.to_owned() }),
        Effect::None => Ok(()),
        Effect::Only(allowed) => match values.iter().find(|v| !allowed.contains(&v.as_str())) {
            Some(value) => {
                let reason = format!("hoy only has {}", allowed.join(", "));
                Err(invalid(key, value, &reason))
            }
            None => Ok(()),
        },
        Effect::Set(set) => values.iter().try_for_each(|value| {
            set(settings, value).map_err(|reason| invalid(key, value, &reason))
        }),
    }
}

fn invalid(key: &Key, value: &str, reason: &str) -> ConfigError {
    ConfigError::Invalid {
        key: key.flag.to_owned(),
        value: value.chars().take(120).collect(),
        reason: reason.to_owned(),
    }
}

/// The help text.
pub fn help() -> String {
    let mut out = String::from(
        "Usage:  hoyd [OPTIONS]\n\nA container engine.\n\nOptions:\n      --config-file string   \
         Daemon configuration file (default \"/etc/hoy/daemon.json\")\n      --validate             \
         Check the configuration and end\n  -v, --version              Print version information\n",
    );
    for key in KEYS.iter().filter(|key| !key.help.is_empty()) {
        let short = if key.short.is_empty() { "   ".into() } else { format!("-{},", key.short) };
        let flag = format!("  {short} --{} {}", key.flag, key.kind.name());
        let note =
            if matches!(key.effect, Effect::None) { " (accepted, without effect)" } else { "" };
        out.push_str(&format!("{:<44} {}{note}\n", flag.trim_end(), key.help));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str], file: Option<&str>) -> Result<Settings, ConfigError> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        match parse_flags(&args)? {
            Invocation::Run(flags) => resolve(file, &flags),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults() {
        let settings = run(&[], None).unwrap();
        assert_eq!(settings.hosts, [DEFAULT_HOST]);
    }

    #[test]
    fn flags_in_every_form() {
        let settings = run(
            &[
                "-D",
                "-H",
                "unix:///a",
                "-Htcp://127.0.0.1:1",
                "--host=unix:///b",
                "--data-root",
                "/d",
                "--icc=false",
                "--log-opt",
                "max-size=1m",
                "--log-opt=max-file=2",
            ],
            None,
        )
        .unwrap();
        assert_eq!(settings.hosts, ["unix:///a", "tcp://127.0.0.1:1", "unix:///b"]);
        assert!(settings.debug && !settings.icc);
        assert_eq!(settings.log_opts["max-file"], "2");
    }

    #[test]
    fn file_and_conflict() {
        let file = r#"{"debug": true, "mtu": 1400, "hosts": ["unix:///x"], "log-opts": {"max-size": "2m"}}"#;
        let settings = run(&[], Some(file)).unwrap();
        assert_eq!((settings.mtu, settings.debug), (1400, true));
        assert!(matches!(run(&["--mtu", "9000"], Some(file)), Err(ConfigError::Conflict(_))));
    }

    #[test]
    fn ulimits_from_flags_and_file() {
        let limits = |settings: Settings| settings.default_ulimits;
        let flags = run(&["--default-ulimit", "nofile=64:128", "--default-ulimit=core=0"], None);
        let flags = limits(flags.unwrap());
        assert_eq!((flags["nofile"], flags["core"]), ((64, 128), (0, 0)));
        let file = r#"{"default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}}}"#;
        assert_eq!(limits(run(&[], Some(file)).unwrap())["nofile"], (1, 2));
        assert!(run(&["--default-ulimit=nofile=3:2"], None).is_err());
        assert!(run(&["--default-ulimit=bogus=1"], None).is_err());
    }

    #[test]
    fn runtimes() {
        let file = r#"{"default-runtime": "b", "runtimes": {
            "a": {"path": "/usr/bin/a", "runtimeArgs": ["--debug"]}}}"#;
        let settings = run(&["--add-runtime", "b=/usr/bin/b"], Some(file)).unwrap();
        let a = Runtime { path: "/usr/bin/a".into(), args: vec!["--debug".into()] };
        assert_eq!(settings.runtimes["a"], a);
        assert_eq!(settings.runtimes["b"].path.to_str(), Some("/usr/bin/b"));
        assert_eq!(settings.default_runtime, "b");
        let refused = |args: &[&str], file: &str| {
            run(args, Some(file)).unwrap_err().to_string().rsplit(": ").next().unwrap().to_owned()
        };
        for (file, text) in [
            (r#"{"runtimes": {"runc": {"path": "/x"}}}"#, "runtime name 'runc' is reserved"),
            (r#"{"runtimes": {"x": {}}}"#, "either a runtimeType or a path must be configured"),
            (
                r#"{"runtimes": {"x": {"runtimeType": "io.containerd.kata.v2"}}}"#,
                "hoy calls runtimes by their path",
            ),
            (
                r#"{"runtimes": {"x": {"path": "/x", "options": {"a": 1}}}}"#,
                "options cannot be used with a path runtime",
            ),
            (r#"{"default-runtime": "x"}"#, "specified default runtime 'x' does not exist"),
        ] {
            assert_eq!(refused(&[], file), text, "{file}");
        }
        let twice = refused(&["--add-runtime=a=/x"], file);
        assert_eq!(twice, "runtime 'a' was already defined");
        assert_eq!(refused(&["--add-runtime=a"], "{}"), "a");
    }

    #[test]
    fn networks_from_flags_and_file() {
        let flags = [
            "--bip=10.1.0.1/16",
            "--bip6=fd01::1/64",
            "--ipv6",
            "--fixed-cidr=10.1.2.0/24",
            "--fixed-cidr-v6=fd01::1:0/112",
            "--default-gateway=10.1.0.254",
            "--default-address-pool=base=10.2.0.0/16,size=24",
            "--default-address-pool=base=fd02::/48,size=64",
            "--default-network-opt=bridge=com.docker.network.driver.mtu=1400",
            "--host-gateway-ip=10.9.9.9",
            "--host-gateway-ip=fd09::9",
            "--userland-proxy=false",
            "--network-control-plane-mtu=1500",
        ];
        let by_flags = run(&flags, None).unwrap().networking;
        let file = r#"{"bip": "10.1.0.1/16", "bip6": "fd01::1/64", "ipv6": true,
            "fixed-cidr": "10.1.2.0/24", "fixed-cidr-v6": "fd01::1:0/112",
            "default-gateway": "10.1.0.254", "userland-proxy": false,
            "default-address-pools": [{"base": "10.2.0.0/16", "size": 24},
                                      {"base": "fd02::/48", "size": 64}],
            "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1400"}},
            "host-gateway-ips": ["10.9.9.9", "fd09::9"]}"#;
        assert_eq!(by_flags, run(&[], Some(file)).unwrap().networking);
        assert!(by_flags.ipv6 && by_flags.without_proxy && by_flags.pools.len() == 2);
        let old = run(&[], Some(r#"{"host-gateway-ip": "10.9.9.9"}"#)).unwrap().networking;
        assert_eq!(old.host_gateways.len(), 1);
        assert!(!run(&["--bridge=none"], None).unwrap().has_bridge());
    }

    #[test]
    fn networks_that_cannot_be() {
        for (flags, text) in [
            (&["-b", "br9", "--bip=10.1.0.1/16"][..], "You specified -b & --bip, mutually"),
            (&["--bridge=br9", "--bip6=fd01::1/64"], "You specified -b & --bip6, mutually"),
            (&["--bip=10.1.0.1/16", "--fixed-cidr=10.2.0.0/24"], "is not within the subnet"),
            (&["--bip=10.1.0.1/24", "--fixed-cidr=10.1.0.0/16"], "is not within the subnet"),
            (&["--bip=10.1.0.1/16", "--default-gateway=10.2.0.1"], "is not within the subnet"),
            (&["--default-gateway-v6=fd00::2"], "specify --bip6 or --fixed-cidr-v6"),
            (
                &["--fixed-cidr-v6=fd00::/64", "--default-gateway-v6=fd01::2"],
                "is not within the subnet",
            ),
            (&["--fixed-cidr=fd00::/64"], "want an IPv4 address"),
            (&["--fixed-cidr-v6=10.0.0.0/8"], "want an IPv6 address"),
            (&["--default-address-pool=base=10.0.0.0/8,size=4"], "invalid pool size 4"),
            (&["--default-address-pool=base=10.0.0.0/8,size=33"], "invalid pool size 33"),
            (&["--default-address-pool=base=x,size=24"], "invalid base pool"),
            (&["--default-address-pool=size=24"], "want base="),
            (
                &[
                    "--default-address-pool=base=10.0.0.0/8,size=16",
                    "--default-address-pool=base=10.1.0.0/16,size=24",
                ],
                "overlap",
            ),
            (&["--default-network-opt=bridge"], "invalid key value pair"),
            (&["--host-gateway-ip=1.1.1.1", "--host-gateway-ip=2.2.2.2"], "only one IPv4"),
            (&["--ip6tables=false"], "hoy only has true"),
        ] {
            let error = run(flags, None).unwrap_err().to_string();
            assert!(error.contains(text), "{flags:?}: {error}");
        }
    }

    #[test]
    fn options_of_the_runtime() {
        let driver = |options: &[&str], file| run(options, file).unwrap().cgroup_driver;
        assert_eq!(driver(&[], None), None);
        let systemd = "--exec-opt=native.cgroupdriver=systemd";
        assert_eq!(driver(&[systemd], None), Some(CgroupDriver::Systemd));
        let both = ["--exec-opt", "native.cgroupdriver=cgroupfs", systemd];
        assert_eq!(driver(&both, None), Some(CgroupDriver::Systemd));
        let file = r#"{"exec-opts": ["native.cgroupdriver=cgroupfs"]}"#;
        assert_eq!(driver(&[], Some(file)), Some(CgroupDriver::Cgroupfs));
        for wrong in ["native.cgroupdriver=", "native.cgroupdriver", "native.umask=normal"] {
            assert!(matches!(run(&["--exec-opt", wrong], None), Err(ConfigError::Invalid { .. })));
        }
    }

    #[test]
    fn tls_and_sockets_of_the_service_manager() {
        let settings = run(&["--tlsverify", "--tlscert=/c", "-H", "fd://", "-H", "tcp://:1"], None);
        let settings = settings.unwrap();
        assert!(settings.tls.on && settings.tls.verify && settings.tls.cert == *"/c");
        assert_eq!(settings.hosts, ["fd://", "tcp://:1"]);
        let settings = run(&[], Some(r#"{"tls": true, "tlsverify": false}"#)).unwrap();
        assert!(settings.tls.on && !settings.tls.verify);
        assert!(!run(&["--tls=false"], None).unwrap().tls.on);
    }

    #[test]
    fn refused_by_name() {
        assert!(matches!(
            run(&["--swarm-default-advertise-addr=x"], None),
            Err(ConfigError::Unavailable { .. })
        ));
        assert!(matches!(run(&["--bogus"], None), Err(ConfigError::UnknownFlag(_))));
        assert!(matches!(run(&[], Some(r#"{"bogus":1}"#)), Err(ConfigError::UnknownKey(_))));
        assert!(matches!(run(&["--mtu=x"], None), Err(ConfigError::Invalid { .. })));
        assert!(matches!(run(&["--storage-driver=btrfs"], None), Err(ConfigError::Invalid { .. })));
        assert!(matches!(run(&["x"], None), Err(ConfigError::Argument(_))));
        assert!(run(&["--containerd=/run/x", "--live-restore"], None).is_ok());
    }
}
