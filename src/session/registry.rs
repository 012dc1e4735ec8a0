//! The sessions of a shard by number: what a cancel key names.
//!
//! **Owns:** slots and the secrets given out with them.
//! **Does not own:** the layout of a key (`protocol::cancel_key`).
//!
//! **Invariant:** a slot belongs to one session at a time, and a secret is never given out twice on
//! purpose: it is random.

use std::cell::RefCell;
use std::rc::Rc;

use rand::Rng;

use crate::protocol::cancel_key::{CancelKey, CancelSecret};

/// All sessions of one shard.
#[derive(Debug, Default)]
pub struct Registry {
    entries: RefCell<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    /// Most clients speak protocol 3.0, whose secrets have four bytes; longer ones are boxed.
    secrets: Vec<Secret>,
    free: Vec<u32>,
}

#[derive(Debug)]
enum Secret {
    None,
    Short([u8; 4]),
    Long(Box<[u8; 32]>),
}

/// A session's place in the registry. Ends when dropped.
#[derive(Debug)]
pub struct Slot {
    registry: Rc<Registry>,
    number: u32,
}

impl Registry {
    /// Takes a slot and makes a secret for it, long for clients that speak protocol 3.2.
    pub fn enter(self: &Rc<Self>, long: bool) -> (Slot, CancelSecret) {
        let mut entries = self.entries.borrow_mut();
        let number = entries.free.pop().unwrap_or_else(|| {
            entries.secrets.push(Secret::None);
            (entries.secrets.len() - 1) as u32
        });
        let (entry, secret) = if long {
            let bytes: [u8; 32] = rand::rng().random();
            (Secret::Long(Box::new(bytes)), CancelSecret::Long(bytes))
        } else {
            let bytes: [u8; 4] = rand::rng().random();
            (Secret::Short(bytes), CancelSecret::Short(bytes))
        };
        entries.secrets[number as usize] = entry;
        (
            Slot {
                registry: Rc::clone(self),
                number,
            },
            secret,
        )
    }

    /// True if a session holds this slot with this secret.
    pub fn is_held(&self, key: &CancelKey) -> bool {
        let entries = self.entries.borrow();
        let secret = match entries.secrets.get(key.slot as usize) {
            None | Some(Secret::None) => return false,
            Some(Secret::Short(bytes)) => CancelSecret::Short(*bytes),
            Some(Secret::Long(bytes)) => CancelSecret::Long(**bytes),
        };
        secret == key.secret
    }

    /// Sessions at the moment.
    pub fn count(&self) -> usize {
        let entries = self.entries.borrow();
        entries.secrets.len() - entries.free.len()
    }
}

impl Slot {
    /// The slot's number.
    pub const fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut entries = self.registry.entries.borrow_mut();
        entries.secrets[self.number as usize] = Secret::None;
        entries.free.push(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_good_as_long_as_its_session_lives() {
        let registry = Rc::new(Registry::default());
        for long in [false, true] {
            let (slot, secret) = registry.enter(long);
            let key = CancelKey {
                generation: 0,
                shard: 0,
                slot: slot.number(),
                secret,
            };
            assert!(registry.is_held(&key));
            assert_eq!(registry.count(), 1);
            let (other, _) = registry.enter(!long);
            assert!(!registry.is_held(&CancelKey {
                slot: other.number(),
                ..key
            }));
            drop((slot, other));
            assert!(!registry.is_held(&key));
            assert_eq!(registry.count(), 0);
        }
    }
}
