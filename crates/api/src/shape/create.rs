//! Requests for containers, brought into today's form: what a version does not know yet says
//! nothing, and what it said otherwise is said as today.

use std::collections::BTreeMap;

use hoy_wire as wire;

use super::{PRIORITIES, Version};
use crate::ApiError;

/// The first version in which a MAC address belongs to an endpoint.
const ENDPOINT_MAC: Version = (1, 44);
/// The first version in which a container has none of its own.
const NO_OTHER_MAC: Version = (1, 52);

/// `POST /containers/create`. The result is warnings for the client.
pub(crate) fn create(
    request: &mut wire::CreateRequest,
    version: Version,
) -> Result<Vec<String>, ApiError> {
    if version < (1, 44)
        && let Some(check) = &mut request.healthcheck
    {
        check.start_interval = 0;
    }
    if version >= NO_OTHER_MAC {
        request.mac_address.clear();
    }
    let mut warnings = Vec::new();
    if let Some(host) = &mut request.host_config {
        host_of(host, version)?;
        warnings.extend(unbound(host).filter(|_| version >= (1, 52)));
    }
    warnings.extend(endpoints_of(request, version)?.map(str::to_owned));
    Ok(warnings)
}

fn host_of(host: &mut wire::HostConfig, version: Version) -> Result<(), ApiError> {
    if version < (1, 40) && host.ipc_mode.is_empty() {
        host.ipc_mode = "shareable".to_owned();
    }
    if version < (1, 41) {
        host.cgroupns_mode.clear();
    }
    if version < (1, 42) {
        host.console_size = [0, 0];
    } else {
        host.kernel_memory = 0;
    }
    if version >= (1, 52) {
        host.kernel_memory_tcp = 0;
    }
    if version < (1, 43) {
        host.annotations.clear();
    }
    if host.umask.take().is_some() && version >= (1, 56) {
        return Err(ApiError::new(501, "HostConfig.Umask is not available yet"));
    }
    host.mounts.iter_mut().try_for_each(|mount| mount_of(mount, version))
}

fn mount_of(mount: &mut wire::Mount, version: Version) -> Result<(), ApiError> {
    let bind = mount.kind == "bind";
    if version < (1, 42) {
        // Options of another kind were not looked at.
        if mount.kind != "volume" {
            mount.volume_options = None;
        }
        if mount.kind != "tmpfs" {
            mount.tmpfs_options = None;
        }
        if !bind {
            mount.bind_options = None;
        }
    }
    if let Some(options) = &mut mount.bind_options {
        if version < (1, 40) {
            options.non_recursive = false;
        }
        if version < (1, 42) {
            options.create_mountpoint = false;
        }
    }
    if version < (1, 44) && bind {
        let options = mount.bind_options.get_or_insert_default();
        if options.read_only_force_recursive {
            return Err(ApiError::bad(
                "BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer",
            ));
        }
        // What is mounted below was written to all the same.
        options.read_only_non_recursive = mount.read_only;
        if *options == wire::BindOptions::default() {
            mount.bind_options = None;
        }
    }
    if version < (1, 45)
        && let Some(options) = &mut mount.volume_options
    {
        options.subpath.clear();
    }
    if version < (1, 48) && mount.kind == "image" {
        return Err(ApiError::bad("Mount type \"Image\" needs API v1.48 or newer"));
    }
    Ok(())
}

/// A published port without a place means any: so it is said, and since 1.52 warned of.
fn unbound(host: &mut wire::HostConfig) -> Option<String> {
    let mut ports = Vec::new();
    for (port, bindings) in host.port_bindings.iter_mut().flatten() {
        if bindings.as_ref().is_none_or(Vec::is_empty) {
            *bindings = Some(vec![wire::PortBinding::default()]);
            ports.push(port.as_str());
        }
    }
    (!ports.is_empty()).then(|| {
        format!(
            "Following container port(s) have an empty list of port-bindings: {}. Such bindings \
             will be discarded in a future version.",
            ports.join(", ")
        )
    })
}

/// `POST /containers/{id}/update`.
pub(crate) fn update(host: &mut wire::HostConfig, version: Version) {
    if version < (1, 40) {
        host.pids_limit = None;
    }
    if version >= (1, 42) {
        host.kernel_memory = 0;
    }
    if version >= (1, 52) {
        host.kernel_memory_tcp = 0;
    }
    if version < (1, 55) {
        // They were in the request, and nobody looked at them.
        host.blkio_weight_device = None;
        host.blkio_device_read_bps = None;
        host.blkio_device_write_bps = None;
        host.blkio_device_read_iops = None;
        host.blkio_device_write_iops = None;
    }
}

const MAC_WARNING: &str = "The container-wide MacAddress field is now deprecated. It should be \
                           specified in EndpointsConfig instead.";

/// What a client says of a new container's networks. The result is a warning for the client.
fn endpoints_of(
    request: &mut wire::CreateRequest,
    version: Version,
) -> Result<Option<&'static str>, ApiError> {
    let mode = request.host_config.as_ref().map_or("", |host| host.network_mode.as_str());
    let mode = if mode.is_empty() { "default" } else { mode }.to_owned();
    let mut none = BTreeMap::new();
    let endpoints = match &mut request.networking_config {
        Some(networking) => networking.endpoints_config.get_or_insert_default(),
        None => &mut none,
    };
    if version < PRIORITIES {
        endpoints.values_mut().for_each(|endpoint| endpoint.gw_priority = 0);
    }
    if version < ENDPOINT_MAC && endpoints.len() > 1 {
        let names: Vec<&str> = endpoints.keys().map(String::as_str).collect();
        return Err(ApiError::bad(format!(
            "Container cannot be created with multiple network endpoints: {}",
            names.join(", ")
        )));
    }
    let address = std::mem::take(&mut request.mac_address);
    if address.is_empty() {
        if version < ENDPOINT_MAC {
            // Older clients sent back there what an inspect had told them.
            endpoints.values_mut().for_each(|endpoint| endpoint.mac_address.clear());
        }
        return Ok(None);
    }
    let takes_address =
        !matches!(mode.as_str(), "host" | "none") && !mode.starts_with("container:");
    let warning = (version >= ENDPOINT_MAC).then_some(MAC_WARNING);
    if !takes_address {
        return match warning {
            None => Err(ApiError::bad("conflicting options: mac-address and the network mode")),
            warning => Ok(warning),
        };
    }
    let own: Vec<&str> = match mode.as_str() {
        "default" | "bridge" => vec!["default", "bridge"],
        name => vec![name],
    };
    let known = endpoints.keys().find(|name| own.contains(&name.as_str())).cloned();
    let endpoint = endpoints.entry(known.unwrap_or(mode)).or_default();
    if version >= ENDPOINT_MAC
        && !endpoint.mac_address.is_empty()
        && endpoint.mac_address != address
    {
        return Err(ApiError::bad(
            "the container-wide MAC address must match the endpoint-specific MAC address for the \
             main network, or be left empty",
        ));
    }
    endpoint.mac_address = address;
    if !none.is_empty() {
        request.networking_config = Some(wire::NetworkingConfig { endpoints_config: Some(none) });
    }
    Ok(warning)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> wire::CreateRequest {
        serde_json::from_str(text).unwrap()
    }

    fn endpoints(request: &wire::CreateRequest) -> BTreeMap<String, wire::EndpointSettings> {
        let networking = request.networking_config.clone().unwrap_or_default();
        networking.endpoints_config.unwrap_or_default()
    }

    const MAC: &str = "02:42:ac:11:00:05";

    #[test]
    fn the_address_of_old_goes_to_the_first_network() {
        for (mode, networking, name) in [
            ("default", "null", "default"),
            ("n", "null", "n"),
            ("bridge", r#"{"EndpointsConfig":{"default":{}}}"#, "default"),
            ("n", r#"{"EndpointsConfig":{"n":{"GwPriority":5}}}"#, "n"),
        ] {
            let text = format!(
                r#"{{"MacAddress":"{MAC}","HostConfig":{{"NetworkMode":"{mode}"}},"NetworkingConfig":{networking}}}"#
            );
            for version in [(1, 43), (1, 50)] {
                let mut asked = request(&text);
                let warning = endpoints_of(&mut asked, version).unwrap();
                assert_eq!(warning.is_some(), version == (1, 50));
                assert_eq!(asked.mac_address, "");
                let endpoint = endpoints(&asked).remove(name).unwrap();
                assert_eq!(endpoint.mac_address, MAC);
                assert!(version == (1, 50) || endpoint.gw_priority == 0);
            }
        }
    }

    #[test]
    fn what_does_not_fit_together() {
        let host = format!(r#"{{"MacAddress":"{MAC}","HostConfig":{{"NetworkMode":"host"}}}}"#);
        assert!(endpoints_of(&mut request(&host), (1, 43)).is_err());
        assert_eq!(endpoints_of(&mut request(&host), (1, 44)).unwrap(), Some(MAC_WARNING));
        let other = format!(
            r#"{{"MacAddress":"{MAC}","HostConfig":{{"NetworkMode":"n"}},"NetworkingConfig":{{"EndpointsConfig":{{"n":{{"MacAddress":"02:42:ac:11:00:06"}}}}}}}}"#
        );
        assert!(
            endpoints_of(&mut request(&other), (1, 50)).unwrap_err().message.contains("must match")
        );
        let two = r#"{"NetworkingConfig":{"EndpointsConfig":{"a":{"MacAddress":"x"},"b":null}}}"#;
        assert!(endpoints_of(&mut request(two), (1, 50)).unwrap().is_none());
        let refused = endpoints_of(&mut request(two), (1, 43)).unwrap_err().message;
        assert!(refused.ends_with("multiple network endpoints: a, b"), "{refused}");
        let old = r#"{"NetworkingConfig":{"EndpointsConfig":{"a":{"MacAddress":"x"}}}}"#;
        let mut old = request(old);
        endpoints_of(&mut old, (1, 43)).unwrap();
        assert_eq!(endpoints(&old)["a"].mac_address, "");
    }

    #[test]
    fn what_a_version_does_not_know_says_nothing() {
        let text = r#"{"Healthcheck":{"StartInterval":5},"HostConfig":{"KernelMemory":7,
            "KernelMemoryTCP":8,"ConsoleSize":[3,4],"Annotations":{"a":"b"},
            "Mounts":[{"Type":"bind","ReadOnly":true,"BindOptions":{"CreateMountpoint":true}},
                {"Type":"volume","VolumeOptions":{"Subpath":"x"},"TmpfsOptions":{}}]}}"#;
        let shaped = |minor| {
            let mut asked = request(text);
            create(&mut asked, (1, minor)).unwrap();
            asked
        };
        let host = |minor| shaped(minor).host_config.unwrap();
        assert_eq!(shaped(43).healthcheck.unwrap().start_interval, 0);
        assert_eq!(shaped(44).healthcheck.unwrap().start_interval, 5);
        assert_eq!((host(41).kernel_memory, host(42).kernel_memory), (7, 0));
        assert_eq!((host(51).kernel_memory_tcp, host(52).kernel_memory_tcp), (8, 0));
        assert_eq!((host(41).console_size, host(42).console_size), ([0, 0], [3, 4]));
        assert!(host(42).annotations.is_empty() && !host(43).annotations.is_empty());
        assert_eq!((host(39).ipc_mode.as_str(), host(40).ipc_mode.as_str()), ("shareable", ""));
        let bind = |minor| host(minor).mounts.remove(0).bind_options.unwrap();
        assert!(bind(43).read_only_non_recursive && !bind(44).read_only_non_recursive);
        assert!(!bind(41).create_mountpoint && bind(42).create_mountpoint);
        let volume = |minor| host(minor).mounts.remove(1);
        assert!(volume(41).tmpfs_options.is_none() && volume(42).tmpfs_options.is_some());
        assert_eq!(volume(44).volume_options.unwrap().subpath, "");
        assert_eq!(volume(45).volume_options.unwrap().subpath, "x");
        let umask = r#"{"HostConfig":{"Umask":18}}"#;
        assert!(create(&mut request(umask), (1, 55)).is_ok());
        assert_eq!(create(&mut request(umask), (1, 56)).unwrap_err().status, 501);
        let image = r#"{"HostConfig":{"Mounts":[{"Type":"image"}]}}"#;
        assert!(create(&mut request(image), (1, 47)).is_err());
        assert!(create(&mut request(image), (1, 48)).is_ok());
    }

    #[test]
    fn ports_without_a_place() {
        let text = r#"{"HostConfig":{"PortBindings":{"80/tcp":[],"81/tcp":null,
            "82/tcp":[{"HostPort":"1"}]}}}"#;
        let mut asked = request(text);
        assert_eq!(
            create(&mut asked, (1, 52)).unwrap(),
            ["Following container port(s) have an empty list of port-bindings: 80/tcp, 81/tcp. \
              Such bindings will be discarded in a future version."]
        );
        let bound = asked.host_config.unwrap().port_bindings.unwrap();
        assert!(bound.values().all(|bindings| bindings.as_ref().unwrap().len() == 1));
        assert!(create(&mut request(text), (1, 51)).unwrap().is_empty());
    }

    #[test]
    fn the_address_of_a_container_is_no_more() {
        let mut asked = request(&format!(r#"{{"MacAddress":"{MAC}"}}"#));
        assert!(create(&mut asked, (1, 52)).unwrap().is_empty());
        assert!(asked.mac_address.is_empty() && endpoints(&asked).is_empty());
    }

    #[test]
    fn an_update_through_the_versions() {
        let shaped = |minor| {
            let text = r#"{"PidsLimit":5,"BlkioWeightDevice":[],"KernelMemory":1}"#;
            let mut host: wire::HostConfig = serde_json::from_str(text).unwrap();
            update(&mut host, (1, minor));
            host
        };
        assert!(shaped(39).pids_limit.is_none() && shaped(40).pids_limit.is_some());
        assert!(shaped(54).blkio_weight_device.is_none());
        assert!(shaped(55).blkio_weight_device.is_some());
        assert_eq!((shaped(41).kernel_memory, shaped(42).kernel_memory), (1, 0));
    }
}
