//! What containers used, for whoever bills it.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use berth_core::{Charge, Core, MeteredUsage, NetworkCharge};
use berth_runtime::log::{format_time, parse_time};
use serde::Deserialize;
use utoipa::IntoParams;

use super::auth::{Auth, Params};
use super::error::Error;
use super::wire::{List, Usage};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct UsageParams {
    /// From then on: RFC 3339, or seconds since 1970; from the beginning if absent.
    #[serde(default)]
    from: Option<String>,
    /// Until then; until now if absent.
    #[serde(default)]
    to: Option<String>,
    /// Of all accounts; for administrators.
    #[serde(default)]
    all: bool,
    /// `json` (default) or `csv`.
    #[serde(default)]
    format: Option<String>,
}

/// A time as clients write it, nanoseconds since 1970.
pub(super) fn time(text: Option<&str>) -> Result<Option<i64>, Error> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let seconds = || text.parse::<i64>().ok().and_then(|s| s.checked_mul(1_000_000_000));
    let wrong = || Error::invalid(format!("invalid time {text:?}: expected RFC 3339 or seconds since 1970"));
    seconds().or_else(|| parse_time(text)).map(Some).ok_or_else(wrong)
}

/// Rows as CSV, with a line of names before any.
pub(super) fn table<T: serde::Serialize + Default>(rows: &[T]) -> Result<Vec<u8>, String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    // A table without rows has names, too.
    let empty = rows.is_empty().then(T::default);
    for row in rows.iter().chain(&empty) {
        writer.serialize(row).map_err(|e| e.to_string())?;
    }
    let mut bytes = writer.into_inner().map_err(|e| e.to_string())?;
    if empty.is_some() {
        let end = bytes.iter().position(|b| *b == b'\n').map_or(bytes.len(), |at| at + 1);
        bytes.truncate(end);
    }
    Ok(bytes)
}

fn render(usage: MeteredUsage) -> Usage {
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    let plan = usage.plan.as_ref();
    let used = usage.used;
    Usage {
        account: usage.account,
        number: usage.container,
        id: usage.uid,
        name: usage.name,
        image: usage.image,
        charge: plan.map(|plan| {
            match plan.charge {
                Charge::Package => "package",
                Charge::Use => "use",
            }
            .to_owned()
        }),
        spec: plan.map(|plan| plan.spec),
        public_network: plan.map(|plan| plan.public),
        network_charge: plan.and_then(|plan| plan.network_charge).map(|charge| {
            match charge {
                NetworkCharge::Bandwidth => "bandwidth",
                NetworkCharge::Traffic => "traffic",
            }
            .to_owned()
        }),
        bandwidth_mbit: plan.and_then(|plan| plan.bandwidth),
        created_at: format_time(usage.created_at),
        removed_at: usage.ended_at.map(format_time),
        ran_ms: number(used.ran),
        cpu_us: number(used.cpu),
        memory_mib_ms: number(used.memory),
        block_read: number(used.block_read),
        block_write: number(used.block_write),
        rx_bytes: number(used.rx_bytes),
        rx_packets: number(used.rx_packets),
        tx_bytes: number(used.tx_bytes),
        tx_packets: number(used.tx_packets),
    }
}

/// What each container used in a time, removed ones too. No prices.
#[utoipa::path(get, path = "/v1/usage", tag = "usage", params(UsageParams),
    responses((status = 200, body = List<Usage>, description = "Or text/csv, with `format=csv`.")))]
pub(super) async fn list(
    State(core): State<Core>,
    Auth(caller): Auth,
    Params(params): Params<UsageParams>,
) -> Result<Response, Error> {
    let csv = match params.format.as_deref() {
        None | Some("" | "json") => false,
        Some("csv") => true,
        Some(other) => return Err(Error::invalid(format!("format {other:?} is not json or csv"))),
    };
    let (from, to) = (time(params.from.as_deref())?, time(params.to.as_deref())?);
    let found = core.usage(&caller, params.all, from.unwrap_or(0), to.unwrap_or(i64::MAX)).await?;
    let items: Vec<Usage> = found.into_iter().map(render).collect();
    if !csv {
        return Ok(Json(List { items, next_cursor: None }).into_response());
    }
    let bytes = table(&items).map_err(Error::invalid)?;
    Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], bytes).into_response())
}
