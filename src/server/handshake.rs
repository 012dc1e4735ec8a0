//! Logging in to PostgreSQL, from the startup packet to the first `ReadyForQuery`.
//!
//! **Owns:** the order of messages, the proof of who we are.
//! **Does not own:** the socket (`connection`), deriving keys (`errands`).
//!
//! ```text
//!   Asked ──R clear, md5──▶ Asked (answered)
//!     │ ──R SASL──▶ ScramFirst ──R continue──▶ NeedsKeys ──keys──▶ ScramFinal ──R final──▶ Verified
//!     └──R ok──▶ Accepted ──S, K, N──▶ Accepted ──Z──▶ done        Verified ──R ok──▶ Accepted
//!   any ──E──▶ refused
//! ```
//!
//! **Invariant:** a server that was asked for SCRAM is trusted only after its signature was
//! verified.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html` "Start-up", `sasl-authentication.html`.

use crate::auth::scram::{Gs2, NeedKeys, ScramClient, ScramClientAwaitFinal};
use crate::auth::{Md5Secret, ScramKeys};
use crate::config::Secret;
use crate::protocol::backend::{Authentication, BackendKeyData, ErrorFields, ParameterStatus};
use crate::protocol::writer;
use crate::transport::{Encrypted, Stream};

use super::error::ServerError;
use super::parameters::ParameterSet;

const SCRAM: &str = "SCRAM-SHA-256";
const SCRAM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Who we are to a server.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// User name on the server.
    pub user: String,
    /// Password in clear, if there is one.
    pub password: Option<Secret>,
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
            state: State::Asked,
            greeting: Greeting::default(),
        }
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
                self.greeting.key = Some((key.pid, key.secret.into()));
                Action::Read
            }
            (b'Z', State::Accepted) => Action::Done,
            _ => return Err(unexpected(tag)),
        };
        Ok((self, action))
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

    fn password(&self, method: &str) -> Result<&str, ServerError> {
        let password = self.credentials.password.as_ref().map(Secret::expose).ok_or_else(|| {
            ServerError::Authentication(format!(
                "server wants {method} authentication, but auth for this server is not configured \
                 (set server_username and server_password)"
            ))
        })?;
        if password.starts_with("jwt-priv-key-fpath:") {
            let reason = "signing tokens for the server is not supported yet".to_owned();
            return Err(ServerError::Authentication(reason));
        }
        Ok(password)
    }

    fn authentication(mut self, body: &[u8]) -> Result<(Self, Action), ServerError> {
        let request = Authentication::decode(body).map_err(|_| unexpected(b'R'))?;
        self.state = match (self.state, request) {
            (State::Asked | State::Verified, Authentication::Ok) => State::Accepted,
            (State::Asked, request) => {
                self.state = State::Asked;
                return self.answer(&request);
            }
            (State::ScramFirst(scram), Authentication::SaslContinue(message)) => {
                let needs = scram.handle_server_first(message)?;
                let (salt, iterations) = (needs.salt.clone(), needs.iterations);
                self.state = State::NeedsKeys(needs);
                return Ok((self, Action::Derive { salt, iterations }));
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
                let password = self.password("clear text")?;
                writer::password_message(&mut out, password.as_bytes());
            }
            Authentication::Md5Password { salt } => {
                let password = self.password("md5")?;
                let secret = Md5Secret::from_password(password, &self.credentials.user);
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
                self.password("sasl")?;
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
