//! Makes a configuration ready for proving: what recognises passwords in clear, and whether keys of
//! tokens can be used.
//!
//! **Owns:** the secret from which salts of the process are made, what was derived before.
//! **Does not own:** reading files (`config`), the proofs (`session::proofs`).
//! **Invariants:** a password in clear is derived once, not at each login; its salt is the one that
//! the user would get if he did not exist, so it stays the same, and a salt tells nobody who exists.
//!
//! Blocks for a millisecond a password: to be called at start and from the control thread.

use std::collections::HashMap;

use rand::Rng as _;

use crate::auth::jwt::{KeyError, SigningKey, TokenKeys};
use crate::auth::scram::{MOCK_ITERATIONS, ScramServer};
use crate::auth::talos::Talos;
use crate::auth::{ScramVerifier, StoredPassword, derive_keys};
use crate::config::{Config, ConfigError, Secret, UserConfig};

/// Passwords of the configuration before, by pool and user, and what was made of them.
type Known = HashMap<(String, String), (Secret, Secret)>;

/// Makes configurations ready.
pub struct Prover {
    secret: [u8; 32],
    known: Known,
}

impl std::fmt::Debug for Prover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Prover(..)")
    }
}

impl Prover {
    /// With a fresh secret.
    #[expect(clippy::new_without_default, reason = "each one differs")]
    pub fn new() -> Self {
        Self {
            secret: rand::rng().random(),
            known: HashMap::new(),
        }
    }

    /// The secret from which salts are made.
    pub const fn secret(&self) -> [u8; 32] {
        self.secret
    }

    /// Derives what recognises the passwords in clear, and checks keys.
    ///
    /// # Errors
    ///
    /// The first key that cannot be used.
    pub fn prepare(&mut self, config: &mut Config) -> Result<(), ConfigError> {
        let file = config.path.clone();
        let refuse = |key: String, what: &str, error: &KeyError| ConfigError {
            file: file.clone(),
            key,
            reason: format!("{what} key error: {error}"),
        };
        if let Some(talos) = &config.talos {
            Talos::configured(talos)
                .map_err(|error| refuse("talos.keys".to_owned(), "JWT public", &error))?;
        }
        let mut known = Known::new();
        self.derive_admin(config, &mut known);
        for pool in &mut config.pools {
            for (index, user) in pool.users.iter_mut().enumerate() {
                let at = |key| format!("pools.{}.users[{index}].{key}", pool.name);
                if let Some(keys) = &user.token_keys {
                    TokenKeys::parse(keys.expose())
                        .map_err(|error| refuse(at("password"), "JWT public", &error))?;
                }
                if let Some(key) = &user.signing_key {
                    SigningKey::parse(key.expose())
                        .map_err(|error| refuse(at("server_password"), "JWT private", &error))?;
                }
                self.derive(&pool.name, user, &mut known);
            }
        }
        self.known = known;
        Ok(())
    }

    fn derive(&self, pool: &str, user: &mut UserConfig, known: &mut Known) {
        let stored = StoredPassword::parse(user.password.expose());
        // Whom PAM knows may have anything there.
        if user.auth_pam_service.is_some() || !matches!(stored, StoredPassword::Other(_)) {
            return;
        }
        let name = (pool.to_owned(), user.username.clone());
        let verifier = match self.known.get(&name) {
            Some((password, verifier)) if *password == user.password => Some(verifier.clone()),
            _ => self.verifier(&user.username, user.password.expose()),
        };
        if let Some(verifier) = &verifier {
            known.insert(name, (user.password.clone(), verifier.clone()));
        }
        user.verifier = verifier;
    }

    /// The console's user, who may be asked by SCRAM.
    fn derive_admin(&self, config: &mut Config, known: &mut Known) {
        let general = &mut config.general;
        // No pool has this name.
        let name = (String::new(), general.admin_username.clone());
        let verifier = match self.known.get(&name) {
            Some((password, verifier)) if *password == general.admin_password => {
                Some(verifier.clone())
            }
            _ => self.verifier(&name.1, general.admin_password.expose()),
        };
        if let Some(verifier) = &verifier {
            known.insert(name, (general.admin_password.clone(), verifier.clone()));
        }
        general.admin_verifier = verifier;
    }

    fn verifier(&self, user: &str, password: &str) -> Option<Secret> {
        let salt = ScramServer::mock_salt(user, &self.secret);
        let keys = derive_keys(password, &salt, MOCK_ITERATIONS).ok()?;
        let verifier = ScramVerifier::from_keys(&keys, &salt, MOCK_ITERATIONS).ok()?;
        Some(Secret::new(verifier.to_secret_text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn config(password: &str, more: &str) -> Config {
        let file = std::env::temp_dir().join(format!(
            "doorman-prover-{}-{password}.toml",
            std::process::id()
        ));
        let text = format!(
            "[general]\nadmin_username = 'a'\nadmin_password = 'b'\n[pools.db]\n\
             [[pools.db.users]]\nusername = 'u'\npassword = '{password}'\npool_size = 1\n{more}"
        );
        std::fs::write(&file, text).unwrap();
        let loaded = config::load(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        loaded.config
    }

    fn prepared(prover: &mut Prover, mut config: Config) -> Option<Secret> {
        prover.prepare(&mut config).unwrap();
        config.pools[0].users[0].verifier.clone()
    }

    #[test]
    fn a_password_in_clear_is_derived_once() {
        let mut prover = Prover::new();
        let first = prepared(&mut prover, config("pencil", "")).unwrap();
        let verifier = ScramVerifier::parse(first.expose()).unwrap();
        let keys = derive_keys("pencil", verifier.salt(), verifier.iterations()).unwrap();
        assert!(verifier.is_made_from(&keys));
        assert_eq!(
            prepared(&mut prover, config("pencil", "")),
            Some(first.clone())
        );
        let other = prepared(&mut prover, config("pen", "")).unwrap();
        assert_ne!(other, first);
        assert_eq!(
            ScramVerifier::parse(other.expose()).unwrap().salt(),
            verifier.salt()
        );
    }

    #[test]
    fn what_is_no_password_in_clear_stays_as_it_is() {
        let mut prover = Prover::new();
        assert_eq!(prepared(&mut prover, config("", "")), None);
        let md5 = "md58bbf3f45673bf67d02e4214911f3417f";
        assert_eq!(prepared(&mut prover, config(md5, "")), None);
        let pam = config("unused", "auth_pam_service = 'x'");
        assert_eq!(prepared(&mut prover, pam), None);
    }
}
