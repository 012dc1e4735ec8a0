//! The shard's own `io_uring`: every socket operation, timer and wake-up of the shard goes through it.
//!
//! **Owns:** the ring, the slots of the shard's streams, their receive memory, timers.
//! **Does not own:** tasks (glommio runs them), the order of turns (`driver`).
//!
//! Glommio's reactor spends several system calls per message; its executor is fine. So tasks run on
//! glommio, and this ring does the waiting: one `io_uring_enter` per turn submits what all tasks
//! have asked for and waits for the next completion or timer.
//!
//! **Invariants**
//! 1. At most one send per stream is in the kernel.
//! 2. Memory given to the kernel lives until the completion, also when its owner has gone.
//! 3. A slot or an operation is reused only after its last completion.
//! 4. No waker is dropped while the ring is borrowed: dropping one may drop a task, and with it a
//!    stream, which needs the ring.
//!
//! Source: `io_uring_setup(2)`, `io_uring_enter(2)`, liburing's wiki page on networking.

pub(crate) mod buffers;
pub(crate) mod driver;
mod gate;
mod operation;
pub(crate) mod receive;
pub(crate) mod send_queue;
mod sending;
mod slot;
#[cfg(test)]
mod tests;
mod wait;

pub(crate) use wait::shut_down;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, squeue, types};

use buffers::{Buffers, GROUP};
use gate::Gate;
use operation::Operations;
use send_queue::SendQueue;
use slot::{Life, Receive, Slot};

/// Submission entries. More in one turn only cost an extra system call.
const ENTRIES: u32 = 1024;
/// Completion entries: multishot operations deliver bursts.
const COMPLETIONS: u32 = 8192;
/// Provided buffers of a shard (8 MiB of address space; touched as needed).
const BUFFERS: u16 = 1024;
/// How long queued bytes of a dropped stream may take to leave.
const LINGER: Duration = Duration::from_secs(2);
/// Send queues that stay allocated for the next send.
const SPARE_QUEUES_MAX: usize = 256;

/// What a completion is about. Part of the 64-bit user data, together with a slot number.
mod kind {
    pub(super) const RECEIVE: u64 = 1;
    pub(super) const SEND: u64 = 2;
    pub(super) const SLOT_OTHER: u64 = 3;
    pub(super) const CLOSE: u64 = 4;
    pub(super) const OPERATION: u64 = 5;
    pub(super) const MAIL: u64 = 6;
    pub(super) const MAIL_SENT: u64 = 7;
    pub(super) const UNTRACKED: u64 = 8;
    pub(super) const CANCEL_RECEIVE: u64 = 9;
    pub(super) const CANCEL_ALL: u64 = 10;
    pub(super) const TIMEOUT: u64 = 11;
    pub(super) const DELAY: u64 = 12;
}

/// User data by which another shard's ring announces mail.
pub(crate) const MAIL_TOKEN: u64 = kind::MAIL;

fn user_data(kind: u64, number: u32) -> u64 {
    kind | u64::from(number) << 8
}

/// A shared reference to the shard's ring. Cheap to clone; lives on one thread.
pub(crate) type RingRef = Rc<RefCell<Ring>>;

thread_local! {
    static CURRENT: RefCell<Option<RingRef>> = const { RefCell::new(None) };
}

/// The ring of this thread.
///
/// # Panics
///
/// On a thread that is not a shard: a mistake of the caller, found by its first test.
pub(crate) fn current() -> RingRef {
    CURRENT
        .with_borrow(Clone::clone)
        .expect("this thread runs no shard")
}

/// Makes `ring` the ring of this thread, or none.
pub(crate) fn set_current(ring: Option<RingRef>) {
    let before = CURRENT.with_borrow_mut(|current| std::mem::replace(current, ring));
    drop(before);
}

/// Deadlines and who waits for them.
type Timers = BTreeMap<(Instant, u64), Waker>;

/// Puts `waker` into `place`. A task may wait again and again within one turn, and its waker must not
/// be cloned each time: glommio counts the clones in 16 bits.
fn wait_as(place: &mut Option<Waker>, waker: &Waker, discarded: &mut Vec<Waker>) {
    if !place.as_ref().is_some_and(|known| known.will_wake(waker)) {
        discarded.extend(place.replace(waker.clone()));
    }
}

/// One shard's `io_uring` with everything that hangs on it.
pub(crate) struct Ring {
    uring: IoUring,
    gate: Gate,
    buffers: Rc<Buffers>,
    /// Per provided buffer: the next one in its stream's ready list, and the bytes in it.
    ready: Box<[(u16, u16)]>,
    /// Provided buffers in the ready lists of all streams.
    ready_buffers: usize,
    slots: Vec<Slot>,
    free_slots: Vec<u32>,
    operations: Operations,
    /// Streams with queued bytes and no send in flight.
    unsent: Vec<u32>,
    /// Streams whose send of this turn is done unless a completion says otherwise.
    instant: Vec<u32>,
    starved: VecDeque<u32>,
    lingering: VecDeque<(Instant, u32, u32)>,
    /// When to look whether a region still fills: deadline, slot, life of the slot.
    region_checks: VecDeque<(Instant, u32, u32)>,
    #[allow(
        clippy::vec_box,
        reason = "boxes go from slot to slot; moving one is moving a pointer"
    )]
    spare_queues: Vec<Box<SendQueue>>,
    completions: Vec<(u64, i32, u32)>,
    timers: Timers,
    timer_count: u64,
    /// Timeouts in the kernel, by number.
    timeouts: Vec<(u32, Instant)>,
    timeout_count: u32,
    timeout: Box<types::Timespec>,
    watch_events: Vec<u32>,
    watch_waker: Option<Waker>,
    mail_waker: Option<Waker>,
    mail_waiting: bool,
    mail_lost: u64,
    /// Wakers to drop once the ring is not borrowed.
    discarded: Vec<Waker>,
    in_kernel: usize,
    /// The shard ends: nothing is armed any more.
    stopping: bool,
    enters: u64,
    now: Instant,
}

impl Ring {
    /// Builds the ring on the thread that will use it.
    ///
    /// # Errors
    ///
    /// What the kernel says; `probe` turns it into advice.
    pub(crate) fn new() -> io::Result<RingRef> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(COMPLETIONS)
            .build(ENTRIES)?;
        let buffers = Buffers::new(BUFFERS)?;
        // SAFETY: the address is that of a mapping of `count` entries that `buffers` keeps until
        // after the ring is gone (`shut_down` drains it, or leaks the memory).
        unsafe {
            uring.submitter().register_buf_ring_with_flags(
                buffers.ring_address(),
                buffers.count(),
                GROUP,
                0,
            )?;
        }
        buffers.post_spare();
        let ready = vec![(slot::NO_BUFFER, 0); usize::from(buffers.count())].into_boxed_slice();
        Ok(Rc::new(RefCell::new(Self {
            gate: Gate::new(&uring),
            uring,
            buffers,
            ready,
            ready_buffers: 0,
            slots: Vec::new(),
            free_slots: Vec::new(),
            operations: Operations::default(),
            unsent: Vec::new(),
            instant: Vec::new(),
            starved: VecDeque::new(),
            lingering: VecDeque::new(),
            region_checks: VecDeque::new(),
            spare_queues: Vec::new(),
            completions: Vec::with_capacity(512),
            timers: BTreeMap::new(),
            timer_count: 0,
            timeouts: Vec::new(),
            timeout_count: 0,
            timeout: Box::default(),
            watch_events: Vec::new(),
            watch_waker: None,
            mail_waker: None,
            mail_waiting: false,
            mail_lost: 0,
            discarded: Vec::new(),
            in_kernel: 0,
            stopping: false,
            enters: 0,
            now: Instant::now(),
        })))
    }

    /// The descriptor of the ring, by which other rings address it.
    pub(crate) fn fd(&self) -> RawFd {
        self.uring.as_raw_fd()
    }

    /// The time of the last completion, which is the time of the current turn.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// System calls made so far.
    pub(crate) fn enters(&self) -> u64 {
        self.enters
    }

    /// Wake-ups that another ring refused: its shard has ended.
    pub(crate) fn mail_lost(&self) -> u64 {
        self.mail_lost
    }

    /// Queues one entry; an exhausted submission queue is handed over first.
    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: every caller keeps the memory that its entry names alive until the completion:
        // buffers and regions by `Buffers` and `Slot`, send pieces by `SendQueue`, addresses by
        // `Operations`; see invariant 2.
        while unsafe { self.uring.submission().push(entry) }.is_err() {
            self.enters += 1;
            if self.uring.submit().is_err() {
                // The completion queue is full (EBUSY). Its entries are set aside, not handled: the
                // caller may be in the middle of a change.
                self.set_completions_aside();
            }
        }
    }

    fn push_tracked(&mut self, entry: squeue::Entry, kind: u64, number: u32) {
        self.in_kernel += 1;
        self.push(&entry.user_data(user_data(kind, number)));
    }

    fn push_for_slot(&mut self, entry: squeue::Entry, kind: u64, id: u32) {
        self.slots[id as usize].operations += 1;
        self.push_tracked(entry, kind, id);
    }

    /// Gives a socket a slot. Nothing is received before the first demand.
    pub(crate) fn open(&mut self, fd: OwnedFd) -> u32 {
        let id = self.free_slots.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        self.slots[id as usize].open(fd.into_raw_fd());
        id
    }

    /// Tells the owner of a slot that something has changed.
    fn notify(&mut self, id: u32) {
        let slot = &self.slots[id as usize];
        if let Some(owner) = &slot.owner {
            owner.wake_by_ref();
        } else if let Some(watch) = slot.watch {
            self.watch_events.push(watch);
            if let Some(waker) = &self.watch_waker {
                waker.wake_by_ref();
            }
        }
    }

    /// Wakes the owner of a slot, if it has one.
    pub(crate) fn wake(&self, id: u32) {
        let slot = self.slots.get(id as usize);
        if let Some(owner) = slot.and_then(|slot| slot.owner.as_ref()) {
            owner.wake_by_ref();
        }
    }

    /// Makes `waker` the one to be woken for this slot; returns the previous one to be dropped.
    #[must_use = "to be dropped when the ring is not borrowed"]
    pub(crate) fn set_owner(&mut self, id: u32, waker: &Waker) -> Option<Waker> {
        let slot = &mut self.slots[id as usize];
        slot.watch = None;
        match &slot.owner {
            Some(owner) if owner.will_wake(waker) => None,
            _ => slot.owner.replace(waker.clone()),
        }
    }

    /// Sends this slot's events to the watch list under `number`, and drops the owner's waker.
    #[must_use = "to be dropped when the ring is not borrowed"]
    pub(crate) fn watch(&mut self, id: u32, number: u32) -> Option<Waker> {
        let slot = &mut self.slots[id as usize];
        slot.watch = Some(number);
        slot.paused = false;
        let owner = slot.owner.take();
        if slot.has_ready() || slot.end.is_some() {
            self.notify(id);
        } else {
            self.arm(id);
        }
        owner
    }

    /// Asks for a wake-up when at most `bytes` are left to send.
    pub(crate) fn wake_at(&mut self, id: u32, bytes: usize) {
        self.slots[id as usize].wake_at_bytes = Some(bytes as u32);
    }

    /// The owner is gone. Queued bytes still leave if `linger`; then the socket is closed.
    #[must_use = "to be dropped when the ring is not borrowed"]
    pub(crate) fn release(&mut self, id: u32, linger: bool) -> Option<Waker> {
        self.discard_ready(id);
        let slot = &mut self.slots[id as usize];
        slot.watch = None;
        let owner = slot.owner.take();
        let unsent = slot.send.is_some() && slot.send_error.is_none();
        if linger && unsent && slot.end.is_none_or(|end| end == 0) {
            slot.life = Life::Lingering;
            slot.paused = false;
            let lives = slot.lives;
            self.lingering
                .push_back((Instant::now() + LINGER, id, lives));
            self.arm(id);
        } else {
            self.begin_close(id);
        }
        owner
    }

    /// Ends everything that the kernel does for a slot, then closes its socket.
    fn begin_close(&mut self, id: u32) {
        let slot = &mut self.slots[id as usize];
        if slot.life == Life::Closing {
            return;
        }
        slot.life = Life::Closing;
        if let Some(queue) = &mut slot.send {
            queue.discard_unsent();
            if queue.is_empty() {
                slot.send = None;
            }
        }
        if slot.operations > 0 {
            let all = types::CancelBuilder::fd(types::Fd(slot.fd)).all();
            let entry = opcode::AsyncCancel2::new(all).build();
            self.push_for_slot(entry, kind::CANCEL_ALL, id);
        } else {
            self.close_if_quiet(id);
        }
    }

    fn close_if_quiet(&mut self, id: u32) {
        let slot = &self.slots[id as usize];
        if slot.life == Life::Closing && slot.operations == 0 {
            let entry = opcode::Close::new(types::Fd(slot.fd)).build();
            self.push_for_slot(entry, kind::CLOSE, id);
        }
    }

    fn free_slot(&mut self, id: u32) {
        let slot = &mut self.slots[id as usize];
        debug_assert!(slot.owner.is_none() && slot.operations == 0);
        slot.life = Life::Free;
        // Still on the list of starved streams, perhaps: it must not be armed when its turn comes.
        slot.receive = Receive::Idle;
        slot.fd = -1;
        slot.send = None;
        self.free_slots.push(id);
    }

    /// Takes a stream without anything in the kernel out of the ring.
    pub(crate) fn take_fd(&mut self, id: u32) -> RawFd {
        let fd = self.slots[id as usize].fd;
        self.discarded.extend(self.slots[id as usize].owner.take());
        self.free_slot(id);
        fd
    }

    /// The descriptor of an open slot.
    pub(crate) fn raw_fd(&self, id: u32) -> RawFd {
        self.slots[id as usize].fd
    }

    fn dispatch(&mut self, data: u64, result: i32, flags: u32) {
        let number = (data >> 8) as u32;
        match data & 0xff {
            kind::RECEIVE => self.on_received(number, result, flags),
            kind::SEND => {
                self.in_kernel -= 1;
                self.on_sent(number, result);
            }
            kind::SLOT_OTHER => self.on_slot_other(number),
            kind::DELAY => self.on_delayed(number),
            kind::CANCEL_RECEIVE => {
                self.on_slot_other(number);
                self.after_cancel_receive(number, result);
            }
            kind::CANCEL_ALL => {
                self.on_slot_other(number);
                self.after_cancel_all(number, result);
            }
            kind::CLOSE => {
                self.in_kernel -= 1;
                self.slots[number as usize].operations -= 1;
                self.free_slot(number);
            }
            kind::OPERATION => self.on_operation(number, result, flags),
            kind::TIMEOUT => self.on_timeout(number),
            kind::MAIL => self.on_mail(),
            kind::MAIL_SENT => {
                self.in_kernel -= 1;
                self.mail_lost += u64::from(result < 0);
            }
            other => debug_assert_eq!(other, kind::UNTRACKED, "unknown completion"),
        }
    }

    fn on_slot_other(&mut self, id: u32) {
        self.in_kernel -= 1;
        let slot = &mut self.slots[id as usize];
        slot.operations -= 1;
        if slot.paused && slot.operations == 0 {
            self.notify(id);
        }
        self.close_if_quiet(id);
    }

    /// A cancellation misses an operation that is on its way between two of the kernel's lists.
    /// What it has missed ends when the connection does.
    fn after_cancel_all(&mut self, id: u32, cancelled: i32) {
        let slot = &self.slots[id as usize];
        if slot.is_held() && cancelled < i32::from(slot.operations) {
            let fd = types::Fd(slot.fd);
            let entry = opcode::Shutdown::new(fd, libc::SHUT_RDWR).build();
            self.push_for_slot(entry, kind::SLOT_OTHER, id);
        }
    }

    fn set_completions_aside(&mut self) {
        let completions = self.uring.completion();
        self.completions
            .extend(completions.map(|c| (c.user_data(), c.result(), c.flags())));
    }

    /// Handles all completions that are there.
    fn reap(&mut self) {
        self.set_completions_aside();
        while !self.completions.is_empty() {
            let mut completions = std::mem::take(&mut self.completions);
            for (data, result, flags) in completions.drain(..) {
                self.dispatch(data, result, flags);
            }
            completions.append(&mut self.completions);
            self.completions = completions;
        }
    }
}
