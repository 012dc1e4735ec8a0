//! Settings that are accepted and have no effect in this version.
//!
//! **Owns:** the list, so that nobody relies on one of them without being told.
//! **Does not own:** the keys themselves (`config`).

use crate::config::{Config, TlsMode};

/// A sentence for each setting of `config` that does nothing yet.
pub fn warnings(config: &Config) -> Vec<&'static str> {
    let general = &config.general;
    let refuses_plain = matches!(general.tls_mode, TlsMode::Require | TlsMode::VerifyFull);
    let facts = [
        (
            general.server_tls,
            "server_tls has no effect yet: connections to servers are NOT encrypted",
        ),
        (
            refuses_plain,
            "TLS is not offered yet, and tls_mode refuses clients without it: nobody can log in",
        ),
        (
            general.tls_certificate.is_some() && !refuses_plain,
            "tls_certificate has no effect yet: clients that ask for TLS are told no",
        ),
        (
            config.talos.is_some(),
            "[talos] has no effect yet: such clients cannot log in",
        ),
        (
            config
                .pools
                .iter()
                .flat_map(|pool| &pool.users)
                .any(|user| {
                    user.auth_pam_service.is_some() || user.password.expose().starts_with("jwt-")
                }),
            "PAM and tokens are not supported yet: such users cannot log in",
        ),
    ];
    facts
        .iter()
        .filter(|(applies, _)| *applies)
        .map(|(_, sentence)| *sentence)
        .collect()
}
