//! Why a server connection could not be made, or ended.
//!
//! **Owns:** the reasons and their texts.
//! **Does not own:** what the client is told (`session::report`).

use std::fmt;
use std::io;

use crate::auth::ScramError;
use crate::protocol::framer::FrameError;

/// Why a server connection is of no use.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServerError {
    /// The server asks for an authentication that is not configured or not supported.
    /// Blame: configuration. Retry: after a change.
    Authentication(String),
    /// The socket could not be connected. Blame: server. Retry: later.
    Connect(io::Error),
    /// The server closed the connection. Blame: server. Retry: later.
    Closed,
    /// The server's bytes are no messages. Blame: server.
    Frame(FrameError),
    /// The connection failed. Blame: network or server. Retry: later.
    Io(io::Error),
    /// The server said no: its own words. Blame: configuration or server.
    Refused {
        /// SQLSTATE as sent.
        sqlstate: String,
        /// The message as sent.
        message: String,
    },
    /// The SCRAM exchange failed. Blame: configuration, or a server that is not who it claims.
    Scram(ScramError),
    /// There is no TLS where there has to be, or it has failed. Blame: configuration or server.
    Tls(String),
    /// A message that does not belong here. Blame: server.
    Unexpected(u8),
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authentication(reason) => f.write_str(reason),
            Self::Connect(error) => {
                write!(
                    f,
                    "Socket connection error: Could not connect to server: {error}"
                )
            }
            Self::Closed => f.write_str("server closed the connection unexpectedly"),
            Self::Frame(error) => error.fmt(f),
            Self::Io(error) => write!(f, "Socket error: {error}"),
            Self::Refused { sqlstate, message } => write!(f, "{message} (SQLSTATE {sqlstate})"),
            Self::Scram(error) => error.fmt(f),
            Self::Tls(reason) => write!(f, "TLS with the server failed: {reason}"),
            Self::Unexpected(tag) => {
                write!(
                    f,
                    "unexpected message '{}' from the server",
                    tag.escape_ascii()
                )
            }
        }
    }
}

impl std::error::Error for ServerError {}

impl From<FrameError> for ServerError {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl From<ScramError> for ServerError {
    fn from(error: ScramError) -> Self {
        Self::Scram(error)
    }
}
