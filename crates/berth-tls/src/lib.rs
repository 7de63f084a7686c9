//! HTTP clients whose certificate authorities are loaded at the first TLS handshake: those of the host, or, where it has none (a
//! minimal installation without `ca-certificates`), a bundled set (Mozilla's).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

/// How long what was loaded is used; the bundled set less long, so that an installed package is soon seen.
const FRESH: Duration = Duration::from_secs(600);
const FRESH_BUNDLED: Duration = Duration::from_secs(60);

/// How many authorities the host has.
pub fn authorities_of_host() -> usize {
    rustls_native_certs::load_native_certs().certs.len()
}

/// How many authorities are bundled.
pub fn authorities_bundled() -> usize {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS.len()
}

fn roots() -> Arc<RootCertStore> {
    static LOADED: Mutex<Option<(Arc<RootCertStore>, Instant)>> = Mutex::new(None);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((roots, until)) = &*loaded
        && *until > Instant::now()
    {
        return roots.clone();
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let bundled = roots.is_empty();
    if bundled {
        roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
        static TOLD: std::sync::Once = std::sync::Once::new();
        TOLD.call_once(|| tracing::warn!("no certificate authorities on this host: the bundled ones are used"));
    }
    let roots = Arc::new(roots);
    *loaded = Some((roots.clone(), Instant::now() + if bundled { FRESH_BUNDLED } else { FRESH }));
    roots
}

#[derive(Debug)]
struct Late {
    provider: Arc<CryptoProvider>,
    extra: Vec<CertificateDer<'static>>,
}

impl Late {
    fn verifier(&self) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
        let mut all = roots();
        if !self.extra.is_empty() {
            let mut more = RootCertStore::clone(&all);
            for certificate in &self.extra {
                more.add(certificate.clone())?;
            }
            all = Arc::new(more);
        }
        WebPkiServerVerifier::builder_with_provider(all, self.provider.clone())
            .build()
            .map_err(|e| rustls::Error::General(format!("certificate authorities: {e}")))
    }
}

impl ServerCertVerifier for Late {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verifier()?.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A client's builder. Servers are trusted by the host's authorities, or the bundled ones, and `extra` (certificates in DER form).
///
/// # Errors
/// A certificate of `extra` that is none.
pub fn builder(extra: Vec<CertificateDer<'static>>) -> Result<reqwest::ClientBuilder, rustls::Error> {
    let mut check = RootCertStore::empty();
    for certificate in &extra {
        check.add(certificate.clone())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Late { provider, extra }))
        .with_no_client_auth();
    Ok(reqwest::Client::builder().tls_backend_preconfigured(config))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_client_is_made_and_there_are_authorities() {
        super::builder(Vec::new()).expect("a builder").build().expect("a client");
        assert!(super::authorities_bundled() > 50 && !super::roots().is_empty());
        assert!(super::builder(vec![vec![1, 2, 3].into()]).is_err(), "what is no certificate is refused at once");
    }
}
