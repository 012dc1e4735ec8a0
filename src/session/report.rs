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

/// A text that may hold words of a client, for the log: it cannot begin a line of its own there, nor
/// speak to a terminal.
pub fn one_line(text: &str) -> Cow<'_, str> {
    let is_odd = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    if !text.contains(is_odd) {
        return text.into();
    }
    let escape = |c: char| {
        if is_odd(c) {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(escape).collect::<String>().into()
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_sends_stays_one_line() {
        assert_eq!(one_line("plain “text”"), "plain “text”");
        let forged = "x\r\n2026 INFO FAKE \u{1b}[31m\u{85}\u{2028}\0";
        assert_eq!(
            one_line(forged),
            "x\\r\\n2026 INFO FAKE \\u{1b}[31m\\u{85}\\u{2028}\\u{0}"
        );
    }
}
