//! HTTP clients whose certificate authorities are loaded at the first TLS handshake: those of the host, or, where it has none (a
//! minimal installation without `ca-certificates`), a bundled set (Mozilla's).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

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
        let found = self.verifier()?.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match found {
            // A certificate that signs itself (`openssl req -x509`) is named as a server's and as an authority's, which the check of
            // chains refuses. Its validity was looked at before that.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_) | CertificateError::UnknownIssuer))
                if self.extra.iter().any(|own| own.as_ref() == end_entity.as_ref()) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            found => found,
        }
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

/// How servers are trusted: by the host's authorities, or the bundled ones, and `extra` (certificates in DER form).
///
/// # Errors
/// A certificate of `extra` that is none.
pub fn config(extra: Vec<CertificateDer<'static>>) -> Result<rustls::ClientConfig, rustls::Error> {
    let mut check = RootCertStore::empty();
    for certificate in &extra {
        check.add(certificate.clone())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Late { provider, extra }))
        .with_no_client_auth())
}

/// The TLS error that an error came of.
fn cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // Its source is that of what it wraps, which is passed over so.
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && let Some(wrapped) = io.get_ref()
            && let Some(found) = cause(wrapped)
        {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// What was wrong with a server's certificate, or its TLS, and what to do about it; `None` for other errors.
pub fn explain(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    use rustls::{AlertDescription, InvalidMessage};
    Some(match cause(error)? {
        rustls::Error::InvalidCertificate(wrong) => match wrong {
            CertificateError::UnknownIssuer | CertificateError::Other(_) => {
                "its certificate is signed by nobody whom this machine trusts; if it is your own, name it or its authority with \
                 --cacert FILE"
                    .into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => format!(
                "{wrong}; reach the server by a name that is in its certificate, or have one made with this name (openssl req \
                 -x509 … -addext subjectAltName=DNS:NAME,IP:ADDRESS)"
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                format!("its certificate has expired ({wrong}): it has to be renewed, or this machine's clock is wrong")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                format!("its certificate is not valid yet ({wrong}): this machine's clock or the server's is wrong")
            }
            other => format!("its certificate is not good: {other}"),
        },
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS at this port: try http://".into()
        }
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "it speaks no version of TLS that is good enough (1.2 or 1.3)".into()
        }
        other => format!("TLS failed: {other}"),
    })
}

/// A client's builder. Servers are trusted by the host's authorities, or the bundled ones, and `extra` (certificates in DER form).
///
/// # Errors
/// A certificate of `extra` that is none.
pub fn builder(extra: Vec<CertificateDer<'static>>) -> Result<reqwest::ClientBuilder, rustls::Error> {
    Ok(reqwest::Client::builder().tls_backend_preconfigured(config(extra)?))
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
