//! The send side of streams.
//!
//! **Owns:** when queued pieces are given to the kernel, and what their completion means.
//! **Does not own:** the pieces (`send_queue`).
//!
//! Nearly every send fits into the socket's buffer at once. So a send is tried as an *instant* one
//! first: it does not wait (`MSG_DONTWAIT`) and is silent when it succeeds
//! (`IOSQE_CQE_SKIP_SUCCESS`). The kernel carries it out while it takes the entry, so after the call
//! everything that has not complained is done. Without this each send's own completion would end the
//! wait of the turn, and a lone request would cost two system calls. A send that did not fit is
//! repeated as one that waits for room, with a completion.
//!
//! **Invariants**
//! 1. At most one send per stream is in the kernel.
//! 2. A turn does not wait while somebody waits for an instant send of it: nothing would end the wait.
//! 3. An instant send is settled only after every entry has been taken and every completion of the
//!    call has been seen.
//!
//! Source: `io_uring_sqe_set_flags(3)` `IOSQE_CQE_SKIP_SUCCESS`, `send(2)` `MSG_DONTWAIT`.

use io_uring::{opcode, squeue, types};

use super::send_queue::Piece;
use super::slot::Life;
use super::{Ring, SPARE_QUEUES_MAX, kind};

impl Ring {
    /// Queues `piece`; it leaves with everything else that is queued by the end of the turn.
    pub(crate) fn send(&mut self, id: u32, piece: Piece) {
        let slot = &mut self.slots[id as usize];
        if piece.is_empty() || slot.send_error.is_some() {
            return;
        }
        let piece = match piece {
            Piece::Chunk(chunk) => Piece::Chunk(chunk.release_if_scarce()),
            composed @ (Piece::Owned(..) | Piece::Shared(..)) => composed,
        };
        slot.queued_bytes += piece.len() as u32;
        let spare = &mut self.spare_queues;
        let queue = slot
            .send
            .get_or_insert_with(|| spare.pop().unwrap_or_default());
        let was_empty = queue.is_empty();
        queue.push(piece);
        if was_empty {
            self.unsent.push(id);
        }
    }

    /// Bytes queued or in flight.
    pub(crate) fn queued_bytes(&self, id: u32) -> usize {
        self.slots[id as usize].queued_bytes as usize
    }

    /// Error of a failed send, if any.
    pub(crate) fn send_error(&self, id: u32) -> Option<i32> {
        self.slots[id as usize].send_error
    }

    /// Gives the kernel one send for every stream that has something to send. True if somebody waits
    /// for one of them to be done, so that the turn must not wait for anything else.
    pub(super) fn submit_sends(&mut self) -> bool {
        let mut awaited = false;
        let mut unsent = std::mem::take(&mut self.unsent);
        for id in unsent.drain(..) {
            let slot = &mut self.slots[id as usize];
            let (fd, instant) = (types::Fd(slot.fd), !slot.send_waits);
            let queue = slot.send.as_mut();
            let Some(entry) = queue.and_then(|queue| queue.submission(fd, instant)) else {
                continue;
            };
            slot.send_is_instant = instant;
            if instant {
                awaited |= slot.wake_at_bytes.is_some() || slot.life == Life::Lingering;
                self.instant.push(id);
                let entry = entry.flags(squeue::Flags::SKIP_SUCCESS);
                self.push_for_slot(entry, kind::SEND, id);
            } else {
                self.push_for_slot(entry, kind::SEND, id);
            }
        }
        self.unsent = unsent;
        awaited
    }

    /// Settles the instant sends of this turn: those without a completion have succeeded.
    pub(super) fn settle_sends(&mut self) {
        if self.instant.is_empty() {
            return;
        }
        self.finish_submission();
        for &(data, _, _) in &self.completions {
            if data & 0xff == kind::SEND {
                self.slots[(data >> 8) as usize].send_is_instant = false;
            }
        }
        let mut instant = std::mem::take(&mut self.instant);
        for id in instant.drain(..) {
            let slot = &mut self.slots[id as usize];
            if std::mem::take(&mut slot.send_is_instant) {
                let count = slot
                    .send
                    .as_ref()
                    .map_or(0, |queue| queue.in_flight_bytes());
                self.in_kernel -= 1;
                self.on_sent(id, count as i32);
            }
        }
        self.instant = instant;
    }

    /// Makes sure that the kernel has taken all entries and has shown all completions.
    fn finish_submission(&mut self) {
        self.set_completions_aside();
        loop {
            let (left, overflow) = {
                let submission = self.uring.submission();
                (submission.len(), submission.cq_overflow())
            };
            if left == 0 && !overflow {
                return;
            }
            self.enters += 1;
            // An error (EBUSY, EINTR) shows again as entries that are left.
            let _ = self.uring.submit();
            self.set_completions_aside();
        }
    }

    /// A send has ended after `result` bytes, or with an error.
    pub(super) fn on_sent(&mut self, id: u32, result: i32) {
        let slot = &mut self.slots[id as usize];
        slot.operations -= 1;
        let Some(queue) = slot.send.as_mut() else {
            debug_assert!(false, "a send without a queue");
            return;
        };
        let sent = usize::try_from(result).unwrap_or(0);
        slot.send_waits = sent < queue.in_flight_bytes();
        queue.sent(sent);
        slot.queued_bytes -= sent as u32;
        if result < 0 && result != -libc::EINTR && result != -libc::EAGAIN {
            queue.discard_unsent();
            slot.queued_bytes = 0;
            slot.send_error = Some(-result);
        }
        if queue.is_empty() {
            let queue = slot.send.take();
            if self.spare_queues.len() < SPARE_QUEUES_MAX {
                self.spare_queues.extend(queue);
            }
        } else if slot.life != Life::Closing {
            self.unsent.push(id);
        }
        self.after_send(id);
    }

    fn after_send(&mut self, id: u32) {
        let slot = &mut self.slots[id as usize];
        match slot.life {
            Life::Open => {
                let reached = slot.wake_at_bytes.is_some_and(|at| slot.queued_bytes <= at);
                if reached || slot.send_error.is_some() {
                    slot.wake_at_bytes = None;
                    self.notify(id);
                }
            }
            Life::Lingering if slot.send.is_none() && slot.is_over() => self.begin_close(id),
            Life::Lingering if slot.send.is_none() => {
                let fd = types::Fd(slot.fd);
                let entry = opcode::Shutdown::new(fd, libc::SHUT_WR).build();
                self.push_for_slot(entry, kind::SLOT_OTHER, id);
            }
            Life::Closing => self.close_if_quiet(id),
            Life::Lingering | Life::Free => {}
        }
    }
}
