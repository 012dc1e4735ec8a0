//! A connection, plain or TLS, with the interface of the shard's own streams.
//!
//! **Owns:** the choice between the two, and what a connection is between two shards.
//! **Does not own:** what TLS does with bytes (`encrypted`), handshakes (`handshake`).
//!
//! **Invariant:** a plain stream is as small as the shard's own, and no function of it allocates.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll};

use shards::{Chunk, Piece};

use crate::tls::Pump;

use super::encrypted::{Encrypted, Sealed};

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// As it is on the wire.
    Plain(shards::Stream),
    /// In records of TLS.
    Tls(Box<Encrypted>),
}

/// A connection between two shards: its socket, and what goes with it. Dropping it closes the socket.
#[derive(Debug)]
pub struct Detached {
    /// The socket.
    pub socket: OwnedFd,
    /// Bytes that the next owner must see before anything it receives.
    pub unread: Vec<u8>,
    /// The state of its encryption, if it has one.
    pub tls: Option<Box<Sealed>>,
}

impl From<shards::Stream> for Stream {
    fn from(stream: shards::Stream) -> Self {
        Self::Plain(stream)
    }
}

impl Stream {
    /// Takes over a plain connection on this shard.
    pub fn new(socket: OwnedFd) -> Self {
        Self::Plain(shards::Stream::new(socket))
    }

    /// Takes over a connection from another shard, and what its owner must see first.
    pub fn attach(detached: Detached) -> (Self, Option<Chunk>) {
        let stream = shards::Stream::new(detached.socket);
        let unread = detached.unread;
        let unread = (!unread.is_empty()).then(|| stream.chunk_of(unread));
        let stream = match detached.tls {
            None => Self::Plain(stream),
            Some(sealed) => Self::Tls(Box::new(Encrypted::open(stream, *sealed))),
        };
        (stream, unread)
    }

    /// What TLS knows of the connection; none if it is plain.
    pub fn tls(&self) -> Option<&Encrypted> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => Some(tls),
        }
    }

    /// True if the connection is encrypted.
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Goes on in records of TLS.
    ///
    /// # Errors
    ///
    /// If it does so already.
    pub(super) fn encrypt(&mut self, pump: Pump) -> io::Result<&mut Encrypted> {
        if let Self::Plain(stream) = self {
            let encrypted = Encrypted::new(stream.take(), pump);
            *self = Self::Tls(Box::new(encrypted));
            if let Self::Tls(tls) = self {
                return Ok(tls);
            }
        }
        Err(io::Error::other("the connection is encrypted already"))
    }

    fn raw(&self) -> &shards::Stream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => tls.raw(),
        }
    }

    fn raw_mut(&mut self) -> &mut shards::Stream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => tls.raw_mut(),
        }
    }

    /// Takes the next received bytes; `Ok(None)` is the end of the stream.
    ///
    /// # Errors
    ///
    /// The connection's error, or that its bytes are not what TLS allows.
    pub fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        match self {
            Self::Plain(stream) => stream.poll_receive(context),
            Self::Tls(tls) => tls.poll_receive(context),
        }
    }

    /// Waits for the next received bytes; see [`Stream::poll_receive`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn receive(&mut self) -> io::Result<Option<Chunk>> {
        poll_fn(|context| self.poll_receive(context)).await
    }

    /// Takes bytes that have already arrived, without waiting.
    pub fn take_received(&mut self) -> Option<Chunk> {
        match self {
            Self::Plain(stream) => stream.take_received(),
            Self::Tls(tls) => tls.take_received(),
        }
    }

    /// Puts bytes of one's own into a chunk, for code that handles received ones.
    pub fn chunk_of(&self, bytes: Vec<u8>) -> Chunk {
        self.raw().chunk_of(bytes)
    }

    /// Notes whom to wake when the peer ends the stream; ready when it has, or the connection has
    /// failed.
    pub fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(stream) => stream.poll_ended(context),
            Self::Tls(tls) => tls.poll_ended(context),
        }
    }

    /// True if bytes have arrived that nobody has taken.
    pub fn has_received(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.has_received(),
            Self::Tls(tls) => tls.has_received(),
        }
    }

    /// True if the peer has ended the stream or the connection has failed.
    pub fn has_ended(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.has_ended(),
            Self::Tls(tls) => tls.has_ended(),
        }
    }

    /// Queues bytes; those of a turn leave in one system operation.
    pub fn send(&mut self, piece: impl Into<Piece>) {
        match self {
            Self::Plain(stream) => stream.send(piece),
            Self::Tls(tls) => tls.send(&piece.into()),
        }
    }

    /// Bytes that are queued or on their way to the kernel, as they are on the wire.
    pub fn queued_bytes(&self) -> usize {
        self.raw().queued_bytes()
    }

    /// The error of a failed send, if any. Receiving usually reports it too.
    pub fn send_error(&self) -> Option<io::Error> {
        match self {
            Self::Plain(stream) => stream.send_error(),
            Self::Tls(tls) => tls.send_error(),
        }
    }

    /// Ready when at most `bytes` are queued, or sending has failed.
    pub fn poll_sent(&mut self, bytes: usize, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.raw_mut().poll_sent(bytes, context)
    }

    /// Waits until everything queued has been given to the kernel's socket buffer.
    ///
    /// # Errors
    ///
    /// The error of the failed send.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_sent(0, context)).await
    }

    /// Receives nothing until the next [`Stream::poll_receive`], for backpressure.
    pub fn pause(&mut self) {
        self.raw_mut().pause();
    }

    /// Reports news of this stream as `number` to [`shards::watched`] until the next poll by a task.
    pub fn watch(&mut self, number: u32) {
        self.raw_mut().watch(number);
    }

    /// Makes the drop of this stream close it at once, queued bytes or not.
    pub fn abort(&mut self) {
        match self {
            Self::Plain(stream) => stream.abort(),
            Self::Tls(tls) => tls.abort(),
        }
    }

    /// Ready when the kernel holds nothing of this stream; it receives nothing from then on.
    pub fn poll_quiescent(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.raw_mut().poll_quiescent(context)
    }

    /// Takes the stream off this shard, with the bytes that nobody has taken.
    pub async fn detach(mut self) -> Detached {
        poll_fn(|context| self.poll_detach(context)).await
    }

    /// As [`Stream::detach`], for machines that are polled. Until it is ready the stream can still be
    /// used as before.
    ///
    /// # Panics
    ///
    /// Every function of the stream does, once this has been ready: there is no socket any more.
    pub fn poll_detach(&mut self, context: &mut Context<'_>) -> Poll<Detached> {
        match self {
            Self::Plain(stream) => stream.poll_detach(context).map(|detached| Detached {
                socket: detached.socket,
                unread: detached.unread,
                tls: None,
            }),
            Self::Tls(tls) => tls.poll_detach(context),
        }
    }

    /// Names this stream among those of its shard, for [`shards::wake`].
    pub fn id(&self) -> u32 {
        self.raw().id()
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw().as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_may_be_encrypted_is_no_larger_than_a_plain_one() {
        assert_eq!(size_of::<Stream>(), size_of::<shards::Stream>());
    }
}
