//! The receive side of streams: arming, what arrives, backpressure, bulk.
//!
//! **Owns:** the transitions of [`Receive`] and the lists of received chunks.
//! **Does not own:** the buffers' memory (`buffers`), who reads (`stream`).
//!
//! A stream has one multishot receive in the kernel; the kernel picks a buffer when there are bytes,
//! so an idle stream holds none. Three things end it early, and each is undone on demand: too many
//! chunks that nobody takes, a pause by the owner (backpressure), and a switch to *bulk*, where
//! single receives fill regions of 256 KiB because the cost per byte of small buffers is double. A
//! bulk stream that becomes idle switches back and gives its region away.
//!
//! **Invariants**
//! 1. Chunks are handed out in the order in which the bytes arrived: a region is armed only when no
//!    chunk is waiting, nothing is armed while a filled region waits, and it goes first.
//! 2. A stream without a buffer (`ENOBUFS`) is armed again in FIFO order as buffers return.
//! 3. Bytes that nobody takes hold no buffer that another stream waits for.
//!
//! Source: `io_uring_prep_recv_multishot(3)`.

use std::task::Waker;
use std::time::Duration;

use io_uring::{cqueue, opcode, types};

use super::buffers::{BUFFER_BYTES, Chunk, GROUP};
use super::slot::{Life, NO_BUFFER, Receive};
use super::{Ring, kind, user_data};

/// Chunks that may wait in a stream before its receive is ended.
const READY_MAX: u16 = 32;
/// Full buffers in a row after which a stream counts as bulk.
const FULL_RUN: u8 = 4;
/// A bulk receive that brings less than this found a sender who writes piece by piece.
const TRICKLE_BYTES: usize = 8 * BUFFER_BYTES;
/// How long more is let arrive from such a sender. Each wake-up costs more than it takes to copy a
/// piece; the end of the stream comes later by at most this.
static TRICKLE_DELAY: types::Timespec = types::Timespec::new().nsec(100_000);
/// Small bulk receives in a row after which a stream is not bulk any more.
const SMALL_RUN: u8 = 2;

/// A region that waits for bytes longer than this (at most twice this) is taken back.
const REGION_QUIET_MAX: Duration = Duration::from_millis(250);

/// What the receive side of a stream has to offer.
pub(crate) enum Received {
    /// Bytes.
    Chunk(Chunk),
    /// The peer will send nothing more.
    End,
    /// The connection failed with this error number.
    Failed(i32),
    /// Nothing yet; the owner will be woken.
    Nothing,
}

impl Ring {
    /// Takes the next chunk, or makes sure that the owner is woken when there is one.
    ///
    /// The replaced waker, if any, is to be dropped when the ring is not borrowed.
    pub(crate) fn receive(&mut self, id: u32, waker: &Waker) -> (Received, Option<Waker>) {
        if let Some(chunk) = self.pop_ready(id) {
            return (Received::Chunk(chunk), None);
        }
        match self.slots[id as usize].end {
            Some(0) => (Received::End, None),
            Some(error) => (Received::Failed(error), None),
            None => {
                self.slots[id as usize].paused = false;
                self.arm(id);
                (Received::Nothing, self.set_owner(id, waker))
            }
        }
    }

    /// Takes a chunk that is there, without any other effect.
    pub(crate) fn pop_ready(&mut self, id: u32) -> Option<Chunk> {
        let slot = &mut self.slots[id as usize];
        if slot.ready_region.is_some() || slot.ready_count == 0 {
            return slot.ready_region.take();
        }
        self.ready_buffers -= 1;
        let buffer = slot.ready_first;
        let (next, len) = self.ready[usize::from(buffer)];
        slot.ready_first = next;
        slot.ready_count -= 1;
        if slot.ready_count == 0 {
            slot.ready_last = NO_BUFFER;
        }
        Some(self.buffers.filled_earlier(buffer, usize::from(len)))
    }

    /// Bytes of one's own as a chunk.
    pub(crate) fn chunk_of(&self, bytes: Vec<u8>) -> Chunk {
        let len = bytes.len();
        self.buffers.adopt_region(bytes.into_boxed_slice(), len)
    }

    fn push_ready(&mut self, id: u32, buffer: u16, len: usize) {
        self.ready[usize::from(buffer)] = (NO_BUFFER, len as u16);
        self.buffers.note_filled(buffer);
        let slot = &mut self.slots[id as usize];
        if slot.ready_count == 0 {
            slot.ready_first = buffer;
        } else {
            self.ready[usize::from(slot.ready_last)].0 = buffer;
        }
        slot.ready_last = buffer;
        slot.ready_count += 1;
        self.ready_buffers += 1;
    }

    /// When no buffer is left, moves what waits in streams to the heap. Every task has run since it
    /// arrived, so nobody is about to take it.
    pub(super) fn spill_ready(&mut self) {
        if self.starved.is_empty() || self.buffers.free_count() > 0 {
            return;
        }
        for id in 0..self.slots.len() as u32 {
            if self.ready_buffers == 0 {
                return;
            }
            if self.slots[id as usize].ready_count > 0 {
                let mut bytes = Vec::new();
                while let Some(chunk) = self.pop_ready(id) {
                    bytes.extend_from_slice(&chunk);
                }
                let len = bytes.len();
                let chunk = self.buffers.adopt_region(bytes.into_boxed_slice(), len);
                self.slots[id as usize].ready_region = Some(chunk);
            }
        }
    }

    pub(super) fn discard_ready(&mut self, id: u32) {
        while self.pop_ready(id).is_some() {}
    }

    /// Puts a receive into the kernel unless there is one, or a reason against it.
    pub(crate) fn arm(&mut self, id: u32) {
        let slot = &mut self.slots[id as usize];
        let wanted = slot.receive == Receive::Idle && !slot.paused && slot.end.is_none();
        if self.stopping || !wanted || slot.ready_region.is_some() || slot.life == Life::Closing {
            return;
        }
        if slot.bulk && slot.ready_count > 0 {
            return;
        }
        if slot.bulk && std::mem::take(&mut slot.trickles) {
            slot.receive = Receive::Delayed;
            let entry = opcode::Timeout::new(&raw const TRICKLE_DELAY).build();
            self.push_for_slot(entry, kind::DELAY, id);
            return;
        }
        let fd = types::Fd(slot.fd);
        slot.cancelling = false;
        let entry = if slot.bulk {
            slot.receive = Receive::Region;
            if !slot.region_checked {
                slot.region_checked = true;
                let check = (self.now + REGION_QUIET_MAX, id, slot.lives);
                self.region_checks.push_back(check);
            }
            let region = slot.region.insert(self.buffers.take_region());
            opcode::Recv::new(fd, region.as_mut_ptr(), region.len() as u32).build()
        } else {
            slot.receive = Receive::Multishot;
            opcode::RecvMulti::new(fd, GROUP).build()
        };
        self.push_for_slot(entry, kind::RECEIVE, id);
    }

    /// The delay of a trickling stream is over: what has arrived meanwhile is received in one piece.
    pub(super) fn on_delayed(&mut self, id: u32) {
        let slot = &mut self.slots[id as usize];
        if slot.receive == Receive::Delayed {
            slot.receive = Receive::Idle;
        }
        self.on_slot_other(id);
        if matches!(self.slots[id as usize].life, Life::Open | Life::Lingering) {
            self.arm(id);
        }
    }

    /// Takes regions from streams that have become idle: they wait with a small buffer, or rather
    /// with none.
    pub(super) fn check_regions(&mut self) {
        while let Some(&(deadline, id, lives)) = self.region_checks.front() {
            if deadline > self.now {
                return;
            }
            self.region_checks.pop_front();
            let slot = &mut self.slots[id as usize];
            if slot.lives != lives {
                continue;
            }
            slot.region_checked = false;
            if slot.life != Life::Open || slot.receive != Receive::Region {
                continue;
            }
            if slot.region_quiet {
                slot.bulk = false;
                slot.run = 0;
                self.cancel_receive(id);
            } else {
                slot.region_quiet = true;
                slot.region_checked = true;
                let check = (self.now + REGION_QUIET_MAX, id, lives);
                self.region_checks.push_back(check);
            }
        }
    }

    /// Asks the kernel to end the receive of a slot.
    fn cancel_receive(&mut self, id: u32) {
        let slot = &mut self.slots[id as usize];
        if slot.is_receiving() && !slot.cancelling {
            slot.cancelling = true;
            let entry = opcode::AsyncCancel::new(user_data(kind::RECEIVE, id)).build();
            self.push_for_slot(entry, kind::CANCEL_RECEIVE, id);
        }
    }

    /// A cancellation that has found nothing although the receive goes on is repeated.
    pub(super) fn after_cancel_receive(&mut self, id: u32, result: i32) {
        let slot = &mut self.slots[id as usize];
        if result == -libc::ENOENT && slot.cancelling && slot.life == Life::Open {
            slot.cancelling = false;
            self.cancel_receive(id);
        }
    }

    /// Receives nothing until the next demand; what is on its way is kept.
    pub(crate) fn pause(&mut self, id: u32) {
        self.slots[id as usize].paused = true;
        self.cancel_receive(id);
    }

    /// True if received bytes wait to be taken.
    pub(crate) fn has_ready(&self, id: u32) -> bool {
        self.slots[id as usize].has_ready()
    }

    /// True if the stream has ended or failed on the receive side.
    pub(crate) fn has_ended(&self, id: u32) -> bool {
        self.slots[id as usize].end.is_some()
    }

    /// True if the kernel holds nothing of this slot. Otherwise asks it to let go, and wakes the
    /// owner on the way there.
    pub(crate) fn quiesce(&mut self, id: u32) -> bool {
        self.pause(id);
        let slot = &mut self.slots[id as usize];
        if slot.receive == Receive::Starved {
            slot.receive = Receive::Idle;
        }
        slot.operations == 0 && slot.send.is_none()
    }

    pub(super) fn on_received(&mut self, id: u32, result: i32, flags: u32) {
        let buffer = cqueue::buffer_select(flags);
        if cqueue::more(flags) {
            if let Some(buffer) = buffer {
                self.take_in(id, buffer, result);
            }
            return;
        }
        self.in_kernel -= 1;
        let slot = &mut self.slots[id as usize];
        slot.operations -= 1;
        let region = slot.region.take();
        slot.receive = Receive::Idle;
        slot.cancelling = false;
        match (buffer, region) {
            (Some(buffer), _) => self.take_in(id, buffer, result),
            (None, Some(region)) => self.take_in_region(id, region, result),
            (None, None) => self.receive_ended(id, result),
        }
        let slot = &self.slots[id as usize];
        match slot.life {
            Life::Closing => self.close_if_quiet(id),
            // The peer may have ended its direction only: what is queued still leaves.
            Life::Lingering if slot.end == Some(0) && slot.send.is_some() => {}
            Life::Lingering if slot.end.is_some() => self.begin_close(id),
            Life::Lingering => self.arm(id),
            Life::Open => self.rearm_after(id),
            Life::Free => debug_assert!(false, "a completion for a free slot"),
        }
    }

    /// A receive has ended while its stream lives on.
    fn rearm_after(&mut self, id: u32) {
        let slot = &self.slots[id as usize];
        if !slot.has_ready() && slot.end.is_none() && slot.receive == Receive::Idle {
            self.arm(id);
        }
        if self.slots[id as usize].paused {
            self.notify(id);
        }
    }

    fn take_in(&mut self, id: u32, buffer: u16, result: i32) {
        let len = usize::try_from(result).unwrap_or(0).min(BUFFER_BYTES);
        let slot = &self.slots[id as usize];
        if len == 0 || slot.life != Life::Open {
            self.buffers.note_filled(buffer);
            drop(self.buffers.filled_earlier(buffer, len));
            if len == 0 {
                self.receive_ended(id, result);
            }
            return;
        }
        self.push_ready(id, buffer, len);
        let slot = &mut self.slots[id as usize];
        slot.run = if len == BUFFER_BYTES {
            slot.run.saturating_add(1)
        } else {
            0
        };
        if slot.run >= FULL_RUN && !slot.bulk {
            slot.bulk = true;
            slot.run = 0;
            self.cancel_receive(id);
        } else if slot.ready_count >= READY_MAX || slot.ready_region.is_some() {
            self.cancel_receive(id);
        }
        self.notify(id);
    }

    fn take_in_region(&mut self, id: u32, region: Box<[u8]>, result: i32) {
        let len = usize::try_from(result).unwrap_or(0);
        if len == 0 {
            self.buffers.give_back_region(region);
            self.receive_ended(id, result);
            return;
        }
        let slot = &mut self.slots[id as usize];
        slot.region_quiet = false;
        slot.run = if len < BUFFER_BYTES {
            slot.run.saturating_add(1)
        } else {
            0
        };
        slot.trickles = (BUFFER_BYTES..TRICKLE_BYTES).contains(&len);
        if slot.run >= SMALL_RUN {
            slot.bulk = false;
            slot.run = 0;
        }
        let chunk = if len < BUFFER_BYTES / 2 {
            let copy: Box<[u8]> = region[..len].into();
            self.buffers.give_back_region(region);
            self.buffers.adopt_region(copy, len)
        } else {
            self.buffers.adopt_region(region, len)
        };
        if slot.life == Life::Open {
            slot.ready_region = Some(chunk);
            self.notify(id);
        }
    }

    fn receive_ended(&mut self, id: u32, result: i32) {
        let slot = &mut self.slots[id as usize];
        match -result {
            libc::ENOBUFS => {
                slot.receive = Receive::Starved;
                self.starved.push_back(id);
                self.buffers.grow_posted();
                return;
            }
            libc::ECANCELED | libc::EAGAIN | libc::EINTR => return,
            error => slot.end = Some(error),
        }
        self.notify(id);
    }

    /// Arms starved streams again, oldest first, while there are buffers.
    pub(super) fn feed_starved(&mut self) {
        for _ in 0..self.starved.len() {
            if self.buffers.free_count() == 0 {
                return;
            }
            let Some(id) = self.starved.pop_front() else {
                return;
            };
            let slot = &mut self.slots[id as usize];
            if slot.receive == Receive::Starved {
                slot.receive = Receive::Idle;
                // Whoever has bytes waiting is armed when they have been taken.
                if !slot.has_ready() {
                    self.arm(id);
                }
            }
        }
    }
}
