//! A connection: who comes in, and the sessions that are opened.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use berth_core::{Core, SshEndpoint};
use russh::keys::PublicKey;
use russh::keys::ssh_key::authorized_keys::Entry;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelOpenFailure};
use tokio::task::JoinSet;

use crate::{Place, session};

/// Sessions of a connection at a time.
const SESSIONS: usize = 16;

pub(crate) struct Connection {
    core: Core,
    host: SshEndpoint,
    known: Arc<AtomicBool>,
    place: Place,
    /// The key that it has shown.
    who: String,
    open: Arc<AtomicUsize>,
    /// Bytes on their way to the container, of all connections.
    kept: Arc<AtomicUsize>,
    /// End with the connection.
    sessions: JoinSet<()>,
}

/// Whether a line of `authorized_keys` lets this key in. Lines with options bound a login in ways that are not heeded here,
/// so they let nobody in.
fn lets_in(line: &str, key: &PublicKey) -> bool {
    let Ok(entry) = line.parse::<Entry>() else { return false };
    entry.config_opts().is_empty() && entry.public_key().key_data() == key.key_data()
}

impl Connection {
    pub(crate) fn new(
        core: Core,
        host: SshEndpoint,
        known: Arc<AtomicBool>,
        place: Place,
        kept: Arc<AtomicUsize>,
    ) -> Self {
        let (open, sessions) = (Arc::default(), JoinSet::new());
        Self { core, host, known, place, who: String::new(), open, kept, sessions }
    }

    /// Notes in the audit log of the container's account what somebody did; before it is done.
    async fn note(&self, what: &str, result: u16, message: &str) {
        note(&self.core, &self.host, &self.place, &self.who, what, result, message).await;
    }

    async fn judge(&self, user: &str, key: &PublicKey) -> Auth {
        if user != "root" {
            return Auth::reject();
        }
        match self.core.ssh_authorized(&self.host).await {
            Ok(lines) if lines.iter().any(|line| lets_in(line, key)) => Auth::Accept,
            Ok(_) => Auth::reject(),
            Err(error) => {
                tracing::warn!(container = self.host.name, error = error.chain(), "who may log in could not be read");
                Auth::reject()
            }
        }
    }
}

pub(crate) async fn note(
    core: &Core,
    host: &SshEndpoint,
    place: &Place,
    who: &str,
    what: &str,
    result: u16,
    message: &str,
) {
    let change = berth_core::Change {
        // Whoever's key was refused is nobody's caller, but it is this account's container.
        caller: Some(host.caller()),
        who: Some(who.to_owned()),
        source: place.from.to_canonical().to_string(),
        dialect: "ssh",
        action: format!("{what} {}", host.name),
        result,
        message: message.to_owned(),
        request_id: String::new(),
    };
    if let Err(error) = core.identity().audit_note(change).await {
        tracing::error!(error = error.chain(), "an SSH login could not be noted in the audit log");
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, russh::Error> {
        Ok(self.judge(user, offer.public_key).await)
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        let judged = self.judge(user, key.public_key).await;
        self.who = format!("ssh {}", key.public_key.fingerprint(russh::keys::HashAlg::Sha256));
        if !matches!(judged, Auth::Accept) {
            self.note("login", 401, "no line of root's authorized_keys lets this key in").await;
            return Ok(judged);
        }
        if !self.place.know() {
            self.note("login", 503, "too many connections").await;
            return Ok(Auth::reject());
        }
        self.known.store(true, Ordering::SeqCst);
        self.note("login", 200, "").await;
        Ok(judged)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        while self.sessions.try_join_next().is_some() {}
        if self.open.fetch_add(1, Ordering::SeqCst) >= SESSIONS {
            self.open.fetch_sub(1, Ordering::SeqCst);
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        reply.accept().await;
        let (core, host, handle, open) = (self.core.clone(), self.host.clone(), session.handle(), self.open.clone());
        let (kept, noting) = (self.kept.clone(), (self.place.clone(), self.who.clone()));
        self.sessions.spawn(async move {
            session::serve(core, host, noting, kept, channel, handle).await;
            open.fetch_sub(1, Ordering::SeqCst);
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use russh::keys::PublicKey;

    use super::lets_in;

    #[test]
    fn only_plain_lines_with_the_key_let_it_in() {
        const LINE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
        let key = PublicKey::from_openssh(LINE).expect("key");
        assert!(lets_in(LINE, &key) && lets_in(&format!("{LINE} a comment"), &key));
        assert!(!lets_in(&format!("command=\"date\" {LINE}"), &key));
        assert!(!lets_in(&format!("# {LINE}"), &key) && !lets_in("", &key) && !lets_in("ssh-ed25519 AAAA", &key));
        let other = LINE.replace("AABAgMEBQ", "AAFAgMEBQ");
        assert!(!lets_in(&other, &key));
    }
}
