//! Machines, and what containers on them carry.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use berth_core::{Core, Grouped, Host, HostLabels};
use berth_runtime::log::format_time;
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::{Auth, Params, Segment};
use super::containers::read_json;
use super::error::Error;
use super::usage::time;
use super::wire::{Bandwidth, BandwidthPoint, HostDisk, HostEntry, HostInterface, HostLabel, HostUse, List};
use crate::http::small_body;

fn render(host: Host) -> HostEntry {
    HostEntry {
        number: host.id,
        id: host.facts.id,
        name: host.name,
        area: host.area,
        operator: host.operator,
        bandwidth_mbit: host.bandwidth_mbit,
        ready: host.ready,
        heartbeat_at: format_time(host.heartbeat_at),
        created_at: format_time(host.created_at),
        cpus: host.facts.cpus,
        memory: host.facts.memory,
        os: host.facts.distribution,
        kernel: host.facts.kernel,
        architecture: host.facts.architecture,
        disks: host.facts.disks.into_iter().map(|d| HostDisk { path: d.path, size: d.size, used: d.used }).collect(),
        interfaces: host
            .facts
            .interfaces
            .into_iter()
            .map(|i| HostInterface { name: i.name, address: i.address, real: i.real })
            .collect(),
    }
}

/// All hosts that run containers.
#[utoipa::path(get, path = "/v1/hosts", tag = "host", responses((status = 200, body = List<HostEntry>)))]
pub(super) async fn list(State(core): State<Core>, Auth(_caller): Auth) -> Result<Json<List<HostEntry>>, Error> {
    let items = core.hosts().await?.into_iter().map(render).collect();
    Ok(Json(List { items, next_cursor: None }))
}

/// One machine, by number, id or name.
#[utoipa::path(get, path = "/v1/hosts/{host}", tag = "host", params(("host" = String, Path)),
    responses((status = 200, body = HostEntry), (status = 404, body = super::wire::Problem)))]
pub(super) async fn inspect(
    State(core): State<Core>,
    Auth(_caller): Auth,
    Segment(host): Segment<String>,
) -> Result<Json<HostEntry>, Error> {
    Ok(Json(render(core.host_by(&host).await?)))
}

/// What the containers on a machine may have, and what they use now.
#[utoipa::path(get, path = "/v1/hosts/{host}/use", tag = "host", operation_id = "host_use", params(("host" = String, Path)),
    responses((status = 200, body = HostUse), (status = 404, body = super::wire::Problem)))]
pub(super) async fn in_use(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(host): Segment<String>,
) -> Result<Json<HostUse>, Error> {
    Ok(Json(core.host_use(&caller, &host).await?.into()))
}

/// Says where a machine stands, and in whose network; for administrators.
#[utoipa::path(patch, path = "/v1/hosts/{host}", tag = "host", params(("host" = String, Path)), request_body = HostLabel,
    responses((status = 200, body = HostEntry), (status = 403, body = super::wire::Problem)))]
pub(super) async fn label(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(host): Segment<String>,
    request: Request,
) -> Result<Json<HostEntry>, Error> {
    let asked: HostLabel = read_json(&small_body(request.into_body()).await?)?;
    let HostLabel { name, area, operator, bandwidth_mbit } = asked;
    let labels = HostLabels { name, area, operator, bandwidth_mbit };
    Ok(Json(render(core.host_label(&caller, &host, labels).await?)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct BandwidthParams {
    /// `account`, `host`, `image`, `version` or `container`.
    by: String,
    /// One host's number, one image, or one image with its version; all if absent. The container by name or id.
    #[serde(default)]
    key: Option<String>,
    /// From then on: RFC 3339, or seconds since 1970; a day ago if absent.
    #[serde(default)]
    from: Option<String>,
    /// Until then; until now if absent. At most 31 days.
    #[serde(default)]
    to: Option<String>,
    /// `json` (default) or `csv`.
    #[serde(default)]
    format: Option<String>,
}

/// What the account's containers carried and used in each five minutes, and what the trade bills by.
#[utoipa::path(get, path = "/v1/bandwidth", tag = "usage", params(BandwidthParams),
    responses((status = 200, body = Bandwidth, description = "Or text/csv, with `format=csv`.")))]
pub(super) async fn bandwidth(
    State(core): State<Core>,
    Auth(caller): Auth,
    Params(params): Params<BandwidthParams>,
) -> Result<Response, Error> {
    let kind = match params.by.as_str() {
        "account" => Grouped::Account,
        "host" => Grouped::Host,
        "image" => Grouped::Image,
        "version" => Grouped::Version,
        "container" => Grouped::Container,
        other => return Err(Error::invalid(format!("by {other:?} is not account, host, image, version or container"))),
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    let to = time(params.to.as_deref())?.map_or(now, |ns| ns / 1_000_000);
    let from = time(params.from.as_deref())?.map_or(to - 86_400_000, |ns| ns / 1_000_000);
    let key = params.key.as_deref().filter(|key| !key.is_empty());
    let found = core.series(&caller, kind, key, from, to).await?;
    let p95_mbit = found.p95_mbit();
    let point = |p: berth_core::SeriesPoint| {
        let (down_mbit, up_mbit) = p.mbit();
        BandwidthPoint {
            time: format_time(p.from * 1_000_000),
            key: p.key,
            containers: p.containers,
            up_mbit,
            down_mbit,
            rx_bytes: p.rx_bytes,
            tx_bytes: p.tx_bytes,
            cpus: p.cpus,
            memory_mib: p.memory_mib,
            disk_mib: p.disk_mib,
        }
    };
    let points: Vec<BandwidthPoint> = found.points.into_iter().map(point).collect();
    match params.format.as_deref() {
        None | Some("" | "json") => Ok(Json(Bandwidth { p95_mbit, points }).into_response()),
        Some("csv") => {
            let bytes = super::usage::table(&points).map_err(Error::invalid)?;
            Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], bytes).into_response())
        }
        Some(other) => Err(Error::invalid(format!("format {other:?} is not json or csv"))),
    }
}
