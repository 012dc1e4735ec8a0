//! Messages between shards, and between shards and the control thread.
//!
//! **Owns:** the bounded lanes, and waking the receiver.
//! **Does not own:** what a message means: a lane moves an `M` and never looks inside.
//!
//! Every seat has one lane from every other seat. A sender puts the message into the lane and rings
//! the receiver's bell unless it is already ringing: a shard rings another shard through its ring
//! (`MSG_RING`, no system call of its own), the control thread rings through an eventfd that the
//! shard's ring watches.
//!
//! **Invariants**
//! 1. Every lane is bounded, and there is no waiting send: two shards waiting for room in each
//!    other's mailbox would never wake. A refused message comes back with all that it owns.
//! 2. Messages from one seat arrive in the order in which they were sent.
//! 3. A bell is cleared before the lanes are read, so no message is left without a wake-up.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::task::Poll;

use crossbeam_queue::ArrayQueue;
use io_uring::types;

use crate::ring::{RingRef, current};
use crate::shard_id::ShardId;

/// Messages that fit into one lane.
const LANE_MESSAGES: usize = 128;
/// Marks a seat whose thread has no ring.
const NO_RING: RawFd = -1;

/// Why a message was not sent; gives it back.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError<M> {
    /// The lane is full: the receiver does not keep up.
    Full(M),
    /// There is no such seat.
    NoSuchSeat(M),
}

impl<M> SendError<M> {
    /// The message that was not sent.
    pub fn into_message(self) -> M {
        match self {
            Self::Full(message) | Self::NoSuchSeat(message) => message,
        }
    }
}

/// A place in the mesh: a shard, or the control thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// A shard.
    Shard(ShardId),
    /// The control thread.
    Control,
}

impl Seat {
    /// The seat of the shard with this number.
    pub const fn of_shard(index: usize) -> Self {
        Self::Shard(ShardId::new(index as u16))
    }
}

struct Bell {
    ringing: AtomicBool,
    ring: AtomicI32,
    eventfd: OwnedFd,
}

impl Bell {
    fn new() -> io::Result<Self> {
        // SAFETY: eventfd(2) takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us.
        let eventfd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            ringing: AtomicBool::new(false),
            ring: AtomicI32::new(NO_RING),
            eventfd,
        })
    }

    fn write(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: `one` is eight readable bytes. A full counter (EAGAIN) means that it is ringing.
        unsafe { libc::write(self.eventfd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    fn clear(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: `count` is eight writable bytes; EAGAIN means that nothing was written to it.
        unsafe {
            libc::read(
                self.eventfd.as_raw_fd(),
                count.as_mut_ptr().cast(),
                count.len(),
            )
        };
        self.ringing.store(false, Ordering::SeqCst);
    }
}

/// All lanes and bells. Seat `shards` is the control thread's.
pub(crate) struct Mesh<M> {
    lanes: Vec<ArrayQueue<M>>,
    bells: Vec<Bell>,
}

impl<M> Mesh<M> {
    /// Builds the lanes between `shards` shards and the control thread.
    ///
    /// # Errors
    ///
    /// What eventfd(2) says.
    pub(crate) fn new(shards: usize) -> io::Result<Arc<Self>> {
        let seats = shards + 1;
        let lanes = (0..seats * seats)
            .map(|_| ArrayQueue::new(LANE_MESSAGES))
            .collect();
        let bells = (0..seats).map(|_| Bell::new()).collect::<io::Result<_>>()?;
        Ok(Arc::new(Self { lanes, bells }))
    }

    fn seats(&self) -> usize {
        self.bells.len()
    }

    fn lane(&self, from: usize, to: usize) -> &ArrayQueue<M> {
        &self.lanes[from * self.seats() + to]
    }

    fn index(&self, seat: Seat) -> usize {
        match seat {
            Seat::Shard(id) => id.index(),
            Seat::Control => self.seats() - 1,
        }
    }

    fn seat(&self, index: usize) -> Seat {
        if index + 1 == self.seats() {
            Seat::Control
        } else {
            Seat::of_shard(index)
        }
    }

    fn push(&self, from: usize, to: Seat, message: M) -> Result<Option<&Bell>, SendError<M>> {
        let to = self.index(to);
        if to >= self.seats() {
            return Err(SendError::NoSuchSeat(message));
        }
        self.lane(from, to).push(message).map_err(SendError::Full)?;
        let bell = &self.bells[to];
        Ok((!bell.ringing.swap(true, Ordering::SeqCst)).then_some(bell))
    }

    fn pop(&self, to: usize, first: usize) -> Option<(usize, M)> {
        (0..self.seats())
            .map(|offset| (first + offset) % self.seats())
            .find_map(|from| self.lane(from, to).pop().map(|message| (from, message)))
    }
}

/// The sending side of a shard.
pub struct Outbox<M> {
    mesh: Arc<Mesh<M>>,
    seat: usize,
    ring: RingRef,
}

impl<M> Clone for Outbox<M> {
    fn clone(&self) -> Self {
        Self {
            mesh: Arc::clone(&self.mesh),
            seat: self.seat,
            ring: self.ring.clone(),
        }
    }
}

impl<M> Outbox<M> {
    /// Queues `message` without waiting.
    ///
    /// # Errors
    ///
    /// The message itself, inside [`SendError`]: it may own a socket.
    pub fn try_send(&self, to: Seat, message: M) -> Result<(), SendError<M>> {
        let Some(bell) = self.mesh.push(self.seat, to, message)? else {
            return Ok(());
        };
        match bell.ring.load(Ordering::Acquire) {
            NO_RING => bell.write(),
            ring => self.ring.borrow_mut().ring_bell(ring),
        }
        Ok(())
    }
}

/// The receiving side of a shard.
pub struct Inbox<M> {
    mesh: Arc<Mesh<M>>,
    seat: usize,
    next: usize,
    ring: RingRef,
}

impl<M> Inbox<M> {
    /// Waits for the next message. Seats are served in turn.
    pub async fn receive(&mut self) -> (Seat, M) {
        loop {
            if let Some((from, message)) = self.mesh.pop(self.seat, self.next) {
                self.next = from + 1;
                return (self.mesh.seat(from), message);
            }
            poll_fn(|context| {
                let arrived = self.ring.borrow_mut().take_mail(context.waker());
                if arrived {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
            self.mesh.bells[self.seat].clear();
        }
    }
}

impl<M> Drop for Inbox<M> {
    fn drop(&mut self) {
        self.mesh.bells[self.seat]
            .ring
            .store(NO_RING, Ordering::Release);
    }
}

/// Takes the seat of a shard on its own thread, once its ring exists.
pub(crate) fn take_seat<M>(mesh: &Arc<Mesh<M>>, id: ShardId) -> (Inbox<M>, Outbox<M>) {
    let ring = current();
    let seat = id.index();
    let bell = &mesh.bells[seat];
    {
        let mut ring = ring.borrow_mut();
        ring.watch_eventfd(types::Fd(bell.eventfd.as_raw_fd()));
        bell.ring.store(ring.fd(), Ordering::Release);
    }
    let inbox = Inbox {
        mesh: Arc::clone(mesh),
        seat,
        next: 0,
        ring: ring.clone(),
    };
    (
        inbox,
        Outbox {
            mesh: Arc::clone(mesh),
            seat,
            ring,
        },
    )
}

/// The control thread's seat: sends to shards, receives from them.
pub struct ControlSeat<M> {
    mesh: Arc<Mesh<M>>,
    next: usize,
}

impl<M> ControlSeat<M> {
    pub(crate) fn new(mesh: Arc<Mesh<M>>) -> Self {
        Self { mesh, next: 0 }
    }

    /// Number of shards.
    pub fn shard_count(&self) -> usize {
        self.mesh.seats() - 1
    }

    /// Queues `message` for a shard without waiting.
    ///
    /// # Errors
    ///
    /// The message itself, inside [`SendError`].
    pub fn try_send(&self, to: ShardId, message: M) -> Result<(), SendError<M>> {
        if let Some(bell) = self
            .mesh
            .push(self.mesh.seats() - 1, Seat::Shard(to), message)?
        {
            bell.write();
        }
        Ok(())
    }

    /// Takes the next message. When there is none, the seat's descriptor becomes readable with the
    /// next one.
    pub fn try_receive(&mut self) -> Option<(Seat, M)> {
        let seat = self.mesh.seats() - 1;
        let mut taken = self.mesh.pop(seat, self.next);
        if taken.is_none() {
            self.mesh.bells[seat].clear();
            taken = self.mesh.pop(seat, self.next);
        }
        let (from, message) = taken?;
        self.next = from + 1;
        Some((self.mesh.seat(from), message))
    }
}

impl<M> AsFd for ControlSeat<M> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mesh.bells[self.mesh.seats() - 1].eventfd.as_fd()
    }
}
