//! What is said in one conversation: steps of messages, and how they look as bytes and as text.
//!
//! Owns: messages, right and wrong ones, and where a write is cut.
//! Does not own: choosing them (`generator`), what is answered (`progress`).
//! Invariants: a script is plain data; `{t}` and `{u}` in SQL stand for the tables of the pair that
//! runs it.
//!
//! Source: protocol-message-formats.html.

use std::fmt;

use crate::common::message;

/// One message of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Query(String),
    Parse {
        name: String,
        text: String,
        types: Vec<u32>,
    },
    Bind {
        portal: String,
        statement: String,
        formats: Vec<u16>,
        values: Vec<Option<Vec<u8>>>,
        results: Vec<u16>,
    },
    /// `kind` is `S` for a statement, `P` for a portal, or wrong.
    Describe {
        kind: u8,
        name: String,
    },
    Execute {
        portal: String,
        limit: u32,
    },
    Close {
        kind: u8,
        name: String,
    },
    Flush,
    Sync,
    CopyData(String),
    CopyDone,
    CopyFail,
    FunctionCall {
        function: u32,
        arguments: Vec<Vec<u8>>,
    },
    /// A body that does not belong to the tag, in a frame of the right length.
    Garbled {
        tag: u8,
        body: Vec<u8>,
    },
    /// A tag that no client may send; ends the connection.
    Unknown(u8),
    /// A length that cannot be; ends the connection.
    WrongLength {
        tag: u8,
        length: u32,
    },
    Terminate,
}

impl Message {
    pub(crate) fn query(text: &str) -> Self {
        Self::Query(text.to_owned())
    }

    /// The SQL in it, if there is any.
    pub(crate) fn sql(&self) -> Option<&str> {
        match self {
            Self::Query(text) | Self::Parse { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The tag on the wire.
    pub(crate) fn tag(&self) -> u8 {
        match self {
            Self::Query(_) => b'Q',
            Self::Parse { .. } => b'P',
            Self::Bind { .. } => b'B',
            Self::Describe { .. } => b'D',
            Self::Execute { .. } => b'E',
            Self::Close { .. } => b'C',
            Self::Flush => b'H',
            Self::Sync => b'S',
            Self::CopyData(_) => b'd',
            Self::CopyDone => b'c',
            Self::CopyFail => b'f',
            Self::FunctionCall { .. } => b'F',
            Self::Garbled { tag, .. } | Self::Unknown(tag) | Self::WrongLength { tag, .. } => *tag,
            Self::Terminate => b'X',
        }
    }

    /// True if PostgreSQL closes the connection over it, whatever has come before.
    pub(crate) fn ends(&self) -> bool {
        matches!(
            self,
            Self::Unknown(_) | Self::WrongLength { .. } | Self::Terminate
        )
    }

    /// The message for the tables of `pair`.
    pub(crate) fn bytes(&self, pair: usize) -> Vec<u8> {
        let own = |sql: &str| {
            sql.replace("{t}", &format!("t{pair}"))
                .replace("{u}", &format!("u{pair}"))
        };
        match self {
            Self::Query(text) => message::query(&own(text)),
            Self::Parse { name, text, types } => {
                let mut body = [message::text(name), message::text(&own(text))].concat();
                push_count(&mut body, types.len());
                body.extend(types.iter().flat_map(|one| one.to_be_bytes()));
                message::message(b'P', &body)
            }
            Self::Bind {
                portal,
                statement,
                formats,
                values,
                results,
            } => {
                let mut body = [message::text(portal), message::text(statement)].concat();
                push_formats(&mut body, formats);
                push_count(&mut body, values.len());
                for value in values {
                    match value {
                        Some(value) => {
                            body.extend((value.len() as u32).to_be_bytes());
                            body.extend(value);
                        }
                        None => body.extend((-1_i32).to_be_bytes()),
                    }
                }
                push_formats(&mut body, results);
                message::message(b'B', &body)
            }
            Self::Describe { kind, name } => message::describe(*kind, name),
            Self::Execute { portal, limit } => message::execute(portal, *limit),
            Self::Close { kind, name } => message::close(*kind, name),
            Self::Flush => message::flush(),
            Self::Sync => message::sync(),
            Self::CopyData(text) => message::copy_data(text.as_bytes()),
            Self::CopyDone => message::copy_done(),
            Self::CopyFail => message::copy_fail("no more"),
            Self::FunctionCall {
                function,
                arguments,
            } => {
                let arguments: Vec<_> = arguments.iter().map(Vec::as_slice).collect();
                message::function_call(*function, &arguments)
            }
            Self::Garbled { tag, body } => message::message(*tag, body),
            Self::Unknown(tag) => message::message(*tag, b""),
            Self::WrongLength { tag, length } => [&[*tag][..], &length.to_be_bytes()].concat(),
            Self::Terminate => message::terminate(),
        }
    }
}

fn push_count(body: &mut Vec<u8>, count: usize) {
    body.extend((count as u16).to_be_bytes());
}

fn push_formats(body: &mut Vec<u8>, formats: &[u16]) {
    push_count(body, formats.len());
    body.extend(formats.iter().flat_map(|one| one.to_be_bytes()));
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Query(text) => write!(f, "Q {text:?}"),
            Self::Parse { name, text, types } if types.is_empty() => {
                write!(f, "P {name:?} {text:?}")
            }
            Self::Parse { name, text, types } => write!(f, "P {name:?} {text:?} {types:?}"),
            Self::Bind {
                portal,
                statement,
                formats,
                values,
                results,
            } => {
                write!(f, "B portal={portal:?} {statement:?}")?;
                if !formats.is_empty() {
                    write!(f, " formats={formats:?}")?;
                }
                for value in values {
                    match value {
                        Some(value) => write!(f, " '{}'", value.escape_ascii())?,
                        None => write!(f, " NULL")?,
                    }
                }
                if !results.is_empty() {
                    write!(f, " results={results:?}")?;
                }
                Ok(())
            }
            Self::Describe { kind, name } => write!(f, "D {} {name:?}", char::from(*kind)),
            Self::Execute { portal, limit } => write!(f, "E {portal:?} {limit}"),
            Self::Close { kind, name } => write!(f, "C {} {name:?}", char::from(*kind)),
            Self::CopyData(text) => write!(f, "d {text:?}"),
            Self::FunctionCall {
                function,
                arguments,
            } => write!(f, "F {function} {arguments:?}"),
            Self::Garbled { tag, body } => {
                write!(f, "garbled {} {body:?}", char::from(*tag))
            }
            Self::Unknown(tag) => write!(f, "unknown tag {tag}"),
            Self::WrongLength { tag, length } => {
                write!(f, "{} of length {length}", char::from(*tag))
            }
            _ => write!(f, "{}", char::from(self.tag())),
        }
    }
}

/// In what state of the session PostgreSQL must be for a step; it is left out otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Any, but for the midst of a COPY.
    Ready,
    /// In a transaction that has not failed.
    InTransaction,
    /// Any, also the midst of a COPY.
    Always,
}

/// What is written at once, before the answers are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) when: When,
    pub(crate) messages: Vec<Message>,
    /// Where the write is cut, in bytes from its start; taken modulo its length.
    pub(crate) cuts: Vec<usize>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let messages: Vec<_> = self.messages.iter().map(ToString::to_string).collect();
        write!(f, "{}", messages.join("; "))?;
        match self.when {
            When::Ready => {}
            when => write!(f, "  ({when:?})")?,
        }
        if self.cuts.is_empty() {
            return Ok(());
        }
        write!(f, "  cut at {:?}", self.cuts)
    }
}

/// A conversation.
pub(crate) type Script = Vec<Step>;
