//! How sessions end, and what the log tells of it.
//!
//! **Owns:** the reason of an end, the line about it.
//! **Does not own:** ending a session (`client`, `parting`, `kill`).

use std::borrow::Cow;

use crate::protocol::sqlstate::{self, SqlState};

use super::client::Session;
use super::report::Failure;

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The client has closed its connection without a word, or the network has.
    Lost,
    /// The client has said good-bye.
    GoodBye,
    /// The client was told of an error that ends the session.
    Told(SqlState),
}

impl Ending {
    /// The client was told of an error.
    pub(super) const fn told(failure: &Failure) -> Self {
        match failure.sqlstate {
            Cow::Borrowed(sqlstate) => Self::Told(sqlstate),
            // One of PostgreSQL's own, about a setting.
            Cow::Owned(_) => Self::Told(sqlstate::INVALID_PARAMETER_VALUE),
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Lost => "connection closed without a good-bye",
            Self::GoodBye => "good-bye",
            Self::Told(sqlstate::ADMIN_SHUTDOWN) => "closed by an operator or a reload",
            Self::Told(sqlstate::CONNECTION_FAILURE) => "lost its server",
            Self::Told(sqlstate::TOO_MANY_CONNECTIONS) => "got no server",
            Self::Told(sqlstate::OUT_OF_MEMORY) => "memory is short",
            Self::Told(sqlstate::PROTOCOL_VIOLATION) => "protocol violation",
            Self::Told(_) => "error",
        }
    }
}

impl Session {
    /// The session is over: one line, if it is wanted or the end was an error.
    pub(super) fn log_end(&self) {
        // One that goes on elsewhere has not ended.
        if self.slot.is_none() {
            return;
        }
        let (logs, connects) = {
            let directory = self.shard.directory.borrow();
            let general = &directory.config.general;
            (
                general.log_client_disconnections,
                general.log_client_connections,
            )
        };
        let logs = logs || connects;
        let error = match self.ending {
            Ending::Told(sqlstate) => Some(sqlstate),
            Ending::Lost | Ending::GoodBye => None,
        };
        let (reason, key) = (self.ending.text(), &self.pool.key);
        if !logs {
            let Some(sqlstate) = error else { return };
            // As many as there are clients, when a server goes.
            tracing::warn!(client = %self.peer_text(), pool = %key.database, user = %key.user,
                reason, sqlstate, "client disconnected");
            return;
        }
        let age = shards::now().saturating_duration_since(self.card.tally().born);
        let seconds = format_args!("{}.{:03}", age.as_secs(), age.subsec_millis());
        if let Some(sqlstate) = error {
            tracing::warn!(target: "pg_doorman::clients", client = %self.peer_text(),
                pool = %key.database, user = %key.user, reason, sqlstate, %seconds,
                "client disconnected");
        } else {
            tracing::info!(target: "pg_doorman::clients", client = %self.peer_text(),
                pool = %key.database, user = %key.user, reason, %seconds, "client disconnected");
        }
    }
}
