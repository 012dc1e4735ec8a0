//! TLS towards an HTTP service: what rustls is told.
//!
//! **Owns:** the choice of authorities, the client's own certificate, doing without verification.
//! **Does not own:** sockets and HTTP (whoever asks), reading files (`files`).
//! **Invariant:** the name of the host is verified unless nothing is.
//!
//! Source: RFC 9110 section 4.3.4; RFC 7301 for the protocol's name.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;

use super::error::TlsError;
use super::verify::ServerCheck;
use super::{files, suites};

/// What is set for one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpsOptions {
    /// Authorities, PEM; none = those of the operating system.
    pub ca: Option<PathBuf>,
    /// The certificate to show, PEM.
    pub certificate: Option<PathBuf>,
    /// Its key, PEM; none = it is in the file of the certificate.
    pub private_key: Option<PathBuf>,
    /// Any certificate will do.
    pub is_unverified: bool,
}

/// Makes the configuration of a client. Blocks on file IO.
///
/// # Errors
///
/// The first file that cannot be used.
pub fn https(options: &HttpsOptions) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(suites::provider());
    let named = options.ca.as_deref();
    // A file that is named and cannot be read is a mistake, verified or not.
    let authorities = named.map(|file| files::authorities("ca_cert", file));
    let authorities = authorities.transpose()?;
    let check = if options.is_unverified {
        ServerCheck::none(&provider)
    } else {
        let authorities = match authorities {
            Some(authorities) => authorities,
            None => (files::system_authorities("ca_cert")?, Vec::new()),
        };
        ServerCheck::new(&provider, authorities, true)
            .map_err(|reason| TlsError::new("ca_cert", named, reason))?
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::new("tls", None, error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(check));
    let mut config = match &options.certificate {
        Some(certificate) => {
            let name = "client_cert";
            let chain = files::certificates(name, certificate)?;
            let key = options.private_key.as_ref().unwrap_or(certificate);
            let private = files::private_key("client_key", key)?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| TlsError::new(name, Some(certificate), error))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
