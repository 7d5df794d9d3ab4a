//! `GET /system/df`: lists of everything until 1.51, sums with lists if asked for since 1.52, and
//! both in that version.

use hoy_engine::UsageKinds;
use hoy_wire as wire;
use serde_json::{Value, json};

use super::{Version, answers, object, with, without};
use crate::ApiError;

/// The first version that can be asked for one kind, and that sums up no builder's size.
const KINDS: Version = (1, 42);
/// The first version with sums.
const SUMS: Version = (1, 52);

/// What the parameters `type` ask for.
pub(crate) fn usage_kinds(asked: &[String], version: Version) -> Result<UsageKinds, ApiError> {
    if version < KINDS || asked.is_empty() {
        return Ok(UsageKinds { images: true, containers: true, volumes: true, build_cache: true });
    }
    let mut kinds =
        UsageKinds { images: false, containers: false, volumes: false, build_cache: false };
    for kind in asked {
        match kind.as_str() {
            "image" => kinds.images = true,
            "container" => kinds.containers = true,
            "volume" => kinds.volumes = true,
            "build-cache" => kinds.build_cache = true,
            other => return Err(ApiError::bad(format!("unknown object type: {other}"))),
        }
    }
    Ok(kinds)
}

/// The answer; `verbose` asks for the lists beside the sums.
pub(crate) fn usage(
    found: &hoy_engine::DiskUsage,
    version: Version,
    verbose: bool,
) -> serde_json::Result<Value> {
    let mut old = serde_json::to_value(found)?;
    for (list, shape) in [
        ("Images", answers::image_entry as fn(&mut Value, Version)),
        ("Containers", answers::container_entry),
    ] {
        let list = old.get_mut(list).and_then(Value::as_array_mut);
        list.into_iter().flatten().for_each(|one| shape(one, version));
    }
    if version < SUMS {
        if version < KINDS {
            with(object(&mut old), &[("BuilderSize", 0.into())]);
        }
        return Ok(old);
    }
    let verbose_lists = |name: &str, sums: Sums| -> Value {
        let mut out = sums.shown();
        if verbose && let Some(list) = old.get(name) {
            out["Items"] = list.clone();
        }
        // `omitempty`, and in Docker's order.
        let mut ordered = json!({});
        for field in ["ActiveCount", "Items", "Reclaimable", "TotalCount", "TotalSize"] {
            if let Some(value) = out.get(field).filter(|value| !super::is_empty(value)) {
                ordered[field] = value.clone();
            }
        }
        ordered
    };
    let mut new = json!({});
    if let Some(images) = &found.images {
        new["ImageUsage"] = verbose_lists("Images", of_images(images, found.layers_size));
    }
    if let Some(containers) = &found.containers {
        new["ContainerUsage"] = verbose_lists("Containers", of_containers(containers));
    }
    if let Some(volumes) = &found.volumes {
        new["VolumeUsage"] = verbose_lists("Volumes", of_volumes(volumes));
    }
    if found.build_cache.is_some() {
        new["BuildCacheUsage"] = verbose_lists("BuildCache", Sums::default());
    }
    if version > SUMS || verbose {
        return Ok(new);
    }
    if let (Some(old), Some(new)) = (old.as_object_mut(), new.as_object()) {
        old.extend(new.clone());
        if found.images.is_none() {
            without(Some(old), &["LayersSize"]);
        }
    }
    Ok(old)
}

/// A prune's report as lines: what went, one by one, and the report itself. Ours are said once all
/// of it is done, which a client cannot tell from a quick engine.
pub(crate) fn prune_lines(report: &Value) -> Vec<Value> {
    let lists = report.as_object().into_iter().flatten().filter_map(|(_, list)| list.as_array());
    let mut out: Vec<Value> = lists
        .flatten()
        .filter_map(|gone| {
            let (id, status) = match gone {
                Value::String(id) => (id.as_str(), "Deleted"),
                other => match (other["Deleted"].as_str(), other["Untagged"].as_str()) {
                    (Some(id), _) => (id, "Deleted"),
                    (_, id) => (id?, "Untagged"),
                },
            };
            Some(json!({ "id": id, "status": status }))
        })
        .collect();
    out.push(json!({ "aux": report }));
    out
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    total: i64,
    active: i64,
    size: i64,
    reclaimable: i64,
}

impl Sums {
    fn shown(self) -> Value {
        json!({
            "ActiveCount": self.active,
            "Reclaimable": self.reclaimable,
            "TotalCount": self.total,
            "TotalSize": self.size,
        })
    }
}

/// As Docker's client summed them up until now: what no container needs can be had back.
fn of_images(images: &[wire::ImageSummary], size: i64) -> Sums {
    let active: Vec<_> = images.iter().filter(|image| image.containers > 0).collect();
    let used: i64 = active
        .iter()
        .filter(|image| image.size != -1 && image.shared_size != -1)
        .map(|image| image.size - image.shared_size)
        .sum();
    Sums { total: images.len() as i64, active: active.len() as i64, size, reclaimable: size - used }
}

fn of_containers(containers: &[wire::ContainerSummary]) -> Sums {
    let mut out = Sums { total: containers.len() as i64, ..Sums::default() };
    for one in containers {
        out.size += one.size_rw;
        if matches!(one.state.as_str(), "running" | "paused" | "restarting") {
            out.active += 1;
        } else {
            out.reclaimable += one.size_rw;
        }
    }
    out
}

fn of_volumes(volumes: &[wire::Volume]) -> Sums {
    let mut out = Sums { total: volumes.len() as i64, ..Sums::default() };
    for one in volumes {
        let Some(usage) = &one.usage_data else { continue };
        let size = usage.size.max(0);
        out.size += size;
        if usage.ref_count > 0 {
            out.active += 1;
        } else {
            out.reclaimable += size;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> hoy_engine::DiskUsage {
        let image = |containers, size, shared_size| wire::ImageSummary {
            containers,
            size,
            shared_size,
            ..Default::default()
        };
        let container = |state: &str, size_rw| wire::ContainerSummary {
            state: state.into(),
            size_rw,
            ..Default::default()
        };
        let volume = |ref_count, size| wire::Volume {
            usage_data: Some(wire::VolumeUsage { ref_count, size }),
            ..Default::default()
        };
        hoy_engine::DiskUsage {
            layers_size: 100,
            images: Some(vec![image(1, 60, 10), image(0, 50, 10)]),
            containers: Some(vec![container("running", 5), container("exited", 7)]),
            volumes: Some(vec![volume(1, 3), volume(0, 4), volume(0, -1)]),
            build_cache: Some(Vec::new()),
        }
    }

    fn keys(value: &Value) -> Vec<&str> {
        value.as_object().unwrap().keys().map(String::as_str).collect()
    }

    #[test]
    fn through_the_versions() {
        let shaped = |minor, verbose| usage(&found(), (1, minor), verbose).unwrap();
        let lists = ["LayersSize", "Images", "Containers", "Volumes", "BuildCache"];
        let sums = ["ImageUsage", "ContainerUsage", "VolumeUsage", "BuildCacheUsage"];
        assert_eq!(keys(&shaped(51, true)), lists);
        assert_eq!(keys(&shaped(41, false)), [&lists[..], &["BuilderSize"]].concat());
        assert_eq!(keys(&shaped(52, false)), [&lists[..], &sums].concat());
        assert_eq!(keys(&shaped(52, true)), sums);
        assert_eq!(keys(&shaped(53, false)), sums);
        assert_eq!(shaped(43, false)["Images"][0]["VirtualSize"], 60);
    }

    #[test]
    fn sums() {
        let said = usage(&found(), (1, 53), false).unwrap();
        assert_eq!(
            said["ImageUsage"],
            json!({"ActiveCount": 1, "Reclaimable": 50, "TotalCount": 2, "TotalSize": 100})
        );
        assert_eq!(
            said["ContainerUsage"],
            json!({"ActiveCount": 1, "Reclaimable": 7, "TotalCount": 2, "TotalSize": 12})
        );
        assert_eq!(
            said["VolumeUsage"],
            json!({"ActiveCount": 1, "Reclaimable": 4, "TotalCount": 3, "TotalSize": 7})
        );
        assert_eq!(said["BuildCacheUsage"], json!({}));
        let verbose = usage(&found(), (1, 53), true).unwrap();
        assert_eq!(keys(&verbose["VolumeUsage"])[1], "Items");
    }

    #[test]
    fn a_prune_line_by_line() {
        let report = json!({"ImagesDeleted": [{"Untagged": "a:1"}, {"Deleted": "sha256:1"}],
            "SpaceReclaimed": 5});
        assert_eq!(
            prune_lines(&report),
            [
                json!({"id": "a:1", "status": "Untagged"}),
                json!({"id": "sha256:1", "status": "Deleted"}),
                json!({"aux": report}),
            ]
        );
        let nothing = json!({"NetworksDeleted": null});
        assert_eq!(prune_lines(&nothing), [json!({"aux": nothing})]);
    }

    #[test]
    fn kinds() {
        let asked = |minor, types: &[&str]| {
            let types: Vec<String> = types.iter().map(|kind| (*kind).to_owned()).collect();
            usage_kinds(&types, (1, minor))
        };
        assert!(!asked(42, &["image"]).unwrap().volumes && asked(41, &["image"]).unwrap().volumes);
        assert!(asked(42, &["bogus"]).is_err() && asked(41, &["bogus"]).is_ok());
    }
}
