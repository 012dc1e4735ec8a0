//! Logging in to PostgreSQL, from the startup packet to the first `ReadyForQuery`.
//!
//! **Owns:** the order of messages, the proof of who we are.
//! **Does not own:** the socket (`connection`), deriving keys (`errands`).
//!
//! ```text
//!   Asked ──R clear, md5──▶ Asked (answered)
//!     │ ──R SASL──▶ ScramFirst ──R continue──▶ NeedsKeys ──keys──▶ ScramFinal ──R final──▶ Verified
//!     └──R ok──▶ Accepted ──S, K, N──▶ Accepted ──Z──▶ done        Verified ──R ok──▶ Accepted
//!   any ──E──▶ refused             Asked ──v, once, before R──▶ Asked, with an older version
//! ```
//!
//! **Invariants:** a server that was asked for SCRAM is trusted only after its signature was
//! verified; a cancel key has the length that the version spoken allows.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html` "Start-up", `sasl-authentication.html`.

use std::ops::RangeInclusive;

use crate::auth::scram::{Gs2, NeedKeys, ScramClient, ScramClientAwaitFinal};
use crate::auth::{Md5Secret, ScramKeys};
use crate::config::Secret;
use crate::protocol::backend::{
    Authentication, BackendKeyData, ErrorFields, NegotiateProtocolVersion, ParameterStatus,
};
use crate::protocol::startup::{CANCEL_SECRET_BYTES, CANCEL_SECRET_BYTES_3_0};
use crate::protocol::writer;
use crate::transport::{Encrypted, Stream};

use super::credentials::LearnedKeys;
use super::error::ServerError;
use super::parameters::ParameterSet;

const SCRAM: &str = "SCRAM-SHA-256";
const SCRAM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Who we are to a server.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// User name on the server.
    pub user: String,
    /// How we prove it.
    pub proof: Proof,
}

/// How we prove who we are.
#[derive(Clone, Debug)]
pub enum Proof {
    /// With the keys of SCRAM alone.
    Keys(LearnedKeys),
    /// With the stored form of md5 alone.
    Md5(Md5Secret),
    /// Not at all.
    None,
    /// With a password.
    Password(Secret),
    /// With the keys of a client, and none has logged in yet.
    Pending,
    /// With a token, which is good in clear only.
    Token(Secret),
}

impl Credentials {
    /// With a password, if there is one.
    pub fn with_password(user: String, password: Option<Secret>) -> Self {
        let proof = password.map_or(Proof::None, Proof::Password);
        Self { user, proof }
    }

    /// The password to derive keys from.
    pub fn password(&self) -> Option<&Secret> {
        match &self.proof {
            Proof::Password(password) => Some(password),
            _ => None,
        }
    }
}

/// What a login is bound to, so that nobody can pass it on to another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The hash of the server's certificate.
    EndPoint(Vec<u8>),
    /// Nothing: the connection is plain, or the certificate has no hash.
    None,
}

impl Binding {
    /// What the connection has to offer.
    pub fn of(stream: &Stream) -> Self {
        let hash = stream.tls().and_then(Encrypted::peer_end_point);
        hash.map_or(Self::None, Self::EndPoint)
    }
}

/// What a login has brought to light.
#[derive(Debug, Default)]
pub struct Greeting {
    /// All parameters that the server reported.
    pub parameters: ParameterSet,
    /// Process id and secret for cancel requests.
    pub key: Option<(i32, Box<[u8]>)>,
}

/// What to do next.
#[derive(Debug)]
pub enum Action {
    /// Derive keys from the password and call [`Handshake::provide`].
    Derive {
        /// The salt.
        salt: Vec<u8>,
        /// The iteration count.
        iterations: u32,
    },
    /// The login is complete.
    Done,
    /// Read the next message.
    Read,
    /// Send these bytes, then read the next message.
    Send(Vec<u8>),
}

#[derive(Debug)]
enum State {
    Accepted,
    Asked,
    NeedsKeys(NeedKeys),
    ScramFinal(ScramClientAwaitFinal),
    ScramFirst(ScramClient),
    Verified,
}

/// A login in progress.
#[derive(Debug)]
pub struct Handshake {
    credentials: Credentials,
    nonce: String,
    binding: Binding,
    allows_clear: bool,
    /// The minor version that is spoken, as far as is known.
    minor: u16,
    /// The server may still name an older version.
    may_negotiate: bool,
    state: State,
    /// What the server has told so far.
    pub greeting: Greeting,
}

impl Handshake {
    /// A login of which the startup packet has been sent. `nonce` is fresh and unpredictable.
    pub fn new(credentials: Credentials, nonce: String, binding: Binding) -> Self {
        Self {
            credentials,
            nonce,
            binding,
            allows_clear: true,
            minor: 0,
            may_negotiate: true,
            state: State::Asked,
            greeting: Greeting::default(),
        }
    }

    /// Sends a password in clear only if the way to the server `is_safe`.
    #[must_use]
    pub fn clear_if(mut self, is_safe: bool) -> Self {
        self.allows_clear = is_safe;
        self
    }

    /// The startup packet has asked for protocol 3.`minor`; 3.0 otherwise.
    #[must_use]
    pub fn asked_for(mut self, minor: u16) -> Self {
        self.minor = minor;
        self
    }

    /// Takes one message.
    ///
    /// # Errors
    ///
    /// [`ServerError`]: refused, not configured, or not the protocol.
    pub fn handle(mut self, tag: u8, body: &[u8]) -> Result<(Self, Action), ServerError> {
        let action = match (tag, &self.state) {
            (b'R', _) => return self.authentication(body),
            (b'E', _) => return Err(refusal(body)),
            (b'v', State::Asked) if self.may_negotiate => {
                self.minor = self.older_version(body)?;
                self.may_negotiate = false;
                Action::Read
            }
            (b'N', _) => {
                note(body);
                Action::Read
            }
            (b'S', State::Accepted) => {
                let status = ParameterStatus::decode(body).map_err(|_| unexpected(tag))?;
                let name = String::from_utf8_lossy(status.name);
                let value = String::from_utf8_lossy(status.value);
                self.greeting.parameters.set(&name, &value);
                Action::Read
            }
            (b'K', State::Accepted) => {
                let key = BackendKeyData::decode(body).map_err(|_| unexpected(tag))?;
                if !self.key_lengths().contains(&key.secret.len()) {
                    return Err(unexpected(tag));
                }
                self.greeting.key = Some((key.pid, key.secret.into()));
                Action::Read
            }
            (b'Z', State::Accepted) => Action::Done,
            _ => return Err(unexpected(tag)),
        };
        Ok((self, action))
    }

    /// What a server has answered that does not speak the version it was asked for. It was asked for no
    /// options, and must not name one.
    fn older_version(&self, body: &[u8]) -> Result<u16, ServerError> {
        let answer = NegotiateProtocolVersion::decode(body).map_err(|_| unexpected(b'v'))?;
        let is_older = answer.newest_minor < self.minor && answer.options().next().is_none();
        is_older
            .then_some(answer.newest_minor)
            .ok_or(unexpected(b'v'))
    }

    /// How long the secret of a cancel key may be.
    const fn key_lengths(&self) -> RangeInclusive<usize> {
        if self.minor < 2 {
            CANCEL_SECRET_BYTES_3_0
        } else {
            CANCEL_SECRET_BYTES
        }
    }

    /// Goes on with derived keys.
    ///
    /// # Errors
    ///
    /// [`ServerError::Unexpected`] if no keys were asked for: a mistake of the caller.
    pub fn provide(mut self, keys: ScramKeys) -> Result<(Self, Vec<u8>), ServerError> {
        let State::NeedsKeys(needs) = self.state else {
            return Err(unexpected(b'R'));
        };
        let (next, message) = needs.provide(keys);
        self.state = State::ScramFinal(next);
        let mut out = Vec::new();
        writer::sasl_response(&mut out, &message);
        Ok((self, out))
    }

    /// There is no proof of the kind that the server wants.
    fn unable(&self, method: &str) -> ServerError {
        let reason = match self.credentials.proof {
            Proof::None | Proof::Password(_) => {
                "auth for this server is not configured (set server_username and server_password)"
            }
            Proof::Pending => "no client has logged in yet whose proof could be passed on",
            Proof::Keys(_) => "the keys of clients are good for SCRAM-SHA-256 only",
            Proof::Md5(_) => "the stored md5 password is good for md5 only",
            Proof::Token(_) => "tokens are sent in clear only",
        };
        ServerError::Authentication(format!(
            "server wants {method} authentication, but {reason}"
        ))
    }

    /// What is sent to a server that wants a password in clear.
    fn clear_password(&self) -> Result<&Secret, ServerError> {
        match &self.credentials.proof {
            // A token is of no use for long, and there was no TLS when they were introduced.
            Proof::Token(token) => Ok(token),
            Proof::Password(password) if self.allows_clear => Ok(password),
            Proof::Password(_) => Err(ServerError::Authentication(
                "server wants the password in clear over a network without TLS (set \
                 server_tls_mode, or server_cleartext_password to send it anyway)"
                    .to_owned(),
            )),
            _ => Err(self.unable("clear text")),
        }
    }

    fn begins_scram(&self) -> Result<(), ServerError> {
        match self.credentials.proof {
            Proof::Keys(_) | Proof::Password(_) => Ok(()),
            _ => Err(self.unable("sasl")),
        }
    }

    /// The server has told salt and iteration count.
    fn continue_scram(mut self, needs: NeedKeys) -> Result<(Self, Action), ServerError> {
        let Proof::Keys(known) = &self.credentials.proof else {
            let (salt, iterations) = (needs.salt.clone(), needs.iterations);
            self.state = State::NeedsKeys(needs);
            return Ok((self, Action::Derive { salt, iterations }));
        };
        if known.verifier.salt() != needs.salt || known.verifier.iterations() != needs.iterations {
            let reason = "the server stores another secret than the pooler does for this user: \
                          their SCRAM-SHA-256 verifiers must be equal, salt included";
            return Err(ServerError::Authentication(reason.to_owned()));
        }
        let keys = known.keys.clone();
        self.state = State::NeedsKeys(needs);
        let (next, message) = self.provide(keys)?;
        Ok((next, Action::Send(message)))
    }

    fn authentication(mut self, body: &[u8]) -> Result<(Self, Action), ServerError> {
        self.may_negotiate = false;
        let request = Authentication::decode(body).map_err(|_| unexpected(b'R'))?;
        self.state = match (self.state, request) {
            (State::Asked | State::Verified, Authentication::Ok) => State::Accepted,
            (State::Asked, request) => {
                self.state = State::Asked;
                return self.answer(&request);
            }
            (State::ScramFirst(scram), Authentication::SaslContinue(message)) => {
                let needs = scram.handle_server_first(message)?;
                self.state = State::Asked;
                return self.continue_scram(needs);
            }
            (State::ScramFinal(scram), Authentication::SaslFinal(message)) => {
                scram.handle_server_final(message)?;
                State::Verified
            }
            _ => return Err(unexpected(b'R')),
        };
        Ok((self, Action::Read))
    }

    fn answer(mut self, request: &Authentication<'_>) -> Result<(Self, Action), ServerError> {
        let mut out = Vec::new();
        match request {
            Authentication::CleartextPassword => {
                let password = self.clear_password()?;
                writer::password_message(&mut out, password.expose().as_bytes());
            }
            Authentication::Md5Password { salt } => {
                let secret = match &self.credentials.proof {
                    Proof::Md5(secret) => secret.clone(),
                    Proof::Password(password) => {
                        Md5Secret::from_password(password.expose(), &self.credentials.user)
                    }
                    _ => return Err(self.unable("md5")),
                };
                writer::password_message(&mut out, secret.response(*salt).as_bytes());
            }
            Authentication::Sasl(offered) => {
                let offers = |name: &str| offered.iter().any(|one| one == name.as_bytes());
                let (mechanism, gs2) = match &self.binding {
                    Binding::EndPoint(hash) if offers(SCRAM_PLUS) => {
                        (SCRAM_PLUS, Gs2::EndPoint(hash.clone()))
                    }
                    Binding::EndPoint(_) => (SCRAM, Gs2::NotOffered),
                    Binding::None => (SCRAM, Gs2::None),
                };
                if !offers(mechanism) {
                    let reason = "server offers no SASL mechanism that is supported".to_owned();
                    return Err(ServerError::Authentication(reason));
                }
                self.begins_scram()?;
                let (scram, message) = ScramClient::new("", &self.nonce, &gs2)?;
                writer::sasl_initial_response(&mut out, mechanism, Some(&message));
                self.state = State::ScramFirst(scram);
            }
            other => {
                let reason = format!("server wants an unsupported authentication: {other:?}");
                return Err(ServerError::Authentication(reason));
            }
        }
        Ok((self, Action::Send(out)))
    }
}

const fn unexpected(tag: u8) -> ServerError {
    ServerError::Unexpected(tag)
}

/// The server's own words of an `ErrorResponse`.
pub fn refusal(body: &[u8]) -> ServerError {
    let Ok(fields) = ErrorFields::decode(body) else {
        return unexpected(b'E');
    };
    let text = |field: Option<&[u8]>| {
        String::from_utf8_lossy(field.unwrap_or(b"(not given)")).into_owned()
    };
    ServerError::Refused {
        sqlstate: text(fields.sqlstate()),
        message: text(fields.message()),
    }
}

fn note(body: &[u8]) {
    if let Ok(fields) = ErrorFields::decode(body) {
        let message = String::from_utf8_lossy(fields.message().unwrap_or_default());
        tracing::info!(%message, "notice from the server at login");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{ScramVerifier, derive_keys};

    fn asked(proof: Proof, is_safe: bool, request: &[u8]) -> Result<Action, ServerError> {
        let credentials = Credentials {
            user: "app".to_owned(),
            proof,
        };
        let handshake = Handshake::new(credentials, "nonce".to_owned(), Binding::None);
        let outcome = handshake.clear_if(is_safe).handle(b'R', request);
        outcome.map(|(_, action)| action)
    }

    fn keys() -> LearnedKeys {
        let keys = derive_keys("secret", b"salt", 1).unwrap();
        let verifier = ScramVerifier::from_keys(&keys, b"salt", 1).unwrap();
        LearnedKeys { keys, verifier }
    }

    const CLEAR: &[u8] = &[0, 0, 0, 3];
    const MD5: &[u8] = &[0, 0, 0, 5, 1, 2, 3, 4];
    const SASL: &[u8] = b"\0\0\0\x0aSCRAM-SHA-256\0\0";

    #[test]
    fn a_proof_is_used_only_for_what_it_is_good_for() {
        let password = || Proof::Password(Secret::new("secret"));
        let md5 = || Proof::Md5(Md5Secret::from_password("secret", "app"));
        let token = || Proof::Token(Secret::new("token"));
        for (proof, is_safe, request, is_answered) in [
            (password(), true, CLEAR, true),
            (password(), false, CLEAR, false),
            (password(), false, MD5, true),
            (password(), false, SASL, true),
            (token(), false, CLEAR, true),
            (token(), true, MD5, false),
            (token(), true, SASL, false),
            (md5(), true, CLEAR, false),
            (md5(), false, MD5, true),
            (md5(), true, SASL, false),
            (Proof::Keys(keys()), true, CLEAR, false),
            (Proof::Keys(keys()), true, MD5, false),
            (Proof::Keys(keys()), false, SASL, true),
            (Proof::Pending, true, SASL, false),
            (Proof::None, true, CLEAR, false),
            (Proof::None, true, MD5, false),
            (Proof::None, true, SASL, false),
        ] {
            let shown = format!("{proof:?} {is_safe} {request:?}");
            let outcome = asked(proof, is_safe, request);
            assert_eq!(outcome.is_ok(), is_answered, "{shown}: {outcome:?}");
        }
    }

    fn fresh(minor: u16) -> Handshake {
        let credentials = Credentials {
            user: "app".to_owned(),
            proof: Proof::None,
        };
        Handshake::new(credentials, "nonce".to_owned(), Binding::None).asked_for(minor)
    }

    #[test]
    fn only_an_older_version_without_options_is_gone_on_with() {
        for (minor, body, is_fine) in [
            (2, &b"\0\x03\0\x00\0\0\0\0"[..], true),
            (2, b"\0\0\0\x01\0\0\0\0", true),
            (2, b"\0\x03\0\x02\0\0\0\0", false),
            (2, b"\0\x03\0\x03\0\0\0\0", false),
            (2, b"\0\x03\0\x00\0\0\0\x01_pq_.x\0", false),
            (2, b"\0\x02\0\x00\0\0\0\0", false),
            (2, b"", false),
            (0, b"\0\x03\0\x00\0\0\0\0", false),
        ] {
            let outcome = fresh(minor).handle(b'v', body);
            assert_eq!(outcome.is_ok(), is_fine, "{minor} {}", body.escape_ascii());
        }
        let older = b"\0\x03\0\x00\0\0\0\0";
        let (twice, _) = fresh(2).handle(b'v', older).unwrap();
        assert!(twice.handle(b'v', older).is_err(), "said twice");
        let (late, _) = fresh(2).handle(b'R', &[0; 4]).unwrap();
        assert!(late.handle(b'v', older).is_err(), "said too late");
    }

    #[test]
    fn the_version_decides_how_long_a_cancel_key_is() {
        for (minor, is_negotiated, bytes, is_fine) in [
            (0, false, 4, true),
            (0, false, 5, false),
            (0, false, 32, false),
            (2, false, 4, true),
            (2, false, 32, true),
            (2, false, 256, true),
            (2, false, 257, false),
            (2, false, 3, false),
            (2, true, 4, true),
            (2, true, 32, false),
        ] {
            let mut handshake = fresh(minor);
            if is_negotiated {
                handshake = handshake.handle(b'v', b"\0\x03\0\x00\0\0\0\0").unwrap().0;
            }
            let (handshake, _) = handshake.handle(b'R', &[0; 4]).unwrap();
            let outcome = handshake.handle(b'K', &vec![1; 4 + bytes]);
            assert_eq!(
                outcome.is_ok(),
                is_fine,
                "3.{minor} {is_negotiated} {bytes}"
            );
        }
    }

    #[test]
    fn keys_are_not_used_for_another_salt() {
        for (salt, is_answered) in [("c2FsdA==", true), ("b3RoZXI=", false)] {
            let credentials = Credentials {
                user: "app".to_owned(),
                proof: Proof::Keys(keys()),
            };
            let handshake = Handshake::new(credentials, "nonce".to_owned(), Binding::None);
            let (handshake, _) = handshake.handle(b'R', SASL).unwrap();
            let first = format!("\0\0\0\x0br=nonce2,s={salt},i=1");
            let outcome = handshake.handle(b'R', first.as_bytes());
            assert_eq!(outcome.is_ok(), is_answered, "{salt}");
        }
    }
}
