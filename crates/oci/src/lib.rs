//! Words: strict OCI and Docker image documents: one parse, bounded.
//!
//! The exact bytes that were hashed are the bytes that are parsed, once. A key that stands twice,
//! a document of two kinds at once, a size that is none: refused.

pub mod runtime;

use std::collections::BTreeMap;

use hoy_types::Digest;
use serde::{Deserialize, Serialize};

/// No honest manifest or configuration is larger.
pub const MAX_DOCUMENT: u64 = 4 << 20;

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("invalid {0}: {1}")]
    Json(&'static str, serde_json::Error),
    #[error("invalid {0}: larger than {MAX_DOCUMENT} bytes")]
    TooLarge(&'static str),
    #[error("invalid {0}: {1}")]
    Invalid(&'static str, String),
}

/// Points at a blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What a program runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// A list of manifests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub manifests: Vec<Descriptor>,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// The image's configuration document: what is read of it. Its bytes are kept as they came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageDocument {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    #[serde(default)]
    pub os: String,
    /// Docker's own shape, read by whoever runs or shows it.
    #[serde(default)]
    pub config: serde_json::Value,
    pub rootfs: RootFs,
    #[serde(default)]
    pub history: Vec<History>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub docker_version: String,
}

/// The layers, by the digests of their uncompressed archives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    #[serde(rename = "type")]
    pub kind: String,
    pub diff_ids: Vec<Digest>,
}

/// One step of the image's making.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// One image of a `docker save` archive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ArchiveEntry {
    pub config: String,
    #[serde(default)]
    pub repo_tags: Option<Vec<String>>,
    pub layers: Vec<String>,
}

fn parse<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, DocumentError> {
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(DocumentError::TooLarge(what));
    }
    serde_json::from_slice(bytes).map_err(|error| DocumentError::Json(what, error))
}

/// A manifest or an index.
#[derive(Clone, Debug, PartialEq)]
pub enum Either {
    Index(Index),
    Manifest(Manifest),
}

impl Either {
    /// Decides by the content; the media type that it claims and the one that pointed to it must
    /// agree with it.
    pub fn parse(bytes: &[u8], pointed: &str) -> Result<Self, DocumentError> {
        let what = "manifest";
        let value: BTreeMap<String, serde_json::Value> = parse(what, bytes)?;
        let has = |key: &str| value.contains_key(key);
        let invalid = |text: &str| DocumentError::Invalid(what, text.to_owned());
        let strict = !hoy_weak::without(hoy_weak::Protection::OneMeaning);
        if strict && has("manifests") && (has("layers") || has("config")) {
            return Err(invalid("both an index and a manifest"));
        }
        let claimed = value.get("mediaType").and_then(|value| value.as_str());
        if claimed.is_some_and(|claimed| !pointed.is_empty() && claimed != pointed) {
            return Err(invalid("its media type is not the one that pointed to it"));
        }
        let kind = claimed.unwrap_or(pointed);
        let is_index = matches!(kind, OCI_INDEX | DOCKER_LIST);
        let is_manifest = matches!(kind, OCI_MANIFEST | DOCKER_MANIFEST);
        if has("manifests") {
            if is_manifest {
                return Err(invalid("an index that claims to be a manifest"));
            }
            return Ok(Self::Index(parse(what, bytes)?));
        }
        if is_index {
            return Err(invalid("a manifest that claims to be an index"));
        }
        Ok(Self::Manifest(parse(what, bytes)?))
    }
}

impl ImageDocument {
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        parse("image configuration", bytes)
    }
}

/// The list of images in a `docker save` archive.
pub fn parse_archive(bytes: &[u8]) -> Result<Vec<ArchiveEntry>, DocumentError> {
    parse("manifest.json", bytes)
}

/// The index of an OCI layout.
pub fn parse_index(bytes: &[u8]) -> Result<Index, DocumentError> {
    match Either::parse(bytes, "")? {
        Either::Index(index) => Ok(index),
        Either::Manifest(_) => Err(DocumentError::Invalid("index.json", "not an index".into())),
    }
}

/// What this machine runs.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn type_confusion_is_refused() {
        let descriptor = format!(r#"{{"mediaType":"x","digest":"{DIGEST}","size":0}}"#);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[]}}"#);
        assert!(matches!(
            Either::parse(manifest.as_bytes(), OCI_MANIFEST),
            Ok(Either::Manifest(_))
        ));
        assert!(Either::parse(manifest.as_bytes(), OCI_INDEX).is_err());
        let both =
            format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[],"manifests":[]}}"#);
        assert!(Either::parse(both.as_bytes(), "").is_err());
        let lie = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","config":{descriptor},"layers":[]}}"#
        );
        assert!(Either::parse(lie.as_bytes(), OCI_MANIFEST).is_err());
        let twice = format!(
            r#"{{"schemaVersion":2,"config":{descriptor},"config":{descriptor},"layers":[]}}"#
        );
        assert!(Either::parse(twice.as_bytes(), "").is_err());
        assert!(
            Either::parse(br#"{"schemaVersion":2,"config":{"digest":"sha256:../x"}}"#, "").is_err()
        );
    }
}
