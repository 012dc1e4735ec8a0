//! TLS towards one server: whether it is asked for, and how.
//!
//! **Owns:** the request for TLS and its answer, the order of tries, the name that is expected.
//! **Does not own:** keys and certificates (`tls`), the handshake (`transport`), the login.
//!
//! ```text
//!   mode      first try                    second try
//!   disable   plain                        -
//!   allow     plain                        TLS, if the server refuses who comes without
//!   prefer    TLS, or plain after `N`      plain, if TLS fails or is refused
//!   require…  TLS                          -
//! ```
//!
//! **Invariants**
//! 1. Nothing of a login is sent before TLS is settled.
//! 2. Bytes behind the answer to the request are refused: they came from somebody in between.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html` "SSL Session Encryption",
//! `libpq-ssl.html` "Protection Provided in Different Modes".

use rustls::pki_types::{IpAddr, ServerName};

use crate::config::{Endpoint, ServerTls, ServerTlsMode};
use crate::protocol::sqlstate;
use crate::protocol::writer;
use crate::tls::{ALPN, Connector, Keyring};
use crate::transport::{self, Stream};

use super::error::ServerError;

/// TLS towards one server.
#[derive(Clone, Debug)]
pub struct Security {
    mode: ServerTlsMode,
    is_direct: bool,
    keyring: Keyring,
    pool: Box<str>,
    /// For a pool that is not configured any more, whose clients are still served.
    made_with: Option<Connector>,
}

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approach {
    /// Without TLS.
    Plain,
    /// With a request for TLS; an answer of `N` is accepted if it is optional.
    Asking {
        /// Plain text will do.
        is_optional: bool,
    },
    /// With TLS at once.
    Direct,
}

impl Security {
    /// As the configuration of `pool` wants it, with the keys of `keyring`.
    pub fn new(tls: &ServerTls, keyring: Keyring, pool: &str) -> Self {
        Self {
            mode: tls.mode,
            is_direct: tls.is_direct,
            made_with: keyring.connector(pool),
            keyring,
            pool: pool.into(),
        }
    }

    /// How much it insists on TLS.
    pub(super) const fn mode(&self) -> ServerTlsMode {
        self.mode
    }

    /// How a connection to `endpoint` begins.
    pub(super) fn first(&self, endpoint: &Endpoint) -> Approach {
        // As in PostgreSQL, a Unix socket is never encrypted.
        if matches!(endpoint, Endpoint::Unix { .. }) {
            return Approach::Plain;
        }
        match self.mode {
            ServerTlsMode::Disable | ServerTlsMode::Allow => Approach::Plain,
            ServerTlsMode::Prefer => Approach::Asking { is_optional: true },
            ServerTlsMode::Require | ServerTlsMode::VerifyCa | ServerTlsMode::VerifyFull => {
                self.encrypted()
            }
        }
    }

    const fn encrypted(&self) -> Approach {
        if self.is_direct {
            Approach::Direct
        } else {
            Approach::Asking { is_optional: false }
        }
    }

    /// How to try again after `error`, if that may help.
    pub(super) fn second(
        &self,
        endpoint: &Endpoint,
        first: Approach,
        error: &ServerError,
    ) -> Option<Approach> {
        let is_refused = matches!(
            error, ServerError::Refused { sqlstate, .. } if sqlstate == sqlstate::INVALID_AUTHORIZATION
        );
        match (self.mode, first) {
            _ if matches!(endpoint, Endpoint::Unix { .. }) => None,
            (ServerTlsMode::Allow, Approach::Plain) if is_refused => Some(self.encrypted()),
            (ServerTlsMode::Prefer, Approach::Asking { .. })
                if is_refused || matches!(error, ServerError::Tls(_)) =>
            {
                Some(Approach::Plain)
            }
            _ => None,
        }
    }

    /// How a connection for a cancel request begins: as encrypted as the one it is for.
    pub(super) const fn for_cancel(&self, is_tls: bool) -> Approach {
        if is_tls {
            self.encrypted()
        } else {
            Approach::Plain
        }
    }

    /// Settles TLS on a fresh connection to `endpoint`.
    ///
    /// # Errors
    ///
    /// [`ServerError::Tls`] if there has to be TLS and there is none, or the server is not who it should
    /// be.
    pub(super) async fn begin(
        &self,
        stream: &mut Stream,
        endpoint: &Endpoint,
        approach: Approach,
    ) -> Result<(), ServerError> {
        match approach {
            Approach::Plain => return Ok(()),
            Approach::Direct => {}
            Approach::Asking { is_optional } => {
                let mut out = Vec::new();
                writer::ssl_request(&mut out);
                stream.send(out);
                if !answer(stream).await? {
                    let refusal = || Err(tls_error("the server does not offer TLS"));
                    return if is_optional { Ok(()) } else { refusal() };
                }
            }
        }
        let connector = self
            .keyring
            .connector(&self.pool)
            .or_else(|| self.made_with.clone())
            .ok_or_else(|| tls_error("TLS is not configured for this pool"))?;
        let name = self.name(endpoint)?;
        transport::connect(stream, connector.config, name)
            .await
            .map_err(|error| tls_error(error.to_string()))?;
        let alpn = stream.tls().and_then(|tls| tls.alpn());
        // Without it something else than PostgreSQL may have understood what it was not meant to.
        if approach == Approach::Direct && alpn != Some(ALPN) {
            return Err(tls_error("the server does not know the ALPN postgresql"));
        }
        Ok(())
    }

    /// What the server's certificate has to say, and what it is told to be.
    fn name(&self, endpoint: &Endpoint) -> Result<ServerName<'static>, ServerError> {
        let host = match endpoint {
            Endpoint::Tcp { host, .. } => host.trim_matches(['[', ']']),
            Endpoint::Unix { .. } => "localhost",
        };
        match ServerName::try_from(host.to_owned()) {
            Ok(name) => Ok(name),
            Err(_) if self.mode == ServerTlsMode::VerifyFull => Err(tls_error(format!(
                "{host} is no name that a certificate can have"
            ))),
            // Addresses are not told to servers, and this one is not looked at.
            Err(_) => Ok(ServerName::IpAddress(IpAddr::from(
                std::net::Ipv4Addr::UNSPECIFIED,
            ))),
        }
    }
}

fn tls_error(reason: impl Into<String>) -> ServerError {
    ServerError::Tls(reason.into())
}

/// The server's answer to the request for TLS.
async fn answer(stream: &mut Stream) -> Result<bool, ServerError> {
    let chunk = stream.receive().await.map_err(ServerError::Io)?;
    match chunk.as_deref() {
        None | Some([]) => Err(ServerError::Closed),
        Some(b"S") => Ok(true),
        Some(b"N") => Ok(false),
        Some([b'S' | b'N', ..]) => Err(tls_error(
            "received unencrypted data behind the answer to the request for TLS",
        )),
        // Its words are not repeated: nobody knows yet who says them.
        Some([b'E', ..]) => Err(tls_error(
            "the server answered the request for TLS with an error",
        )),
        Some([other, ..]) => Err(ServerError::Unexpected(*other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Material;

    fn security(mode: ServerTlsMode) -> Security {
        let tls = ServerTls {
            mode,
            ..ServerTls::default()
        };
        Security::new(&tls, Keyring::new(Material::none()), "db")
    }

    #[test]
    fn tries_are_those_of_libpq() {
        let tcp = Endpoint::Tcp {
            host: "db".to_owned(),
            port: 5432,
        };
        let unix = Endpoint::Unix { path: "/x".into() };
        let refused = |sqlstate: &str| ServerError::Refused {
            sqlstate: sqlstate.to_owned(),
            message: String::new(),
        };
        let broken = tls_error("no");
        let (optional, mandatory) = (
            Approach::Asking { is_optional: true },
            Approach::Asking { is_optional: false },
        );
        let allow = security(ServerTlsMode::Allow);
        assert_eq!(allow.first(&tcp), Approach::Plain);
        let second = allow.second(&tcp, Approach::Plain, &refused("28000"));
        assert_eq!(second, Some(mandatory));
        let second = allow.second(&tcp, Approach::Plain, &refused("28P01"));
        assert_eq!(second, None, "a wrong password is wrong over TLS, too");
        let prefer = security(ServerTlsMode::Prefer);
        assert_eq!(prefer.first(&tcp), optional);
        assert_eq!(prefer.first(&unix), Approach::Plain);
        assert_eq!(
            prefer.second(&tcp, optional, &broken),
            Some(Approach::Plain)
        );
        assert_eq!(prefer.second(&tcp, Approach::Plain, &broken), None);
        let require = security(ServerTlsMode::Require);
        assert_eq!(require.first(&tcp), mandatory);
        assert_eq!(require.first(&unix), Approach::Plain);
        assert_eq!(require.second(&tcp, mandatory, &broken), None);
        assert_eq!(require.second(&tcp, mandatory, &refused("28000")), None);
    }

    #[test]
    fn names_are_hosts_or_addresses() {
        let name = |mode, host: &str| {
            let endpoint = Endpoint::Tcp {
                host: host.to_owned(),
                port: 1,
            };
            security(mode).name(&endpoint)
        };
        let full = ServerTlsMode::VerifyFull;
        assert!(matches!(
            name(full, "db.example"),
            Ok(ServerName::DnsName(_))
        ));
        assert!(matches!(name(full, "[::1]"), Ok(ServerName::IpAddress(_))));
        assert!(name(full, "no host").is_err());
        assert!(name(ServerTlsMode::Require, "no host").is_ok());
    }
}
