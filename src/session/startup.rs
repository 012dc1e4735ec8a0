//! The conversation before a client is a session: first packets, and the client's proof.
//!
//! **Owns:** reading untagged packets and password messages off a stream, in small bounds.
//! **Does not own:** what is asked and decided (`login`).
//!
//! **Invariant:** nothing that a client sends before it is authenticated makes the pooler hold more
//! than `PROOF_BYTES_MAX` bytes for it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use shards::Chunk;
use socket2::SockRef;

use crate::protocol::error::StartupError;
use crate::protocol::framer::{Framer, Interest};
use crate::protocol::proxy::{ProxyError, ProxyHeader, may_be_proxy_header, parse_proxy_header};
use crate::protocol::startup::{StartupPacket, parse_first_packet};
use crate::tls::Acceptor;
use crate::transport::{self, Gate, HandshakeError, Stream};

/// The first byte of a TLS record with a handshake message. A packet that began with it would be too long.
const HANDSHAKE_RECORD: u8 = 0x16;
/// The largest password or SASL message, in bytes: tokens may be long.
const PROOF_BYTES_MAX: u32 = 64 * 1024;

static PROOF: Interest = Interest::of(b"p");

/// Why the conversation ended.
#[derive(Debug)]
pub enum Ended {
    /// The client has gone.
    Gone,
    /// The first packet cannot be accepted.
    Startup(StartupError),
    /// A message that does not belong here, or too long.
    Violation(&'static str),
    /// A proxy has not told whose connection it is.
    Proxy(ProxyError),
}

/// A client before it is a session.
pub struct Conversation {
    /// The client's socket.
    pub stream: Stream,
    received: Vec<u8>,
    framer: Framer,
    /// Passed before what has come is looked at, so that a storm of logins delays nobody who works.
    gate: Rc<Gate>,
}

/// Steps of logins that a shard makes in a turn, each of some ten microseconds.
pub const LOGIN_STEPS: u32 = 8;

impl Conversation {
    /// A conversation that has not begun.
    pub fn new(stream: Stream, gate: Rc<Gate>) -> Self {
        let framer = Framer::new(&PROOF, PROOF_BYTES_MAX);
        Self {
            stream,
            received: Vec::new(),
            framer,
            gate,
        }
    }

    /// The client's address and the one it connected to; none on a Unix socket.
    ///
    /// # Errors
    ///
    /// The socket is not connected any more.
    pub fn addresses(&self) -> io::Result<(Option<SocketAddr>, Option<IpAddr>)> {
        let socket = SockRef::from(&self.stream);
        // A client of IPv4 on a socket of IPv6 is one of IPv4.
        let plain = |address: SocketAddr| (address.ip().to_canonical(), address.port());
        let peer = socket.peer_addr()?.as_socket().map(plain);
        let local = socket.local_addr()?.as_socket().map(plain);
        Ok((peer.map(SocketAddr::from), local.map(|(ip, _)| ip)))
    }

    async fn receive(&mut self) -> Result<(), Ended> {
        match self.stream.receive().await {
            Ok(Some(chunk)) => {
                self.received.extend_from_slice(&chunk);
                drop(chunk);
                self.gate.pass().await;
                Ok(())
            }
            Ok(None) | Err(_) => Err(Ended::Gone),
        }
    }

    /// The next untagged packet.
    ///
    /// # Errors
    ///
    /// [`Ended`].
    pub async fn packet(&mut self) -> Result<StartupPacket, Ended> {
        loop {
            match parse_first_packet(&self.received) {
                Ok(Some((packet, used))) => {
                    self.received.drain(..used);
                    return Ok(packet);
                }
                Ok(None) => self.receive().await?,
                Err(_) if may_be_proxy_header(&self.received) => {
                    return Err(Ended::Violation("unexpected PROXY protocol header"));
                }
                Err(error) => return Err(Ended::Startup(error)),
            }
        }
    }

    /// What a proxy tells of the connection. Nothing behind it is taken.
    ///
    /// # Errors
    ///
    /// [`Ended`].
    pub async fn proxy_header(&mut self) -> Result<ProxyHeader, Ended> {
        loop {
            match parse_proxy_header(&self.received).map_err(Ended::Proxy)? {
                Some((header, used)) => {
                    self.received.drain(..used);
                    return Ok(header);
                }
                None => self.receive().await?,
            }
        }
    }

    /// True if the client begins with TLS, without asking for it.
    ///
    /// # Errors
    ///
    /// [`Ended`].
    pub async fn begins_with_tls(&mut self) -> Result<bool, Ended> {
        if self.received.is_empty() {
            self.receive().await?;
        }
        Ok(self.received.first() == Some(&HANDSHAKE_RECORD))
    }

    /// True if something has come behind the last packet.
    pub fn has_more(&self) -> bool {
        !self.received.is_empty() || self.stream.has_received()
    }

    /// Goes on over TLS.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`]; nothing more can be said to the client.
    pub async fn secure(&mut self, acceptor: &Acceptor, gate: &Gate) -> Result<(), HandshakeError> {
        let received = std::mem::take(&mut self.received);
        transport::accept(
            &mut self.stream,
            received,
            Arc::clone(&acceptor.config),
            gate,
        )
        .await
    }

    /// The body of the next password or SASL message.
    ///
    /// # Errors
    ///
    /// [`Ended`].
    pub async fn proof(&mut self) -> Result<Vec<u8>, Ended> {
        loop {
            let (used, body) = match self.framer.next(&self.received) {
                Err(_) => return Err(Ended::Violation("invalid length of a password message")),
                Ok(None) => (0, None),
                Ok(Some(part)) if part.tag != b'p' => {
                    return Err(Ended::Violation("expected a password message"));
                }
                Ok(Some(part)) => (
                    part.len,
                    part.body.filter(|_| part.is_last).map(<[u8]>::to_vec),
                ),
            };
            self.received.drain(..used);
            if let Some(body) = body {
                return Ok(body);
            }
            if self.received.is_empty() {
                self.receive().await?;
            }
        }
    }

    /// The stream, and what the client has already sent beyond the start-up.
    pub fn finish(self) -> (Stream, Option<Chunk>) {
        let rest = (!self.received.is_empty()).then(|| self.stream.chunk_of(self.received));
        (self.stream, rest)
    }
}
