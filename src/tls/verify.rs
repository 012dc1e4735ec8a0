//! Whether a server is who it should be.
//!
//! **Owns:** the three ways to look at a server's certificate: not at all, its authority, its name too.
//! **Does not own:** which way is wanted (`config`), certificates of clients (rustls does those).
//!
//! Two things that OpenSSL accepts and certificates of database servers often need are accepted beside
//! the strict rules: a certificate that is itself in the file of authorities (self-signed ones are made
//! so), and a host named by the common name of a certificate that has no other names.
//!
//! **Invariant:** the signature of the handshake is verified in each case.
//!
//! Source: PostgreSQL documentation, `libpq-ssl.html` "Client Verification of Server Certificates".

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::x509::Certificate;

/// How a server's certificate is looked at.
#[derive(Debug)]
pub(super) struct ServerCheck {
    /// None: whoever it is.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// The authorities as they are, as far as they come from a file.
    trusted: Vec<CertificateDer<'static>>,
    checks_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCheck {
    /// Accepts any certificate.
    pub(super) fn none(provider: &CryptoProvider) -> Self {
        Self {
            chain: None,
            trusted: Vec::new(),
            checks_name: false,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    /// Accepts certificates of these authorities.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(super) fn new(
        provider: &Arc<CryptoProvider>,
        (store, trusted): (RootCertStore, Vec<CertificateDer<'static>>),
        checks_name: bool,
    ) -> Result<Self, String> {
        let builder =
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider));
        Ok(Self {
            chain: Some(builder.build().map_err(|error| error.to_string())?),
            trusted,
            checks_name,
            algorithms: provider.signature_verification_algorithms,
        })
    }

    /// A certificate that stands in the file of authorities itself.
    fn check_trusted(
        &self,
        end: &CertificateDer<'_>,
        host: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let wrong = |why| Err(Error::InvalidCertificate(why));
        let Some(certificate) = Certificate::parse(end) else {
            return wrong(CertificateError::BadEncoding);
        };
        if certificate.is_out_of_time(now.as_secs()) {
            return wrong(CertificateError::Expired);
        }
        if !self.checks_name || is_common_name(end, host) {
            return Ok(());
        }
        let end = webpki_name(end, host);
        end.map_err(|()| Error::InvalidCertificate(CertificateError::NotValidForName))
    }
}

/// Whether the certificate's other names have `host`.
fn webpki_name(end: &CertificateDer<'_>, host: &ServerName<'_>) -> Result<(), ()> {
    let parsed = rustls::server::ParsedCertificate::try_from(end).map_err(drop)?;
    rustls::client::verify_server_name(&parsed, host).map_err(drop)
}

/// Whether a certificate without other names has `host` as its common name.
fn is_common_name(end: &CertificateDer<'_>, host: &ServerName<'_>) -> bool {
    let Some(certificate) = Certificate::parse(end).filter(|one| !one.has_alt_names) else {
        return false;
    };
    let Some(name) = certificate.common_name() else {
        return false;
    };
    let host = host.to_str();
    if let Some(domain) = name.strip_prefix("*.") {
        // The star stands for one label.
        return host
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(domain));
    }
    name.eq_ignore_ascii_case(&host)
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        if self.trusted.iter().any(|trusted| trusted == end) {
            self.check_trusted(end, host, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        match chain.verify_server_cert(end, intermediates, host, ocsp, now) {
            // The chain has been found good before the name is looked at.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.checks_name || is_common_name(end, host) => {
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
