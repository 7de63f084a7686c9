//! Answers to creations, by the key that the client gave: the same request again gets the same answer.

use rusqlite::{OptionalExtension, params};

use crate::database::{Error, Tx};

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// Digest of the request that came with it first.
    pub request: String,
    /// The answer to it; `None` while it is under way, or if a crash cut it.
    pub answer: Option<String>,
    /// Textual id of what it made, as soon as that is written down.
    pub about: Option<String>,
}

impl Tx<'_> {
    /// What is known of a key.
    ///
    /// # Errors
    /// The database's own.
    pub fn idempotency(&self, account: i64, key: &str) -> Result<Option<Remembered>, Error> {
        let sql = "SELECT request, answer, about FROM idempotency WHERE account_id = $1 AND key = $2";
        Ok(self
            .connection
            .prepare_cached(sql)?
            .query_row(params![account, key], |row| {
                Ok(Remembered { request: row.get(0)?, answer: row.get(1)?, about: row.get(2)? })
            })
            .optional()?)
    }

    /// Takes the key for this request; what was known of it before.
    ///
    /// # Errors
    /// The database's own.
    pub fn idempotency_begin(
        &self,
        account: i64,
        key: &str,
        request: &str,
        now: i64,
    ) -> Result<Option<Remembered>, Error> {
        let known = self.idempotency(account, key)?;
        if known.is_none() {
            let sql = "INSERT INTO idempotency (account_id, key, request, created_at) VALUES ($1, $2, $3, $4)";
            self.connection.prepare_cached(sql)?.execute(params![account, key, request, now])?;
        }
        Ok(known)
    }

    /// Forgets the oldest answers of an account beyond the newest `most`; how many keys it has then.
    ///
    /// # Errors
    /// The database's own.
    pub fn idempotency_trim(&self, account: i64, most: u32) -> Result<u32, Error> {
        let sql = "DELETE FROM idempotency WHERE account_id = $1 AND answer IS NOT NULL AND key IN
                   (SELECT key FROM idempotency WHERE account_id = $1 ORDER BY created_at DESC LIMIT -1 OFFSET $2)";
        self.connection.prepare_cached(sql)?.execute(params![account, most])?;
        let sql = "SELECT COUNT(*) FROM idempotency WHERE account_id = $1";
        Ok(self.connection.prepare_cached(sql)?.query_row([account], |row| row.get(0))?)
    }

    /// Notes what the request with this key makes, in the same transaction as that.
    ///
    /// # Errors
    /// The database's own.
    pub fn idempotency_about(&self, account: i64, key: &str, about: &str) -> Result<(), Error> {
        let sql = "UPDATE idempotency SET about = $1 WHERE account_id = $2 AND key = $3";
        self.connection.prepare_cached(sql)?.execute(params![about, account, key])?;
        Ok(())
    }

    /// Notes the answer, or gives the key back if there is none to keep.
    ///
    /// # Errors
    /// The database's own.
    pub fn idempotency_end(&self, account: i64, key: &str, answer: Option<&str>) -> Result<(), Error> {
        match answer {
            Some(answer) => {
                let sql = "UPDATE idempotency SET answer = $1 WHERE account_id = $2 AND key = $3";
                self.connection.prepare_cached(sql)?.execute(params![answer, account, key])?;
            }
            None => {
                let sql = "DELETE FROM idempotency WHERE account_id = $1 AND key = $2";
                self.connection.prepare_cached(sql)?.execute(params![account, key])?;
            }
        }
        Ok(())
    }

    /// Forgets keys older than `before`, and at start all whose requests a crash cut before they made anything
    /// (`unanswered`).
    ///
    /// # Errors
    /// The database's own.
    pub fn idempotency_forget(&self, before: i64, unanswered: bool) -> Result<usize, Error> {
        let sql = "DELETE FROM idempotency WHERE created_at < $1 OR (answer IS NULL AND about IS NULL AND $2)";
        Ok(self.connection.prepare_cached(sql)?.execute(params![before, unanswered])?)
    }
}

#[cfg(test)]
mod tests {
    use crate::Store;

    #[tokio::test]
    async fn the_oldest_answers_of_an_account_go() {
        let folder = std::env::temp_dir().join(format!("berth-store-keys-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("folder");
        let store = Store::open(&folder.join("berth.db")).expect("store");
        let left = store
            .write(|tx| {
                for n in 0..20 {
                    tx.idempotency_begin(1, &format!("k{n}"), "request", n)?;
                    tx.idempotency_begin(2, &format!("k{n}"), "request", n)?;
                    // The first is still under way.
                    if n > 0 {
                        tx.idempotency_end(1, &format!("k{n}"), Some("200 {}"))?;
                    }
                }
                tx.idempotency_trim(1, 5)
            })
            .await;
        assert_eq!(left.expect("trim"), 6);
        let known = |account: i64, key: &'static str| {
            let store = store.clone();
            async move { store.read(move |tx| tx.idempotency(account, key)).await.expect("read").is_some() }
        };
        assert!(known(1, "k0").await && known(1, "k15").await && !known(1, "k14").await && known(2, "k1").await);
        drop(store);
        std::fs::remove_dir_all(folder).expect("clean");
    }
}
