//! Bandwidth, and what is used.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Request, State};
use berth_core::{Core, Grouped, Series, SeriesPoint};

use super::auth::authenticate_and_read;
use super::error::Error;
use super::wire::{Bandwidth, Info, Of, Used, rounded};
use crate::http::{Parameters, local_time, local_time_of};

/// A time of the question, milliseconds since 1970.
fn time(core: &Core, parameters: &Parameters, name: &'static str) -> Result<i64, Error> {
    let text = parameters.text(name)?;
    local_time_of(&text, &core.settings().time_zone).map(|ns| ns / 1_000_000).ok_or_else(|| Error::invalid(name))
}

fn full_name(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains([':', '@']) { name.to_owned() } else { format!("{name}:latest") }
}

/// What was asked for: of one, or of each; a version's name without the version is its `latest`.
async fn series(core: &Core, request: Request, kind: Grouped, names: &[&'static str]) -> Result<Series, Error> {
    let (caller, parameters) = authenticate_and_read(core, request).await?;
    let (from, to) = (time(core, &parameters, "startDate")?, time(core, &parameters, "endDate")?);
    let mut key = None;
    for name in names {
        key = key.or(parameters.optional(name)?);
    }
    // As versions are kept.
    let key = match kind {
        Grouped::Version => key.map(|name| full_name(&name)),
        _ => key,
    };
    Ok(core.series(&caller, kind, key.as_deref(), from, to).await?)
}

fn bandwidth(core: &Core, series: Series, of: impl Fn(String) -> Of) -> Json<Info<Vec<Bandwidth>>> {
    let zone = core.settings().time_zone.clone();
    let p95 = rounded(series.p95_mbit());
    let point = |point: SeriesPoint| {
        let (down, up) = point.mbit();
        let time = local_time(point.from * 1_000_000, &zone);
        Bandwidth { time, of: of(point.key), up: rounded(up), down: rounded(down) }
    };
    Json(Info::of(series.points.into_iter().map(point).collect(), Some(p95)))
}

/// `GET /info/bandWith/getAllNode`.
pub(super) async fn bandwidth_of_nodes(
    State(core): State<Core>,
    request: Request,
) -> Result<Json<Info<Vec<Bandwidth>>>, Error> {
    let series = series(&core, request, Grouped::Host, &[]).await?;
    let names: HashMap<String, String> = core.hosts().await?.into_iter().map(|m| (m.id.to_string(), m.name)).collect();
    Ok(bandwidth(&core, series, |key| Of::Nodename(names.get(&key).cloned().unwrap_or(key))))
}

/// `GET /info/bandWith/getByImage`.
pub(super) async fn bandwidth_by_image(
    State(core): State<Core>,
    request: Request,
) -> Result<Json<Info<Vec<Bandwidth>>>, Error> {
    let series = series(&core, request, Grouped::Image, &["image"]).await?;
    Ok(bandwidth(&core, series, Of::Image))
}

/// `GET /info/bandWith/getByImageVersion`: `imageVersion` is name and version, `pcdn:v6.1333`.
pub(super) async fn bandwidth_by_version(
    State(core): State<Core>,
    request: Request,
) -> Result<Json<Info<Vec<Bandwidth>>>, Error> {
    let series = series(&core, request, Grouped::Version, &["imageVersion", "image"]).await?;
    Ok(bandwidth(&core, series, Of::ImageVersion))
}

fn used(core: &Core, series: Series, of: impl Fn(String) -> Of) -> Json<Info<Vec<Used>>> {
    let zone = core.settings().time_zone.clone();
    let point = |point: SeriesPoint| Used {
        time: local_time(point.from * 1_000_000, &zone),
        of: of(point.key),
        cpu: rounded(point.cpus),
        memory: rounded(point.memory_mib),
        disk: rounded(point.disk_mib),
        containers: point.containers,
    };
    Json(Info::of(series.points.into_iter().map(point).collect(), None))
}

/// `GET /info/resourceUse/getByImage`.
pub(super) async fn use_by_image(State(core): State<Core>, request: Request) -> Result<Json<Info<Vec<Used>>>, Error> {
    let series = series(&core, request, Grouped::Image, &["image"]).await?;
    Ok(used(&core, series, Of::Image))
}

/// `GET /info/resourceUse/getByImageVersion`.
pub(super) async fn use_by_version(State(core): State<Core>, request: Request) -> Result<Json<Info<Vec<Used>>>, Error> {
    let series = series(&core, request, Grouped::Version, &["imageVersion", "image"]).await?;
    Ok(used(&core, series, Of::ImageVersion))
}
