//! A connection in records of TLS.
//!
//! **Owns:** gathering records that arrive in parts, plaintext that nobody has taken, what an end means.
//! **Does not own:** cryptography (`tls::Pump`), the socket (`shards`).
//!
//! ```text
//!   chunk ──┬── whole records ──▶ decrypted where they are ──▶ ready
//!           └── the part of one ──▶ held ── the rest arrives ──▶ decrypted there ──▶ ready
//! ```
//!
//! **Invariants**
//! 1. What is held is the part of one record, or of one handshake message; nothing when at rest.
//! 2. A stream that ends without a word about it has failed: somebody may have cut it off.
//! 3. Nothing is sent behind the word that says that nothing more is sent.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll, ready};

use shards::{Chunk, Piece};

use crate::tls::{Progress, Pump, common_name, end_point_hash};

use super::stream::Detached;

/// Bytes before the content of a record.
const HEADER_BYTES: usize = 5;
/// The largest record: 16 KiB and what TLS 1.2 lets encryption add.
const RECORD_BYTES_MAX: usize = HEADER_BYTES + 16 * 1024 + 2048;
/// Handshake messages that do not come in one record are held up to this size.
const HELD_BYTES_MAX: usize = 128 * 1024;

/// A TLS connection on its shard.
#[derive(Debug)]
pub struct Encrypted {
    raw: shards::Stream,
    /// None once it has left the shard.
    pump: Option<Pump>,
    held: Vec<u8>,
    /// What is held is more than a part of a record: a handshake message in several.
    is_gathering: bool,
    ready: VecDeque<Chunk>,
    failure: Option<Box<str>>,
    has_aborted: bool,
}

/// A TLS connection on its way between two shards.
#[derive(Debug)]
pub struct Sealed {
    pump: Pump,
    /// Received and not decrypted.
    held: Vec<u8>,
}

impl Encrypted {
    /// A connection whose handshake has not begun.
    pub(super) fn new(raw: shards::Stream, pump: Pump) -> Self {
        Self {
            raw,
            pump: Some(pump),
            held: Vec::new(),
            is_gathering: true,
            ready: VecDeque::new(),
            failure: None,
            has_aborted: false,
        }
    }

    /// A connection that comes from another shard.
    pub(super) fn open(raw: shards::Stream, sealed: Sealed) -> Self {
        let Sealed { pump, held } = sealed;
        let mut stream = Self::new(raw, pump);
        stream.is_gathering = false;
        if !held.is_empty() {
            let chunk = stream.raw.chunk_of(held);
            stream.take_in(chunk);
        }
        stream
    }

    pub(super) const fn raw(&self) -> &shards::Stream {
        &self.raw
    }

    pub(super) const fn raw_mut(&mut self) -> &mut shards::Stream {
        &mut self.raw
    }

    /// The common name in the certificate that the peer has shown; empty if there is none in it.
    pub fn peer_common_name(&self) -> Option<String> {
        let certificate = self.pump.as_ref()?.peer_certificate()?;
        Some(common_name(certificate).unwrap_or_default())
    }

    /// The hash of the peer's certificate that binds a login to it.
    pub fn peer_end_point(&self) -> Option<Vec<u8>> {
        end_point_hash(self.pump.as_ref()?.peer_certificate()?)
    }

    /// The application protocol that both sides have agreed on.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.pump.as_ref()?.alpn()
    }

    /// True if the session goes on from an earlier one.
    pub fn is_resumed(&self) -> bool {
        self.pump.as_ref().is_some_and(Pump::is_resumed)
    }

    /// Version and cipher suite, for people.
    pub fn describe(&self) -> String {
        self.pump.as_ref().map_or_else(String::new, Pump::describe)
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.pump.as_ref().is_some_and(Pump::is_handshaking)
    }

    fn has_closed(&self) -> bool {
        self.pump.as_ref().is_none_or(Pump::has_ended)
    }

    /// Why nothing more can be received.
    pub(super) fn failure(&self) -> Option<io::Error> {
        let text = self.failure.as_deref()?;
        Some(io::Error::new(io::ErrorKind::InvalidData, text))
    }

    /// Has rustls work on `bytes`, in place, and sends what it has to say.
    fn decrypt(&mut self, bytes: &mut [u8]) -> Option<Progress> {
        let pump = self.pump.as_mut()?;
        let mut out = Vec::new();
        let outcome = pump.receive(bytes, &mut out);
        self.raw.send(out);
        match outcome {
            Ok(progress) => Some(progress),
            Err(error) => {
                self.failure = Some(error.to_string().into_boxed_str());
                None
            }
        }
    }

    /// Begins: a client says hello.
    pub(super) fn begin(&mut self) {
        self.decrypt(&mut []);
    }

    /// Decrypts what has been received; plaintext goes to those who read.
    pub(super) fn take_in(&mut self, mut chunk: Chunk) {
        while !chunk.is_empty() && self.failure.is_none() && !self.has_closed() {
            if self.held.is_empty() {
                self.decrypt_chunk(chunk);
                return;
            }
            let wanted = if self.is_gathering {
                chunk.len()
            } else {
                missing_bytes(&self.held).min(chunk.len())
            };
            if self.held.len() + wanted > HELD_BYTES_MAX {
                self.failure = Some("a handshake message is too long".into());
                return;
            }
            self.held.extend_from_slice(&chunk[..wanted]);
            chunk.advance(wanted);
            if self.is_gathering || missing_bytes(&self.held) == 0 {
                self.decrypt_held();
            }
        }
    }

    fn decrypt_chunk(&mut self, chunk: Chunk) {
        let mut chunk = chunk;
        if chunk.get_mut().is_none() {
            chunk = chunk.to_heap();
        }
        let Some(progress) = chunk.get_mut().and_then(|bytes| self.decrypt(bytes)) else {
            return;
        };
        self.keep(&chunk[progress.used..]);
        chunk.truncate(progress.plain);
        if !chunk.is_empty() {
            self.ready.push_back(chunk);
        }
    }

    fn decrypt_held(&mut self) {
        let mut bytes = std::mem::take(&mut self.held);
        let Some(progress) = self.decrypt(&mut bytes) else {
            return;
        };
        self.keep(&bytes[progress.used..]);
        bytes.truncate(progress.plain);
        if !bytes.is_empty() {
            self.ready.push_back(self.raw.chunk_of(bytes));
        }
    }

    /// Holds what rustls has not used.
    fn keep(&mut self, rest: &[u8]) {
        let handshakes = self.is_handshaking();
        self.is_gathering = handshakes;
        if rest.is_empty() {
            return;
        }
        let missing = missing_bytes(rest);
        // A whole record that was not used is the first part of a handshake message.
        self.is_gathering |= missing == 0;
        self.held
            .reserve_exact(rest.len() + missing.min(RECORD_BYTES_MAX));
        self.held.extend_from_slice(rest);
    }

    pub(super) fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Chunk>>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Poll::Ready(Ok(Some(chunk)));
            }
            if let Some(error) = self.failure() {
                return Poll::Ready(Err(error));
            }
            if self.has_closed() {
                return Poll::Ready(Ok(None));
            }
            match ready!(self.raw.poll_receive(context)) {
                Ok(Some(chunk)) => self.take_in(chunk),
                Ok(None) => {
                    let text = "the connection was closed without a TLS close_notify";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    pub(super) fn take_received(&mut self) -> Option<Chunk> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(chunk);
            }
            let chunk = self.raw.take_received()?;
            self.take_in(chunk);
        }
    }

    pub(super) fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.failure.is_some() || self.has_closed() {
            return Poll::Ready(());
        }
        self.raw.poll_ended(context)
    }

    pub(super) fn has_received(&self) -> bool {
        !self.ready.is_empty() || self.raw.has_received()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.failure.is_some() || self.has_closed() || self.raw.has_ended()
    }

    pub(super) fn send(&mut self, piece: &Piece) {
        let (Some(pump), None) = (&mut self.pump, &self.failure) else {
            return;
        };
        if piece.is_empty() {
            return;
        }
        let (raw, held) = (&mut self.raw, &mut self.held);
        let outcome = pump.encrypt(piece.bytes(), held, |records| raw.send(records));
        if let Err(error) = outcome {
            self.failure = Some(error.to_string().into_boxed_str());
        }
    }

    pub(super) fn send_error(&self) -> Option<io::Error> {
        self.raw.send_error().or_else(|| self.failure())
    }

    pub(super) fn abort(&mut self) {
        self.has_aborted = true;
        self.raw.abort();
    }

    pub(super) fn poll_detach(&mut self, context: &mut Context<'_>) -> Poll<Detached> {
        let shards::Detached { socket, unread } = ready!(self.raw.poll_detach(context));
        let mut plain = Vec::new();
        for chunk in self.ready.drain(..) {
            plain.extend_from_slice(&chunk);
        }
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(&unread);
        let tls = self.pump.take().map(|pump| Box::new(Sealed { pump, held }));
        Poll::Ready(Detached {
            socket,
            unread: plain,
            tls,
        })
    }
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        if self.has_aborted || self.failure.is_some() {
            return;
        }
        let (pump, held) = (self.pump.as_mut(), &mut self.held);
        if let Some(word) = pump.and_then(|pump| pump.close_notify(held)) {
            self.raw.send(word);
        }
    }
}

/// How many bytes the last record of `bytes` lacks, as far as its header tells.
fn missing_bytes(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    loop {
        let Some(&[_, _, _, high, low]) = rest.first_chunk::<HEADER_BYTES>() else {
            return if rest.is_empty() {
                0
            } else {
                HEADER_BYTES - rest.len()
            };
        };
        let whole = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
        match rest.get(whole..) {
            Some(next) => rest = next,
            None => return whole - rest.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_tells_how_much_a_record_lacks() {
        let record = [23, 3, 3, 0, 2, 7, 7];
        assert_eq!(missing_bytes(&record), 0);
        assert_eq!(missing_bytes(&record[..6]), 1);
        assert_eq!(missing_bytes(&record[..5]), 2);
        assert_eq!(missing_bytes(&record[..3]), 2);
        let two = [&record[..], &record[..4]].concat();
        assert_eq!(missing_bytes(&two), 1);
    }
}
