//! Where the proof for a server comes from.
//!
//! **Owns:** the sources, and what a pool has learned from its clients.
//! **Does not own:** the exchange with the server (`handshake`), work that blocks (`chores`).
//! **Invariants:** secrets are wiped from memory when nobody needs them any more; no `Debug` shows
//! one.
//!
//! ```text
//!   Password ───────────────────────────────▶ ┐
//!   Md5, Learned: what clients have, too ───▶ │ Credentials of one login
//!   Signed ──errand: a fresh token──────────▶ │
//!   Command ──errand: asked, or remembered──▶ ┘
//! ```
//!
//! Source: RFC 5802, section 3 (what `ClientKey` is worth).

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use crate::auth::{Md5Secret, ScramKeys, ScramVerifier};
use crate::config::{Endpoint, PasswordCommand, Secret};

use super::chores::{Chore, Done};
use super::errands::Errands;
use super::error::ServerError;
use super::handshake::{Credentials, Proof};

/// Where the proof comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A command prints the password.
    Command {
        /// The command.
        command: Arc<PasswordCommand>,
        /// What it has printed was refused: ask again.
        is_stale: Rc<Cell<bool>>,
    },
    /// The keys that clients of the pool have proved to have.
    Learned(Rc<Learned>),
    /// The md5 form that is stored for the user.
    Md5(Md5Secret),
    /// Nothing: the server must not ask.
    None,
    /// A password in clear.
    Password(Secret),
    /// Tokens, signed with this key (PEM).
    Signed(Arc<Secret>),
}

/// What a client's proof has revealed: good for servers that store the same secret.
#[derive(Clone, PartialEq, Eq)]
pub struct LearnedKeys {
    /// The keys.
    pub keys: ScramKeys,
    /// The secret that they fit.
    pub verifier: ScramVerifier,
}

impl fmt::Debug for LearnedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LearnedKeys(..)")
    }
}

/// The keys of a pool, once a client has logged in.
#[derive(Debug, Default)]
pub struct Learned(RefCell<Option<LearnedKeys>>);

impl Learned {
    /// Takes keys; true if they are news.
    pub fn learn(&self, keys: LearnedKeys) -> bool {
        let mut known = self.0.borrow_mut();
        let is_known = known
            .as_ref()
            .is_some_and(|known| known.verifier == keys.verifier);
        if !is_known {
            *known = Some(keys);
        }
        !is_known
    }

    /// The keys, if known.
    pub fn get(&self) -> Option<LearnedKeys> {
        self.0.borrow().clone()
    }
}

impl Source {
    /// A command.
    pub fn command(command: PasswordCommand) -> Self {
        Self::Command {
            command: Arc::new(command),
            is_stale: Rc::default(),
        }
    }

    /// What a login of `user` needs. Only sources that have to be asked take time.
    ///
    /// # Errors
    ///
    /// The source has failed.
    pub async fn prepare(
        &self,
        user: &str,
        (database, endpoint): (&str, &Endpoint),
        errands: &dyn Errands,
    ) -> Result<Credentials, ServerError> {
        let proof = match self {
            Self::None => Proof::None,
            Self::Password(password) => Proof::Password(password.clone()),
            Self::Md5(secret) => Proof::Md5(secret.clone()),
            Self::Learned(learned) => learned.get().map_or(Proof::Pending, Proof::Keys),
            Self::Signed(key) => {
                let chore = Chore::SignToken {
                    key: Arc::clone(key),
                    user: user.to_owned(),
                };
                Proof::Token(run(errands, chore, "signing a token").await?)
            }
            Self::Command { command, is_stale } => {
                let (host, port) = match endpoint {
                    Endpoint::Tcp { host, port } => (host.clone(), *port),
                    Endpoint::Unix { path } => (path.display().to_string(), 0),
                };
                let chore = Chore::RunCommand {
                    command: Arc::clone(command),
                    environment: vec![
                        ("PGHOST", host),
                        ("PGPORT", port.to_string()),
                        ("PGUSER", user.to_owned()),
                        ("PGDATABASE", database.to_owned()),
                    ],
                    is_stale: is_stale.replace(false),
                };
                Proof::Password(run(errands, chore, "server_password_command").await?)
            }
        };
        Ok(Credentials {
            user: user.to_owned(),
            proof,
        })
    }

    /// The server has answered a login with `error`.
    pub fn failed(&self, error: &ServerError) {
        if let (Self::Command { is_stale, .. }, ServerError::Refused { sqlstate, .. }) =
            (self, error)
            && sqlstate.starts_with("28")
        {
            is_stale.set(true);
        }
    }
}

async fn run(errands: &dyn Errands, chore: Chore, what: &str) -> Result<Secret, ServerError> {
    match errands.chore(chore).await {
        Ok(Done::Secret(secret)) => Ok(secret),
        Ok(_) => Err(ServerError::Authentication(format!("{what}: no answer"))),
        Err(error) => Err(ServerError::Authentication(format!("{what}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::derive_keys;

    fn keys(password: &str) -> LearnedKeys {
        let keys = derive_keys(password, b"salt", 1).unwrap();
        let verifier = ScramVerifier::from_keys(&keys, b"salt", 1).unwrap();
        LearnedKeys { keys, verifier }
    }

    #[test]
    fn keys_are_news_once() {
        let learned = Learned::default();
        assert!(learned.get().is_none());
        assert!(learned.learn(keys("a")));
        assert!(!learned.learn(keys("a")));
        assert!(learned.learn(keys("b")));
        assert_eq!(learned.get(), Some(keys("b")));
    }

    #[test]
    fn only_a_refused_login_makes_a_password_stale() {
        let source = Source::command(PasswordCommand {
            text: "true".to_owned(),
            timeout: std::time::Duration::from_secs(1),
            ttl: std::time::Duration::from_secs(1),
        });
        let Source::Command { is_stale, .. } = &source else {
            panic!("{source:?}");
        };
        let refused = |sqlstate: &str| ServerError::Refused {
            sqlstate: sqlstate.to_owned(),
            message: String::new(),
        };
        source.failed(&ServerError::Closed);
        source.failed(&refused("53300"));
        assert!(!is_stale.get());
        source.failed(&refused("28P01"));
        assert!(is_stale.get());
    }

    #[test]
    fn nothing_secret_is_printed() {
        let learned = Rc::new(Learned::default());
        learned.learn(keys("a"));
        let key = Arc::new(Secret::new("pem"));
        for source in [
            Source::Learned(learned),
            Source::Password(Secret::new("pem")),
            Source::Signed(key),
        ] {
            assert!(!format!("{source:?}").contains("pem"), "{source:?}");
        }
    }
}
