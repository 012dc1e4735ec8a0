//! Authenticates a client with SCRAM-SHA-256.
//!
//! **Owns:** the server's side of the exchange, for known and for unknown users.
//! **Does not own:** randomness (the nonce is an argument), framing, which user it is.
//! **Invariants:** each step consumes the machine, so a failed one leaves nothing to go on with; a
//! user that does not exist looks the same as a wrong password, with the same salt at each try.
//!
//! ```text
//!   ScramServer ── handle_first ──▶ ScramServerAwaitFinal ── handle_final ──▶ ScramAccepted
//!        │                                   │
//!        └───────────── ScramError ──────────┘
//! ```
//!
//! Channel binding is offered over TLS (`bound_to`): then a GS2 flag of `y` means that somebody has hidden
//! the offer from the client, and is refused. Otherwise `p=` is.
//!
//! Source: RFC 5802, RFC 7677; PostgreSQL documentation, `sasl-authentication.html`.

use super::keys::{ScramKeys, ScramVerifier, hmac};
use super::message::{self, ClientFinal, ClientFirst, END_POINT_FLAG, MECHANISM, MECHANISM_PLUS};
use crate::auth::error::{ScramError, ScramMessage};

/// PostgreSQL's own default, so that an invented salt looks like a real one.
pub const MOCK_ITERATIONS: u32 = 4096;
const MOCK_SALT_BYTES: usize = 16;

/// Waits for the client's first message.
#[derive(Debug)]
pub struct ScramServer {
    verifier: ScramVerifier,
    /// No proof is right: the user does not exist or may not log in.
    mock: bool,
    /// The hash of the certificate that the client sees.
    end_point: Option<Vec<u8>>,
}

/// The first message was answered; waits for the proof.
#[derive(Debug)]
pub struct ScramServerAwaitFinal {
    verifier: ScramVerifier,
    mock: bool,
    /// What the client must repeat: its GS2 header and what it is bound to.
    channel_binding: Vec<u8>,
    nonce: String,
    /// `client-first-message-bare "," server-first-message`, the beginning of what is signed.
    exchange: String,
}

/// The client knows the password.
#[derive(Debug)]
pub struct ScramAccepted {
    /// The message for `AuthenticationSASLFinal`; `AuthenticationOk` follows.
    pub server_final: Vec<u8>,
    /// The keys the proof reveals. They log in to any server that stores the same secret, salt and
    /// all, in the name of this client.
    pub keys: ScramKeys,
    /// The stored secret that they fit.
    pub verifier: ScramVerifier,
}

impl ScramServer {
    /// Authenticates against a stored secret.
    pub const fn new(verifier: ScramVerifier) -> Self {
        Self {
            verifier,
            mock: false,
            end_point: None,
        }
    }

    /// Offers to bind the exchange to the TLS connection whose certificate has this hash.
    #[must_use]
    pub fn bound_to(mut self, end_point: Option<Vec<u8>>) -> Self {
        self.end_point = end_point;
        self
    }

    /// The mechanisms to offer.
    pub const fn mechanisms(&self) -> &'static [&'static str] {
        match self.end_point {
            Some(_) => &[MECHANISM_PLUS, MECHANISM],
            None => &[MECHANISM],
        }
    }

    /// Goes through the motions for a user without a stored secret and refuses at the end.
    ///
    /// `secret` must stay the same while the process lives (better: across processes that serve
    /// the same clients), since the salt a name gets is derived from it: a salt that changed from
    /// one try to the next would give the game away.
    pub fn mock(user: &str, secret: &[u8]) -> Self {
        Self {
            verifier: Self::mock_verifier(user, secret, MOCK_ITERATIONS),
            mock: true,
            end_point: None,
        }
    }

    /// Asks for so many iterations, like those who exist.
    #[must_use]
    pub const fn iterating(mut self, iterations: u32) -> Self {
        self.verifier.iterations = iterations;
        self
    }

    /// A secret that no password fits, as [`Self::mock`] uses it.
    pub fn mock_verifier(user: &str, secret: &[u8], iterations: u32) -> ScramVerifier {
        let derive = |purpose: &[u8]| hmac(secret, &[purpose, user.as_bytes()]);
        ScramVerifier {
            iterations,
            salt: Self::mock_salt(user, secret),
            stored_key: derive(b"stored key\0"),
            server_key: derive(b"server key\0"),
        }
    }

    /// The salt that [`Self::mock`] offers to `user`.
    pub fn mock_salt(user: &str, secret: &[u8]) -> Vec<u8> {
        let mut salt = hmac(secret, &[b"salt\0", user.as_bytes()]).to_vec();
        salt.truncate(MOCK_SALT_BYTES);
        salt
    }

    /// Takes the content of `SASLInitialResponse`; returns the machine's next state and the message
    /// for `AuthenticationSASLContinue`.
    ///
    /// `server_nonce` is printable ASCII without commas, fresh and unpredictable: 24 base64
    /// characters of 18 random bytes do.
    ///
    /// # Errors
    ///
    /// [`ScramError`] if the mechanism is another one or the message is not acceptable.
    pub fn handle_first(
        self,
        mechanism: &[u8],
        client_first: &[u8],
        server_nonce: &str,
    ) -> Result<(ScramServerAwaitFinal, Vec<u8>), ScramError> {
        let is_plus = mechanism == MECHANISM_PLUS.as_bytes() && self.end_point.is_some();
        if !is_plus && mechanism != MECHANISM.as_bytes() {
            return Err(ScramError::UnknownMechanism);
        }
        if !message::is_nonce(server_nonce) {
            return Err(ScramError::UnusableNonce);
        }
        let first = ClientFirst::parse(client_first)?;
        let mut channel_binding = first.gs2_header.as_bytes().to_vec();
        match (is_plus, first.flag) {
            (true, END_POINT_FLAG) => channel_binding.extend(self.end_point.unwrap_or_default()),
            (true, _) => {
                let message = ScramMessage::ClientFirst;
                return Err(ScramError::Malformed { message });
            }
            (false, END_POINT_FLAG) => return Err(ScramError::ChannelBindingRequested),
            (false, "y") if self.end_point.is_some() => {
                return Err(ScramError::ChannelBindingHidden);
            }
            (false, _) => {}
        }
        let nonce = format!("{}{server_nonce}", first.nonce);
        let salt = message::encode(&self.verifier.salt);
        let server_first = format!("r={nonce},s={salt},i={}", self.verifier.iterations);
        let next = ScramServerAwaitFinal {
            exchange: format!("{},{server_first}", first.bare),
            channel_binding,
            nonce,
            verifier: self.verifier,
            mock: self.mock,
        };
        Ok((next, server_first.into_bytes()))
    }
}

impl ScramServerAwaitFinal {
    /// Takes the content of `SASLResponse` and decides.
    ///
    /// # Errors
    ///
    /// [`ScramError`]: malformed message, replayed nonce, changed GS2 header or wrong proof.
    pub fn handle_final(self, client_final: &[u8]) -> Result<ScramAccepted, ScramError> {
        let last = ClientFinal::parse(client_final)?;
        if last.channel_binding != self.channel_binding {
            return Err(ScramError::ChannelBindingMismatch);
        }
        if last.nonce != self.nonce {
            return Err(ScramError::NonceMismatch);
        }
        let exchange = format!("{},{}", self.exchange, last.without_proof);
        let client_key = self.verifier.check_proof(exchange.as_bytes(), last.proof);
        match client_key {
            Some(client_key) if !self.mock => {
                let signature = self.verifier.server_signature(exchange.as_bytes());
                Ok(ScramAccepted {
                    server_final: format!("v={}", message::encode(&signature)).into_bytes(),
                    keys: ScramKeys {
                        client_key,
                        server_key: self.verifier.server_key,
                    },
                    verifier: self.verifier,
                })
            }
            Some(_) | None => Err(ScramError::WrongProof),
        }
    }
}
