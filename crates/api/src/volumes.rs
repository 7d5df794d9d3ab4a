//! /volumes.

use hoy_engine::{Engine, VolumeRequest};
use hoy_wire as wire;

use crate::conn::Conn;
use crate::http::Head;
use crate::query::Query;
use crate::{ApiError, Outcome, route};

pub(crate) async fn route(
    engine: &Engine,
    conn: &mut Conn,
    head: &Head,
    parts: &[&str],
    query: &Query,
) -> Option<Outcome> {
    Some(match (head.method.as_str(), parts) {
        ("GET", ["volumes"] | ["volumes", ""]) => list(engine, conn, query).await,
        ("POST", ["volumes", "create"]) => create(engine, conn, head).await,
        ("GET", ["volumes", name]) => match engine.volume(name).await {
            Ok(found) => conn.json_answer(200, &found).await,
            Err(error) => Err(error.into()),
        },
        ("DELETE", ["volumes", name]) => {
            match engine.volume_remove(name, query.flag("force")).await {
                Ok(()) => conn.empty(204).await,
                Err(error) => Err(error.into()),
            }
        }
        // Only volumes of a cluster can be changed.
        ("PUT", ["volumes", name]) => Err(match engine.volume(name).await {
            Ok(_) => ApiError::new(503, route::NO_SWARM),
            Err(error) => error.into(),
        }),
        _ => return None,
    })
}

async fn create(engine: &Engine, conn: &mut Conn, head: &Head) -> Outcome {
    let asked: Option<wire::VolumeCreateRequest> = conn.json(head).await?;
    let asked =
        asked.ok_or_else(|| ApiError::bad("invalid JSON: got EOF while reading request body"))?;
    if asked.cluster_volume_spec.is_some() {
        return Err(ApiError::new(503, route::NO_SWARM));
    }
    let made = engine
        .volume_create(VolumeRequest {
            name: asked.name,
            driver: asked.driver,
            labels: asked.labels.unwrap_or_default(),
            options: asked.driver_opts.unwrap_or_default(),
            ..VolumeRequest::default()
        })
        .await?;
    conn.json_answer(201, &made).await
}

async fn list(engine: &Engine, conn: &mut Conn, query: &Query) -> Outcome {
    let filter = Filter::parse(query.filters()?)?;
    let (seen, warnings) = engine.volumes().await?;
    let shown = seen
        .into_iter()
        .filter(|seen| filter.admits(&seen.volume, || engine.volume_unused(&seen.volume.name)))
        .map(|seen| engine.volume_seen(seen))
        .collect();
    let warnings = (!warnings.is_empty()).then_some(warnings);
    let answer = wire::VolumeList { volumes: Some(shown), warnings };
    conn.json_answer(200, &answer).await
}

/// Docker's filters of a list: any value of a name, but all labels.
#[derive(Default)]
struct Filter {
    names: Vec<String>,
    drivers: Vec<String>,
    labels: Vec<String>,
    unused: Option<bool>,
}

impl Filter {
    fn parse(filters: Vec<(String, Vec<String>)>) -> Result<Self, ApiError> {
        let mut out = Self::default();
        for (name, values) in filters {
            match name.as_str() {
                "name" => out.names = values,
                "driver" => out.drivers = values,
                "label" => out.labels = values,
                "dangling" => {
                    out.unused =
                        Some(match values.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                            ["1" | "true"] => true,
                            ["0" | "false"] => false,
                            _ => {
                                let said = values.join(" ");
                                return Err(ApiError::bad(format!(
                                    "invalid filter 'dangling=[{said}]'"
                                )));
                            }
                        });
                }
                other => return Err(ApiError::bad(format!("invalid filter '{other}'"))),
            }
        }
        Ok(out)
    }

    fn admits(&self, volume: &hoy_engine::Volume, unused: impl Fn() -> bool) -> bool {
        let any = |wanted: &[String], fits: &dyn Fn(&String) -> bool| {
            wanted.is_empty() || wanted.iter().any(fits)
        };
        any(&self.names, &|name| volume.name.contains(name.as_str()))
            && any(&self.drivers, &|driver| *driver == volume.driver)
            && wire::has_labels(&self.labels, Some(&volume.labels))
            && self.unused.is_none_or(|wanted| wanted == unused())
    }
}
