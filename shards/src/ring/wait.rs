//! Waiting: the one system call of a turn, timers, mail, and the end.
//!
//! **Owns:** when the ring enters the kernel and for how long.
//! **Does not own:** whether it is time to do so (`driver`).
//!
//! Source: `io_uring_enter(2)`; `io_uring_prep_timeout(3)`, `io_uring_prep_msg_ring(3)`.

use std::os::fd::RawFd;
use std::task::Waker;
use std::time::{Duration, Instant};

use io_uring::{opcode, types};

use super::driver::yield_once;
use super::slot::Life;
use super::{MAIL_TOKEN, Ring, RingRef, kind, wait_as};

/// How long the end of the ring waits for the kernel to let go of everything.
const SHUT_DOWN_MAX: Duration = Duration::from_secs(2);
/// How often the end of the ring looks for tasks to release.
const RELEASES_MAX: usize = 16;

impl Ring {
    /// Submits everything that is queued, waits for one completion or the next timer, and handles
    /// what has come. One system call.
    pub(crate) fn turn(&mut self) {
        let is_awaited = self.submit_sends();
        self.spill_ready();
        self.buffers.post_spare();
        self.feed_starved();
        self.arm_timeout();
        // Completions that were set aside earlier are work already: no wait then.
        let may_wait = !is_awaited && self.completions.is_empty();
        self.enter(usize::from(may_wait));
        self.settle_sends();
        self.reap();
        self.fire_timers();
        self.end_lingering();
        self.check_regions();
    }

    /// Submits everything and waits for `count` completions.
    fn enter(&mut self, count: usize) {
        self.enters += 1;
        let submissions = self.uring.submission().len();
        let outcome = self.gate.enter(submissions, count);
        self.now = Instant::now();
        if let Err(error) = outcome {
            let expected = [libc::EINTR, libc::EBUSY, libc::EAGAIN];
            let known = error
                .raw_os_error()
                .is_some_and(|code| expected.contains(&code));
            assert!(known, "the shard's io_uring failed: {error}");
        }
    }

    /// Puts the next deadline into the kernel, unless an earlier one is there. A timeout that stays
    /// there costs less than one that is given along with every wait.
    fn arm_timeout(&mut self) {
        let Some(deadline) = self.next_deadline() else {
            return;
        };
        if self.timeouts.iter().any(|(_, at)| *at <= deadline) {
            return;
        }
        self.timeout_count = self.timeout_count.wrapping_add(1) & 0x00ff_ffff;
        self.timeouts.push((self.timeout_count, deadline));
        *self.timeout = types::Timespec::from(deadline.saturating_duration_since(Instant::now()));
        // The kernel reads the time when the entry is submitted, at the end of this turn.
        let entry = opcode::Timeout::new(&raw const *self.timeout).build();
        self.push_tracked(entry, kind::TIMEOUT, self.timeout_count);
    }

    pub(super) fn on_timeout(&mut self, number: u32) {
        self.in_kernel -= 1;
        self.timeouts.retain(|(armed, _)| *armed != number);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let timer = self
            .timers
            .first_key_value()
            .map(|((deadline, _), _)| *deadline);
        let linger = self.lingering.front().map(|(deadline, _, _)| *deadline);
        let region = self.region_checks.front().map(|(deadline, _, _)| *deadline);
        timer.into_iter().chain(linger).chain(region).min()
    }

    fn fire_timers(&mut self) {
        while let Some(first) = self.timers.first_entry() {
            if first.key().0 > self.now {
                return;
            }
            let waker = first.remove();
            waker.wake_by_ref();
            self.discarded.push(waker);
        }
    }

    fn end_lingering(&mut self) {
        while let Some(&(deadline, id, lives)) = self.lingering.front() {
            if deadline > self.now {
                return;
            }
            self.lingering.pop_front();
            let slot = &self.slots[id as usize];
            if slot.life == Life::Lingering && slot.lives == lives {
                self.begin_close(id);
            }
        }
    }

    /// Sets or moves a timer; returns its key.
    pub(crate) fn set_timer(&mut self, deadline: Instant, waker: &Waker) -> (Instant, u64) {
        self.timer_count += 1;
        let key = (deadline, self.timer_count);
        self.timers.insert(key, waker.clone());
        key
    }

    /// Removes a timer; its waker is to be dropped when the ring is not borrowed.
    #[must_use = "to be dropped when the ring is not borrowed"]
    pub(crate) fn clear_timer(&mut self, key: (Instant, u64)) -> Option<Waker> {
        self.timers.remove(&key)
    }

    /// Numbers of watched streams with news since the last call; notes who waits for more.
    pub(crate) fn take_watch_events(&mut self, into: &mut Vec<u32>, waker: &Waker) {
        std::mem::swap(&mut self.watch_events, into);
        if into.is_empty() {
            wait_as(&mut self.watch_waker, waker, &mut self.discarded);
        }
    }

    /// Tells the ring with descriptor `fd` that there is mail.
    pub(crate) fn ring_bell(&mut self, fd: RawFd) {
        let entry = opcode::MsgRingData::new(types::Fd(fd), 0, MAIL_TOKEN, None).build();
        self.push_tracked(entry, kind::MAIL_SENT, 0);
    }

    pub(super) fn on_mail(&mut self) {
        self.mail_waiting = true;
        if let Some(waker) = &self.mail_waker {
            waker.wake_by_ref();
        }
    }

    /// True once per announced mail; otherwise notes who waits for it.
    pub(crate) fn take_mail(&mut self, waker: &Waker) -> bool {
        if std::mem::take(&mut self.mail_waiting) {
            return true;
        }
        wait_as(&mut self.mail_waker, waker, &mut self.discarded);
        false
    }

    /// True if the last bytes of a dropped stream are still on their way.
    fn is_sending_last_bytes(&self) -> bool {
        self.lingering.iter().any(|&(_, id, lives)| {
            let slot = &self.slots[id as usize];
            slot.life == Life::Lingering && slot.lives == lives && slot.send.is_some()
        })
    }

    /// Arms nothing any more, and closes what lingers.
    fn stop(&mut self) {
        self.stopping = true;
        for (_, id, lives) in std::mem::take(&mut self.lingering) {
            let slot = &self.slots[id as usize];
            if slot.life == Life::Lingering && slot.lives == lives {
                self.begin_close(id);
            }
        }
    }

    /// Cancels everything and waits, briefly, until the kernel holds nothing. Returns success.
    fn drain(&mut self) -> bool {
        let limit = Instant::now() + SHUT_DOWN_MAX;
        while self.in_kernel > 0 && Instant::now() < limit {
            let all = types::CancelBuilder::any().all();
            let entry = opcode::AsyncCancel2::new(all)
                .build()
                .user_data(kind::UNTRACKED);
            self.push(&entry);
            *self.timeout = types::Timespec::from(Duration::from_millis(50));
            let limit = opcode::Timeout::new(&raw const *self.timeout).build();
            self.push(&limit.user_data(kind::UNTRACKED));
            self.enter(1);
            self.settle_sends();
            self.reap();
        }
        self.in_kernel == 0
    }
}

/// Drops the wakers that the ring has set aside. The ring must not be borrowed.
pub(crate) fn drop_discarded(ring: &RingRef) {
    let discarded = {
        let mut ring = ring.borrow_mut();
        if ring.discarded.is_empty() {
            return;
        }
        std::mem::take(&mut ring.discarded)
    };
    drop(discarded);
}

/// Takes the wakers of all who wait for this ring.
fn take_wakers(ring: &mut Ring) -> Vec<Waker> {
    let mut wakers = std::mem::take(&mut ring.discarded);
    wakers.extend(ring.slots.iter_mut().filter_map(|slot| slot.owner.take()));
    wakers.extend(std::mem::take(&mut ring.timers).into_values());
    wakers.extend(ring.operations.take_wakers());
    wakers.extend(ring.watch_waker.take());
    wakers.extend(ring.mail_waker.take());
    wakers
}

/// Lets go of all tasks that wait for this ring. A task that nobody can wake is dropped by the
/// executor, and its streams with it; that may in turn release others.
async fn release_tasks(ring: &RingRef) {
    for _ in 0..RELEASES_MAX {
        let wakers = take_wakers(&mut ring.borrow_mut());
        if wakers.is_empty() {
            return;
        }
        drop(wakers);
        yield_once().await;
    }
}

/// Ends the ring: tasks go, queued bytes leave, and nothing of the ring may be in the kernel when
/// its memory goes.
pub(crate) async fn shut_down(ring: &RingRef) {
    release_tasks(ring).await;
    while ring.borrow().is_sending_last_bytes() {
        ring.borrow_mut().turn();
    }
    let drained = {
        let mut ring = ring.borrow_mut();
        ring.stop();
        ring.drain()
    };
    drop_discarded(ring);
    if !drained {
        tracing::warn!("the kernel still holds operations of an ended shard; its memory is kept");
        std::mem::forget(ring.clone());
    }
}
