//! Networks as they are shown.

use std::collections::BTreeMap;

use hoy_types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::go::{is_default, nullable};

/// `network.Inspect`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkInspect {
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub id: String,
    #[serde(deserialize_with = "nullable")]
    pub created: Timestamp,
    #[serde(deserialize_with = "nullable")]
    pub scope: String,
    #[serde(deserialize_with = "nullable")]
    pub driver: String,
    #[serde(rename = "EnableIPv4", deserialize_with = "nullable")]
    pub enable_ipv4: bool,
    #[serde(rename = "EnableIPv6", deserialize_with = "nullable")]
    pub enable_ipv6: bool,
    #[serde(rename = "IPAM", deserialize_with = "nullable")]
    pub ipam: Ipam,
    #[serde(deserialize_with = "nullable")]
    pub internal: bool,
    #[serde(deserialize_with = "nullable")]
    pub attachable: bool,
    #[serde(deserialize_with = "nullable")]
    pub ingress: bool,
    #[serde(deserialize_with = "nullable")]
    pub config_from: ConfigReference,
    #[serde(deserialize_with = "nullable")]
    pub config_only: bool,
    pub containers: Option<BTreeMap<String, EndpointResource>>,
    pub options: Option<BTreeMap<String, String>>,
    pub labels: Option<BTreeMap<String, String>>,
    /// Since 1.52, and only where one network is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<NetworkStatus>,
}

/// `network.Status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkStatus {
    #[serde(rename = "IPAM", deserialize_with = "nullable")]
    pub ipam: IpamStatus,
}

/// `network.IPAMStatus`: by subnet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamStatus {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub subnets: BTreeMap<String, SubnetStatus>,
}

/// `network.SubnetStatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SubnetStatus {
    #[serde(rename = "IPsInUse", deserialize_with = "nullable")]
    pub ips_in_use: u64,
    #[serde(rename = "DynamicIPsAvailable", deserialize_with = "nullable")]
    pub dynamic_ips_available: u64,
}

/// `network.IPAM`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ipam {
    #[serde(deserialize_with = "nullable")]
    pub driver: String,
    pub options: Option<BTreeMap<String, String>>,
    pub config: Option<Vec<IpamConfig>>,
}

/// `network.IPAMConfig`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamConfig {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub subnet: String,
    #[serde(rename = "IPRange", deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub ip_range: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub gateway: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub auxiliary_addresses: BTreeMap<String, String>,
}

/// `network.ConfigReference`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ConfigReference {
    #[serde(deserialize_with = "nullable")]
    pub network: String,
}

/// `network.EndpointResource`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointResource {
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    #[serde(rename = "EndpointID", deserialize_with = "nullable")]
    pub endpoint_id: String,
    #[serde(deserialize_with = "nullable")]
    pub mac_address: String,
    #[serde(rename = "IPv4Address", deserialize_with = "nullable")]
    pub ipv4_address: String,
    #[serde(rename = "IPv6Address", deserialize_with = "nullable")]
    pub ipv6_address: String,
}

/// `network.CreateRequest`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkCreateRequest {
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub driver: String,
    #[serde(deserialize_with = "nullable")]
    pub scope: String,
    /// Absent, it is the daemon's default: on.
    #[serde(rename = "EnableIPv4")]
    pub enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: Option<bool>,
    #[serde(rename = "IPAM")]
    pub ipam: Option<Ipam>,
    #[serde(deserialize_with = "nullable")]
    pub internal: bool,
    #[serde(deserialize_with = "nullable")]
    pub attachable: bool,
    #[serde(deserialize_with = "nullable")]
    pub ingress: bool,
    #[serde(deserialize_with = "nullable")]
    pub config_only: bool,
    pub config_from: Option<ConfigReference>,
    pub options: Option<BTreeMap<String, String>>,
    pub labels: Option<BTreeMap<String, String>>,
}

/// `network.CreateResponse`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkCreateResponse {
    #[serde(deserialize_with = "nullable")]
    pub id: String,
    #[serde(deserialize_with = "nullable")]
    pub warning: String,
}

/// `network.ConnectOptions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkConnectRequest {
    #[serde(deserialize_with = "nullable")]
    pub container: String,
    pub endpoint_config: Option<crate::EndpointSettings>,
}

/// `network.DisconnectOptions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkDisconnectRequest {
    #[serde(deserialize_with = "nullable")]
    pub container: String,
    #[serde(deserialize_with = "nullable")]
    pub force: bool,
}

/// `network.PruneReport`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkPruneResponse {
    pub networks_deleted: Option<Vec<String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bodies as docker-py 7 sends them.
    #[test]
    fn bodies_of_another_client() {
        let create: NetworkCreateRequest = serde_json::from_str(
            r#"{"Name": "n1", "Driver": "bridge", "Options": {"a": "b"}, "IPAM": {"Driver": "default", "Config": [{"Subnet": "192.168.52.0/24", "IPRange": null, "Gateway": "192.168.52.254", "AuxiliaryAddresses": {"a": "192.168.52.9"}}]}, "CheckDuplicate": true, "Labels": {"l": "v"}, "Internal": true, "Attachable": true, "Scope": "local"}"#,
        )
        .unwrap();
        let pool = create.ipam.unwrap().config.unwrap().remove(0);
        assert_eq!((pool.ip_range.as_str(), pool.auxiliary_addresses.len()), ("", 1));
        assert!(create.internal && create.enable_ipv4.is_none() && create.config_from.is_none());
        let bare: NetworkCreateRequest =
            serde_json::from_str(r#"{"Name": "n2", "IPAM": null, "Options": null}"#).unwrap();
        assert_eq!(bare, NetworkCreateRequest { name: "n2".into(), ..Default::default() });
        let connect: NetworkConnectRequest = serde_json::from_str(
            r#"{"Container": "c", "EndpointConfig": {"Aliases": ["x"], "Links": ["a:b"], "MacAddress": "02:42:ac:11:00:05", "IPAMConfig": {"IPv4Address": "192.168.52.7", "LinkLocalIPs": ["169.254.1.1"]}, "DriverOpts": {"q": "r"}}}"#,
        )
        .unwrap();
        let endpoint = connect.endpoint_config.unwrap();
        assert_eq!(endpoint.ipam_config.unwrap().link_local_ips, ["169.254.1.1"]);
        assert_eq!(endpoint.aliases.unwrap(), ["x"]);
        let wanted: crate::NetworkingConfig = serde_json::from_str(
            r#"{"EndpointsConfig": {"n1": {"Aliases": ["foo"]}, "n2": {}, "n3": null}}"#,
        )
        .unwrap();
        assert_eq!(wanted.endpoints_config.unwrap().len(), 3);
    }

    /// As Docker's engine writes it, to the order of the keys.
    #[test]
    fn shown_field_by_field() {
        let text = r#"{"Name":"a","Id":"86f1","Created":"2026-11-21T11:35:44.724338008Z","Scope":"local","Driver":"bridge","EnableIPv4":true,"EnableIPv6":false,"IPAM":{"Driver":"default","Options":null,"Config":[{"Subnet":"172.18.0.0/16","Gateway":"172.18.0.1"}]},"Internal":false,"Attachable":false,"Ingress":false,"ConfigFrom":{"Network":""},"ConfigOnly":false,"Containers":{},"Options":{},"Labels":{}}"#;
        let network: NetworkInspect = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&network).unwrap(), text);
    }
}
