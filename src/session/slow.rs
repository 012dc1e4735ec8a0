//! Queries and rows that take long, and parameters that change: the log tells of them.
//!
//! **Owns:** which are told, and in what words.
//! **Does not own:** their times (`card`), what was noted of them (`server::question`).
//!
//! **Invariants**
//! 1. While nothing is to be told, a query costs two comparisons. While something is, its first bytes
//!    are copied to a place that its server has; nothing is allocated unless it was slow.
//! 2. A text with a password in it is not told.

use std::borrow::Cow;

use crate::protocol::framer::Part;
use crate::server::ServerConnection;
use crate::server::question::{Asked, TEXT_BYTES_MAX};

use super::client::Session;

/// As long as no query takes.
pub(super) const NEVER: u64 = u64::MAX;

/// What a chunk has of rows that are not whole in it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CutRow {
    /// One that began earlier ends in it.
    has_ended: bool,
    /// Bytes of the one that does not end in it; 0 = there is none.
    begun_bytes: usize,
}

impl CutRow {
    /// Notes a part of a row.
    pub(super) const fn note(&mut self, part: &Part<'_>) {
        self.has_ended |= part.is_last && !part.is_first;
        self.begun_bytes = if part.is_last { 0 } else { part.len };
    }
}

impl Session {
    fn slow_us(&self) -> u64 {
        self.shard.directory.borrow().slow_us
    }

    /// Notes rows that did not come in one piece; so many bytes of the last are to come.
    pub(super) fn note_row(&self, row: CutRow, left: u32) {
        if row.has_ended {
            self.card.note_row(false);
        }
        if row.begun_bytes == 0 || self.card.times().row > 0 {
            return;
        }
        let directory = self.shard.directory.borrow();
        let limit = directory.config.general.message_size_to_be_stream;
        if limit > 0 && row.begun_bytes as u64 + u64::from(left) > limit {
            self.card.note_row(true);
        }
    }

    /// A parameter has changed while the client was served, if that is to be told.
    pub(super) fn tell_parameter(&self, name: &str, value: &str) {
        if !self.pool.settings.tells_parameters {
            return;
        }
        let key = &self.pool.key;
        let value = value.escape_debug();
        tracing::info!(pool = %key.database, user = %key.user, client = %self.peer_text(),
            "parameter {name} is now \"{value}\"");
    }

    /// Notes what the messages in `chunk` ask, if they begin a query.
    pub(super) fn note_question(&self, server: &ServerConnection, chunk: &[u8]) {
        if self.slow_us() != NEVER && !self.card.has_query() && self.framer.is_at_boundary() {
            server.card.question.borrow_mut().note(chunk);
        }
    }

    /// A query was answered that took so many microseconds.
    pub(super) fn note_time(&mut self, server: &ServerConnection, micros: u64) {
        let limit = self.slow_us();
        if limit == NEVER {
            return;
        }
        let mut question = server.card.question.borrow_mut();
        if micros >= limit {
            self.tell_slow(question.asked(), server.pid(), micros);
        }
        question.forget();
    }

    #[cold]
    fn tell_slow(&mut self, asked: Asked<'_>, pid: i32, micros: u64) {
        let client = self.peer_text();
        let prepared = &mut self.prepared;
        let text = match asked {
            Asked::Unknown => "(behind others in a pipeline)".into(),
            Asked::Text(text, is_cut) => shown(text, is_cut),
            Asked::Statement(name) => match prepared.as_mut().and_then(|known| known.get(name)) {
                Some(statement) => {
                    let text = statement.query();
                    let kept = text.get(..TEXT_BYTES_MAX).unwrap_or(text);
                    shown(kept, kept.len() < text.len())
                }
                None => format!("(prepared statement \"{}\")", name.escape_ascii()).into(),
            },
        };
        let ms = format_args!("{}.{:03}", micros / 1000, micros % 1000);
        tracing::warn!(
            target: "pg_doorman::slow",
            pool = %self.pool.key.database, user = %self.pool.key.user, %client,
            pid, %ms, query = %text, "slow query"
        );
    }

    /// Where the client is, in words.
    pub(super) fn peer_text(&self) -> String {
        let peer = self.card.tally().peer;
        peer.map_or_else(|| "local".to_owned(), |peer| peer.to_string())
    }
}

fn shown(text: &[u8], is_cut: bool) -> Cow<'_, str> {
    let word = b"password";
    if text
        .windows(word.len())
        .any(|part| part.eq_ignore_ascii_case(word))
    {
        return "(not shown: it speaks of a password)".into();
    }
    let text = String::from_utf8_lossy(text);
    if is_cut { text + " …" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_told() {
        assert_eq!(shown(b"select 1", false), "select 1");
        assert_eq!(shown(b"select 1", true), "select 1 …");
        let told = shown(b"alter role a PassWord 'hunter2'", false);
        assert!(!told.contains("hunter2"), "{told}");
        assert_eq!(shown(b"\xff", false), "\u{fffd}");
    }
}
