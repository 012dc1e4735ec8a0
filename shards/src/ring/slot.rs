//! What a shard knows of one stream: its receive side, its send side, what the kernel still does.
//!
//! **Owns:** the fields and the questions about them.
//! **Does not own:** the transitions (`ring::receive`, `ring::mod`), the descriptor's meaning.
//!
//! ```text
//!            arm                 last completion
//!   Idle ─────────▶ Multishot ───────────────────▶ Idle
//!    │                  │ no buffer                  ▲
//!    │                  └──────────▶ Starved ────────┤ buffers are back
//!    ├─ arm, bulk ─▶ Region ─────────────────────────┤
//!    └─ arm, bulk, trickling ─▶ Delayed ─────────────┘ the delay is over
//! ```
//!
//! **Invariant:** a slot is reused only after the kernel has reported the end of its last
//! operation, so a completion always finds the slot it was meant for.

use std::os::fd::RawFd;
use std::task::Waker;

use super::buffers::Chunk;
use super::send_queue::SendQueue;

/// Marks the end of a list of buffer numbers.
pub(super) const NO_BUFFER: u16 = u16::MAX;

/// What the kernel does for the receive side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Receive {
    /// Nothing.
    #[default]
    Idle,
    /// A multishot receive into provided buffers.
    Multishot,
    /// One receive into a large region.
    Region,
    /// A multishot receive ended for want of buffers; it waits its turn.
    Starved,
    /// A timer: the sender writes piece by piece, so more is let arrive before the next receive.
    Delayed,
}

/// Where the slot is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Life {
    /// Not in use.
    #[default]
    Free,
    /// Has an owner.
    Open,
    /// Its owner is gone; queued bytes are still being sent, received ones ignored.
    Lingering,
    /// Waits for the kernel to let go of it, then closes.
    Closing,
}

/// One stream of the shard.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) fd: RawFd,
    pub(super) life: Life,
    pub(super) receive: Receive,
    /// The receive in the kernel has been asked to end.
    pub(super) cancelling: bool,
    /// The owner wants nothing received for now.
    pub(super) paused: bool,
    /// Receives go to large regions.
    pub(super) bulk: bool,
    /// The last bulk receive brought a piece as small as its sender writes them.
    pub(super) trickles: bool,
    /// An entry of this slot is on the list of region checks.
    pub(super) region_checked: bool,
    /// No region has been filled since the last check.
    pub(super) region_quiet: bool,
    /// Consecutive receives that speak for a change of `bulk`.
    pub(super) run: u8,
    /// Operations of this slot in the kernel.
    pub(super) operations: u8,
    /// The owner wants to be woken when no more than this is left to send.
    pub(super) wake_at_bytes: Option<u32>,
    pub(super) ready_first: u16,
    pub(super) ready_last: u16,
    pub(super) ready_count: u16,
    /// A filled region; older than all listed buffers.
    pub(super) ready_region: Option<Chunk>,
    /// The region that the kernel is filling.
    pub(super) region: Option<Box<[u8]>>,
    /// Nothing more will be received: 0 = end of stream, else the error number.
    pub(super) end: Option<i32>,
    /// The last send did not fit: the next one waits for room.
    pub(super) send_waits: bool,
    /// The send of this turn is done unless a completion says otherwise.
    pub(super) send_is_instant: bool,
    /// Error number of a failed send.
    pub(super) send_error: Option<i32>,
    pub(super) send: Option<Box<SendQueue>>,
    pub(super) queued_bytes: u32,
    pub(super) owner: Option<Waker>,
    /// Instead of a waker: events of this slot go to the shard's watch list under this number.
    pub(super) watch: Option<u32>,
    /// Counts the lives of this slot, so that a stale linger deadline finds nothing.
    pub(super) lives: u32,
}

impl Slot {
    /// Starts a new life around `fd`.
    pub(super) fn open(&mut self, fd: RawFd) {
        let lives = self.lives.wrapping_add(1);
        *self = Self {
            fd,
            life: Life::Open,
            ready_first: NO_BUFFER,
            ready_last: NO_BUFFER,
            lives,
            ..Self::default()
        };
    }

    /// True if a chunk can be taken.
    pub(super) fn has_ready(&self) -> bool {
        self.ready_count > 0 || self.ready_region.is_some()
    }

    /// True if nothing is left to wait for once the last byte has been sent: the peer has ended the
    /// stream, or the connection has failed.
    pub(super) fn is_over(&self) -> bool {
        self.end.is_some() || self.send_error.is_some()
    }

    /// True if the kernel still sends or receives for this slot.
    pub(super) fn is_held(&self) -> bool {
        self.is_receiving() || self.send.as_ref().is_some_and(|queue| queue.is_in_flight())
    }

    /// True if the kernel holds a receive of this slot.
    pub(super) fn is_receiving(&self) -> bool {
        matches!(self.receive, Receive::Multishot | Receive::Region)
    }
}
