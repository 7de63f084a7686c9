//! Looks into containers, and their names.

use berth_api::wire::{ChangedPath, Container, List, Process, Rename, Written};

use crate::{Client, Result, segment};

impl Client {
    /// Bytes that it has written.
    pub async fn container_written(&self, id: &str) -> Result<u64> {
        let path = format!("/v1/containers/{}/size", segment(id));
        self.get::<Written>(&path, &[]).await.map(|written| written.bytes)
    }

    /// Its processes.
    pub async fn container_processes(&self, id: &str) -> Result<Vec<Process>> {
        let path = format!("/v1/containers/{}/processes", segment(id));
        self.get::<List<Process>>(&path, &[]).await.map(|list| list.items)
    }

    /// What it has changed of its image's files.
    pub async fn container_changes(&self, id: &str) -> Result<Vec<ChangedPath>> {
        let path = format!("/v1/containers/{}/changes", segment(id));
        self.get::<List<ChangedPath>>(&path, &[]).await.map(|list| list.items)
    }

    /// Gives it another name.
    pub async fn container_rename(&self, id: &str, name: &str) -> Result<Container> {
        self.post(&format!("/v1/containers/{}/rename", segment(id)), &[], &Rename { name: name.into() }).await
    }
}
