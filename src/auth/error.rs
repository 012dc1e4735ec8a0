//! Why an authentication exchange failed.
//!
//! **Owns:** [`ScramError`] for both roles of a SCRAM exchange, [`VerifierError`] for stored
//! secrets.
//! **Does not own:** refusals by host-based rules (`hba`), sending anything.
//! **Invariants:** no variant carries a password, key or proof; what a client is told does not say
//! which check failed, what the log says does.
//!
//! Source: RFC 5802, sections 5 and 7; PostgreSQL documentation, `sasl-authentication.html`.

use std::error::Error;
use std::fmt;

use crate::protocol::sqlstate::{self, SqlState};

/// One of the four messages of a SCRAM exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScramMessage {
    /// The client's proof.
    ClientFinal,
    /// The client's nonce.
    ClientFirst,
    /// The server's signature.
    ServerFinal,
    /// The server's nonce, the salt and the iteration count.
    ServerFirst,
}

impl fmt::Display for ScramMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClientFinal => "client-final-message",
            Self::ClientFirst => "client-first-message",
            Self::ServerFinal => "server-final-message",
            Self::ServerFirst => "server-first-message",
        })
    }
}

/// Why a SCRAM exchange failed. Nothing can follow in any case: the connection is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScramError {
    /// The client repeats another GS2 header than it began with: a faulty client, or somebody in
    /// the middle.
    ChannelBindingMismatch,
    /// The client believes that channel binding was not offered, which it was: somebody in the middle has
    /// hidden it.
    ChannelBindingHidden,
    /// The client insists on channel binding, which was not offered.
    ChannelBindingRequested,
    /// The iteration count is zero or so large that deriving keys would take minutes. Blame the
    /// server, or the stored secret.
    IterationsOutOfRange {
        /// The count.
        iterations: u32,
    },
    /// A message does not follow the grammar. The peer's fault.
    Malformed {
        /// Which message.
        message: ScramMessage,
    },
    /// A message demands an extension (`m=`), and there are none.
    MandatoryExtension {
        /// Which message.
        message: ScramMessage,
    },
    /// The peer did not repeat our nonce: a faulty peer or a replay.
    NonceMismatch,
    /// The server ended the exchange with an error of its own, for example `invalid-proof`.
    ServerRefused {
        /// The server's error value.
        reason: String,
    },
    /// The server does not know the keys either. Whoever it is, it is not the server meant.
    ServerSignatureMismatch,
    /// The client chose a mechanism that was not offered.
    UnknownMechanism,
    /// The nonce handed in by the caller has forbidden characters or is empty. A fault of ours.
    UnusableNonce,
    /// The password is wrong, or the user does not exist.
    WrongProof,
}

impl ScramError {
    /// The SQLSTATE to report: `invalid_password`, whichever check failed.
    pub const fn sqlstate(&self) -> SqlState {
        sqlstate::INVALID_PASSWORD
    }

    /// What a client is told when the exchange with it failed.
    pub const fn client_message(&self) -> &'static str {
        match self {
            Self::ChannelBindingRequested
            | Self::UnknownMechanism
            | Self::Malformed {
                message: ScramMessage::ClientFirst,
            }
            | Self::MandatoryExtension {
                message: ScramMessage::ClientFirst,
            } => {
                "Authentication protocol error. Your client may not support SCRAM \
                 authentication properly."
            }
            Self::Malformed {
                message: ScramMessage::ClientFinal,
            }
            | Self::MandatoryExtension {
                message: ScramMessage::ClientFinal,
            } => "Authentication protocol error. Your client sent an invalid SCRAM final message.",
            Self::ChannelBindingHidden
            | Self::ChannelBindingMismatch
            | Self::NonceMismatch
            | Self::ServerRefused { .. }
            | Self::ServerSignatureMismatch
            | Self::WrongProof => {
                "Authentication failed. Invalid credentials or authentication protocol error."
            }
            Self::IterationsOutOfRange { .. }
            | Self::Malformed { .. }
            | Self::MandatoryExtension { .. }
            | Self::UnusableNonce => VerifierError::CLIENT_MESSAGE,
        }
    }
}

impl fmt::Display for ScramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChannelBindingHidden => {
                f.write_str("the offer of SCRAM channel binding did not reach the client")
            }
            Self::ChannelBindingMismatch => f.write_str("SCRAM channel binding check failed"),
            Self::ChannelBindingRequested => {
                f.write_str("client requires SCRAM channel binding, which is not offered")
            }
            Self::IterationsOutOfRange { iterations } => {
                write!(f, "SCRAM iteration count {iterations} is out of range")
            }
            Self::Malformed { message } => write!(f, "malformed SCRAM {message}"),
            Self::MandatoryExtension { message } => {
                write!(f, "SCRAM {message} requires an unsupported extension")
            }
            Self::NonceMismatch => f.write_str("SCRAM nonce does not match"),
            Self::ServerRefused { reason } => write!(f, "server refused SCRAM proof: {reason}"),
            Self::ServerSignatureMismatch => f.write_str("incorrect SCRAM server signature"),
            Self::UnknownMechanism => f.write_str("client selected an unknown SASL mechanism"),
            Self::UnusableNonce => f.write_str("SCRAM nonce has forbidden characters"),
            Self::WrongProof => f.write_str("SCRAM proof does not match the stored secret"),
        }
    }
}

impl Error for ScramError {}

/// Why a stored SCRAM secret cannot be used. Blame the configuration; retrying is useless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerifierError {
    /// The iteration count is zero or beyond any use.
    IterationsOutOfRange,
    /// The text is not `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
    Malformed,
}

impl VerifierError {
    /// What a client is told whose stored secret is unusable.
    pub const CLIENT_MESSAGE: &str =
        "Server authentication configuration error. Please contact your database administrator.";

    /// The SQLSTATE to report: `invalid_password`.
    pub const fn sqlstate(&self) -> SqlState {
        sqlstate::INVALID_PASSWORD
    }
}

impl fmt::Display for VerifierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IterationsOutOfRange => "stored SCRAM secret: iteration count out of range",
            Self::Malformed => "stored SCRAM secret is malformed",
        })
    }
}

impl Error for VerifierError {}
