//! `berth group rollback`, `revisions` and `history`: what a group was before.

use std::process::ExitCode;

use berth_api::wire::{Command, GroupDeploy, GroupRevision};
use berth_client::Client;
use serde_json::Value;

use super::output;

type Outcome = Result<ExitCode, String>;

/// What a group is brought back to.
#[derive(Debug, Clone, Copy)]
pub(super) enum RollbackTarget {
    /// To the version of the code before the present one, or, without code, to the revision before the present one.
    Previous,
    Version(i64),
    Revision(i64),
}

/// Begins to bring a group back.
pub(super) async fn roll_back(
    client: &Client,
    (service, name): (&str, &str),
    target: RollbackTarget,
    update: bool,
    method: String,
) -> Result<Command, String> {
    let (version, revision) = match target {
        RollbackTarget::Version(version) => (Some(version), None),
        RollbackTarget::Revision(revision) => (None, Some(revision)),
        RollbackTarget::Previous => previous(client, service, name).await?,
    };
    let deploy = GroupDeploy { version, revision, update, method: Some(method), ..GroupDeploy::default() };
    client.group_deploy(service, name, &deploy).await.map_err(|e| e.to_string())
}

async fn previous(client: &Client, service: &str, name: &str) -> Result<(Option<i64>, Option<i64>), String> {
    let versions = client.packages(service, name).await.map_err(|e| e.to_string())?;
    if !versions.is_empty() {
        let current = versions.iter().find(|p| p.current).map_or(i64::MAX, |p| p.version);
        let before = versions.iter().filter(|p| p.version < current && p.proven).map(|p| p.version).max();
        let none = || format!("{service}/{name} has no version before the present one that worked");
        return before.map(|version| (Some(version), None)).ok_or_else(none);
    }
    let revisions = client.group_revisions(service, name).await.map_err(|e| e.to_string())?;
    let current = revisions.iter().find(|each| each.current).map_or(i64::MAX, |each| each.revision);
    let before = revisions.iter().map(|each| each.revision).filter(|number| *number < current).max();
    let none = || format!("{service}/{name} has no revision before the present one");
    before.map(|revision| (None, Some(revision))).ok_or_else(none)
}

/// Shows the versions of a group's code.
pub(super) async fn versions(client: &Client, (service, name): (&str, &str), json: bool) -> Outcome {
    let all = client.packages(service, name).await.map_err(|e| e.to_string())?;
    if json {
        output::json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = all
        .into_iter()
        .map(|p| {
            let current = if p.current { "*" } else { "" };
            let state = if p.proven { "worked" } else { "failed" };
            vec![
                format!("{}{current}", p.version),
                state.into(),
                p.name,
                output::bytes(p.size),
                output::age(&p.created_at) + " ago",
                p.digest.chars().take(19).collect(),
                p.url,
            ]
        })
        .collect();
    output::table(&["VERSION", "STATE", "FILE", "SIZE", "FETCHED", "DIGEST", "FROM"], &rows);
    Ok(ExitCode::SUCCESS)
}

/// Shows a group's revisions, each with what it changed.
pub(super) async fn list(client: &Client, (service, name): (&str, &str), json: bool) -> Outcome {
    let all = client.group_revisions(service, name).await.map_err(|e| e.to_string())?;
    if json {
        output::json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = Vec::new();
    let mut before: Option<Value> = None;
    for each in all {
        let spec = serde_json::to_value(&each.spec).map_err(|e| e.to_string())?;
        rows.push(row(&each, before.as_ref().map(|before| changed(before, &spec)).unwrap_or_default()));
        before = Some(spec);
    }
    output::table(&["REVISION", "SINCE", "IMAGE", "CHANGED"], &rows);
    Ok(ExitCode::SUCCESS)
}

fn row(each: &GroupRevision, changed: String) -> Vec<String> {
    let current = if each.current { "*" } else { "" };
    vec![
        format!("{}{current}", each.revision),
        output::age(&each.created_at) + " ago",
        each.spec.image.clone(),
        changed,
    ]
}

/// Names of the fields that differ.
fn changed(before: &Value, after: &Value) -> String {
    let (Some(before), Some(after)) = (before.as_object(), after.as_object()) else { return String::new() };
    let mut names: Vec<&str> = before.keys().chain(after.keys()).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| before.get(*name) != after.get(*name));
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::changed;

    #[test]
    fn what_a_revision_changed_is_named() {
        let before = json!({ "image": "a", "env": { "A": "1" }, "memory": 1 });
        assert_eq!(changed(&before, &json!({ "image": "b", "env": { "A": "1" }, "cpus": 1 })), "cpus, image, memory");
        assert_eq!(changed(&before, &before), "");
    }
}
