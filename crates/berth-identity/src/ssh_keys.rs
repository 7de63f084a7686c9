//! Keys for SSH logins into containers. Of a pair that is made here the private half is kept encrypted, to be read by its owner
//! again, or until it was read once.

use ssh_key::private::{Ed25519Keypair, KeypairData, RsaKeypair};
use ssh_key::{LineEnding, PrivateKey, PublicKey};

use crate::Identity;
use crate::error::Error;
use crate::tokens::{Caller, check_name};
use berth_types::Field;
use berth_types::{now, random_hex};

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

/// Bytes of a public key with its comment; one of 16,384 bits has less than 3 KiB.
const MOST_PUBLIC: usize = 16 << 10;

/// The private half as text: PKCS#1 for RSA, which old clients know; OpenSSH's form for all else.
fn pem(private: &PrivateKey) -> Result<String, Error> {
    use rsa::pkcs1::EncodeRsaPrivateKey;
    match private.key_data() {
        KeypairData::Rsa(pair) => {
            let failed = |e: &dyn std::fmt::Display| Error::Bug(format!("an RSA key can't be written: {e}"));
            let key = rsa::RsaPrivateKey::try_from(pair).map_err(|e| failed(&e))?;
            Ok(key.to_pkcs1_pem(rsa::pkcs1::LineEnding::LF).map_err(|e| failed(&e))?.to_string())
        }
        _ => {
            let text = private.to_openssh(LineEnding::LF);
            Ok(text.map_err(|e| Error::Bug(format!("a key can't be written: {e}")))?.to_string())
        }
    }
}

/// A new pair: the private half as text, and the public half.
fn make(kind: SshKeyKind, name: &str) -> Result<(String, PublicKey), Error> {
    let failed = |e: ssh_key::Error| Error::Bug(format!("a key could not be made: {e}"));
    let mut random = rand::rng();
    let data = match kind {
        SshKeyKind::Ed25519 => KeypairData::from(Ed25519Keypair::random(&mut random)),
        SshKeyKind::Rsa => KeypairData::from(RsaKeypair::random(&mut random, RSA_BITS).map_err(failed)?),
    };
    let private = PrivateKey::new(data, name).map_err(failed)?;
    Ok((pem(&private)?, private.public_key().clone()))
}

/// A private key for the server itself.
///
/// # Errors
/// [`Error::Bug`]: none can be made.
pub fn own_key() -> Result<String, Error> {
    make(SshKeyKind::Ed25519, "berth").map(|(text, _)| text)
}

/// The name that is given, or one that is made up.
fn named(given: Option<&str>) -> Result<String, Error> {
    match given.filter(|name| !name.is_empty()) {
        Some(name) => check_name(Field::SshKeyName, name).map(|()| name.to_owned()),
        None => Ok(format!("key-{}", random_hex(4))),
    }
}

fn about(public: &str) -> String {
    format!("ssh key {public}")
}

impl Identity {
    /// Makes a key pair; its name is made up if none is given.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the name.
    pub async fn ssh_key_create(&self, caller: &Caller, name: Option<&str>, kind: SshKeyKind) -> Result<SshKey, Error> {
        let name = &named(name)?;
        let comment = name.clone();
        // An RSA key takes a while to find; the threads are there for others, too.
        let _turn = self.inner.key_pairs.take(caller.account).await;
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
    pub async fn ssh_key_add(&self, caller: &Caller, name: Option<&str>, public: &str) -> Result<SshKey, Error> {
        let name = &named(name)?;
        // What is written into a container is one line, whatever came.
        if public.trim().contains(char::is_control) {
            return Err(Error::invalid(Field::PublicKey, "one line without control characters"));
        }
        let wrong = |e: ssh_key::Error| Error::invalid(Field::PublicKey, format!("not an OpenSSH public key: {e}"));
        if public.len() > MOST_PUBLIC {
            return Err(Error::invalid(Field::PublicKey, format!("{} bytes, {MOST_PUBLIC} are allowed", public.len())));
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

    /// The private half of a key: PKCS#1 of an RSA key, else OpenSSH's form. With `forget` it is not here any more then.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such key, or its private half is not here.
    pub async fn ssh_key_private(&self, caller: &Caller, id: i64, forget: bool) -> Result<String, Error> {
        let account = caller.account;
        let gone = |why: &str| Error::NotFound { what: "secret key", name: format!("{id}{why}") };
        let row = self.read(move |tx| Ok(tx.ssh_key(account, id)?)).await?.ok_or_else(|| gone(""))?;
        let fetched = || gone(" (its private half was fetched already, or was never here)");
        let sealed = row.private.ok_or_else(fetched)?;
        let mut text = self.inner.secrets.open_sealed(&about(&row.public), &sealed)?;
        if row.public.starts_with("ssh-rsa ") && text.contains("OPENSSH PRIVATE KEY") {
            // Kept by a version of berth that wrote all keys so.
            let private = PrivateKey::from_openssh(&text).map_err(|e| Error::Bug(format!("key {id}: {e}")))?;
            text = pem(&private)?;
        }
        // Of two who ask at the same time one gets it.
        if forget && !self.write(move |tx| Ok(tx.ssh_key_forget_private(id)?)).await? {
            return Err(fetched());
        }
        Ok(text)
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
        let (text, public) = make(SshKeyKind::Ed25519, "mine").expect("make");
        assert!(text.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"), "{text}");
        let line = public.to_openssh().expect("line");
        assert!(line.starts_with("ssh-ed25519 ") && line.ends_with(" mine"), "{line}");
        assert_eq!(PrivateKey::from_openssh(&text).expect("private").public_key(), &public);
        let (text, public) = make(SshKeyKind::Rsa, "mine").expect("make");
        assert!(text.starts_with("-----BEGIN RSA PRIVATE KEY-----\n"), "{text}");
        assert!(public.to_openssh().expect("line").starts_with("ssh-rsa "));
        // Taken from `ssh-keygen -l -E md5`.
        let known = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f x";
        let known = PublicKey::from_openssh(known).expect("public");
        let shown = "0f:a2:0a:d7:38:3e:65:45:08:6b:63:84:1c:ff:dc:ba";
        assert_eq!(fingerprint(&known).expect("fingerprint"), shown);
    }
}
