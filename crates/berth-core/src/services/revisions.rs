//! What a group was before, and the way back to it.

use berth_identity::Caller;
use berth_operations::{Command, Method};
use berth_store::Tx;
use berth_types::now;

use super::spec::{Group, GroupSpec};
use crate::core::Core;
use crate::error::Error;

/// A specification that a group has had.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupRevision {
    /// 1, 2, … in the group.
    pub revision: i64,
    /// What its containers were to be. How many there are is no part of a revision: it is the group's present number.
    pub spec: GroupSpec,
    /// Whether the group has this specification now.
    pub current: bool,
    /// When the group had become so, in nanoseconds since 1970; of a group that is older than revisions, when it was made.
    pub created_at: i64,
}

/// A specification as a revision keeps it: without the number of containers.
fn without_number(spec: &GroupSpec) -> GroupSpec {
    GroupSpec { replicas: 1, ..spec.clone() }
}

fn read(row: &berth_store::Revision) -> Result<GroupSpec, Error> {
    serde_json::from_str(&row.spec).map_err(|e| Error::Bug(format!("revision {} in the database: {e}", row.revision)))
}

/// Notes that a group has come to a specification, unless its newest revision is that one. `before` is the group as it was: the first revision
/// of a group that is older than revisions is what it was before its first change.
pub(crate) fn note_revision(tx: &Tx<'_>, before: &Group, spec: &GroupSpec) -> Result<(), Error> {
    let write = |spec: &GroupSpec, at| {
        let text = serde_json::to_string(spec).map_err(|e| Error::Bug(e.to_string()))?;
        Ok::<_, Error>(tx.revision_add(before.id, &text, at)?)
    };
    let spec = without_number(spec);
    let newest = match tx.revision_newest(before.id)? {
        Some(row) => Some(read(&row)?),
        None if before.members_never_made => None,
        None => {
            let old = without_number(&before.spec);
            write(&old, before.created_at)?;
            Some(old)
        }
    };
    if newest.as_ref() != Some(&spec) { write(&spec, now()) } else { Ok(()) }
}

impl Core {
    /// The revisions of a group that are kept, oldest first. A command that failed left none.
    ///
    /// # Errors
    /// The database's own.
    pub async fn group_revisions(&self, found: &Group) -> Result<Vec<GroupRevision>, Error> {
        let id = found.id;
        let rows = self.read(move |tx| Ok(tx.revisions(id)?)).await?;
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            let spec = GroupSpec { replicas: found.spec.replicas, ..read(&row)? };
            // A group can come back to what it was before: the newest that is so is the present one.
            let current = spec == found.spec;
            all.push(GroupRevision { revision: row.revision, spec, current, created_at: row.created_at });
        }
        let newest = all.iter().rposition(|each| each.current);
        for (at, each) in all.iter_mut().enumerate() {
            each.current = Some(at) == newest;
        }
        Ok(all)
    }

    /// Brings a group back to one of its revisions, with as many containers as it has now: by a command. The version of its code stays; an
    /// image is found by the name that the revision has, whatever it names now.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a revision that is not kept; as [`Core::group_apply`].
    pub async fn group_roll_back(
        &self,
        caller: &Caller,
        found: &Group,
        revision: i64,
        method: Method,
    ) -> Result<Command, Error> {
        let all = self.group_revisions(found).await?;
        let wanted = all.into_iter().find(|each| each.revision == revision).ok_or_else(|| Error::NotFound {
            what: "revision",
            name: format!("{revision} of group {}", found.full_name()),
        })?;
        self.group_apply(caller, found, wanted.spec, method).await
    }
}
