//! Whose things a command is about: those of the caller's account, of another one, or of all.

use berth_client::{Client, Error};

/// Whose things are meant.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Scope {
    /// Those of all accounts, for administrators
    #[arg(long)]
    all_accounts: bool,
}

impl Scope {
    /// Clients of the accounts that are meant, with the accounts' names (empty for the caller's own).
    pub(super) async fn clients(&self, client: &Client) -> Result<Vec<(String, Client)>, String> {
        if !self.all_accounts {
            return Ok(vec![(String::new(), client.clone())]);
        }
        let all = client.accounts().await.map_err(|e| e.to_string())?;
        Ok(all.into_iter().map(|account| (account.name.clone(), client.on_behalf(&account.name))).collect())
    }

    /// The client of whoever has the container.
    pub(super) async fn of_container(&self, client: &Client, id: &str) -> Result<Client, Error> {
        if !self.all_accounts {
            return Ok(client.clone());
        }
        let mut found: Vec<(String, Client)> = Vec::new();
        let mut missing = None;
        for account in client.accounts().await? {
            let of = client.on_behalf(&account.name);
            match of.container(id).await {
                Ok(_) => found.push((account.name, of)),
                Err(error) if error.code() == Some("not_found") => missing = Some(error),
                Err(error) => return Err(error),
            }
        }
        match found.len() {
            1 => Ok(found.swap_remove(0).1),
            0 => Err(missing.unwrap_or_else(|| Error::Answer("there are no accounts".into()))),
            _ => {
                let names: Vec<_> = found.into_iter().map(|(name, _)| name).collect();
                Err(Error::Answer(format!(
                    "several accounts have a container {id}: {}; say which by its id, or --for-account",
                    names.join(", ")
                )))
            }
        }
    }

    /// Whether there is a column of accounts to be shown.
    pub(super) fn shows_accounts(&self) -> bool {
        self.all_accounts
    }
}
