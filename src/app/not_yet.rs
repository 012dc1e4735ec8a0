//! Settings that are accepted and have no effect in this version.
//!
//! **Owns:** the list, so that nobody relies on one of them without being told.
//! **Does not own:** the keys themselves (`config`).

use crate::config::Config;

/// A sentence for each setting of `config` that does nothing yet.
pub fn warnings(config: &Config) -> Vec<&'static str> {
    let facts = [(
        !cfg!(feature = "pam")
            && config
                .pools
                .iter()
                .flat_map(|pool| &pool.users)
                .any(|user| user.auth_pam_service.is_some()),
        "auth_pam_service: this program was built without PAM: such users cannot log in",
    )];
    facts
        .iter()
        .filter(|(applies, _)| *applies)
        .map(|(_, sentence)| *sentence)
        .collect()
}
