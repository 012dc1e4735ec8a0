//! When PostgreSQL has answered everything that it was sent.
//!
//! Owns: what ends the answer to each message, in each state of the session.
//! Does not own: what the answer says.
//! Invariants: nothing is waited for that does not come, as long as the last message but data of a COPY
//! is Flush, Sync, Query or `FunctionCall`.
//!
//! ```text
//!           error in an extended message             Sync
//!   Normal ────────────────────────────▶ Ignoring ─────────▶ Normal
//!     │ CopyInResponse                      ▲
//!     ▼                  error (extended)   │
//!   CopyIn ─────────────────────────────────┘
//!     │ CommandComplete (extended), ReadyForQuery (simple)
//!     └──────▶ Normal          any request but Flush and Sync: the connection ends
//! ```
//!
//! Source: protocol-flow.html (extended query, COPY operations).

use std::io;

use crate::common::client::{self, Client};
use crate::script::Message;

/// What the session does with the next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Normal,
    /// An extended message has failed: nothing counts up to Sync.
    Ignoring,
    CopyIn {
        is_simple: bool,
    },
    /// The connection has ended.
    Ended,
}

/// How far PostgreSQL is, and what it has said.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) mode: Mode,
    /// Of the last `ReadyForQuery`.
    pub(crate) status: u8,
    /// Data of a COPY behind the last whole line.
    line: String,
}

/// A message from a server.
pub(crate) type Answer = client::Message;

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            mode: Mode::Normal,
            status: b'I',
            line: String::new(),
        }
    }

    /// Reads the answer to `sent`.
    pub(crate) fn read(
        &mut self,
        sent: &Message,
        from: &mut Client,
        answers: &mut Vec<Answer>,
    ) -> io::Result<()> {
        let ends = match (self.mode, sent.tag()) {
            (Mode::Ended, _) => return Ok(()),
            _ if sent.ends() => "",
            (Mode::CopyIn { .. }, b'H' | b'S') => return Ok(()),
            (Mode::CopyIn { is_simple }, tag @ (b'd' | b'c' | b'f')) => {
                if tag == b'd' && !self.is_bad_data(sent) {
                    return Ok(());
                }
                if is_simple { "ZG" } else { "CE" }
            }
            (Mode::CopyIn { .. }, _) => "",
            (Mode::Normal, b'F') | (Mode::Normal | Mode::Ignoring, b'S') => "Z",
            (Mode::Normal, b'Q') => "ZG",
            (Mode::Normal, b'P') => "1E",
            (Mode::Normal, b'B') => "2E",
            (Mode::Normal, b'D') => "TnE",
            (Mode::Normal, b'C') => "3E",
            (Mode::Normal, b'E') => "CIsGE",
            (Mode::Normal | Mode::Ignoring, _) => return Ok(()),
        };
        let end = self.read_until(ends, from, answers)?;
        self.line.clear();
        self.mode = match (end, self.mode) {
            (None, _) => Mode::Ended,
            (Some(b'E'), _) => Mode::Ignoring,
            (Some(b'G'), Mode::CopyIn { is_simple }) => Mode::CopyIn { is_simple },
            (Some(b'G'), _) => Mode::CopyIn {
                is_simple: sent.tag() == b'Q',
            },
            _ => Mode::Normal,
        };
        Ok(())
    }

    /// True if PostgreSQL finds fault with data as soon as it reads them: every COPY here is of text into
    /// an integer and a text.
    fn is_bad_data(&mut self, sent: &Message) -> bool {
        let Message::CopyData(text) = sent else {
            return false;
        };
        self.line.push_str(text);
        let Some(end) = self.line.rfind('\n') else {
            return false;
        };
        let rest = self.line.split_off(end + 1);
        let lines = std::mem::replace(&mut self.line, rest);
        lines.lines().any(|line| {
            let columns: Vec<_> = line.split('\t').collect();
            columns.len() != 2 || columns[0].parse::<i32>().is_err()
        })
    }

    /// Reads up to a message with one of the tags, or `None` to the end of the connection.
    fn read_until(
        &mut self,
        ends: &str,
        from: &mut Client,
        answers: &mut Vec<Answer>,
    ) -> io::Result<Option<u8>> {
        loop {
            let answer = match from.try_receive() {
                Ok(answer) => answer,
                Err(error) if client::is_close(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            let tag = answer.tag;
            if tag == b'Z' {
                self.status = answer.body[0];
            }
            let is_last = ends.contains(char::from(tag)) && !is_fatal(&answer);
            answers.push(answer);
            if is_last {
                return Ok(Some(tag));
            }
        }
    }
}

/// True for an error after which the server closes.
pub(crate) fn is_fatal(answer: &Answer) -> bool {
    answer.tag == b'E' && answer.error_fields().severity != "ERROR"
}
