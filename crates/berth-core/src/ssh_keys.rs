//! Keys for SSH logins into containers. Of a pair that is made here the private half is kept, encrypted, until its owner has
//! fetched it, which is once.

use ssh_key::private::{Ed25519Keypair, KeypairData, RsaKeypair};
use ssh_key::{LineEnding, PrivateKey, PublicKey};

use crate::core::Core;
use crate::error::Error;
use crate::now;
use crate::tokens::{Caller, check_name};

/// Bits of an RSA key.
const RSA_BITS: usize = 3072;

/// A key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshKey {
    /// Number, never used again.
    pub id: i64,
    /// What its owner calls it.
    pub name: String,
    /// A line of `authorized_keys`.
    pub public: String,
    /// MD5 of the public half, in pairs of hexadecimal digits, as `ssh-keygen -l -E md5` shows it.
    pub fingerprint: String,
    /// Whether the private half is here to be fetched.
    pub has_private: bool,
    /// Nanoseconds since 1970.
    pub created_at: i64,
}

/// The algorithm of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SshKeyKind {
    /// Ed25519.
    #[default]
    Ed25519,
    /// RSA, for old clients.
    Rsa,
}

fn key(row: berth_store::SshKey) -> SshKey {
    SshKey {
        id: row.id,
        name: row.name,
        public: row.public,
        fingerprint: row.fingerprint,
        has_private: row.private.is_some(),
        created_at: row.created_at,
    }
}

fn fingerprint(public: &PublicKey) -> Result<String, Error> {
    let bytes = public.to_bytes().map_err(|e| Error::Bug(format!("a public key: {e}")))?;
    let digest: Vec<String> = md5::compute(bytes).iter().map(|b| format!("{b:02x}")).collect();
    Ok(digest.join(":"))
}

/// A new pair: the private half in OpenSSH's form, the public half as a line.
/// Bytes of a public key with its comment; one of 16,384 bits has less than 3 KiB.
const MOST_PUBLIC: usize = 16 << 10;
/// Pairs that are made at the same time.
static MAKING: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(1);

fn make(kind: SshKeyKind, name: &str) -> Result<(String, PublicKey), Error> {
    let failed = |e: ssh_key::Error| Error::Bug(format!("a key could not be made: {e}"));
    let mut random = rand::rng();
    let data = match kind {
        SshKeyKind::Ed25519 => KeypairData::from(Ed25519Keypair::random(&mut random)),
        SshKeyKind::Rsa => KeypairData::from(RsaKeypair::random(&mut random, RSA_BITS).map_err(failed)?),
    };
    let private = PrivateKey::new(data, name).map_err(failed)?;
    let text = private.to_openssh(LineEnding::LF).map_err(failed)?.to_string();
    Ok((text, private.public_key().clone()))
}

/// A private key for the server itself.
pub(crate) fn own_key() -> Result<String, Error> {
    make(SshKeyKind::Ed25519, "berth").map(|(text, _)| text)
}

fn about(public: &str) -> String {
    format!("ssh key {public}")
}

impl Core {
    /// Makes a key pair.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the name.
    pub async fn ssh_key_create(&self, caller: &Caller, name: &str, kind: SshKeyKind) -> Result<SshKey, Error> {
        check_name("key_name", name)?;
        let comment = name.to_owned();
        // An RSA key takes a while to find; the threads are there for others, too.
        let _turn = MAKING.acquire().await.map_err(|e| Error::Bug(e.to_string()))?;
        let made = tokio::task::spawn_blocking(move || make(kind, &comment)).await;
        let (private, public) = made.map_err(|e| Error::Bug(e.to_string()))??;
        let line = public.to_openssh().map_err(|e| Error::Bug(format!("a public key: {e}")))?;
        let sealed = self.inner.secrets.seal(&about(&line), &private)?;
        self.ssh_key_keep(caller, name, line, fingerprint(&public)?, Some(sealed)).await
    }

    /// Takes a public key that was made elsewhere.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the name, or for what is no public key.
    pub async fn ssh_key_add(&self, caller: &Caller, name: &str, public: &str) -> Result<SshKey, Error> {
        check_name("key_name", name)?;
        // What is written into a container is one line, whatever came.
        if public.trim().contains(char::is_control) {
            return Err(Error::invalid("public_key", "one line without control characters"));
        }
        let wrong = |e: ssh_key::Error| Error::invalid("public_key", format!("no public key of OpenSSH's form: {e}"));
        if public.len() > MOST_PUBLIC {
            return Err(Error::invalid("public_key", format!("{} bytes, {MOST_PUBLIC} are allowed", public.len())));
        }
        let read = PublicKey::from_openssh(public.trim()).map_err(wrong)?;
        let line = read.to_openssh().map_err(wrong)?;
        self.ssh_key_keep(caller, name, line, fingerprint(&read)?, None).await
    }

    async fn ssh_key_keep(
        &self,
        caller: &Caller,
        name: &str,
        public: String,
        fingerprint: String,
        private: Option<String>,
    ) -> Result<SshKey, Error> {
        let (account_id, name) = (caller.account, name.to_owned());
        let mut row = berth_store::SshKey { id: 0, account_id, name, public, fingerprint, private, created_at: now() };
        self.write(move |tx| {
            row.id = tx.ssh_key_add(&row)?;
            Ok(key(row))
        })
        .await
    }

    /// The account's keys.
    ///
    /// # Errors
    /// The database's own.
    pub async fn ssh_keys(&self, caller: &Caller) -> Result<Vec<SshKey>, Error> {
        let account = caller.account;
        Ok(self.read(move |tx| Ok(tx.ssh_keys(account)?)).await?.into_iter().map(key).collect())
    }

    /// The private half of a key, in OpenSSH's form. It is told once, and is not here any more then.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such key, or its private half is not here.
    pub async fn ssh_key_private(&self, caller: &Caller, id: i64) -> Result<String, Error> {
        let account = caller.account;
        let gone = |why: &str| Error::NotFound { what: "secret key", name: format!("{id}{why}") };
        let row = self.read(move |tx| Ok(tx.ssh_key(account, id)?)).await?.ok_or_else(|| gone(""))?;
        let fetched = || gone(" (its private half was fetched already, or was never here)");
        let sealed = row.private.ok_or_else(fetched)?;
        let text = self.inner.secrets.open_sealed(&about(&row.public), &sealed)?;
        // Of two who ask at the same time one gets it.
        let first = self.write(move |tx| Ok(tx.ssh_key_forget_private(id)?)).await?;
        if first { Ok(text) } else { Err(fetched()) }
    }

    /// Removes a key. Containers that were made with it keep it.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn ssh_key_remove(&self, caller: &Caller, id: i64) -> Result<(), Error> {
        let account = caller.account;
        if self.write(move |tx| Ok(tx.ssh_key_remove(account, id)?)).await? {
            Ok(())
        } else {
            Err(Error::NotFound { what: "secret key", name: id.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use ssh_key::{PrivateKey, PublicKey};

    use super::{SshKeyKind, fingerprint, make};

    #[test]
    fn pairs_belong_together_and_fingerprints_are_ssh_keygens() {
        for (kind, word) in [(SshKeyKind::Ed25519, "ssh-ed25519 "), (SshKeyKind::Rsa, "ssh-rsa ")] {
            let (text, public) = make(kind, "mine").expect("make");
            assert!(text.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"), "{text}");
            let line = public.to_openssh().expect("line");
            assert!(line.starts_with(word) && line.ends_with(" mine"), "{line}");
            assert_eq!(PrivateKey::from_openssh(&text).expect("private").public_key(), &public);
        }
        // Taken from `ssh-keygen -l -E md5`.
        let known = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f x";
        let known = PublicKey::from_openssh(known).expect("public");
        let shown = "0f:a2:0a:d7:38:3e:65:45:08:6b:63:84:1c:ff:dc:ba";
        assert_eq!(fingerprint(&known).expect("fingerprint"), shown);
    }
}
