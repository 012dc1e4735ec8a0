//! Keys and certificates in files.
//!
//! **Owns:** reading PEM, and saying what is wrong with a file.
//! **Does not own:** what they are used for (`material`).
//!
//! Source: RFC 7468; RFC 8017 (PKCS#1), RFC 5958 (PKCS#8), RFC 5915 (SEC1) for keys.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::error::TlsError;

fn read(key: &str, file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file)
        .map_err(|error| TlsError::new(key, Some(file), format!("cannot read the file: {error}")))
}

/// All certificates of a file, in its order.
pub(super) fn certificates(
    key: &str,
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(key, file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(TlsError::new(key, Some(file), "no certificate in the file")),
        Err(error) => Err(TlsError::new(key, Some(file), error)),
    }
}

/// The first private key of a file.
pub(super) fn private_key(key: &str, file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(key, file)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let is_encrypted = [&b"ENCRYPTED PRIVATE KEY"[..], b"Proc-Type: 4,ENCRYPTED"]
            .iter()
            .any(|mark| memchr::memmem::find(&text, mark).is_some());
        let reason = match error {
            _ if is_encrypted => {
                "the key has a passphrase; remove it, for example with openssl pkey".to_owned()
            }
            pem::Error::NoItemsFound => "no private key in the file".to_owned(),
            other => other.to_string(),
        };
        TlsError::new(key, Some(file), reason)
    })
}

/// The authorities of a file, also as they are.
pub(super) fn authorities(
    key: &str,
    file: &Path,
) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), TlsError> {
    let found = certificates(key, file)?;
    let mut store = RootCertStore::empty();
    for certificate in &found {
        store
            .add(certificate.clone())
            .map_err(|error| TlsError::new(key, Some(file), error))?;
    }
    Ok((store, found))
}

/// The authorities of the operating system.
pub(super) fn system_authorities(key: &str) -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let reason = match found.errors.first() {
            Some(error) => format!("no authorities of the operating system: {error}"),
            None => "the operating system has no authorities; set a file".to_owned(),
        };
        return Err(TlsError::new(key, None, reason));
    }
    Ok(store)
}
