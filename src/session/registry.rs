//! The sessions of a shard by number: what a cancel key names.
//!
//! **Owns:** slots, the secrets given out with them, and which server a session uses now.
//! **Does not own:** the layout of a key (`protocol::cancel_key`), what becomes of a cancel request
//! (`cancel`).
//!
//! **Invariants**
//! 1. A slot belongs to one session at a time, and a secret is never given out twice on purpose: it
//!    is random.
//! 2. A slot names a server only while the session's messages go to it.

use std::cell::RefCell;
use std::rc::Rc;

use rand::Rng;

use crate::protocol::cancel_key::{CancelKey, CancelSecret};
use crate::server::Lease;

/// All sessions of one shard.
#[derive(Debug)]
pub struct Registry {
    generation: u8,
    shard: u16,
    entries: RefCell<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    slots: Vec<Entry>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry {
    secret: Secret,
    /// Of the server that the session uses now.
    lease: Option<Rc<Lease>>,
}

/// Most clients speak protocol 3.0, whose secrets have four bytes; longer ones are boxed.
#[derive(Debug)]
enum Secret {
    None,
    Short([u8; 4]),
    Long(Box<[u8; 32]>),
}

/// What a cancel key leads to.
#[derive(Debug)]
pub enum Lookup {
    /// The session is here and uses no server.
    Idle,
    /// The session uses the server of this lease.
    Running(Rc<Lease>),
    /// No session of this shard has this key.
    Unknown,
}

/// A session's place in the registry. Ends when dropped.
#[derive(Debug)]
pub struct Slot {
    registry: Rc<Registry>,
    number: u32,
}

impl Registry {
    /// The registry of shard `shard` in the process `generation`.
    pub fn new(generation: u8, shard: u16) -> Self {
        Self {
            generation,
            shard,
            entries: RefCell::default(),
        }
    }

    /// Takes a slot and makes a secret for it, long for clients that speak protocol 3.2.
    pub fn enter(self: &Rc<Self>, long: bool) -> (Slot, CancelSecret) {
        let mut entries = self.entries.borrow_mut();
        let number = entries.free.pop().unwrap_or_else(|| {
            entries.slots.push(Entry {
                secret: Secret::None,
                lease: None,
            });
            (entries.slots.len() - 1) as u32
        });
        let (entry, secret) = if long {
            let bytes: [u8; 32] = rand::rng().random();
            (Secret::Long(Box::new(bytes)), CancelSecret::Long(bytes))
        } else {
            let bytes: [u8; 4] = rand::rng().random();
            (Secret::Short(bytes), CancelSecret::Short(bytes))
        };
        entries.slots[number as usize].secret = entry;
        (
            Slot {
                registry: Rc::clone(self),
                number,
            },
            secret,
        )
    }

    /// Finds the session that was given `key`, the whole of it.
    pub fn find(&self, key: &CancelKey) -> Lookup {
        if (key.generation, key.shard) != (self.generation, self.shard) {
            return Lookup::Unknown;
        }
        let entries = self.entries.borrow();
        let Some(entry) = entries.slots.get(key.slot as usize) else {
            return Lookup::Unknown;
        };
        let secret = match &entry.secret {
            Secret::None => return Lookup::Unknown,
            Secret::Short(bytes) => CancelSecret::Short(*bytes),
            Secret::Long(bytes) => CancelSecret::Long(**bytes),
        };
        match &entry.lease {
            _ if secret != key.secret => Lookup::Unknown,
            None => Lookup::Idle,
            Some(lease) => Lookup::Running(Rc::clone(lease)),
        }
    }

    /// Sessions at the moment.
    pub fn count(&self) -> usize {
        let entries = self.entries.borrow();
        entries.slots.len() - entries.free.len()
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
        entries.slots[self.number as usize].lease = Some(Rc::clone(lease));
    }

    /// The session uses no server any more.
    pub fn rest(&self) {
        let mut entries = self.registry.entries.borrow_mut();
        entries.slots[self.number as usize].lease = None;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut entries = self.registry.entries.borrow_mut();
        entries.slots[self.number as usize] = Entry {
            secret: Secret::None,
            lease: None,
        };
        entries.free.push(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(slot: &Slot, secret: CancelSecret) -> CancelKey {
        CancelKey {
            generation: 1,
            shard: 5,
            slot: slot.number(),
            secret,
        }
    }

    #[test]
    fn a_key_is_good_as_long_as_its_session_lives() {
        let registry = Rc::new(Registry::new(1, 5));
        for long in [false, true] {
            let (slot, secret) = registry.enter(long);
            let key = key(&slot, secret);
            assert!(matches!(registry.find(&key), Lookup::Idle));
            assert_eq!(registry.count(), 1);
            let (other, _) = registry.enter(!long);
            for wrong in [
                CancelKey {
                    slot: other.number(),
                    ..key
                },
                CancelKey {
                    slot: 1_000_000,
                    ..key
                },
                CancelKey { shard: 4, ..key },
                CancelKey {
                    generation: 0,
                    ..key
                },
            ] {
                assert!(matches!(registry.find(&wrong), Lookup::Unknown));
            }
            drop((slot, other));
            assert!(matches!(registry.find(&key), Lookup::Unknown));
            assert_eq!(registry.count(), 0);
        }
    }

    #[test]
    fn a_key_leads_to_the_server_that_the_session_uses_now() {
        let registry = Rc::new(Registry::new(1, 5));
        let (slot, secret) = registry.enter(false);
        let key = key(&slot, secret);
        for _ in 0..2 {
            let lease = Rc::new(Lease::of(None));
            slot.serve(&lease);
            let Lookup::Running(found) = registry.find(&key) else {
                panic!("not running");
            };
            assert!(Rc::ptr_eq(&found, &lease));
            slot.rest();
            assert!(matches!(registry.find(&key), Lookup::Idle));
        }
        let lease = Rc::new(Lease::of(None));
        slot.serve(&lease);
        drop(slot);
        assert_eq!(Rc::strong_count(&lease), 1, "the end of a slot clears all");
        let (slot, _) = registry.enter(false);
        assert_eq!(slot.number(), key.slot, "the number is used again");
        assert!(matches!(registry.find(&key), Lookup::Unknown));
    }
}
