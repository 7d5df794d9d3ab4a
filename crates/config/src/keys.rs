//! Every setting that dockerd knows, and what hoy does with it.

use crate::{BUILT_IN_RUNTIMES, CgroupDriver, InstantStop, Runtime, Settings, network};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Text,
    Number,
    List,
    Map,
    /// `name=soft:hard`; in the file an object of objects.
    Ulimits,
    /// In the file objects by name, as a flag `name=value`; both may be given together.
    Named,
    /// In the file a list of objects.
    Pools,
    /// In the file objects of options by name.
    Options,
    /// Of a shape that nothing here reads.
    Any,
}

impl Kind {
    pub(crate) fn repeats(self) -> bool {
        matches!(
            self,
            Self::List | Self::Map | Self::Ulimits | Self::Named | Self::Pools | Self::Options
        )
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bool | Self::Any => "",
            Self::Text => "string",
            Self::Number => "int",
            Self::List => "list",
            Self::Map | Self::Named => "map",
            Self::Ulimits => "ulimit",
            Self::Pools => "pool-options",
            Self::Options => "mapmap",
        }
    }
}

type Set = fn(&mut Settings, &str) -> Result<(), String>;

#[derive(Clone, Copy)]
pub(crate) enum Effect {
    Set(Set),
    /// One of these values, which is what hoy does anyway.
    Only(&'static [&'static str]),
    /// About a part that hoy does not consist of.
    None,
    Unavailable,
}

pub(crate) struct Key {
    pub flag: &'static str,
    pub short: &'static str,
    pub file: &'static str,
    pub kind: Kind,
    pub effect: Effect,
    pub help: &'static str,
}

const fn key(
    flag: &'static str,
    short: &'static str,
    file: &'static str,
    kind: Kind,
    effect: Effect,
    help: &'static str,
) -> Key {
    Key { flag, short, file, kind, effect, help }
}

const fn unavailable(flag: &'static str, file: &'static str, kind: Kind) -> Key {
    key(flag, "", file, kind, Effect::Unavailable, "")
}

const fn without_effect(flag: &'static str, kind: Kind, help: &'static str) -> Key {
    key(flag, "", flag, kind, Effect::None, help)
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("want true or false".into()),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "want a number".to_owned())
}

fn absolute(text: &str) -> Result<std::path::PathBuf, String> {
    let path = std::path::PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("want an absolute path".into()) }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("want name=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// `name=path`, or from the file `name={…}`.
fn runtime(settings: &mut Settings, text: &str) -> Result<(), String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Given {
        #[serde(default)]
        path: String,
        #[serde(default)]
        runtime_args: Vec<String>,
        #[serde(default)]
        runtime_type: String,
        #[serde(default)]
        options: serde_json::Map<String, serde_json::Value>,
    }
    let argument = || format!("invalid runtime argument: {text}");
    let (name, value) = text.split_once('=').ok_or_else(argument)?;
    let (name, value) = (name.trim(), value.trim());
    if name.is_empty() || value.is_empty() {
        return Err(argument());
    }
    if BUILT_IN_RUNTIMES.contains(&name) {
        return Err(format!("runtime name '{name}' is reserved"));
    }
    let given = match value.starts_with('{') {
        true => serde_json::from_str(value).map_err(|error| format!("runtime {name}: {error}"))?,
        false => Given {
            path: value.to_owned(),
            runtime_args: Vec::new(),
            runtime_type: String::new(),
            options: serde_json::Map::new(),
        },
    };
    if given.path.is_empty() && given.runtime_type.is_empty() {
        return Err(format!("runtime {name}: either a runtimeType or a path must be configured"));
    }
    if !given.runtime_type.is_empty() {
        return Err(format!(
            "runtime {name}: runtimeType is not available yet: hoy calls runtimes by their path"
        ));
    }
    if !given.options.is_empty() {
        return Err(format!("runtime {name}: options cannot be used with a path runtime"));
    }
    if settings.runtimes.contains_key(name) {
        return Err(format!("runtime '{name}' was already defined"));
    }
    let runtime = Runtime { path: given.path.into(), args: given.runtime_args };
    settings.runtimes.insert(name.to_owned(), runtime);
    Ok(())
}

/// `name=true`; a name alone turns it on.
fn feature(settings: &mut Settings, text: &str) -> Result<(), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, "true"));
    let on = boolean(value)?;
    if on && name != "cdi" {
        return Err(format!("the feature {name} is not available yet"));
    }
    settings.features.insert(name.to_owned(), on);
    Ok(())
}

fn host(text: &str) -> Result<String, String> {
    match text.split_once("://") {
        None if text.starts_with('/') => Ok(format!("unix://{text}")),
        Some(("unix" | "tcp", rest)) if !rest.is_empty() => Ok(text.to_owned()),
        // Of the service manager: all, one by its number, or those of a name.
        Some(("fd", _)) => Ok(text.to_owned()),
        _ => Err("want unix://PATH, tcp://ADDRESS:PORT or fd://".into()),
    }
}

fn cgroup_parent(text: &str) -> Result<String, String> {
    let relative = text.trim_matches('/');
    if relative.split('/').any(|part| part == ".." || part.is_empty()) {
        return Err("want a path without ..".into());
    }
    Ok(relative.to_owned())
}

fn exec_option(settings: &mut Settings, text: &str) -> Result<(), String> {
    settings.cgroup_driver = match pair(text)? {
        (name, driver) if name == "native.cgroupdriver" => match driver.as_str() {
            "cgroupfs" => Some(CgroupDriver::Cgroupfs),
            "systemd" => Some(CgroupDriver::Systemd),
            _ => return Err("want cgroupfs or systemd".into()),
        },
        _ => return Err("hoy only has native.cgroupdriver".into()),
    };
    Ok(())
}

macro_rules! set {
    ($field:ident, $parse:expr) => {
        Effect::Set(|settings, text| {
            settings.$field = $parse(text)?;
            Ok(())
        })
    };
    (push $field:ident, $parse:expr) => {
        Effect::Set(|settings, text| {
            settings.$field.push($parse(text)?);
            Ok(())
        })
    };
    (map $field:ident) => {
        Effect::Set(|settings, text| {
            let (name, value) = pair(text)?;
            settings.$field.insert(name, value);
            Ok(())
        })
    };
}

fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

pub(crate) const KEYS: &[Key] = &[
    key(
        "data-root",
        "g",
        "data-root",
        Kind::Text,
        set!(data_root, absolute),
        "Where everything that lasts lies (default \"/var/lib/hoy\")",
    ),
    key(
        "exec-root",
        "",
        "exec-root",
        Kind::Text,
        set!(exec_root, absolute),
        "Where the state of running containers lies (default \"/run/hoy\")",
    ),
    key(
        "pidfile",
        "p",
        "pidfile",
        Kind::Text,
        set!(pidfile, absolute),
        "File for the daemon's process id (default \"/run/hoy.pid\")",
    ),
    key(
        "host",
        "H",
        "hosts",
        Kind::List,
        set!(push hosts, host),
        "Sockets to listen on (default \"unix:///run/hoy.sock\")",
    ),
    key(
        "group",
        "G",
        "group",
        Kind::Text,
        Effect::Set(|s, t| {
            s.group = Some(t.to_owned());
            Ok(())
        }),
        "Group of the Unix socket (default: hoy, else docker, else root)",
    ),
    key("debug", "D", "debug", Kind::Bool, set!(debug, boolean), "Verbose log"),
    key(
        "log-level",
        "l",
        "log-level",
        Kind::Text,
        Effect::Set(|s, t| match t {
            "debug" | "info" | "warn" | "error" | "fatal" => {
                s.log_level = t.to_owned();
                Ok(())
            }
            _ => Err("want debug, info, warn, error or fatal".into()),
        }),
        "Level of the daemon's log",
    ),
    key(
        "log-format",
        "",
        "log-format",
        Kind::Text,
        Effect::Only(&["text"]),
        "Format of the daemon's log",
    ),
    key(
        "log-driver",
        "",
        "log-driver",
        Kind::Text,
        Effect::Set(|s, t| match t {
            "json-file" | "local" | "none" => {
                s.log_driver = t.to_owned();
                Ok(())
            }
            _ => {
                Err("this log driver is not available yet: hoy has json-file, local and none"
                    .into())
            }
        }),
        "Default driver of containers' logs",
    ),
    key(
        "log-opt",
        "",
        "log-opts",
        Kind::Map,
        set!(map log_opts),
        "Default options of the log driver",
    ),
    key(
        "bridge",
        "b",
        "bridge",
        Kind::Text,
        Effect::Set(|s, t| {
            if t.is_empty() || t.len() > 15 || t.contains(['/', ' ']) {
                return Err("want the name of an interface".into());
            }
            s.bridge = t.to_owned();
            Ok(())
        }),
        "Name of the default bridge (default \"hoy0\"; \"none\": there is none)",
    ),
    key(
        "bip",
        "",
        "bip",
        Kind::Text,
        Effect::Set(|s, t| {
            let (address, prefix) = t.split_once('/').ok_or("want ADDRESS/PREFIX")?;
            let good = address.parse::<std::net::Ipv4Addr>().is_ok()
                && prefix.parse::<u8>().is_ok_and(|p| (8..=30).contains(&p));
            if !good {
                return Err("want an IPv4 address and a prefix of 8 to 30".into());
            }
            s.bip = Some(t.to_owned());
            Ok(())
        }),
        "Address and prefix of the default bridge",
    ),
    key(
        "default-address-pool",
        "",
        "default-address-pools",
        Kind::Pools,
        Effect::Set(network::pools),
        "Pools of user-defined networks",
    ),
    key(
        "mtu",
        "",
        "mtu",
        Kind::Number,
        Effect::Set(|s, t| {
            let mtu = number::<u32>(t)?;
            if !(68..=65_535).contains(&mtu) {
                return Err("want 68 to 65535".into());
            }
            s.mtu = mtu;
            Ok(())
        }),
        "MTU of the containers' interfaces",
    ),
    key(
        "ip",
        "",
        "ip",
        Kind::Text,
        Effect::Set(|s, t| {
            s.ip = Some(t.parse().map_err(|_| "want an IP address")?);
            Ok(())
        }),
        "Default host address of published ports",
    ),
    key(
        "ip-forward",
        "",
        "ip-forward",
        Kind::Bool,
        set!(ip_forward, boolean),
        "Turn forwarding on when it is needed (default true)",
    ),
    key(
        "ip-masq",
        "",
        "ip-masq",
        Kind::Bool,
        set!(ip_masq, boolean),
        "Masquerade what leaves the bridge (default true)",
    ),
    key(
        "icc",
        "",
        "icc",
        Kind::Bool,
        set!(icc, boolean),
        "Let containers on the default bridge talk to each other (default true)",
    ),
    key("iptables", "", "iptables", Kind::Bool, Effect::Only(&["true"]), "Manage firewall rules"),
    key(
        "ip6tables",
        "",
        "ip6tables",
        Kind::Bool,
        Effect::Only(&["true"]),
        "Manage IPv6 firewall rules",
    ),
    key(
        "userland-proxy",
        "",
        "userland-proxy",
        Kind::Bool,
        Effect::Set(|s, t| {
            s.networking.without_proxy = !boolean(t)?;
            Ok(())
        }),
        "Let the helper carry what the kernel cannot: [::1], and one family to the other (default \
         true)",
    ),
    key(
        "userland-proxy-path",
        "",
        "userland-proxy-path",
        Kind::Text,
        Effect::None,
        "hoy needs no proxy process",
    ),
    key(
        "bip6",
        "",
        "bip6",
        Kind::Text,
        Effect::Set(network::bip6),
        "IPv6 address and prefix of the default bridge",
    ),
    key(
        "ipv6",
        "",
        "ipv6",
        Kind::Bool,
        Effect::Set(|s, t| {
            s.networking.ipv6 = boolean(t)?;
            Ok(())
        }),
        "IPv6 on the default bridge",
    ),
    key(
        "fixed-cidr",
        "",
        "fixed-cidr",
        Kind::Text,
        Effect::Set(network::fixed_cidr),
        "What of the default bridge's IPv4 subnet containers get",
    ),
    key(
        "fixed-cidr-v6",
        "",
        "fixed-cidr-v6",
        Kind::Text,
        Effect::Set(network::fixed_cidr6),
        "What of the default bridge's IPv6 subnet containers get",
    ),
    key(
        "default-gateway",
        "",
        "default-gateway",
        Kind::Text,
        Effect::Set(network::gateway),
        "IPv4 gateway of containers on the default bridge, other than the bridge",
    ),
    key(
        "default-gateway-v6",
        "",
        "default-gateway-v6",
        Kind::Text,
        Effect::Set(network::gateway6),
        "IPv6 gateway of containers on the default bridge, other than the bridge",
    ),
    key(
        "default-network-opt",
        "",
        "default-network-opts",
        Kind::Options,
        Effect::Set(network::options),
        "Default options of new networks: DRIVER=NAME=VALUE",
    ),
    key(
        "host-gateway-ip",
        "",
        "host-gateway-ips",
        Kind::List,
        Effect::Set(network::host_gateway),
        "Addresses that host-gateway stands for in --add-host",
    ),
    // As the file of older releases has it.
    key(
        "host-gateway-ip",
        "",
        "host-gateway-ip",
        Kind::Text,
        Effect::Set(network::host_gateway),
        "",
    ),
    key(
        "ip-forward-no-drop",
        "",
        "ip-forward-no-drop",
        Kind::Bool,
        Effect::Set(|s, t| {
            s.networking.forward_no_drop = boolean(t)?;
            Ok(())
        }),
        "Let strangers' packets be forwarded where forwarding was turned on by hoyd",
    ),
    key(
        "allow-direct-routing",
        "",
        "allow-direct-routing",
        Kind::Bool,
        Effect::Set(|s, t| {
            s.networking.direct_routing = boolean(t)?;
            Ok(())
        }),
        "Let other hosts reach published ports at the containers' own addresses",
    ),
    key(
        "allow-through-firewall",
        "",
        "allow-through-firewall",
        Kind::Bool,
        Effect::Set(|s, t| {
            s.networking.allow_through_firewall = boolean(t)?;
            Ok(())
        }),
        "Let containers' packets pass other people's firewalls: marked rules in their chains",
    ),
    without_effect("network-control-plane-mtu", Kind::Number, "For clusters, which hoy has not"),
    key(
        "dns",
        "",
        "dns",
        Kind::List,
        Effect::Set(|s, t| {
            t.parse::<std::net::IpAddr>().map_err(|_| "want an IP address")?;
            s.dns.push(t.to_owned());
            Ok(())
        }),
        "DNS servers of containers",
    ),
    key(
        "dns-search",
        "",
        "dns-search",
        Kind::List,
        set!(push dns_search, text),
        "DNS search domains of containers",
    ),
    key(
        "dns-opt",
        "",
        "dns-opts",
        Kind::List,
        set!(push dns_opts, text),
        "DNS options of containers",
    ),
    key("label", "", "labels", Kind::List, set!(push labels, text), "Labels of the daemon"),
    key(
        "init",
        "",
        "init",
        Kind::Bool,
        set!(init, boolean),
        "Run hoy-init as process 1 of every container",
    ),
    key(
        "init-path",
        "",
        "init-path",
        Kind::Text,
        Effect::Set(|s, t| {
            s.init_path = Some(absolute(t)?);
            Ok(())
        }),
        "The program for --init",
    ),
    key(
        "no-new-privileges",
        "",
        "no-new-privileges",
        Kind::Bool,
        set!(no_new_privileges, boolean),
        "Set no-new-privileges by default",
    ),
    key(
        "seccomp-profile",
        "",
        "seccomp-profile",
        Kind::Text,
        set!(seccomp_profile, text),
        "Default seccomp profile: a file, \"builtin\" or \"unconfined\"",
    ),
    key(
        "default-shm-size",
        "",
        "default-shm-size",
        Kind::Text,
        Effect::Set(|s, t| {
            let bytes = hoy_types::parse_bytes(t).map_err(|e| e.to_string())?;
            s.default_shm_size = u64::try_from(bytes).map_err(|_| "want a size")?;
            Ok(())
        }),
        "Default size of /dev/shm",
    ),
    key(
        "default-ulimit",
        "",
        "default-ulimits",
        Kind::Ulimits,
        Effect::Set(|settings, text| {
            let (name, soft, hard) = hoy_types::parse_ulimit(text)?;
            settings.default_ulimits.insert(name, (soft, hard));
            Ok(())
        }),
        "Default ulimits of containers",
    ),
    key(
        "cpu-rt-period",
        "",
        "cpu-rt-period",
        Kind::Number,
        set!(cpu_rt_period, number),
        "Limit the real-time period of all containers in microseconds",
    ),
    key(
        "cpu-rt-runtime",
        "",
        "cpu-rt-runtime",
        Kind::Number,
        set!(cpu_rt_runtime, number),
        "Limit the real-time runtime of all containers in microseconds",
    ),
    key(
        "cgroup-parent",
        "",
        "cgroup-parent",
        Kind::Text,
        set!(cgroup_parent, cgroup_parent),
        "Parent of the containers' cgroups (default \"hoy\")",
    ),
    key(
        "userns-remap",
        "",
        "userns-remap",
        Kind::Text,
        Effect::Set(|s, t| {
            s.userns_remap = Some(t.to_owned()).filter(|text| !text.is_empty());
            Ok(())
        }),
        "User or user:group whose subordinate ids containers have (\"default\": dockremap)",
    ),
    key(
        "exec-opt",
        "",
        "exec-opts",
        Kind::List,
        Effect::Set(exec_option),
        "Options of the runtime: native.cgroupdriver=cgroupfs or =systemd",
    ),
    key(
        "storage-driver",
        "s",
        "storage-driver",
        Kind::Text,
        Effect::Only(&["overlay2", "overlayfs"]),
        "Storage driver",
    ),
    key(
        "default-runtime",
        "",
        "default-runtime",
        Kind::Text,
        set!(default_runtime, text),
        "Default runtime",
    ),
    key(
        "add-runtime",
        "",
        "runtimes",
        Kind::Named,
        Effect::Set(runtime),
        "Another OCI runtime: name=path",
    ),
    key(
        "default-ipc-mode",
        "",
        "default-ipc-mode",
        Kind::Text,
        Effect::Set(|s, t| {
            if !matches!(t, "private" | "shareable") {
                return Err(format!("IPC mode \"{t}\" is not supported as default mode"));
            }
            s.default_ipc_mode = t.to_owned();
            Ok(())
        }),
        "Default IPC mode",
    ),
    key(
        "default-cgroupns-mode",
        "",
        "default-cgroupns-mode",
        Kind::Text,
        Effect::Set(|s, t| {
            if !matches!(t, "private" | "host") {
                return Err(format!(
                    "invalid default cgroup namespace (default-cgroupns-mode): {t}"
                ));
            }
            s.default_cgroupns_mode = t.to_owned();
            Ok(())
        }),
        "Default cgroup namespace mode",
    ),
    key(
        "selinux-enabled",
        "",
        "selinux-enabled",
        Kind::Bool,
        set!(selinux_enabled, boolean),
        "Label containers where the host has SELinux",
    ),
    key(
        "tls",
        "",
        "tls",
        Kind::Bool,
        Effect::Set(|s, t| {
            s.tls.on |= boolean(t)?;
            Ok(())
        }),
        "TLS on TCP sockets; --tlsverify has it, too",
    ),
    key(
        "tlsverify",
        "",
        "tlsverify",
        Kind::Bool,
        Effect::Set(|s, t| {
            s.tls.verify = boolean(t)?;
            // As Docker: whoever says either way wants TLS.
            s.tls.on = true;
            Ok(())
        }),
        "TLS, and clients need a certificate",
    ),
    key(
        "tlscacert",
        "",
        "tlscacert",
        Kind::Text,
        Effect::Set(|s, t| {
            s.tls.ca = t.into();
            Ok(())
        }),
        "Who signs clients' certificates (default \"/root/.docker/ca.pem\")",
    ),
    key(
        "tlscert",
        "",
        "tlscert",
        Kind::Text,
        Effect::Set(|s, t| {
            s.tls.cert = t.into();
            Ok(())
        }),
        "The daemon's certificate (default \"/root/.docker/cert.pem\")",
    ),
    key(
        "tlskey",
        "",
        "tlskey",
        Kind::Text,
        Effect::Set(|s, t| {
            s.tls.key = t.into();
            Ok(())
        }),
        "The daemon's key (default \"/root/.docker/key.pem\")",
    ),
    key(
        "instant-stop",
        "",
        "instant-stop",
        Kind::Text,
        Effect::Set(|settings, text| {
            settings.instant_stop = match text {
                "hoy" => InstantStop::Hoy,
                "all" => InstantStop::All,
                "none" => InstantStop::None,
                _ => return Err("want hoy, all or none".into()),
            };
            Ok(())
        }),
        "Whose stops do not wait for a signal without effect (\"hoy\"|\"all\"|\"none\")",
    ),
    key("insecure-registry", "", "insecure-registries", Kind::List, Effect::Unavailable, ""),
    key("registry-mirror", "", "registry-mirrors", Kind::List, Effect::Unavailable, ""),
    without_effect("live-restore", Kind::Bool, "Containers always outlive the daemon"),
    without_effect("containerd", Kind::Text, "hoy has no containerd"),
    without_effect("containerd-namespace", Kind::Text, "hoy has no containerd"),
    without_effect("containerd-plugins-namespace", Kind::Text, "hoy has no containerd"),
    without_effect("cri-containerd", Kind::Bool, "hoy has no containerd"),
    without_effect("shutdown-timeout", Kind::Number, "Containers outlive the daemon"),
    without_effect("max-concurrent-downloads", Kind::Number, "Used once images are pulled"),
    without_effect("max-concurrent-uploads", Kind::Number, "Used once images are pushed"),
    without_effect("max-download-attempts", Kind::Number, "Used once images are pulled"),
    without_effect("raw-logs", Kind::Bool, "The log is plain anyway"),
    unavailable("api-cors-header", "api-cors-header", Kind::Text),
    unavailable("authorization-plugin", "authorization-plugins", Kind::List),
    key(
        "cdi-spec-dir",
        "",
        "cdi-spec-dirs",
        Kind::List,
        set!(push cdi_spec_dirs, text),
        "Directory of CDI documents (default /etc/cdi and /var/run/cdi)",
    ),
    unavailable("experimental", "experimental", Kind::Bool),
    key(
        "feature",
        "",
        "features",
        Kind::Map,
        Effect::Set(feature),
        "Turn a feature on or off: cdi (default true)",
    ),
    unavailable("http-proxy", "http-proxy", Kind::Text),
    unavailable("https-proxy", "https-proxy", Kind::Text),
    unavailable("no-proxy", "no-proxy", Kind::Text),
    unavailable("metrics-addr", "metrics-addr", Kind::Text),
    unavailable("min-api-version", "min-api-version", Kind::Text),
    unavailable("network-diagnostic-port", "network-diagnostic-port", Kind::Number),
    unavailable("node-generic-resource", "node-generic-resources", Kind::List),
    unavailable("resolv-conf", "resolv-conf", Kind::Text),
    unavailable("rootless", "rootless", Kind::Bool),
    unavailable("storage-opt", "storage-opts", Kind::List),
    unavailable("swarm-default-advertise-addr", "swarm-default-advertise-addr", Kind::Text),
    unavailable("swarm-raft-election-tick", "swarm-raft-election-tick", Kind::Number),
    unavailable("swarm-raft-heartbeat-tick", "swarm-raft-heartbeat-tick", Kind::Number),
    unavailable("builder", "builder", Kind::Any),
    unavailable("allow-nondistributable-artifacts", "allow-nondistributable-artifacts", Kind::List),
];
