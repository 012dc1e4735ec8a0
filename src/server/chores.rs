//! Work that is done beside the shards because it computes long, blocks, or is somebody else's.
//!
//! **Owns:** what can be asked for, and the answers.
//! **Does not own:** who does it (`app::chores`).
//! **Invariant:** no `Debug` shows a secret.

use std::sync::Arc;

use crate::auth::ScramVerifier;
use crate::config::{PasswordCommand, Secret};

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Chore {
    /// Ask PAM.
    CheckPam {
        /// The service.
        service: String,
        /// The user.
        user: String,
        /// The password.
        password: Secret,
        /// Where the client is, for the logs of modules.
        from: String,
    },
    /// Compare a password with a stored secret.
    CheckPassword {
        /// The password.
        password: Secret,
        /// What is stored.
        verifier: ScramVerifier,
    },
    /// Have a command print a password.
    RunCommand {
        /// The command.
        command: Arc<PasswordCommand>,
        /// Names and values.
        environment: Vec<(&'static str, String)>,
        /// What it has printed before is not good any more.
        is_stale: bool,
    },
    /// Sign a token that says that its bearer is `user`.
    SignToken {
        /// The private key, PEM.
        key: Arc<Secret>,
        /// The user.
        user: String,
    },
    /// Look up the name of a user of the operating system.
    SystemUser(u32),
}

/// A user of a database that is not in the file.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The database.
    pub database: String,
    /// The user.
    pub user: String,
    /// What was found; none for a user of every database who wants this one.
    pub stored: Option<Secret>,
    /// There is no such user any more.
    pub is_gone: bool,
}

impl Guest {
    /// Somebody who was found.
    pub fn found(database: &str, user: &str, stored: Option<Secret>) -> Self {
        Self {
            database: database.to_owned(),
            user: user.to_owned(),
            stored,
            is_gone: false,
        }
    }

    /// Somebody who has gone.
    pub fn gone(database: &str, user: &str) -> Self {
        Self {
            is_gone: true,
            ..Self::found(database, user, None)
        }
    }
}

/// What has come of it.
#[derive(Clone, Debug)]
pub enum Done {
    /// Whether the password is right.
    Allowed(bool),
    /// A name, if there is one.
    Name(Option<String>),
    /// A password or a token.
    Secret(Secret),
}
