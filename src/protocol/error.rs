//! Why bytes from a peer could not be understood.
//!
//! **Owns:** [`DecodeError`] for message bodies, [`StartupError`] for the untagged first packet.
//! **Does not own:** framing errors (`framer`), turning an error into an `ErrorResponse`.
//! **Invariants:** `Display` is the text PostgreSQL gives its clients in the same situation, where
//! it has one; it never contains bytes of a password message.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html`, `errcodes-appendix.html`.

use std::error::Error;
use std::fmt;

use super::sqlstate::{self, SqlState};

/// Why a message body is malformed.
///
/// Always the peer's fault. The frame itself was complete, so the stream stays in step, but what
/// the message asked for is unknown: answer with an error and close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The body ended inside a fixed-size field.
    InsufficientData,
    /// A length or count inside the body is negative or outside what the field allows.
    InvalidLength {
        /// The field, in the words of the PostgreSQL manual.
        field: &'static str,
        /// The value on the wire.
        length: i64,
    },
    /// The byte that selects statement or portal in Describe and Close is neither `S` nor `P`.
    InvalidSubtype {
        /// Name of the message in upper case.
        message: &'static str,
        /// The byte on the wire.
        subtype: u8,
    },
    /// The status byte of `ReadyForQuery` is none of `I`, `T`, `E`.
    InvalidTransactionStatus {
        /// The byte on the wire.
        status: u8,
    },
    /// Bytes follow the last field.
    TrailingBytes,
    /// A string has no terminating zero byte.
    UnterminatedString,
}

impl DecodeError {
    /// The SQLSTATE to report: `protocol_violation`.
    pub const fn sqlstate(&self) -> SqlState {
        sqlstate::PROTOCOL_VIOLATION
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InsufficientData => f.write_str("insufficient data left in message"),
            Self::InvalidLength { field, length } => write!(f, "invalid {field} length {length}"),
            Self::InvalidSubtype { message, subtype } => {
                write!(f, "invalid {message} message subtype {subtype}")
            }
            Self::InvalidTransactionStatus { status } => {
                write!(f, "invalid transaction status {status}")
            }
            Self::TrailingBytes => f.write_str("invalid message format"),
            Self::UnterminatedString => f.write_str("invalid string in message"),
        }
    }
}

impl Error for DecodeError {}

/// Why the first packet of a connection was refused.
///
/// Always the client's fault. Nothing can follow: report with severity `FATAL` and close. For
/// [`StartupError::InvalidLength`] even the report is optional, since the peer is probably not a
/// PostgreSQL client at all.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartupError {
    /// A `CancelRequest` without a usable key.
    InvalidCancelRequest {
        /// The declared packet length in bytes.
        length: u32,
    },
    /// The declared length is impossible for a first packet.
    InvalidLength {
        /// The declared packet length in bytes.
        length: u32,
    },
    /// The name/value list is not a list of zero-terminated pairs ended by one zero byte.
    InvalidLayout,
    /// A word in `options` is not a setting.
    InvalidOption {
        /// The word, after backslash processing.
        argument: String,
    },
    /// A parameter name or value is not UTF-8.
    InvalidUtf8,
    /// No `user`, or an empty one.
    MissingUser,
    /// `-c name` or `--name` without `=value`.
    OptionWithoutValue {
        /// The word, as PostgreSQL prints it.
        argument: String,
    },
    /// A protocol version this pooler does not speak.
    UnsupportedVersion {
        /// The requested major version.
        major: u16,
        /// The requested minor version.
        minor: u16,
    },
}

impl StartupError {
    /// The SQLSTATE to report.
    pub const fn sqlstate(&self) -> SqlState {
        match self {
            Self::InvalidCancelRequest { .. }
            | Self::InvalidLength { .. }
            | Self::InvalidLayout
            | Self::InvalidUtf8 => sqlstate::PROTOCOL_VIOLATION,
            Self::InvalidOption { .. } | Self::OptionWithoutValue { .. } => sqlstate::SYNTAX_ERROR,
            Self::MissingUser => sqlstate::INVALID_AUTHORIZATION,
            Self::UnsupportedVersion { .. } => sqlstate::FEATURE_NOT_SUPPORTED,
        }
    }
}

impl fmt::Display for StartupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidCancelRequest { length } => {
                write!(f, "invalid length {length} of query cancel packet")
            }
            Self::InvalidLength { length } => {
                write!(f, "invalid length of startup packet: {length}")
            }
            Self::InvalidLayout => {
                f.write_str("invalid startup packet layout: expected terminator as last byte")
            }
            Self::InvalidOption { argument } => {
                write!(
                    f,
                    "invalid command-line argument for server process: {argument}"
                )
            }
            Self::InvalidUtf8 => {
                f.write_str("invalid startup packet: parameter is not valid UTF-8")
            }
            Self::MissingUser => f.write_str("no PostgreSQL user name specified in startup packet"),
            Self::OptionWithoutValue { argument } => write!(f, "{argument} requires a value"),
            Self::UnsupportedVersion { major, minor } => write!(
                f,
                "unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2"
            ),
        }
    }
}

impl Error for StartupError {}
