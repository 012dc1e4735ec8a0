//! The first packets of a client, and TLS if it wants that.
//!
//! **Owns:** requests for encryption and their answers, the limit of handshakes, what is counted of them.
//! **Does not own:** reading packets (`startup`), the handshake (`transport`), what comes behind (`login`).
//!
//! **Invariant:** nothing that came unencrypted is taken for something that came encrypted.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html` "SSL Session Encryption".

use std::rc::Rc;
use std::time::Instant;

use crate::protocol::sqlstate;
use crate::protocol::startup::{StartupMessage, StartupPacket};
use crate::tls::{ALPN, Acceptor};
use crate::transport::Encrypted;

use super::login::{Login, Rejection};
use super::report::Failure;

impl Login {
    /// TLS or requests for it, then the startup packet.
    pub(super) async fn first_packets(&mut self) -> Result<StartupMessage, Rejection> {
        let (mut asked_tls, mut asked_gss) = (false, false);
        if self.talk.begins_with_tls().await?
            && let Some(acceptor) = self.shard.host.keyring.acceptor()
        {
            asked_tls = true;
            self.secure(&acceptor, true).await?;
        }
        loop {
            let repeated = match self.talk.packet().await? {
                StartupPacket::Startup(startup) => return Ok(startup),
                StartupPacket::Cancel(key) => return Err(Rejection::Cancel(key)),
                StartupPacket::Ssl => {
                    let repeated = std::mem::replace(&mut asked_tls, true);
                    if !repeated && let Some(acceptor) = self.shard.host.keyring.acceptor() {
                        self.agree_to_tls(&acceptor).await?;
                        continue;
                    }
                    repeated
                }
                StartupPacket::GssEnc => std::mem::replace(&mut asked_gss, true),
            };
            if repeated {
                let text = "encryption was requested twice";
                return Err(Failure::new(sqlstate::PROTOCOL_VIOLATION, text).into());
            }
            self.talk.stream.send(b"N".to_vec());
        }
    }

    /// Answers a request for TLS.
    async fn agree_to_tls(&mut self, acceptor: &Acceptor) -> Result<(), Rejection> {
        if self.talk.has_more() {
            // The client waits for the answer: somebody in between has put it there.
            let text = "received unencrypted data after SSL request";
            return Err(Failure::new(sqlstate::PROTOCOL_VIOLATION, text).into());
        }
        self.talk.stream.send(b"S".to_vec());
        self.secure(acceptor, false).await
    }

    /// Goes on over TLS. A client that has not asked for it must say that it means PostgreSQL.
    async fn secure(&mut self, acceptor: &Acceptor, is_direct: bool) -> Result<(), Rejection> {
        let shard = Rc::clone(&self.shard);
        let rate = self.general().tls_rate_limit_per_second;
        let now = Instant::now();
        let at = shard.host.keyring.limit.take(now, rate);
        if at > now {
            shards::sleep_until(at).await;
        }
        let metrics = shard.metrics();
        let mut outcome = self
            .talk
            .secure(acceptor, &shard.gate)
            .await
            .map_err(|error| error.to_string());
        let tls = self.talk.stream.tls();
        if is_direct && outcome.is_ok() && tls.and_then(Encrypted::alpn) != Some(ALPN) {
            outcome = Err("direct TLS without the ALPN postgresql".to_owned());
        }
        if let Err(error) = outcome {
            metrics.tls_handshakes_failed.add(1);
            tracing::info!(client = ?self.peer, %error, "TLS handshake failed");
            return Err(Rejection::Silent);
        }
        metrics.tls_handshakes.add(1);
        let resumed = tls.is_some_and(Encrypted::is_resumed);
        metrics.tls_handshakes_resumed.add(u64::from(resumed));
        tracing::debug!(tls = tls.map(Encrypted::describe), resumed, "TLS handshake");
        self.end_point.clone_from(&acceptor.end_point);
        Ok(())
    }
}
