//! Accounts and their rights.

use axum::Json;
use axum::extract::{Request, State};
use berth_core::{Account as CoreAccount, AccountChange as CoreChange, Core};

use super::auth::{Auth, Segment};
use super::containers::read_json;
use super::error::Error;
use super::wire::{Account, AccountChange, List};
use crate::http::small_body;

fn render(account: CoreAccount) -> Account {
    Account {
        number: account.id,
        name: account.name,
        host_network: account.host_network,
        private_addresses: account.private_addresses,
    }
}

/// All accounts with their rights; for administrators.
#[utoipa::path(get, path = "/v1/accounts", tag = "accounts",
    responses((status = 200, body = List<Account>), (status = 403, body = super::wire::Problem)))]
pub(super) async fn list(State(core): State<Core>, Auth(caller): Auth) -> Result<Json<List<Account>>, Error> {
    let items = core.identity().accounts(&caller).await?.into_iter().map(render).collect();
    Ok(Json(List { items, next_cursor: None }))
}

/// Changes an account's rights; for administrators. What is left out stays, `null` is the setting's default. What runs goes on:
/// the right is looked at when a container is made or started.
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
    let change =
        CoreChange { host_network: asked.host_network.given(), private_addresses: asked.private_addresses.given() };
    Ok(Json(render(core.identity().account_change(&caller, &name, change).await?)))
}
