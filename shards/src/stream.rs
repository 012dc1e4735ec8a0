//! A connected socket of this shard.
//!
//! **Owns:** one slot of the ring, and through it the socket.
//! **Does not own:** what the bytes mean; how much may be queued (see [`Stream::queued_bytes`] and
//! [`Stream::pause`]: the one who forwards keeps the window).
//!
//! Nothing here waits by itself: `poll_*` functions note the task's waker and return. A task may
//! poll several streams in one turn and is woken for each of them.
//!
//! **Invariants**
//! 1. Bytes leave in the order of [`Stream::send`], bytes arrive in the order of the wire.
//! 2. Dropping a stream closes the socket; queued bytes are given two seconds to leave.
//! 3. Abandoning a pending receive loses nothing: bytes stay in the stream.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::task::{Context, Poll};

use crate::ring::buffers::Chunk;
use crate::ring::receive::Received;
use crate::ring::send_queue::Piece;
use crate::ring::{RingRef, current};

/// A connected stream socket (TCP or Unix).
pub struct Stream {
    id: u32,
    linger: bool,
    ring: RingRef,
}

/// Number of a stream whose socket has been taken off the shard. No slot has it.
const DETACHED: u32 = u32::MAX;

/// A stream between two shards: the socket and the bytes that arrived but were not taken.
///
/// Dropping it closes the socket.
#[derive(Debug)]
pub struct Detached {
    /// The socket.
    pub socket: OwnedFd,
    /// Bytes that the next owner must see before anything it receives.
    pub unread: Vec<u8>,
}

impl Stream {
    /// Takes over a connected, blocking-mode socket on this shard.
    ///
    /// # Panics
    ///
    /// On a thread that runs no shard.
    pub fn new(socket: OwnedFd) -> Self {
        let ring = current();
        let id = ring.borrow_mut().open(socket);
        Self {
            id,
            linger: true,
            ring,
        }
    }

    /// Takes the next received bytes; `Ok(None)` is the end of the stream.
    ///
    /// # Errors
    ///
    /// The connection's error; the stream is of no further use then.
    pub fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        let (received, replaced) = self.ring.borrow_mut().receive(self.id, context.waker());
        drop(replaced);
        match received {
            Received::Chunk(chunk) => Poll::Ready(Ok(Some(chunk))),
            Received::End => Poll::Ready(Ok(None)),
            Received::Failed(error) => Poll::Ready(Err(io::Error::from_raw_os_error(error))),
            Received::Nothing => Poll::Pending,
        }
    }

    /// Waits for the next received bytes; see [`Stream::poll_receive`].
    ///
    /// # Errors
    ///
    /// The connection's error.
    pub async fn receive(&mut self) -> io::Result<Option<Chunk>> {
        poll_fn(|context| self.poll_receive(context)).await
    }

    /// Takes bytes that have already arrived, without waiting.
    pub fn take_received(&mut self) -> Option<Chunk> {
        self.ring.borrow_mut().pop_ready(self.id)
    }

    /// Puts bytes of one's own into a chunk, for code that handles received ones.
    pub fn chunk_of(&self, bytes: Vec<u8>) -> Chunk {
        self.ring.borrow().chunk_of(bytes)
    }

    /// Notes whom to wake when the peer ends the stream; ready when it has, or the connection has
    /// failed.
    pub fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut ring = self.ring.borrow_mut();
        if ring.has_ended(self.id) {
            return Poll::Ready(());
        }
        ring.arm(self.id);
        let replaced = ring.set_owner(self.id, context.waker());
        drop(ring);
        drop(replaced);
        Poll::Pending
    }

    /// True if bytes have arrived that nobody has taken.
    pub fn has_received(&self) -> bool {
        self.ring.borrow().has_ready(self.id)
    }

    /// True if the peer has ended the stream or the connection has failed.
    pub fn has_ended(&self) -> bool {
        self.ring.borrow().has_ended(self.id)
    }

    /// Queues bytes. All pieces queued by all tasks leave at the end of the turn, those of one
    /// stream in one system operation.
    pub fn send(&mut self, piece: impl Into<Piece>) {
        self.ring.borrow_mut().send(self.id, piece.into());
    }

    /// Bytes that are queued or on their way to the kernel.
    pub fn queued_bytes(&self) -> usize {
        self.ring.borrow().queued_bytes(self.id)
    }

    /// The error of a failed send, if any. Receiving usually reports it too.
    pub fn send_error(&self) -> Option<io::Error> {
        self.ring
            .borrow()
            .send_error(self.id)
            .map(io::Error::from_raw_os_error)
    }

    /// Ready when at most `bytes` are queued, or sending has failed.
    pub fn poll_sent(&mut self, bytes: usize, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let replaced = {
            let mut ring = self.ring.borrow_mut();
            if let Some(error) = ring.send_error(self.id) {
                return Poll::Ready(Err(io::Error::from_raw_os_error(error)));
            }
            if ring.queued_bytes(self.id) <= bytes {
                return Poll::Ready(Ok(()));
            }
            ring.wake_at(self.id, bytes);
            ring.set_owner(self.id, context.waker())
        };
        drop(replaced);
        Poll::Pending
    }

    /// Waits until everything queued has been given to the kernel's socket buffer.
    ///
    /// # Errors
    ///
    /// The error of the failed send.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_sent(0, context)).await
    }

    /// Receives nothing until the next [`Stream::poll_receive`], for backpressure. What is already
    /// on its way is kept.
    pub fn pause(&mut self) {
        self.ring.borrow_mut().pause(self.id);
    }

    /// Reports news of this stream as `number` to [`watched`] instead of waking a task, until the
    /// next poll by a task. For streams that nobody is using at the moment.
    pub fn watch(&mut self, number: u32) {
        let owner = self.ring.borrow_mut().watch(self.id, number);
        drop(owner);
    }

    /// Makes the drop of this stream close it at once, queued bytes or not.
    pub fn abort(&mut self) {
        self.linger = false;
    }

    /// Ready when the kernel holds nothing of this stream; it receives nothing from then on.
    pub fn poll_quiescent(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut ring = self.ring.borrow_mut();
        if ring.quiesce(self.id) {
            return Poll::Ready(());
        }
        ring.wake_at(self.id, 0);
        let replaced = ring.set_owner(self.id, context.waker());
        drop(ring);
        drop(replaced);
        Poll::Pending
    }

    /// Takes the stream off this shard, with the bytes that nobody has taken.
    ///
    /// Waits until the receive has ended and everything queued has been sent.
    pub async fn detach(mut self) -> Detached {
        poll_fn(|context| self.poll_detach(context)).await
    }

    /// As [`Stream::detach`], for machines that are polled. Until it is ready the stream can still
    /// be used as before: the next receive takes up what this has begun to end.
    ///
    /// # Panics
    ///
    /// Every function of the stream does, once this has been ready: there is no socket any more.
    pub fn poll_detach(&mut self, context: &mut Context<'_>) -> Poll<Detached> {
        if self.poll_quiescent(context).is_pending() {
            return Poll::Pending;
        }
        let mut unread = Vec::new();
        while let Some(chunk) = self.take_received() {
            unread.extend_from_slice(&chunk);
        }
        let fd = self.ring.borrow_mut().take_fd(self.id);
        self.id = DETACHED;
        // SAFETY: the slot owned the descriptor and has just given it up.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Poll::Ready(Detached { socket, unread })
    }

    /// Moves the connection out. What is left is good for nothing but to be dropped.
    #[must_use]
    pub fn take(&mut self) -> Self {
        Self {
            id: std::mem::replace(&mut self.id, DETACHED),
            linger: self.linger,
            ring: self.ring.clone(),
        }
    }

    /// Names this stream among those of its shard, for [`wake`].
    pub const fn id(&self) -> u32 {
        self.id
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let fd = self.ring.borrow().raw_fd(self.id);
        // SAFETY: the slot keeps the descriptor open as long as this stream lives.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.id == DETACHED {
            return;
        }
        let owner = self.ring.borrow_mut().release(self.id, self.linger);
        drop(owner);
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({})", self.id)
    }
}

/// Wakes the task that waits for stream `id` of this shard, if there is one, although there is no news.
///
/// The number of a stream that has been dropped may belong to another one: whoever is woken finds
/// nothing and waits on.
///
/// # Panics
///
/// On a thread that runs no shard.
pub fn wake(id: u32) {
    current().borrow().wake(id);
}

/// Waits for news of watched streams and appends their numbers to `numbers`, which must be empty.
pub async fn watched(numbers: &mut Vec<u32>) {
    let ring = current();
    poll_fn(|context| {
        ring.borrow_mut()
            .take_watch_events(numbers, context.waker());
        if numbers.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
}
