//! Versions and cipher suites by name.
//!
//! **Owns:** the table of names.
//! **Does not own:** which are chosen (`config`).
//!
//! Source: RFC 8446 appendix B.4, RFC 5289, RFC 7905; `ciphers(1)` of OpenSSL for the other names.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite as suite, default_provider};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion, version};

use crate::config::{TlsProtocol, TlsVersion};

/// Names of the RFCs, names of OpenSSL, and what they mean.
const SUITES: &[(&str, &str, SupportedCipherSuite)] = &[
    (
        "TLS_AES_128_GCM_SHA256",
        "TLS13_AES_128_GCM_SHA256",
        suite::TLS13_AES_128_GCM_SHA256,
    ),
    (
        "TLS_AES_256_GCM_SHA384",
        "TLS13_AES_256_GCM_SHA384",
        suite::TLS13_AES_256_GCM_SHA384,
    ),
    (
        "TLS_CHACHA20_POLY1305_SHA256",
        "TLS13_CHACHA20_POLY1305_SHA256",
        suite::TLS13_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        "ECDHE-RSA-CHACHA20-POLY1305",
        suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// The provider of all cryptography, with all suites.
pub(super) fn provider() -> CryptoProvider {
    default_provider()
}

/// The provider with the suites of `protocol` only.
///
/// # Errors
///
/// The first name that is not known, or that no suite fits the versions.
pub(super) fn provider_of(protocol: &TlsProtocol) -> Result<Arc<CryptoProvider>, String> {
    let mut provider = provider();
    if !protocol.ciphers.is_empty() {
        provider.cipher_suites = protocol
            .ciphers
            .iter()
            .map(|name| by_name(name))
            .collect::<Result<_, _>>()?;
    }
    let versions = versions(protocol);
    let fits = |suite: &SupportedCipherSuite| versions.contains(&suite.version());
    if !provider.cipher_suites.iter().any(fits) {
        return Err("none of these suites belongs to a version that is allowed".to_owned());
    }
    Ok(Arc::new(provider))
}

fn by_name(name: &str) -> Result<SupportedCipherSuite, String> {
    let found = SUITES
        .iter()
        .find(|(rfc, other, _)| name.eq_ignore_ascii_case(rfc) || name.eq_ignore_ascii_case(other));
    found.map(|(_, _, suite)| *suite).ok_or_else(|| {
        let known: Vec<_> = SUITES.iter().map(|(name, _, _)| *name).collect();
        format!(
            "unknown cipher suite {name}; known are {}",
            known.join(", ")
        )
    })
}

/// The versions of `protocol`.
pub(super) fn versions(protocol: &TlsProtocol) -> Vec<&'static SupportedProtocolVersion> {
    [
        (TlsVersion::V1_2, &version::TLS12),
        (TlsVersion::V1_3, &version::TLS13),
    ]
    .into_iter()
    .filter(|(version, _)| (protocol.min..=protocol.max).contains(version))
    .map(|(_, version)| version)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocol(names: &[&str], max: TlsVersion) -> TlsProtocol {
        TlsProtocol {
            min: TlsVersion::V1_2,
            max,
            ciphers: names.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn suites_are_known_by_either_name_and_keep_their_order() {
        let names = ["ecdhe-rsa-aes256-gcm-sha384", "TLS_AES_128_GCM_SHA256"];
        let provider = provider_of(&protocol(&names, TlsVersion::V1_3)).unwrap();
        let suites: Vec<_> = provider
            .cipher_suites
            .iter()
            .map(SupportedCipherSuite::suite)
            .collect();
        let expected = [
            rustls::CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            rustls::CipherSuite::TLS13_AES_128_GCM_SHA256,
        ];
        assert_eq!(suites, expected);
    }

    #[test]
    fn unknown_names_and_suites_of_a_forbidden_version_are_refused() {
        let wrong = provider_of(&protocol(&["RC4-MD5"], TlsVersion::V1_3));
        assert!(wrong.unwrap_err().contains("RC4-MD5"));
        let none = provider_of(&protocol(&["TLS_AES_128_GCM_SHA256"], TlsVersion::V1_2));
        assert!(none.is_err());
        assert!(provider_of(&protocol(&[], TlsVersion::V1_2)).is_ok());
    }
}
