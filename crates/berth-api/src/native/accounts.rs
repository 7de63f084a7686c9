//! Accounts: their rights, quotas and ends.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use berth_core::{Account as CoreAccount, AccountChange as CoreChange, Caller, Core};
use berth_runtime::log::format_time;

use super::auth::{Auth, Segment};
use super::containers::read_json;
use super::error::Error;
use super::wire::{Account, AccountChange, AccountCreate, AccountQuota, AccountUsage, List, QuotaChange};
use crate::http::small_body;

fn render(account: CoreAccount) -> Account {
    let of = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
    Account {
        number: account.id,
        name: account.name,
        host_network: account.host_network,
        private_addresses: account.private_addresses,
        created_at: format_time(account.created_at),
        disabled: account.disabled_at.is_some(),
        quota: AccountQuota {
            containers: of(account.quota.containers),
            memory: of(account.quota.memory),
            cpus: account.quota.cpu_milli.map(|milli| milli as f64 / 1000.0),
            bandwidth: of(account.quota.bandwidth),
            disk: of(account.quota.disk),
            images: of(account.quota.images),
        },
        usage: None,
    }
}

/// CPUs as thousandths.
fn milli(cpus: f64) -> Result<i64, Error> {
    let milli = (cpus * 1000.0).round();
    if milli.is_finite() && (0.0..=1e9).contains(&milli) {
        Ok(milli as i64)
    } else {
        Err(Error::invalid(format!("quota.cpus {cpus} is no number of CPUs")))
    }
}

fn bounded(value: u64) -> Result<i64, Error> {
    i64::try_from(value).map_err(|_| Error::invalid(format!("quota {value} is more than 2^63-1")))
}

fn change_of(quota: QuotaChange) -> Result<CoreChange, Error> {
    let whole =
        |change: super::wire::Change<u64>| change.given().map(|value| value.map(bounded).transpose()).transpose();
    Ok(CoreChange {
        containers: whole(quota.containers)?,
        memory: whole(quota.memory)?,
        cpu_milli: quota.cpus.given().map(|value| value.map(milli).transpose()).transpose()?,
        bandwidth: whole(quota.bandwidth)?,
        disk: whole(quota.disk)?,
        images: whole(quota.images)?,
        ..CoreChange::default()
    })
}

/// All accounts; for administrators.
#[utoipa::path(get, path = "/v1/accounts", tag = "accounts",
    responses((status = 200, body = List<Account>), (status = 403, body = super::wire::Problem)))]
pub(super) async fn list(State(core): State<Core>, Auth(caller): Auth) -> Result<Json<List<Account>>, Error> {
    let items = core.identity().accounts(&caller).await?.into_iter().map(render).collect();
    Ok(Json(List { items, next_cursor: None }))
}

/// Makes an account; for administrators. `POST /v1/tokens` makes its first token.
#[utoipa::path(post, path = "/v1/accounts", request_body = AccountCreate, tag = "accounts",
    responses((status = 201, body = Account), (status = 403, body = super::wire::Problem), (status = 409, body = super::wire::Problem)))]
pub(super) async fn create(State(core): State<Core>, Auth(caller): Auth, request: Request) -> Result<Response, Error> {
    let asked: AccountCreate = read_json(&small_body(request.into_body()).await?)?;
    let quota = asked.quota;
    let change = CoreChange {
        host_network: asked.host_network.map(Some),
        private_addresses: asked.private_addresses.map(Some),
        containers: quota.containers.map(bounded).transpose()?.map(Some),
        memory: quota.memory.map(bounded).transpose()?.map(Some),
        cpu_milli: quota.cpus.map(milli).transpose()?.map(Some),
        bandwidth: quota.bandwidth.map(bounded).transpose()?.map(Some),
        disk: quota.disk.map(bounded).transpose()?.map(Some),
        images: quota.images.map(bounded).transpose()?.map(Some),
        disabled_at: None,
    };
    let made = core.identity().account_create(&caller, &asked.name, change).await?;
    Ok((StatusCode::CREATED, Json(render(made))).into_response())
}

async fn usage(core: &Core, caller: &Caller) -> Result<AccountUsage, Error> {
    let all = core.containers(caller, None, 0, 1_000_000).await?.items;
    let disk = core.disk_use(caller).await?;
    let live = || all.iter().filter(|c| c.state.is_live());
    Ok(AccountUsage {
        containers: all.len() as u64,
        running: live().count() as u64,
        memory: live().filter_map(|c| c.spec.memory).sum(),
        cpus: live().filter_map(|c| c.spec.cpu_milli).sum::<u64>() as f64 / 1000.0,
        disk: disk.containers.size + disk.volumes.size,
        images: disk.images.size,
    })
}

/// One account with what it has now; for administrators.
#[utoipa::path(get, path = "/v1/accounts/{name}", tag = "accounts", params(("name" = String, Path)),
    responses((status = 200, body = Account), (status = 403, body = super::wire::Problem), (status = 404, body = super::wire::Problem)))]
pub(super) async fn inspect(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(name): Segment<String>,
) -> Result<Json<Account>, Error> {
    let found = core.identity().account(&caller, &name).await?;
    let usage = usage(&core, &Caller { account: found.id, ..caller }).await?;
    Ok(Json(Account { usage: Some(usage), ..render(found) }))
}

/// Changes an account; for administrators. What is left out stays, `null` is the setting's default, or no bound. What runs goes on:
/// rights and quotas are looked at when a container is made or started.
#[utoipa::path(patch, path = "/v1/accounts/{name}", request_body = AccountChange, tag = "accounts",
    params(("name" = String, Path)),
    responses((status = 200, body = Account), (status = 403, body = super::wire::Problem), (status = 404, body = super::wire::Problem)))]
pub(super) async fn change(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(name): Segment<String>,
    request: Request,
) -> Result<Json<Account>, Error> {
    let asked: AccountChange = read_json(&small_body(request.into_body()).await?)?;
    let change = CoreChange {
        host_network: asked.host_network.given(),
        private_addresses: asked.private_addresses.given(),
        disabled_at: asked.disabled.map(|disabled| disabled.then(berth_core::now)),
        ..change_of(asked.quota)?
    };
    Ok(Json(render(core.identity().account_change(&caller, &name, change).await?)))
}

/// Takes an account away that has no containers, volumes, images and services any more; for administrators.
#[utoipa::path(delete, path = "/v1/accounts/{name}", tag = "accounts", params(("name" = String, Path)),
    responses((status = 204), (status = 403, body = super::wire::Problem), (status = 404, body = super::wire::Problem),
        (status = 409, body = super::wire::Problem)))]
pub(super) async fn remove(
    State(core): State<Core>,
    Auth(caller): Auth,
    Segment(name): Segment<String>,
) -> Result<StatusCode, Error> {
    core.identity().account_remove(&caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
