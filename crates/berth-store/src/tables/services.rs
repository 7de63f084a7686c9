//! Services, their groups of like containers, and the versions of their code.

use rusqlite::{OptionalExtension, Row, params};

use crate::database::{Error, Tx, unique};

/// A service of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Number, never used again.
    pub id: i64,
    /// Its account.
    pub account_id: i64,
    /// Unique within the account.
    pub name: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
}

/// A group of like containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Number, never used again.
    pub id: i64,
    /// Its account.
    pub account_id: i64,
    /// Its service.
    pub service_id: i64,
    /// The service's name.
    pub service: String,
    /// Unique within the service.
    pub name: String,
    /// What its containers are to be, JSON of the core.
    pub spec: String,
    /// `created`, `running`, `stopped` or `removed`.
    pub desired: String,
    /// Version of the code; 0 is none.
    pub version: i64,
    /// Ports of the host that it has, JSON of the core.
    pub ports: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
}

/// What to change of a group; `None` leaves a column as it is.
#[derive(Debug, Clone, Default)]
pub struct GroupChange {
    /// See [`Group::spec`].
    pub spec: Option<String>,
    /// See [`Group::desired`].
    pub desired: Option<&'static str>,
    /// See [`Group::version`].
    pub version: Option<i64>,
    /// See [`Group::ports`].
    pub ports: Option<String>,
    /// See [`Group::name`].
    pub name: Option<String>,
}

/// A version of a group's code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// The group.
    pub group_id: i64,
    /// 1, 2, …
    pub version: i64,
    /// Digest of the file.
    pub digest: String,
    /// The file's name at its origin.
    pub name: String,
    /// Bytes of the file.
    pub size: i64,
    /// Where it came from.
    pub address: String,
    /// The command that fetched it.
    pub command_id: i64,
    /// Nanoseconds since 1970.
    pub created_at: i64,
    /// Whether a deployment of it succeeded.
    pub proven: bool,
}

fn service(row: &Row<'_>) -> rusqlite::Result<Service> {
    Ok(Service { id: row.get(0)?, account_id: row.get(1)?, name: row.get(2)?, created_at: row.get(3)? })
}

const GROUP: &str =
    "SELECT g.id, g.account_id, g.service_id, s.name, g.name, g.spec, g.wanted, g.version, g.ports, g.created_at
                     FROM groups g JOIN services s ON s.id = g.service_id";

fn group(row: &Row<'_>) -> rusqlite::Result<Group> {
    Ok(Group {
        id: row.get(0)?,
        account_id: row.get(1)?,
        service_id: row.get(2)?,
        service: row.get(3)?,
        name: row.get(4)?,
        spec: row.get(5)?,
        desired: row.get(6)?,
        version: row.get(7)?,
        ports: row.get(8)?,
        created_at: row.get(9)?,
    })
}

const PACKAGE: &str =
    "SELECT group_id, version, digest, name, size, address, command_id, created_at, proven FROM packages";

fn package(row: &Row<'_>) -> rusqlite::Result<Package> {
    Ok(Package {
        group_id: row.get(0)?,
        version: row.get(1)?,
        digest: row.get(2)?,
        name: row.get(3)?,
        size: row.get(4)?,
        address: row.get(5)?,
        command_id: row.get(6)?,
        created_at: row.get(7)?,
        proven: row.get(8)?,
    })
}

impl Tx<'_> {
    /// Adds a service.
    ///
    /// # Errors
    /// [`Error::Duplicate`] if the account has one of that name.
    pub fn service_add(&self, account: i64, name: &str, now: i64) -> Result<Service, Error> {
        let sql = "INSERT INTO services (account_id, name, created_at) VALUES ($1, $2, $3)
                   RETURNING id, account_id, name, created_at";
        self.connection
            .prepare_cached(sql)?
            .query_row(params![account, name, now], service)
            .map_err(|e| unique(e, || format!("a service named {name:?}")))
    }

    /// The account's services.
    ///
    /// # Errors
    /// The database's own.
    pub fn services(&self, account: i64) -> Result<Vec<Service>, Error> {
        let sql = "SELECT id, account_id, name, created_at FROM services WHERE account_id = $1 ORDER BY id";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_map([account], service)?.collect::<Result<_, _>>()?)
    }

    /// Gives a service another name.
    ///
    /// # Errors
    /// [`Error::Duplicate`] if the name is taken.
    pub fn service_rename(&self, id: i64, name: &str) -> Result<(), Error> {
        self.connection
            .prepare_cached("UPDATE services SET name = $1 WHERE id = $2")?
            .execute(params![name, id])
            .map(drop)
            .map_err(|e| unique(e, || format!("a service named {name:?}")))
    }

    /// Removes a service without groups; whether it had none.
    ///
    /// # Errors
    /// The database's own.
    pub fn service_remove(&self, id: i64) -> Result<bool, Error> {
        let sql = "DELETE FROM services WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM groups WHERE service_id = $1)";
        Ok(self.connection.prepare_cached(sql)?.execute([id])? == 1)
    }

    /// Adds a group (`id` and `service` are ignored); its number.
    ///
    /// # Errors
    /// [`Error::Duplicate`] if the service has one of that name.
    pub fn group_add(&self, new: &Group) -> Result<i64, Error> {
        let sql = "INSERT INTO groups (account_id, service_id, name, spec, wanted, version, ports, created_at)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id";
        self.connection
            .prepare_cached(sql)?
            .query_row(
                params![
                    new.account_id,
                    new.service_id,
                    new.name,
                    new.spec,
                    new.desired,
                    new.version,
                    new.ports,
                    new.created_at
                ],
                |row| row.get(0),
            )
            .map_err(|e| unique(e, || format!("a group named {:?}", new.name)))
    }

    /// The group with this number.
    ///
    /// # Errors
    /// The database's own.
    pub fn group(&self, id: i64) -> Result<Option<Group>, Error> {
        let sql = format!("{GROUP} WHERE g.id = $1");
        Ok(self.connection.prepare_cached(&sql)?.query_row([id], group).optional()?)
    }

    /// Groups by number: of one account, or of all.
    ///
    /// # Errors
    /// The database's own.
    pub fn groups(&self, account: Option<i64>) -> Result<Vec<Group>, Error> {
        let sql = format!("{GROUP} WHERE $1 IS NULL OR g.account_id = $1 ORDER BY g.id");
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map([account], group)?.collect::<Result<_, _>>()?)
    }

    /// Changes a group; whether it is there.
    ///
    /// # Errors
    /// [`Error::Duplicate`] if the name is taken.
    pub fn group_change(&self, id: i64, change: &GroupChange) -> Result<bool, Error> {
        let sql = "UPDATE groups SET spec = COALESCE($1, spec), wanted = COALESCE($2, wanted),
                   version = COALESCE($3, version), ports = COALESCE($4, ports), name = COALESCE($5, name) WHERE id = $6";
        self.connection
            .prepare_cached(sql)?
            .execute(params![change.spec, change.desired, change.version, change.ports, change.name, id])
            .map(|changed| changed == 1)
            .map_err(|e| unique(e, || format!("a group named {:?}", change.name.as_deref().unwrap_or_default())))
    }

    /// Removes a group, its packages too.
    ///
    /// # Errors
    /// The database's own.
    pub fn group_remove(&self, id: i64) -> Result<(), Error> {
        self.connection.prepare_cached("DELETE FROM groups WHERE id = $1")?.execute([id])?;
        Ok(())
    }

    /// Adds a package as the group's next version, which is returned. What the same command added before is given again.
    ///
    /// # Errors
    /// The database's own.
    pub fn package_add(&self, new: &Package) -> Result<i64, Error> {
        let sql = "SELECT version FROM packages WHERE group_id = $1 AND command_id = $2";
        let known: Option<i64> = self
            .connection
            .prepare_cached(sql)?
            .query_row(params![new.group_id, new.command_id], |row| row.get(0))
            .optional()?;
        if let Some(known) = known {
            return Ok(known);
        }
        let sql = "INSERT INTO packages (group_id, version, digest, name, size, address, command_id, created_at)
                   SELECT $1, COALESCE(MAX(version), 0) + 1, $2, $3, $4, $5, $6, $7 FROM packages WHERE group_id = $1
                   RETURNING version";
        Ok(self.connection.prepare_cached(sql)?.query_row(
            params![new.group_id, new.digest, new.name, new.size, new.address, new.command_id, new.created_at],
            |row| row.get(0),
        )?)
    }

    /// The group's packages, oldest first.
    ///
    /// # Errors
    /// The database's own.
    pub fn packages(&self, group: i64) -> Result<Vec<Package>, Error> {
        let sql = format!("{PACKAGE} WHERE group_id = $1 ORDER BY version");
        let mut statement = self.connection.prepare_cached(&sql)?;
        Ok(statement.query_map([group], package)?.collect::<Result<_, _>>()?)
    }

    /// Notes that a deployment of a version succeeded.
    ///
    /// # Errors
    /// The database's own.
    pub fn package_proven(&self, group: i64, version: i64) -> Result<(), Error> {
        let sql = "UPDATE packages SET proven = 1 WHERE group_id = $1 AND version = $2";
        self.connection.prepare_cached(sql)?.execute(params![group, version])?;
        Ok(())
    }

    /// Forgets a version.
    ///
    /// # Errors
    /// The database's own.
    pub fn package_remove(&self, group: i64, version: i64) -> Result<(), Error> {
        let sql = "DELETE FROM packages WHERE group_id = $1 AND version = $2";
        self.connection.prepare_cached(sql)?.execute(params![group, version])?;
        Ok(())
    }

    /// Digests of all packages of all groups.
    ///
    /// # Errors
    /// The database's own.
    pub fn package_digests(&self) -> Result<Vec<String>, Error> {
        let mut statement = self.connection.prepare_cached("SELECT DISTINCT digest FROM packages")?;
        Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
    }
}
