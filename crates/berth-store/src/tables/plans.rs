//! Plans of containers: what they are charged by, and what goes with it.

use rusqlite::{OptionalExtension, params};

use crate::database::{Error, Tx};

/// A container's plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Number of the container.
    pub container_id: i64,
    /// JSON of the core.
    pub plan: String,
    /// Nanoseconds since 1970.
    pub updated_at: i64,
}

impl Tx<'_> {
    /// Gives a container a plan, or another one.
    ///
    /// # Errors
    /// The database's own.
    pub fn plan_set(&self, plan: &Plan) -> Result<(), Error> {
        let sql = "INSERT INTO plans (container_id, plan, updated_at) VALUES ($1, $2, $3)
                   ON CONFLICT (container_id) DO UPDATE SET plan = excluded.plan, updated_at = excluded.updated_at";
        self.connection.prepare_cached(sql)?.execute(params![plan.container_id, plan.plan, plan.updated_at])?;
        Ok(())
    }

    /// A container's plan.
    ///
    /// # Errors
    /// The database's own.
    pub fn plan(&self, container: i64) -> Result<Option<Plan>, Error> {
        let sql = "SELECT container_id, plan, updated_at FROM plans WHERE container_id = $1";
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Plan { container_id: row.get(0)?, plan: row.get(1)?, updated_at: row.get(2)? })
        };
        Ok(self.connection.prepare_cached(sql)?.query_row([container], read).optional()?)
    }
}
