//! Logins at registries: kept encrypted, tried before they are kept.

use berth_identity::Caller;
use berth_types::now;

use super::protocol::{Access, Login};
use crate::core::Core;
use crate::error::{Error, Field};

/// A login without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownLogin {
    /// Host and port.
    pub registry: String,
    /// User's name.
    pub username: String,
    /// Nanoseconds since 1970.
    pub created_at: i64,
}

impl Core {
    pub(super) async fn access_for(
        &self,
        caller: &Caller,
        registry: &str,
        given: Option<Login>,
    ) -> Result<Access, Error> {
        let login = self.login_for(caller, registry, given).await?;
        Ok(Access { login, private: self.identity().private_allowed(caller).await? })
    }

    /// The login that was given, or the one that is kept for the registry.
    pub(super) async fn login_for(
        &self,
        caller: &Caller,
        registry: &str,
        given: Option<Login>,
    ) -> Result<Option<Login>, Error> {
        if given.is_some() {
            return Ok(given);
        }
        let account = caller.account;
        let all = self.read(move |tx| Ok(tx.registry_logins(account)?)).await?;
        let Some(kept) = all.into_iter().find(|l| l.registry == registry) else { return Ok(None) };
        let password = self.identity().secrets().open_sealed(&about(account, registry), &kept.secret)?;
        Ok(Some(Login { username: kept.username, password }))
    }

    /// Checks a login and keeps it, encrypted.
    ///
    /// # Errors
    /// That the registry refuses it, or can't be reached.
    pub async fn registry_login(&self, caller: &Caller, registry: &str, login: Login) -> Result<(), Error> {
        let registry = registry_name(registry)?;
        if login.username.is_empty() || login.username.contains(':') {
            return Err(Error::invalid(Field::Username, "a name without ':' is required"));
        }
        let private = self.identity().private_allowed(caller).await?;
        self.inner.registry.check(&registry, &login, private).await?;
        let row = berth_store::RegistryLogin {
            account_id: caller.account,
            secret: self.identity().secrets().seal(&about(caller.account, &registry), &login.password)?,
            registry,
            username: login.username,
            created_at: now(),
        };
        self.write(move |tx| Ok(tx.registry_login_put(&row)?)).await
    }

    /// The account's logins.
    ///
    /// # Errors
    /// The database's own.
    pub async fn registry_logins(&self, caller: &Caller) -> Result<Vec<KnownLogin>, Error> {
        let account = caller.account;
        let all = self.read(move |tx| Ok(tx.registry_logins(account)?)).await?;
        let known = |l: berth_store::RegistryLogin| KnownLogin {
            registry: l.registry,
            username: l.username,
            created_at: l.created_at,
        };
        Ok(all.into_iter().map(known).collect())
    }

    /// Forgets a login.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn registry_logout(&self, caller: &Caller, registry: &str) -> Result<(), Error> {
        let (account, registry) = (caller.account, registry_name(registry)?);
        let name = registry.clone();
        if self.write(move |tx| Ok(tx.registry_login_remove(account, &name)?)).await? {
            Ok(())
        } else {
            Err(Error::NotFound { what: "login", name: registry })
        }
    }
}

fn about(account: i64, registry: &str) -> String {
    format!("login of account {account} at {registry}")
}

fn registry_name(text: &str) -> Result<String, Error> {
    let name = text.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    if name.is_empty() || name.len() > 255 || !name.chars().all(good) {
        return Err(Error::invalid(Field::Registry, format!("invalid registry {text:?}: expected host or host:port")));
    }
    Ok(if name == "index.docker.io" { "docker.io".into() } else { name.to_ascii_lowercase() })
}

#[cfg(test)]
mod tests {
    use super::registry_name;
    use crate::registries::ImageReference;
    use crate::registries::manifests::Platform;

    #[test]
    fn names_lead_to_registries_as_dockers_do() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let by_digest = format!("ghcr.io/a/b@{digest}");
        for (name, shown) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("a/b:v1", "docker.io/a/b:v1"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("127.0.0.1:5000/a/b/c:2", "127.0.0.1:5000/a/b/c:2"),
            (by_digest.as_str(), by_digest.as_str()),
        ] {
            assert_eq!(ImageReference::read(name).map(|r| r.to_string()).ok().as_deref(), Some(shown));
        }
        assert!(ImageReference::read("a b").is_err() && ImageReference::read("x@sha256:12").is_err());
        assert_eq!(registry_name("https://Host:5000/").ok().as_deref(), Some("host:5000"));
        assert!(registry_name("a/b").is_err());
        assert!(Platform::read(Some("linux")).is_err());
        let arm = Platform::read(Some("linux/arm/v7")).expect("platform");
        assert_eq!((arm.architecture.as_str(), arm.variant.as_deref()), ("arm", Some("v7")));
    }
}
