//! Accounts, for administrators.

use berth_store::{Account, AccountChange, Belongings};
use berth_types::{Field, now};

use crate::Identity;
use crate::error::Error;
use crate::tokens::{Caller, Credential, Role, check_name, only_administrators};

fn unknown(name: &str) -> Error {
    Error::NotFound { what: "account", name: name.to_owned() }
}

fn check_quota(change: &AccountChange) -> Result<(), Error> {
    let all = [change.containers, change.memory, change.cpu_milli, change.bandwidth, change.disk, change.images];
    match all.into_iter().flatten().flatten().find(|value| *value < 0) {
        Some(value) => {
            Err(Error::Invalid { field: Field::Request, message: format!("quota {value}: less than nothing") })
        }
        None => Ok(()),
    }
}

impl Identity {
    /// The name of an account; empty for one that is gone.
    ///
    /// # Errors
    /// The database's own.
    pub async fn account_name(&self, id: i64) -> Result<String, Error> {
        Ok(self.read(move |tx| Ok(tx.account_name(id)?)).await?.unwrap_or_default())
    }

    /// The first account's administrator, as whom a user of this machine acts who may open the administrators' socket.
    ///
    /// # Errors
    /// The database's own, or that there is no account.
    pub async fn local_administrator(&self, user: u32) -> Result<Caller, Error> {
        let first = self.read(|tx| Ok(tx.accounts()?.into_iter().next())).await?;
        let first = first.ok_or_else(|| Error::Forbidden("there is no account yet".into()))?;
        Ok(Caller { account: first.id, role: Role::Admin, credential: Credential::Local(user) })
    }

    /// An administrator, acting for another account, by its name: what is made is that account's.
    ///
    /// # Errors
    /// [`Error::Forbidden`] for others, [`Error::NotFound`], or the database's own.
    pub async fn on_behalf(&self, caller: Caller, name: &str) -> Result<Caller, Error> {
        only_administrators(&caller)?;
        let wanted = name.to_owned();
        let found = self.read(move |tx| Ok(tx.account_named(&wanted)?)).await?;
        Ok(Caller { account: found.ok_or_else(|| unknown(name))?.id, ..caller })
    }

    /// All accounts; for administrators.
    ///
    /// # Errors
    /// [`Error::Forbidden`], or the database's own.
    pub async fn accounts(&self, caller: &Caller) -> Result<Vec<Account>, Error> {
        only_administrators(caller)?;
        self.read(|tx| Ok(tx.accounts()?)).await
    }

    /// One account by its name; for administrators.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::NotFound`], or the database's own.
    pub async fn account(&self, caller: &Caller, name: &str) -> Result<Account, Error> {
        only_administrators(caller)?;
        let wanted = name.to_owned();
        self.read(move |tx| Ok(tx.account_named(&wanted)?)).await?.ok_or_else(|| unknown(name))
    }

    /// Makes an account; for administrators. It has no credentials yet.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::Invalid`], [`Error::Duplicate`], or the database's own.
    pub async fn account_create(&self, caller: &Caller, name: &str, change: AccountChange) -> Result<Account, Error> {
        only_administrators(caller)?;
        check_name(Field::Account, name)?;
        check_quota(&change)?;
        let wanted = name.to_owned();
        let made = self
            .write(move |tx| {
                if tx.account_named(&wanted)?.is_some() {
                    return Err(Error::Duplicate(format!("account {wanted:?} is there already")));
                }
                tx.account_add(&wanted, now())?;
                tx.account_change(&wanted, &change)?;
                Ok(tx.account_named(&wanted)?)
            })
            .await?;
        made.ok_or_else(|| unknown(name))
    }

    /// Changes an account, by its name; for administrators. What runs goes on: rights and quotas are looked at when a container is
    /// made or started. The credentials of one that is disabled are refused at once.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::NotFound`], [`Error::InUse`] for the administrator's own, or the database's own.
    pub async fn account_change(&self, caller: &Caller, name: &str, change: AccountChange) -> Result<Account, Error> {
        only_administrators(caller)?;
        check_quota(&change)?;
        let wanted = name.to_owned();
        let disables = matches!(change.disabled_at, Some(Some(_)));
        let found = self
            .write(move |tx| {
                if disables {
                    first_stays(tx, &wanted)?;
                }
                tx.account_change(&wanted, &change)?;
                Ok(tx.account_named(&wanted)?)
            })
            .await?;
        if change.disabled_at.is_some() {
            self.forget_tokens();
            self.forget_keys();
        }
        found.ok_or_else(|| unknown(name))
    }

    /// Takes an account away that has nothing any more; for administrators. What it used is still billed, its name is free.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::NotFound`], [`Error::InUse`] with what it has, or the database's own.
    pub async fn account_remove(&self, caller: &Caller, name: &str) -> Result<(), Error> {
        only_administrators(caller)?;
        let wanted = name.to_owned();
        self.write(move |tx| {
            let found = tx.account_named(&wanted)?.ok_or_else(|| unknown(&wanted))?;
            first_stays(tx, &wanted)?;
            let has = tx.account_belongings(found.id)?;
            if has != Belongings::default() {
                let Belongings { containers, volumes, images, services } = has;
                return Err(Error::InUse(format!(
                    "account {wanted:?} has {containers} containers, {volumes} volumes, {images} images and {services} services"
                )));
            }
            Ok(tx.account_remove(found.id, now())?)
        })
        .await?;
        self.forget_tokens();
        self.forget_keys();
        Ok(())
    }
}

/// The first account is the administrator's, by which the machine is looked after.
fn first_stays(tx: &berth_store::Tx<'_>, name: &str) -> Result<(), Error> {
    match tx.accounts()?.first() {
        Some(first) if first.name == name => {
            Err(Error::InUse(format!("account {name:?} is the administrator's: it can't be disabled or removed")))
        }
        _ => Ok(()),
    }
}
