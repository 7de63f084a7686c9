//! The listener with TLS. A certificate that is renewed is taken up without a restart.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::settings::Https;

/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes under way at a time.
const AT_ONCE: usize = 1024;
/// The files are looked at so often.
const LOOK: Duration = Duration::from_secs(30);

/// The certificate in the files, as they are or were. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Certificate(Arc<Mutex<Loaded>>);

#[derive(Debug)]
struct Loaded {
    settings: Https,
    certified: Arc<CertifiedKey>,
    /// When the file was changed, as far as that is known.
    of: Option<SystemTime>,
    looked: Instant,
}

impl Loaded {
    fn of(settings: &Https) -> Result<Self, String> {
        let of = changed(&settings.certificate);
        Ok(Self { settings: settings.clone(), certified: load(settings)?, of, looked: Instant::now() })
    }
}

impl Certificate {
    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the certificate that these settings name for new connections; the one before stays if it can't be read.
    pub(crate) fn reload(&self, settings: &Https) -> Result<(), String> {
        let fresh = Loaded::of(settings)?;
        *self.loaded() = fresh;
        Ok(())
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

/// The certificate and key of the settings, which belong together.
pub(crate) fn load(settings: &Https) -> Result<Arc<CertifiedKey>, String> {
    let (certificate, key) = (&settings.certificate, &settings.key);
    let named = |path: &Path, e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect).map_err(|e| named(certificate, &e))?;
    if chain.is_empty() {
        return Err(named(certificate, &"no certificate in it"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| named(key, &e))?;
    let signing = rustls::crypto::ring::sign::any_supported_type(&private).map_err(|e| named(key, &e))?;
    let certified = CertifiedKey::new(chain, signing);
    certified.keys_match().map_err(|e| format!("{} and {}: {e}", certificate.display(), key.display()))?;
    Ok(Arc::new(certified))
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut now = self.loaded();
        if now.looked.elapsed() > LOOK {
            now.looked = Instant::now();
            if changed(&now.settings.certificate) != now.of {
                match Loaded::of(&now.settings) {
                    Ok(fresh) => {
                        tracing::info!("the certificate was renewed");
                        *now = fresh;
                    }
                    // Half written, perhaps: the one before is better than none.
                    Err(error) => tracing::warn!(error, "the certificate has changed and can't be read"),
                }
            }
        }
        Some(now.certified.clone())
    }
}

/// A listener whose connections have shaken hands.
pub(crate) struct Listener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
    certificate: Certificate,
}

impl Listener {
    /// The listener of the settings; none if they name no address.
    pub(crate) async fn open(settings: &Https) -> Result<Option<Self>, String> {
        if settings.listen.is_empty() {
            return Ok(None);
        }
        let socket = TcpListener::bind(&settings.listen).await;
        let socket = socket.map_err(|e| format!("https.listen {}: {e}", settings.listen))?;
        let address = socket.local_addr().map_err(|e| e.to_string())?;
        let certificate = Certificate(Arc::new(Mutex::new(Loaded::of(settings)?)));
        let mut config =
            rustls::ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(certificate.clone()));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (send, ready) = mpsc::channel(64);
        let mut shaking: std::collections::VecDeque<tokio::task::AbortHandle> = std::collections::VecDeque::new();
        tokio::spawn(async move {
            // Ends with whoever receives.
            while !send.is_closed() {
                let accepted = tokio::select! {
                    accepted = socket.accept() => accepted,
                    () = send.closed() => return,
                };
                let (stream, from) = match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::debug!(%error, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                };
                let _ = stream.set_nodelay(true);
                let (acceptor, send) = (acceptor.clone(), send.clone());
                // Whoever dawdles longest makes room.
                shaking.retain(|hands| !hands.is_finished());
                if shaking.len() >= AT_ONCE
                    && let Some(oldest) = shaking.pop_front()
                {
                    oldest.abort();
                }
                let hands = tokio::spawn(async move {
                    // A client that dawdles holds up nobody else.
                    if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        let _ = send.send((stream, from)).await;
                    }
                });
                shaking.push_back(hands.abort_handle());
            }
        });
        Ok(Some(Self { ready, address, certificate }))
    }

    /// What it shows to clients.
    pub(crate) fn certificate(&self) -> Certificate {
        self.certificate.clone()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl axum::serve::Listener for Listener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(ready) => ready,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}
