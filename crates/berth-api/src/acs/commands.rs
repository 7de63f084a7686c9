//! Commands.

use axum::Json;
use axum::extract::{Request, State};
use berth_core::{CommandQuery, Core};

use super::auth::authenticate;
use super::containers::Reply;
use super::error::Error;
use super::wire::{Answer, Command};
use crate::http::PathText;

/// Items of a page.
const PAGE: i64 = 20;

/// `GET /api/v1/command`: newest first; `page` from 1, `pageSize` up to 100.
pub(super) async fn list(State(core): State<Core>, request: Request) -> Reply<Vec<Command>> {
    let (caller, parameters) = authenticate(&core, request, "command_list").await?;
    let whole = |name: &'static str, otherwise: i64, most: i64| match parameters.optional(name)? {
        None => Ok(otherwise),
        Some(_) => match parameters.integer(name)? {
            value if (1..=most).contains(&value) => Ok(value),
            value => Err(Error::invalid(format!("parameter {name} must be 1 to {most}, not {value}"))),
        },
    };
    let (page, size) = (whole("page", 1, 100_000)?, whole("pageSize", PAGE, 100)?);
    let mut before = 0;
    let mut all = Vec::new();
    for _ in 0..page {
        let query = CommandQuery { before, limit: size as u32, ..CommandQuery::default() };
        let found = core.commands(&caller, &query).await?;
        all = found.items;
        match found.next {
            Some(next) => before = next,
            None if before != 0 && all.is_empty() => break,
            None => {
                before = all.last().map_or(1, |last| last.id);
            }
        }
    }
    Ok(Json(Answer::of(all.into_iter().map(|command| Command::of(&core, command)).collect())))
}

/// `GET /api/v1/command/{commandId}`, with its activities.
pub(super) async fn inspect(State(core): State<Core>, PathText(id): PathText, request: Request) -> Reply<Command> {
    let (caller, _) = authenticate(&core, request, "command_get").await?;
    let command = core.command(&caller, &id).await?;
    Ok(Json(Answer::of(Command::of(&core, command))))
}
