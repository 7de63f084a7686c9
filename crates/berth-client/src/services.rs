//! Services, groups, commands, access keys, the audit log.

use berth_api::wire::{
    AccessKey, Applied, Apply, AuditEntry, Bandwidth, Command, Group, GroupCreate, GroupDeploy, GroupMade,
    GroupRevision, GroupSpec, GroupStart, GroupStop, HostEntry, HostLabel, KeyCreate, KeyRotate, List, Package,
    Service, ServiceCreate, SshKey, SshKeyCreate, Usage,
};
use futures_util::{Stream, StreamExt, TryStreamExt};
use reqwest::Method;

use crate::{Client, Error, Result, segment};

/// Path of a group, by service and name.
fn path(service: &str, group: &str) -> String {
    format!("/v1/services/{}/groups/{}", segment(service), segment(group))
}

fn time_query(from: Option<&str>, to: Option<&str>, all: bool) -> Vec<(&'static str, String)> {
    let mut query = Vec::new();
    query.extend(from.map(|from| ("from", from.to_owned())));
    query.extend(to.map(|to| ("to", to.to_owned())));
    if all {
        query.push(("all", "true".into()));
    }
    query
}

fn bandwidth_query(by: &str, key: Option<&str>, from: Option<&str>, to: Option<&str>) -> Vec<(&'static str, String)> {
    let mut query = time_query(from, to, false);
    query.push(("by", by.to_owned()));
    query.extend(key.map(|key| ("key", key.to_owned())));
    query
}

/// Which entries of the audit log.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// Those of all accounts.
    pub all: bool,
    /// RFC 3339, or seconds since 1970.
    pub since: Option<String>,
    /// As `since`.
    pub until: Option<String>,
    /// By this credential.
    pub who: Option<String>,
    /// In whose method and path this is found.
    pub action: Option<String>,
    /// Only what failed.
    pub failed: bool,
    /// At most so many.
    pub limit: u32,
}

impl Client {
    /// What containers used, from and to as the API has them.
    ///
    /// # Errors
    /// See [`Error`]; so for every call.
    pub async fn usage(&self, from: Option<&str>, to: Option<&str>, all: bool) -> Result<Vec<Usage>> {
        self.all("/v1/usage", &time_query(from, to, all)).await
    }

    /// The same as CSV.
    pub async fn usage_csv(&self, from: Option<&str>, to: Option<&str>, all: bool) -> Result<String> {
        let mut query = time_query(from, to, all);
        query.push(("format", "csv".into()));
        Ok(self.send(self.request(Method::GET, "/v1/usage", &query)).await?.text().await?)
    }

    /// What containers carried in each five minutes, by `host`, `image` or `version`.
    pub async fn bandwidth(
        &self,
        by: &str,
        key: Option<&str>,
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<Bandwidth> {
        self.get("/v1/bandwidth", &bandwidth_query(by, key, from, to)).await
    }

    /// The same as CSV.
    pub async fn bandwidth_csv(
        &self,
        by: &str,
        key: Option<&str>,
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<String> {
        let mut query = bandwidth_query(by, key, from, to);
        query.push(("format", "csv".into()));
        Ok(self.send(self.request(Method::GET, "/v1/bandwidth", &query)).await?.text().await?)
    }

    /// All machines.
    pub async fn hosts(&self) -> Result<Vec<HostEntry>> {
        self.all("/v1/hosts", &[]).await
    }

    /// One machine, by number, id or name.
    pub async fn host_entry(&self, host: &str) -> Result<HostEntry> {
        self.get(&format!("/v1/hosts/{}", segment(host)), &[]).await
    }

    /// Says something about a machine.
    pub async fn host_label(&self, host: &str, label: &HostLabel) -> Result<HostEntry> {
        self.json(self.request(Method::PATCH, &format!("/v1/hosts/{}", segment(host)), &[]).json(label)).await
    }

    /// The account's keys for SSH.
    pub async fn ssh_keys(&self) -> Result<Vec<SshKey>> {
        self.all("/v1/ssh-keys", &[]).await
    }

    /// Takes one, or makes a pair.
    pub async fn ssh_key_create(&self, new: &SshKeyCreate) -> Result<SshKey> {
        self.post("/v1/ssh-keys", &[], new).await
    }

    /// Removes one.
    pub async fn ssh_key_remove(&self, number: i64) -> Result<()> {
        self.send(self.request(Method::DELETE, &format!("/v1/ssh-keys/{number}"), &[])).await.map(drop)
    }

    /// The account's services.
    ///
    /// # Errors
    /// See [`Error`]; so for every call.
    pub async fn services(&self) -> Result<Vec<Service>> {
        self.all("/v1/services", &[]).await
    }

    /// Makes a service.
    pub async fn service_create(&self, name: &str) -> Result<Service> {
        self.post("/v1/services", &[], &ServiceCreate { name: name.to_owned() }).await
    }

    /// Gives it another name.
    pub async fn service_rename(&self, service: &str, name: &str) -> Result<Service> {
        let path = format!("/v1/services/{}", segment(service));
        self.json(self.request(Method::PATCH, &path, &[]).json(&ServiceCreate { name: name.to_owned() })).await
    }

    /// Removes a service that has no group.
    pub async fn service_remove(&self, service: &str) -> Result<()> {
        let path = format!("/v1/services/{}", segment(service));
        self.send(self.request(Method::DELETE, &path, &[])).await.map(drop)
    }

    /// The account's groups.
    pub async fn groups(&self) -> Result<Vec<Group>> {
        self.all("/v1/groups", &[]).await
    }

    /// One group.
    pub async fn group(&self, service: &str, group: &str) -> Result<Group> {
        self.get(&path(service, group), &[]).await
    }

    /// Makes a group and, by a command, its containers.
    pub async fn group_create(&self, service: &str, new: &GroupCreate) -> Result<GroupMade> {
        self.post(&format!("/v1/services/{}/groups", segment(service)), &[], new).await
    }

    /// Brings a group to another specification.
    pub async fn group_apply(&self, service: &str, group: &str, spec: &GroupSpec, method: &str) -> Result<Command> {
        let query = [("method", method.to_owned())];
        self.json(self.request(Method::PUT, &path(service, group), &query).json(spec)).await
    }

    /// Starts a group.
    pub async fn group_start(&self, service: &str, group: &str, start: &GroupStart) -> Result<Command> {
        self.post(&format!("{}/start", path(service, group)), &[], start).await
    }

    /// Stops a group.
    pub async fn group_stop(&self, service: &str, group: &str, stop: &GroupStop) -> Result<Command> {
        self.post(&format!("{}/stop", path(service, group)), &[], stop).await
    }

    /// Deploys code to a group.
    pub async fn group_deploy(&self, service: &str, group: &str, deploy: &GroupDeploy) -> Result<Command> {
        self.post(&format!("{}/deploy", path(service, group)), &[], deploy).await
    }

    /// The versions of a group's code.
    pub async fn packages(&self, service: &str, group: &str) -> Result<Vec<Package>> {
        self.all(&format!("{}/packages", path(service, group)), &[]).await
    }

    /// What a group's containers were, oldest first.
    pub async fn group_revisions(&self, service: &str, group: &str) -> Result<Vec<GroupRevision>> {
        self.all(&format!("{}/revisions", path(service, group)), &[]).await
    }

    /// Removes a group.
    pub async fn group_remove(&self, service: &str, group: &str) -> Result<Command> {
        self.json(self.request(Method::DELETE, &path(service, group), &[])).await
    }

    /// Has groups be as told.
    pub async fn apply(&self, wanted: &Apply, method: &str, dry_run: bool) -> Result<Vec<Applied>> {
        let query = [("method", method.to_owned()), ("dry_run", dry_run.to_string())];
        let list: List<Applied> = self.post("/v1/apply", &query, wanted).await?;
        Ok(list.items)
    }

    /// Commands, newest first; at most so many.
    pub async fn commands(&self, limit: u32, open: bool) -> Result<Vec<Command>> {
        let query = [("limit", limit.to_string()), ("open", open.to_string())];
        let list: List<Command> = self.get("/v1/commands", &query).await?;
        Ok(list.items)
    }

    /// One command with its activities.
    pub async fn command(&self, id: &str) -> Result<Command> {
        self.get(&format!("/v1/commands/{}", segment(id)), &[]).await
    }

    /// Has a command stop.
    pub async fn command_cancel(&self, id: &str) -> Result<Command> {
        self.json(self.request(Method::POST, &format!("/v1/commands/{}/cancel", segment(id)), &[])).await
    }

    /// A command at every change until it is over, or all commands for ever.
    pub async fn command_events(
        &self,
        id: Option<&str>,
    ) -> Result<impl Stream<Item = Result<Command>> + Unpin + use<>> {
        let path =
            id.map_or_else(|| "/v1/commands/events".to_owned(), |id| format!("/v1/commands/{}/events", segment(id)));
        let response = self.send(self.request(Method::GET, &path, &[])).await?;
        let chunks = response.bytes_stream().map_err(Error::from).boxed();
        // Server-sent events: what follows `data:` in lines of its own, an empty line between two.
        let events = futures_util::stream::try_unfold((chunks, Vec::new()), |(mut chunks, mut rest)| async move {
            loop {
                if let Some(end) = rest.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    let Some(data) = line.strip_prefix(b"data:") else { continue };
                    let item = serde_json::from_slice(data).map_err(|e| Error::Answer(e.to_string()))?;
                    return Ok(Some((item, (chunks, rest))));
                }
                match chunks.next().await {
                    Some(chunk) => rest.extend_from_slice(&chunk?),
                    None => return Ok(None),
                }
            }
        });
        Ok(events.boxed())
    }

    /// Access keys.
    pub async fn keys(&self, all: bool) -> Result<Vec<AccessKey>> {
        self.all("/v1/keys", &[("all", all.to_string())]).await
    }

    /// Makes an access key.
    pub async fn key_create(&self, new: &KeyCreate) -> Result<AccessKey> {
        self.post("/v1/keys", &[], new).await
    }

    /// Gives it another secret.
    pub async fn key_rotate(&self, key: &str, old_for: Option<u64>) -> Result<AccessKey> {
        self.post(&format!("/v1/keys/{}/rotate", segment(key)), &[], &KeyRotate { old_for }).await
    }

    /// Disables or enables it.
    pub async fn key_disable(&self, key: &str, disabled: bool) -> Result<AccessKey> {
        let verb = if disabled { "disable" } else { "enable" };
        self.json(self.request(Method::POST, &format!("/v1/keys/{}/{verb}", segment(key)), &[])).await
    }

    /// Removes it.
    pub async fn key_remove(&self, key: &str) -> Result<()> {
        self.send(self.request(Method::DELETE, &format!("/v1/keys/{}", segment(key)), &[])).await.map(drop)
    }

    /// Who changed what, newest first.
    pub async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>> {
        let mut all = vec![
            ("all", query.all.to_string()),
            ("failed", query.failed.to_string()),
            ("limit", query.limit.to_string()),
        ];
        all.extend(query.since.clone().map(|s| ("since", s)));
        all.extend(query.until.clone().map(|s| ("until", s)));
        all.extend(query.who.clone().map(|s| ("who", s)));
        all.extend(query.action.clone().map(|s| ("action", s)));
        let list: List<AuditEntry> = self.get("/v1/audit", &all).await?;
        Ok(list.items)
    }
}
