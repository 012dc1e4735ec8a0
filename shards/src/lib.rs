//! Thread-per-core runtime over `io_uring`.
//!
//! ```text
//!   control thread ◄──────────── mailboxes (mesh) ────────────┐
//!        │                                                     │
//!  ┌─────▼──────────────┐   ┌────────────────────┐   ┌─────────▼──────────┐
//!  │ shard 0            │   │ shard 1            │   │ shard 2            │
//!  │  glommio executor  │   │  …                 │   │  …                 │
//!  │   tasks ◄─► driver │   │                    │   │                    │
//!  │        │           │   │                    │   │                    │
//!  │   io_uring (ours)  │◄──┤ MSG_RING           │   │                    │
//!  │   listener streams │   │                    │   │                    │
//!  └────────────────────┘   └────────────────────┘   └────────────────────┘
//! ```
//!
//! The crate offers nine things: *where* shards run ([`Topology`], [`place`]), whether they *can*
//! ([`probe_host`]), how they *start and stop* ([`launch`], [`spawn`]), how sockets *arrive*
//! ([`Listener`], [`connect_tcp`]), how bytes *move* ([`Stream`], [`Chunk`], [`sleep`]), how
//! shards *talk* ([`Inbox`], [`Outbox`]), how a process gets into the [`background`] before it
//! has any, what one leaves to the next ([`succession`]), and which sockets it has ([`OpenSockets`]). It moves bytes and messages and never looks into them.
//!
//! **Invariants**
//! 1. A shard's sockets, buffers and timers are touched by its own thread only.
//! 2. One `io_uring_enter` per turn, and none while a task is runnable.
//! 3. One send per socket in the kernel; queued pieces leave as one vectored send.
//! 4. A receive buffer returns to the kernel when its last user is gone, never before.
//! 5. A stream leaves its shard only when the kernel holds nothing of it; unread bytes go along.
//! 6. Lanes between shards are bounded, and nobody waits to send.

pub mod background;
mod connect;
mod descriptors;
mod error;
mod listener;
mod mailbox;
mod placement;
mod probe;
mod ring;
mod runtime;
mod shard_id;
mod stream;
pub mod succession;
mod timer;
mod topology;

pub use connect::{connect_tcp, connect_unix};
pub use descriptors::OpenSockets;
pub use error::{PlacementError, ProbeError, RingCall};
pub use listener::{Families, Listener, bind_tcp, bind_unix};
pub use mailbox::{ControlSeat, Inbox, Outbox, Seat, SendError};
pub use placement::{Placement, PlacementNote, Policy, Requested, ShardPlan, place};
pub use probe::{KernelVersion, ProbeReport, probe_host};
pub use ring::buffers::{BUFFER_BYTES, Chunk, REGION_BYTES};
pub use ring::send_queue::Piece;
pub use runtime::{Context, Fleet, launch, run_one, spawn};
pub use shard_id::{ShardCount, ShardId};
pub use socket2::Socket;
pub use stream::{Detached, Stream, wake, watched};
pub use timer::{Sleep, now, sleep, sleep_until, thread_cpu_time, until};
pub use topology::{Cpu, Topology};

/// System calls that this shard's ring has made so far: one per turn.
///
/// # Panics
///
/// On a thread that runs no shard.
pub fn ring_enters() -> u64 {
    ring::current().borrow().enters()
}

/// Wake-ups of this shard that found their receiver's ring gone.
///
/// # Panics
///
/// On a thread that runs no shard.
pub fn bells_lost() -> u64 {
    ring::current().borrow().mail_lost()
}
