//! Whose connection it is, if it comes from a proxy.
//!
//! **Owns:** who has to say so, and what becomes of the addresses.
//! **Does not own:** the header (`protocol::proxy`), what addresses are good for (`login`).
//!
//! ```text
//!   from proxy_protocol_networks ──header──▶ its addresses          Local, Unknown ──▶ those of the socket
//!                                ──anything else──▶ refused
//!   from elsewhere, Unix sockets ──▶ those of the socket; a header is refused as no packet
//! ```
//!
//! **Invariants**
//! 1. An address is taken only from who is trusted to know it, and once.
//! 2. What a header says of encryption or certificates has no effect: they are seen, not told.
//!
//! Source: "The PROXY protocol, Versions 1 & 2", section 2 (a receiver must not guess whether there is a
//! header).

use std::net::SocketAddr;

use crate::protocol::proxy::ProxyHeader;

use super::login::{Login, Rejection};

impl Login {
    /// Hears what a proxy says of the connection. Counts as part of the time that a login may take.
    pub(super) async fn hear_proxy(&mut self) -> Result<(), Rejection> {
        let networks = &self.general().proxy_protocol_networks;
        let Some(proxy) = self.peer.filter(|_| !networks.is_empty()) else {
            return Ok(());
        };
        if !networks.iter().any(|network| network.contains(proxy.ip())) {
            return Ok(());
        }
        if let ProxyHeader::Tcp {
            source,
            destination,
        } = self.talk.proxy_header().await?
        {
            tracing::debug!(%proxy, client = %source, "connection of a proxy");
            self.peer = Some(SocketAddr::new(source.ip().to_canonical(), source.port()));
            self.local = Some(destination.ip().to_canonical());
        }
        Ok(())
    }
}
