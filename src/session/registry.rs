//! The sessions of a shard by number: what a cancel key names.
//!
//! **Owns:** slots and the secrets given out with them, which server a session uses now, where
//! sessions are that have left, which sessions are asked to leave.
//! **Does not own:** the layout of a key (`protocol::cancel_key`), how sessions travel (`resume`).
//!
//! A cancel key names the shard that the client logged in on, its *origin*, and a slot there. A
//! session that moves keeps its key: the slot stays reserved and says where the session is, and the
//! *host* has it in a slot of its own, together with the whole key.
//!
//! ```text
//!            enter                   depart               moved(1, shard 2, slot 7)
//!   (free) ─────────▶ here ────────────────────▶ on its way ───────────▶ on shard 2, slot 7
//!      ▲               │ ▲                                                 │  │ ▲
//!      │    dropped    │ └───────────────────── arrive ────────────────────┘  └─┘ moved(2, …)
//!      └───────────────┴──────────────── ended ────────────────────────────────┘
//! ```
//!
//! **Invariants**
//! 1. A slot belongs to one session at a time, wherever that is, and a secret is never given out
//!    twice on purpose: it is random.
//! 2. Notices of different hosts may overtake each other. Each move has a number, and only a later
//!    one than that known is believed. Each use of a slot has a number, too (`life`), and a notice
//!    about an earlier use is ignored.
//! 3. A wait is ended by a request that came while it lasted, and by no other.
//! 4. A slot names a server only while the session's messages go to it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rand::Rng;

use super::resume::{Neighbours, Notice};
use crate::protocol::cancel_key::{CancelKey, CancelSecret};
use crate::server::Lease;

/// How long a session that has moved stays where it is.
const REST_AFTER_MOVE: Duration = Duration::from_secs(10);
/// Place of a session that is on this shard.
const HERE: u16 = u16::MAX;
/// Place of a session that has left and has not arrived yet.
const ON_ITS_WAY: u16 = u16::MAX - 1;

/// All sessions of one shard.
pub struct Registry {
    shard: u16,
    generation: u8,
    neighbours: Rc<dyn Neighbours>,
    started: Instant,
    entries: RefCell<Entries>,
    /// Sessions that are asked to leave and have not answered.
    asked: Cell<u32>,
}

#[derive(Debug, Default)]
struct Entries {
    all: Vec<Entry>,
    free: Vec<u32>,
    /// Where the next search for sessions begins that may leave.
    cursor: usize,
    /// Slots of sessions that have logged in to another process, by what their keys say of that.
    foreign: HashMap<(u8, u16, u32), u32>,
}

/// One slot. There is one a session, idle or not, so its size matters.
#[derive(Debug)]
struct Entry {
    secret: Secret,
    /// Of the server that the session uses now.
    lease: Option<Rc<Lease>>,
    /// Of the session's stream if it is here, else its slot over there.
    number: u32,
    /// When it came from another shard, in seconds since the start of this one plus one; 0 = it has
    /// logged in here.
    arrived: u32,
    /// Counts the uses of this slot.
    life: u16,
    /// Counts the moves of the session.
    moves: u16,
    /// Where it is.
    shard: u16,
    is_asked: bool,
    wait: Wait,
}

const _: () = assert!(size_of::<Entry>() <= 40, "an idle client is to stay small");

/// Whether a session waits for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// It does not, or cannot do without what it waits for.
    None,
    /// It does.
    Lasts,
    /// It does, and its client does not want it any more.
    Dismissed,
}

#[derive(Debug)]
enum Secret {
    /// Nobody has the slot.
    None,
    /// Most clients speak protocol 3.0, whose secrets have four bytes; longer ones are boxed.
    Short([u8; 4]),
    Long(Box<[u8; 32]>),
    /// The session has logged in elsewhere.
    Guest(Box<Identity>),
}

/// What a session is known by wherever it is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The key that its client has. It names the origin.
    pub key: CancelKey,
    /// The use of the slot at the origin.
    pub life: u16,
    /// Times that it has moved. Compared as serial numbers: it may wrap.
    pub moves: u16,
}

/// Where the session of a cancel key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this shard, in this slot.
    Here(u32),
    /// On another shard, as far as known here.
    Moved {
        /// Number of the shard.
        shard: u16,
        /// Its slot there.
        slot: u32,
    },
    /// Nowhere: it has ended, or is on its way and so has no query to cancel, or the secret is
    /// wrong.
    Unknown,
}

/// What a cancel key leads to.
#[derive(Debug)]
pub enum Lookup {
    /// The session is here and uses no server.
    Idle,
    /// The session is here, in this slot, and waits for a server.
    Waiting(u32),
    /// The session is on another shard, as far as known here.
    Moved {
        /// Number of the shard.
        shard: u16,
        /// Its slot there.
        slot: u32,
    },
    /// The session uses the server of this lease.
    Running(Rc<Lease>),
    /// No session of this shard has this key.
    Unknown,
}

/// A session's place in the registry. Ends when dropped.
pub struct Slot {
    registry: Rc<Registry>,
    number: u32,
}

impl Entry {
    const fn unused() -> Self {
        Self {
            secret: Secret::None,
            lease: None,
            number: 0,
            arrived: 0,
            life: 0,
            moves: 0,
            shard: HERE,
            is_asked: false,
            wait: Wait::None,
        }
    }

    /// The secret of a session that has logged in here.
    fn own_secret(&self) -> Option<CancelSecret> {
        match &self.secret {
            Secret::Short(bytes) => Some(CancelSecret::Short(*bytes)),
            Secret::Long(bytes) => Some(CancelSecret::Long(**bytes)),
            Secret::None | Secret::Guest(_) => None,
        }
    }

    fn is_occupied(&self) -> bool {
        !matches!(self.secret, Secret::None)
    }

    fn clear(&mut self) {
        *self = Self {
            life: self.life.wrapping_add(1),
            ..Self::unused()
        };
    }
}

/// What a key says besides its secret.
const fn name(key: &CancelKey) -> (u8, u16, u32) {
    (key.generation, key.shard, key.slot)
}

impl Entries {
    fn take_free(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.all.push(Entry::unused());
            (self.all.len() - 1) as u32
        })
    }

    fn clear(&mut self, number: u32) {
        if let Some(entry) = self.all.get_mut(number as usize) {
            if let Secret::Guest(guest) = &entry.secret {
                let named = name(&guest.key);
                if self.foreign.get(&named) == Some(&number) {
                    self.foreign.remove(&named);
                }
            }
            entry.clear();
            self.free.push(number);
        }
    }
}

impl Registry {
    /// The registry of shard `shard`, started at `now`, which tells `neighbours` of its guests.
    pub fn new(
        (shard, generation): (u16, u8),
        neighbours: Rc<dyn Neighbours>,
        now: Instant,
    ) -> Rc<Self> {
        Rc::new(Self {
            shard,
            generation,
            neighbours,
            started: now,
            entries: RefCell::default(),
            asked: Cell::new(0),
        })
    }

    /// Takes a slot and makes a secret for it, long for clients that speak protocol 3.2.
    pub fn enter(self: &Rc<Self>, long: bool) -> (Slot, CancelSecret) {
        let (entry, secret) = if long {
            let bytes: [u8; 32] = rand::rng().random();
            (Secret::Long(Box::new(bytes)), CancelSecret::Long(bytes))
        } else {
            let bytes: [u8; 4] = rand::rng().random();
            (Secret::Short(bytes), CancelSecret::Short(bytes))
        };
        let mut entries = self.entries.borrow_mut();
        let number = entries.take_free();
        entries.all[number as usize].secret = entry;
        (self.slot(number), secret)
    }

    /// Takes in a session that has come from another shard, and tells its origin.
    pub fn arrive(self: &Rc<Self>, mut identity: Identity, now: Instant) -> Slot {
        identity.moves = identity.moves.wrapping_add(1);
        let arrived = self.seconds(now) + 1;
        let mut entries = self.entries.borrow_mut();
        // Numbers of processes go round: the slot may be another client's, or nobody's.
        let own = entries.all.get(identity.key.slot as usize);
        let own = own.and_then(Entry::own_secret);
        let is_own = self.is_origin_of(&identity.key) && own == Some(identity.key.secret);
        let number = if is_own {
            identity.key.slot
        } else {
            entries.take_free()
        };
        let entry = &mut entries.all[number as usize];
        entry.moves = identity.moves;
        entry.arrived = arrived;
        entry.shard = HERE;
        if !is_own {
            entry.secret = Secret::Guest(Box::new(identity));
            if identity.key.generation != self.generation {
                entries.foreign.insert(name(&identity.key), number);
            }
            drop(entries);
            let Identity { key, life, moves } = identity;
            let notice = Notice::Moved {
                slot: key.slot,
                life,
                moves,
                slot_there: number,
            };
            self.tell(&key, notice);
        }
        self.slot(number)
    }

    /// Tells the origin of a session, if that is a shard of this process.
    fn tell(&self, key: &CancelKey, notice: Notice) {
        if key.generation == self.generation {
            self.neighbours.tell(key.shard, notice);
        }
    }

    fn slot(self: &Rc<Self>, number: u32) -> Slot {
        Slot {
            registry: Rc::clone(self),
            number,
        }
    }

    const fn is_origin_of(&self, key: &CancelKey) -> bool {
        key.shard == self.shard && key.generation == self.generation
    }

    fn seconds(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.started).as_secs() as u32
    }

    /// Takes the notice of shard `from` about a session that has logged in here.
    pub fn notice(&self, from: u16, notice: Notice) {
        let mut entries = self.entries.borrow_mut();
        match notice {
            Notice::Moved {
                slot,
                life,
                moves,
                slot_there,
            } => {
                let Some(entry) = entries.all.get_mut(slot as usize) else {
                    return;
                };
                let is_later = moves.wrapping_sub(entry.moves).cast_signed() > 0;
                if entry.life == life && entry.is_occupied() && is_later {
                    entry.moves = moves;
                    entry.shard = from;
                    entry.number = slot_there;
                }
            }
            Notice::Ended { slot, life } => {
                let entry = entries.all.get(slot as usize);
                if entry.is_some_and(|entry| entry.life == life && entry.is_occupied()) {
                    entries.clear(slot);
                }
            }
        }
    }

    /// Where the session of `key` is, a key that this shard has given out. Secrets are compared in
    /// constant time.
    pub fn locate(&self, key: &CancelKey) -> Place {
        let entries = self.entries.borrow();
        let entry = entries.all.get(key.slot as usize);
        let Some(entry) = entry.filter(|_| self.is_origin_of(key)) else {
            return Place::Unknown;
        };
        if entry.own_secret() != Some(key.secret) {
            return Place::Unknown;
        }
        match entry.shard {
            HERE => Place::Here(key.slot),
            ON_ITS_WAY => Place::Unknown,
            shard => Place::Moved {
                shard,
                slot: entry.number,
            },
        }
    }

    /// As [`Registry::locate`], for a key of another shard whose session is said to be in `slot`.
    pub fn locate_guest(&self, slot: u32, key: &CancelKey) -> Place {
        let entries = self.entries.borrow();
        match entries.all.get(slot as usize).map(|entry| &entry.secret) {
            Some(Secret::Guest(guest)) if guest.key == *key => Place::Here(slot),
            _ => Place::Unknown,
        }
    }

    /// Finds the session that was given `key`, the whole of it. `slot` is where it is said to be, if
    /// it has logged in on another shard.
    pub fn find(&self, key: &CancelKey, slot: Option<u32>) -> Lookup {
        let place = match slot {
            None if key.generation != self.generation => {
                let slot = self.entries.borrow().foreign.get(&name(key)).copied();
                slot.map_or(Place::Unknown, |slot| self.locate_guest(slot, key))
            }
            None => self.locate(key),
            Some(slot) => self.locate_guest(slot, key),
        };
        match place {
            Place::Here(slot) => {
                let entries = self.entries.borrow();
                let entry = entries.all.get(slot as usize);
                let waits = entry.is_some_and(|entry| entry.wait != Wait::None);
                match entry.and_then(|entry| entry.lease.clone()) {
                    Some(lease) => Lookup::Running(lease),
                    None if waits => Lookup::Waiting(slot),
                    None => Lookup::Idle,
                }
            }
            Place::Moved { shard, slot } => Lookup::Moved { shard, slot },
            Place::Unknown => Lookup::Unknown,
        }
    }

    /// Ends the wait of the session in this slot for a server, if it still waits. Returns its stream,
    /// which is to be woken.
    pub fn dismiss(&self, slot: u32) -> Option<u32> {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.all.get_mut(slot as usize)?;
        if entry.wait == Wait::None || entry.shard != HERE {
            return None;
        }
        entry.wait = Wait::Dismissed;
        Some(entry.number)
    }

    /// Sessions on this shard at the moment, and sessions of this shard that are elsewhere.
    pub fn count(&self) -> usize {
        let entries = self.entries.borrow();
        entries.all.len() - entries.free.len()
    }

    /// Asks up to `count` sessions to leave and adds their streams to `streams`, which are to be
    /// woken. At most `limit` slots are looked at; returns how many were. Sessions that came only a
    /// few seconds ago are left alone.
    pub fn ask(
        &self,
        (count, limit): (usize, usize),
        now: Instant,
        streams: &mut Vec<u32>,
    ) -> usize {
        let rested = self.seconds(now) + 1;
        let mut entries = self.entries.borrow_mut();
        let limit = limit.min(entries.all.len());
        for seen in 0..limit {
            if streams.len() >= count {
                return seen;
            }
            let at = (entries.cursor + 1) % entries.all.len();
            entries.cursor = at;
            let entry = &mut entries.all[at];
            let is_resting = entry.arrived > 0
                && rested - entry.arrived.min(rested) < REST_AFTER_MOVE.as_secs() as u32;
            if entry.is_occupied() && entry.shard == HERE && !entry.is_asked && !is_resting {
                entry.is_asked = true;
                self.asked.set(self.asked.get() + 1);
                streams.push(entry.number);
            }
        }
        limit
    }

    /// Takes back what was asked and not answered; returns how many sessions that are.
    pub fn withdraw(&self) -> u32 {
        let open = self.asked.replace(0);
        if open > 0 {
            for entry in &mut self.entries.borrow_mut().all {
                entry.is_asked = false;
            }
        }
        open
    }
}

impl Slot {
    /// The slot's number.
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// The session's messages go to the server of `lease` from now on.
    pub fn serve(&self, lease: &Rc<Lease>) {
        lease.lend();
        let mut entries = self.registry.entries.borrow_mut();
        let entry = &mut entries.all[self.number as usize];
        entry.lease = Some(Rc::clone(lease));
        entry.wait = Wait::None;
    }

    /// The session waits for a server from now on; a cancel request ends that.
    pub fn wait(&self) {
        let mut entries = self.registry.entries.borrow_mut();
        let entry = &mut entries.all[self.number as usize];
        if entry.wait == Wait::None {
            entry.wait = Wait::Lasts;
        }
    }

    /// True once if the session's wait has been ended by a cancel request. It does not wait any more
    /// then.
    pub fn take_dismissal(&self) -> bool {
        let mut entries = self.registry.entries.borrow_mut();
        let entry = &mut entries.all[self.number as usize];
        let is_dismissed = entry.wait == Wait::Dismissed;
        if is_dismissed {
            entry.wait = Wait::None;
        }
        is_dismissed
    }

    /// The session uses no server any more.
    pub fn rest(&self) {
        let mut entries = self.registry.entries.borrow_mut();
        entries.all[self.number as usize].lease = None;
    }

    /// Says by which stream the session can be woken.
    pub fn set_stream(&self, stream: u32) {
        let mut entries = self.registry.entries.borrow_mut();
        entries.all[self.number as usize].number = stream;
    }

    /// True if the session has been asked to leave and has not answered.
    pub fn is_asked(&self) -> bool {
        self.registry.asked.get() > 0
            && self.registry.entries.borrow().all[self.number as usize].is_asked
    }

    /// True once if the session has been asked to leave.
    pub fn take_ask(&self) -> bool {
        let open = self.registry.asked.get();
        if open == 0 {
            return false;
        }
        let mut entries = self.registry.entries.borrow_mut();
        let entry = &mut entries.all[self.number as usize];
        let was_asked = std::mem::take(&mut entry.is_asked);
        self.registry.asked.set(open - u32::from(was_asked));
        was_asked
    }

    /// Lets the session go to another shard. The slot of a session that has logged in here stays
    /// reserved.
    pub fn depart(self) -> Identity {
        self.take_ask();
        let mut entries = self.registry.entries.borrow_mut();
        let entry = &mut entries.all[self.number as usize];
        let identity = if let Secret::Guest(guest) = &entry.secret {
            let identity = **guest;
            entries.clear(self.number);
            identity
        } else {
            let secret = entry.own_secret().unwrap_or(CancelSecret::Short([0; 4]));
            entry.shard = ON_ITS_WAY;
            Identity {
                key: CancelKey {
                    generation: self.registry.generation,
                    shard: self.registry.shard,
                    slot: self.number,
                    secret,
                },
                life: entry.life,
                moves: entry.moves,
            }
        };
        drop(entries);
        identity
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.take_ask();
        let mut entries = self.registry.entries.borrow_mut();
        let entry = &entries.all[self.number as usize];
        if entry.shard != HERE || !entry.is_occupied() {
            // It has departed.
            return;
        }
        let guest = match &entry.secret {
            Secret::Guest(guest) => Some(**guest),
            _ => None,
        };
        entries.clear(self.number);
        drop(entries);
        if let Some(Identity { key, life, .. }) = guest {
            let slot = key.slot;
            self.registry.tell(&key, Notice::Ended { slot, life });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::super::resume::SessionRecord;
    use super::*;

    /// Keeps the notices of a registry for later.
    #[derive(Default)]
    struct Letters(RefCell<Vec<(u16, Notice)>>);

    impl Neighbours for Letters {
        fn hand_over(&self, record: Box<SessionRecord>) -> Result<(), Box<SessionRecord>> {
            Err(record)
        }

        fn emigrate(&self, _: Box<SessionRecord>) {}

        fn tell(&self, shard: u16, notice: Notice) {
            self.0.borrow_mut().push((shard, notice));
        }
    }

    struct House {
        letters: Rc<Letters>,
        registry: Rc<Registry>,
    }

    impl House {
        fn new(shard: u16) -> Self {
            let letters = Rc::<Letters>::default();
            let neighbours = Rc::clone(&letters) as Rc<dyn Neighbours>;
            let registry = Registry::new((shard, 0), neighbours, Instant::now());
            Self { letters, registry }
        }

        fn written(&self) -> Vec<(u16, Notice)> {
            self.letters.0.take()
        }

        fn login(&self, long: bool) -> (Slot, CancelKey) {
            let (slot, secret) = self.registry.enter(long);
            let key = CancelKey {
                generation: 0,
                shard: self.registry.shard,
                slot: slot.number(),
                secret,
            };
            (slot, key)
        }
    }

    #[test]
    fn a_key_is_good_as_long_as_its_session_lives() {
        let house = House::new(0);
        let registry = &house.registry;
        for long in [false, true] {
            let (slot, key) = house.login(long);
            assert_eq!(registry.locate(&key), Place::Here(key.slot));
            let (other, _) = registry.enter(!long);
            let mixed = CancelKey {
                slot: other.number(),
                ..key
            };
            assert_eq!(registry.locate(&mixed), Place::Unknown);
            drop((slot, other));
            assert_eq!(registry.locate(&key), Place::Unknown);
            assert_eq!(registry.count(), 0);
        }
        assert!(house.written().is_empty());
    }

    #[test]
    fn a_key_leads_to_where_its_session_is() {
        let houses = [House::new(0), House::new(1), House::new(2)];
        let now = Instant::now();
        let (slot, key) = houses[0].login(true);
        let [origin, first, second] = &houses;
        let taken = first.registry.enter(false);
        let at_first = first.registry.arrive(slot.depart(), now);
        assert_eq!(origin.registry.locate(&key), Place::Unknown);
        let early = first.written();
        let slot = at_first.number();
        assert_eq!(first.registry.locate_guest(slot, &key), Place::Here(slot));
        assert_eq!(first.registry.locate(&key), Place::Unknown);
        let at_second = second.registry.arrive(at_first.depart(), now);
        assert_eq!(first.registry.locate_guest(slot, &key), Place::Unknown);
        // The second notice overtakes the first.
        for (from, letters) in [(2, second.written()), (1, early)] {
            for (to, notice) in letters {
                assert_eq!(to, 0);
                origin.registry.notice(from, notice);
            }
        }
        let slot = at_second.number();
        let there = Place::Moved { shard: 2, slot };
        assert_eq!(origin.registry.locate(&key), there);
        let wrong = CancelSecret::Long([0; 32]);
        let wrong = CancelKey {
            secret: wrong,
            ..key
        };
        assert_eq!(origin.registry.locate(&wrong), Place::Unknown);
        // Back home, and out again.
        let home = origin.registry.arrive(at_second.depart(), now);
        assert_eq!(origin.registry.locate(&key), Place::Here(key.slot));
        drop(second.registry.arrive(home.depart(), now));
        for (_, notice) in second.written().into_iter().rev() {
            origin.registry.notice(2, notice);
        }
        let counts = houses.each_ref().map(|house| house.registry.count());
        assert_eq!(counts, [0, 1, 0]);
        drop(taken);
    }

    #[test]
    fn a_wait_is_ended_by_a_request_that_has_met_it() {
        let house = House::new(0);
        let (slot, _) = house.login(false);
        slot.set_stream(7);
        let dismiss = || house.registry.dismiss(slot.number());
        assert_eq!(dismiss(), None, "it does not wait");
        slot.wait();
        assert!(!slot.take_dismissal());
        assert_eq!(dismiss(), Some(7));
        // It goes on waiting, for another server.
        slot.wait();
        assert!(slot.take_dismissal());
        assert!(!slot.take_dismissal());
        assert_eq!(dismiss(), None, "the wait is over");
    }

    #[test]
    fn only_sessions_that_have_rested_are_asked_and_each_once() {
        let house = House::new(0);
        let now = Instant::now();
        let (first, _) = house.login(false);
        let guest = House::new(1).login(false).0.depart();
        let guest = house.registry.arrive(guest, now);
        first.set_stream(7);
        guest.set_stream(8);
        let mut streams = Vec::new();
        for _ in 0..2 {
            house.registry.ask((9, 9), now, &mut streams);
            assert_eq!(streams, [7]);
        }
        assert!(!guest.take_ask());
        assert!(first.take_ask());
        assert!(!first.take_ask());
        streams.clear();
        house
            .registry
            .ask((9, 9), now + REST_AFTER_MOVE, &mut streams);
        streams.sort_unstable();
        assert_eq!(streams, [7, 8]);
        assert_eq!(house.registry.withdraw(), 2);
        assert!(!first.take_ask() && !guest.take_ask());
    }
}
