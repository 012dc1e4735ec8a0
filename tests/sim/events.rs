//! The virtual clock and what is to happen on it.
//!
//! Owns: the order of events: by time, then as they were planned.
//! Does not own: what an event does (`world`, `clients`).
//! Invariants: time never goes back.
//! Source: none.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::Duration;

use pg_doorman::pool::letter::Letter;
use pg_doorman::server::lease::Lease;
use pg_doorman::server::quota::Right;

use crate::cancels::Cancel;

/// A server connection. It cannot be copied: whatever is in two places does not compile.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) number: u32,
    pub(crate) lease: Rc<Lease>,
    /// Held for its end only.
    pub(crate) _right: Right,
    /// End of its life, since the start of the run.
    pub(crate) expires: Option<Duration>,
}

/// Something that happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// A client wants a server.
    Ask(usize),
    /// A client has done its work, in its so-many-th step.
    Done(usize, u32),
    /// A client goes, whatever it was doing.
    Leave(usize, u32),
    /// A client that waited has been woken.
    Wake(usize),
    /// Somebody wants to cancel what a client does then.
    CancelAsked(usize),
    /// A cancel request is about to be sent, takes effect, has ended.
    CancelSent(Cancel),
    CancelActs(Cancel),
    CancelEnds(Cancel),
    /// The wait of a client ought to be over.
    Overdue(usize, u32),
    /// An opening has ended.
    Opened {
        shard: usize,
        is_fit: bool,
        right: Right,
    },
    /// A server has been cleaned or tried.
    Tried {
        shard: usize,
        server: Server,
        is_fit: bool,
    },
    /// A server has left its shard, or has ended instead.
    Packed {
        from: usize,
        to: usize,
        letter: Letter<Server>,
    },
    /// A letter arrives.
    Arrives {
        from: usize,
        to: usize,
        letter: Letter<Server>,
    },
    /// A lane becomes full until later.
    LaneFull,
    /// The alarm for reviews rings.
    Review(usize),
    /// The alarm of waits rings.
    Alarm(usize),
    /// An idle server of a shard ends.
    IdleEnds(usize),
    /// Old servers of a shard are closed.
    Retire(usize),
    /// A shard gives back what it does not need.
    Settle(usize),
    /// A shard takes over the so-many-th sizes.
    Resize(usize, usize),
    /// There may be a right for a shard that was denied one.
    Room(usize),
    /// Another pool of the database opens connections, or closes them.
    Rival,
    /// On this shard the pool is not configured any more.
    GoAlone(usize),
}

impl Event {
    /// Happens again and again, whether or not anybody does anything.
    pub(crate) fn is_routine(&self) -> bool {
        matches!(
            self,
            Self::Retire(_) | Self::Settle(_) | Self::IdleEnds(_) | Self::LaneFull | Self::Rival
        )
    }
}

struct Planned {
    at: Duration,
    number: u64,
    event: Event,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    /// The earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// All that is to happen.
#[derive(Default)]
pub(crate) struct Clock {
    now: Duration,
    planned: BinaryHeap<Planned>,
    number: u64,
    /// Planned events that are not routine.
    pub(crate) busy: usize,
}

impl Clock {
    /// Time since the start of the run.
    pub(crate) fn now(&self) -> Duration {
        self.now
    }

    pub(crate) fn plan(&mut self, at: Duration, event: Event) {
        self.number += 1;
        self.busy += usize::from(!event.is_routine());
        self.planned.push(Planned {
            at: at.max(self.now),
            number: self.number,
            event,
        });
    }

    /// What is planned and is not routine.
    pub(crate) fn pending(&self) -> String {
        let pending = self.planned.iter().filter(|one| !one.event.is_routine());
        let lines = pending.map(|one| format!("{:?} {:?}", one.at, one.event));
        lines.take(5).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn next(&mut self) -> Option<Event> {
        let next = self.planned.pop()?;
        self.now = next.at;
        self.busy -= usize::from(!next.event.is_routine());
        Some(next.event)
    }
}
