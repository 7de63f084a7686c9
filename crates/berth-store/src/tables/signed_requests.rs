//! Signed requests that change something: the first path of each signature, and the command that came of it.

use rusqlite::{OptionalExtension, params};

use crate::database::{Error, Tx};

impl Tx<'_> {
    /// Binds a signed request to `path`, unless it is bound already; the path that it is bound to.
    ///
    /// # Errors
    /// The database's own.
    pub fn signed_request_bind(&self, digest: &str, path: &str, expires_at: i64) -> Result<String, Error> {
        let sql = "INSERT INTO signed_requests (digest, path, expires_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        self.connection.prepare_cached(sql)?.execute(params![digest, path, expires_at])?;
        let sql = "SELECT path FROM signed_requests WHERE digest = $1";
        Ok(self.connection.prepare_cached(sql)?.query_row([digest], |row| row.get(0))?)
    }

    /// The UUID of the command that came of a signed request, if one did.
    ///
    /// # Errors
    /// The database's own.
    pub fn signed_request_command(&self, digest: &str) -> Result<Option<String>, Error> {
        let sql = "SELECT command FROM signed_requests WHERE digest = $1 AND command <> ''";
        Ok(self.connection.prepare_cached(sql)?.query_row([digest], |row| row.get(0)).optional()?)
    }

    /// Notes the command that came of a signed request.
    ///
    /// # Errors
    /// The database's own.
    pub fn signed_request_done(&self, digest: &str, command: &str) -> Result<(), Error> {
        let sql = "UPDATE signed_requests SET command = $1 WHERE digest = $2";
        self.connection.prepare_cached(sql)?.execute(params![command, digest])?;
        Ok(())
    }

    /// Forgets those whose timestamp is good no more.
    ///
    /// # Errors
    /// The database's own.
    pub fn signed_requests_forget(&self, now: i64) -> Result<(), Error> {
        self.connection.prepare_cached("DELETE FROM signed_requests WHERE expires_at < $1")?.execute([now])?;
        Ok(())
    }
}
