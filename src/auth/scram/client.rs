//! Logs in to a server with SCRAM-SHA-256.
//!
//! **Owns:** the client's side of the exchange.
//! **Does not own:** randomness (the nonce is an argument), framing, the key derivation, which is
//! too slow for a shard: the machine stops and says what it needs.
//! **Invariants:** each step consumes the machine; success means that the server proved to know the
//! keys, too.
//!
//! ```text
//!   ScramClient ── handle_server_first ──▶ NeedKeys { salt, iterations }
//!                                              │  the caller derives keys or has them cached
//!                                          provide(keys)
//!                                              ▼
//!              Ok ◀── handle_server_final ── ScramClientAwaitFinal
//! ```
//!
//! Source: RFC 5802, RFC 7677; PostgreSQL documentation, `sasl-authentication.html`.

use super::keys::ScramKeys;
use super::message::{self, ServerFirst};
use crate::auth::error::ScramError;

/// What is said of channel binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gs2 {
    /// There is nothing to bind to.
    None,
    /// It would have been possible, but the server does not offer it. A server that did is told so.
    NotOffered,
    /// Bound to the TLS connection whose certificate has this hash.
    EndPoint(Vec<u8>),
}

impl Gs2 {
    const fn header(&self) -> &'static str {
        match self {
            Self::None => "n,,",
            Self::NotOffered => "y,,",
            Self::EndPoint(_) => "p=tls-server-end-point,,",
        }
    }

    /// Header and data, for the final message.
    fn binding(&self) -> String {
        let mut bytes = self.header().as_bytes().to_vec();
        if let Self::EndPoint(hash) = self {
            bytes.extend_from_slice(hash);
        }
        message::encode(&bytes)
    }
}

/// The first message was made; waits for the server's.
#[derive(Debug)]
pub struct ScramClient {
    nonce: String,
    bare: String,
    binding: String,
}

/// The server has sent salt and iteration count; waits for keys.
#[derive(Debug)]
pub struct NeedKeys {
    /// The salt to derive with.
    pub salt: Vec<u8>,
    /// The iteration count to derive with; already checked to be bearable.
    pub iterations: u32,
    nonce: String,
    exchange: String,
    binding: String,
}

/// The proof was made; waits for the server's signature.
#[derive(Debug)]
pub struct ScramClientAwaitFinal {
    keys: ScramKeys,
    exchange: String,
}

impl ScramClient {
    /// Starts; returns the message for `SASLInitialResponse`.
    ///
    /// PostgreSQL ignores `user` here in favour of the startup packet, so it may be empty. `nonce`
    /// is printable ASCII without commas, fresh and unpredictable.
    ///
    /// # Errors
    ///
    /// [`ScramError::UnusableNonce`].
    pub fn new(user: &str, nonce: &str, gs2: &Gs2) -> Result<(Self, Vec<u8>), ScramError> {
        if !message::is_nonce(nonce) {
            return Err(ScramError::UnusableNonce);
        }
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let bare = format!("n={user},r={nonce}");
        let client_first = format!("{}{bare}", gs2.header()).into_bytes();
        Ok((
            Self {
                nonce: nonce.to_owned(),
                bare,
                binding: gs2.binding(),
            },
            client_first,
        ))
    }

    /// Takes the content of `AuthenticationSASLContinue`.
    ///
    /// # Errors
    ///
    /// [`ScramError`] if the message is malformed, does not continue our nonce, or asks for an
    /// unreasonable number of iterations.
    pub fn handle_server_first(self, server_first: &[u8]) -> Result<NeedKeys, ScramError> {
        let first = ServerFirst::parse(server_first)?;
        if first
            .nonce
            .strip_prefix(self.nonce.as_str())
            .is_none_or(str::is_empty)
        {
            return Err(ScramError::NonceMismatch);
        }
        let nonce = first.nonce.to_owned();
        let mut exchange = self.bare;
        exchange.push(',');
        // Parsing has shown that it is UTF-8, so nothing is replaced here.
        exchange.push_str(&String::from_utf8_lossy(server_first));
        Ok(NeedKeys {
            salt: first.salt,
            iterations: first.iterations,
            nonce,
            exchange,
            binding: self.binding,
        })
    }
}

impl NeedKeys {
    /// Goes on with keys for this salt and iteration count; returns the message for `SASLResponse`.
    #[must_use]
    pub fn provide(self, keys: ScramKeys) -> (ScramClientAwaitFinal, Vec<u8>) {
        let without_proof = format!("c={},r={}", self.binding, self.nonce);
        let exchange = format!("{},{without_proof}", self.exchange);
        let proof = message::encode(&keys.proof(exchange.as_bytes()));
        let client_final = format!("{without_proof},p={proof}").into_bytes();
        (ScramClientAwaitFinal { keys, exchange }, client_final)
    }
}

impl ScramClientAwaitFinal {
    /// Takes the content of `AuthenticationSASLFinal`.
    ///
    /// # Errors
    ///
    /// [`ScramError::ServerRefused`] with the server's reason;
    /// [`ScramError::ServerSignatureMismatch`] if the server does not know the keys. A server that
    /// says `AuthenticationOk` without this step must not be trusted.
    pub fn handle_server_final(self, server_final: &[u8]) -> Result<(), ScramError> {
        let signature = message::parse_server_final(server_final)?;
        if self
            .keys
            .is_server_signature(self.exchange.as_bytes(), &signature)
        {
            Ok(())
        } else {
            Err(ScramError::ServerSignatureMismatch)
        }
    }
}
