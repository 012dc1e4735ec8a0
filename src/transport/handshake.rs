//! From a plain connection to an encrypted one.
//!
//! **Owns:** waiting for the peer's messages, and why a handshake has failed.
//! **Does not own:** deadlines (the caller's), asking for TLS before (`session`, `server`).
//!
//! **Invariant:** what was received before TLS began is given in whole, or the caller has refused it.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use crate::tls::Pump;

use super::encrypted::Encrypted;
use super::gate::Gate;
use super::stream::Stream;

/// Why there is no encrypted connection.
#[derive(Debug)]
pub enum HandshakeError {
    /// The peer has gone, or the connection has failed.
    Io(io::Error),
    /// One side does not accept the other. It has been told.
    Refused(String),
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Refused(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for HandshakeError {}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rustls::Error> for HandshakeError {
    fn from(error: rustls::Error) -> Self {
        Self::Refused(error.to_string())
    }
}

/// The server's side: waits for a client's hello. `received` are bytes of it that have been read
/// already. Each step of work waits at `gate`.
///
/// # Errors
///
/// [`HandshakeError`]; the connection is of no further use then.
pub async fn accept(
    stream: &mut Stream,
    received: Vec<u8>,
    config: Arc<ServerConfig>,
    gate: &Gate,
) -> Result<(), HandshakeError> {
    let tls = stream.encrypt(Pump::accept(config)?)?;
    if !received.is_empty() {
        gate.pass().await;
        let chunk = tls.raw().chunk_of(received);
        tls.take_in(chunk);
    }
    finish(tls, Some(gate)).await
}

/// The client's side of a connection to a server called `name`.
///
/// # Errors
///
/// [`HandshakeError`]; the connection is of no further use then.
pub async fn connect(
    stream: &mut Stream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<(), HandshakeError> {
    let tls = stream.encrypt(Pump::connect(config, name)?)?;
    tls.begin();
    finish(tls, None).await
}

async fn finish(tls: &mut Encrypted, gate: Option<&Gate>) -> Result<(), HandshakeError> {
    loop {
        if let Some(error) = tls.failure() {
            return Err(HandshakeError::Refused(error.to_string()));
        }
        if !tls.is_handshaking() {
            return Ok(());
        }
        match tls.raw_mut().receive().await {
            Ok(Some(chunk)) => {
                if let Some(gate) = gate {
                    gate.pass().await;
                }
                tls.take_in(chunk);
            }
            Ok(None) => {
                let text = "the peer closed the connection during the TLS handshake";
                let error = io::Error::new(io::ErrorKind::UnexpectedEof, text);
                return Err(HandshakeError::Io(error));
            }
            Err(error) => return Err(HandshakeError::Io(error)),
        }
    }
}
