//! What clients are told when something goes wrong.
//!
//! **Owns:** severity, SQLSTATE and text of every error that the pooler itself reports.
//! **Does not own:** errors of the server: they are forwarded as they are.
//!
//! Source: PostgreSQL documentation, `errcodes-appendix.html`.

use std::borrow::Cow;

use crate::protocol::backend::TransactionStatus;
use crate::protocol::sqlstate::SqlState;
use crate::protocol::writer::{self, Report, Severity};

/// An error that ends a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// SQLSTATE.
    pub sqlstate: Cow<'static, str>,
    /// The text.
    pub message: String,
    /// A `ReadyForQuery` follows, as clients of earlier versions expect of this error.
    pub is_followed_by_ready: bool,
}

impl Failure {
    /// An error without a `ReadyForQuery` behind it.
    pub fn new(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self {
            sqlstate: sqlstate.into(),
            message: message.into(),
            is_followed_by_ready: false,
        }
    }

    /// An error with a `ReadyForQuery` behind it.
    pub fn with_ready(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self {
            is_followed_by_ready: true,
            ..Self::new(sqlstate, message)
        }
    }

    /// The bytes for the client.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        writer::error_response(
            &mut out,
            &Report::new(Severity::Fatal, &self.sqlstate, &self.message),
        );
        if self.is_followed_by_ready {
            writer::ready_for_query(&mut out, TransactionStatus::Idle);
        }
        out
    }
}
