//! When a statement that a server has may stand for a new one of the same text.
//!
//! **Owns:** in which *world* the server reads texts now, and which of those it has read mean the same
//! still.
//! **Does not own:** which statements there are ([`super`]), what a text may change (`power`), what a
//! database has in common (`metrics::Changes`).
//!
//! A world is a stretch of time in which every text means the same. A statement belongs to the world in
//! which it was parsed. Whatever may change the meaning of texts begins another world:
//!
//! ```text
//!             temporary object, SET, DDL, or end of a
//!             transaction that has had one: at its sending
//!   ┌────────┐ ─────────────────────────────────────────▶ ┌───────────┐ ──┐ the same
//!   │ common │                                             │ private n │   │ again
//!   └────────┘ ◀───────────────────────────────────────── └───────────┘ ◀─┘ n + 1
//!     │    ▲     answered, and nothing is left of it;            │
//!     │    │     or: removed, the server is given back           │ its transaction is over, and
//!     │    │                                                     │ a command tag told of DDL
//!     ▼    │                                                     ▼
//!   another common ◀──────────────────────────── the generation of the database is raised
//! ```
//!
//! The common world is what a server without temporary objects and settings reads. It returns when they
//! have gone, and with it the statements parsed in it. It ends, for all servers of a database, when an
//! object has changed. Private worlds never return.
//!
//! * A new Parse may be spared if the statement was parsed **in the world of now**.
//! * A client that runs what it has defined earlier is served by a statement that is **no older than
//!   its definition**: PostgreSQL itself keeps the types of a statement, and refuses it if its result
//!   has changed. Only a statement parsed in a private world that is over is of no use.
//! * A statement that PostgreSQL could not bind or describe is trusted by nobody ([`World::NOWHERE`]).
//!
//! **Invariants**
//! 1. A world begins when the message that may begin it is sent, so whatever is parsed behind it belongs
//!    to the new one, whether it succeeds or not.
//! 2. The generation is read before a Parse is sent and raised before the end of the transaction is
//!    told: who has heard of a change never gets a statement of the time before.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html`, "Extended Query"; `sql-prepare.html`, "Notes".

use super::power::{self, Power};

/// A stretch of time in which every text means the same to one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    number: u64,
    /// The generation of the database, in a common world.
    generation: u32,
    is_private: bool,
}

impl World {
    /// Where statements are that nobody trusts.
    pub const NOWHERE: Self = Self {
        number: 0,
        generation: 0,
        is_private: true,
    };
}

/// Who asks for a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A Parse of now.
    Parse,
    /// A statement that was defined when the database had this generation.
    Holder(u32),
}

/// Which statements of one server can be trusted.
#[derive(Debug)]
pub struct Trust {
    world: World,
    common: World,
    last: u64,
    generation: u32,
    /// Something with a power has been sent and may not have been answered.
    is_unanswered: bool,
    /// An object has changed since the last transaction was over.
    is_shaped: bool,
    /// There may be temporary objects, or settings that are not reported.
    is_hidden: bool,
    /// A reported setting may go with the transaction.
    is_bent: bool,
    /// Something unanswered may make an object by a `SELECT`.
    awaits_creation: bool,
    /// Tags to come that tell of temporary objects.
    temporary_tags: u32,
    /// What runs with the unnamed portal, and with any of the others.
    unnamed_portal: Power,
    named_portals: Power,
    /// What runs with the unnamed statement, if that is the client's own.
    unnamed_statement: Power,
}

impl Default for Trust {
    fn default() -> Self {
        let common = World {
            number: 1,
            generation: 0,
            is_private: false,
        };
        Self {
            world: common,
            common,
            last: 1,
            generation: 0,
            is_unanswered: false,
            is_shaped: false,
            is_hidden: false,
            is_bent: false,
            awaits_creation: false,
            temporary_tags: 0,
            unnamed_portal: Power::NONE,
            named_portals: Power::NONE,
            unnamed_statement: Power::NONE,
        }
    }
}

impl Trust {
    /// The world in which the server reads what is sent now.
    pub const fn world(&self) -> World {
        self.world
    }

    /// True if the server reads what all servers of its database read that has changed `generation` times.
    pub fn is_common(&self, generation: u32) -> bool {
        self.world == self.common && self.generation == generation
    }

    /// True if a statement parsed in `world` will do for `asker`.
    pub fn holds(&self, world: World, asker: Asker) -> bool {
        if world == World::NOWHERE {
            return false;
        }
        match asker {
            _ if world == self.world => true,
            Asker::Parse => false,
            Asker::Holder(since) => {
                !world.is_private && world.generation.wrapping_sub(since) <= u32::MAX / 2
            }
        }
    }

    /// The database has this generation. To be told before anything is sent.
    pub const fn meet(&mut self, generation: u32) {
        if generation != self.generation {
            self.generation = generation;
            self.leave_common();
        }
    }

    /// The generation of the database that it was told last.
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// A query of this power is sent.
    pub const fn runs(&mut self, power: Power) {
        let is_at_stake = self.is_unanswered || self.is_shaped || self.is_hidden || self.is_bent;
        let only_ends = Power::ENDS.has(power);
        if power.is_none() || (only_ends && !is_at_stake) {
            return;
        }
        self.world = self.new_private();
        self.is_unanswered = true;
        self.is_hidden |= power.has(Power::HIDES);
        self.is_bent |= power.has(Power::BENDS);
        self.awaits_creation |= power.has(Power::CREATES);
        if power.has(Power::CREATES_TEMPORARY) {
            self.temporary_tags += 1;
        }
    }

    /// The Parse of an unnamed statement is sent as it is; it has this power.
    pub const fn parses_unnamed(&mut self, power: Power) {
        self.unnamed_statement = power;
    }

    /// A Bind is sent of a statement of this power; `None` for one that only the server knows.
    pub fn binds(&mut self, portal: &[u8], power: Option<Power>) {
        let power = power.unwrap_or(self.unnamed_statement);
        if portal.is_empty() {
            self.unnamed_portal = power;
        } else {
            self.named_portals = self.named_portals.and(power);
        }
    }

    /// An Execute is sent.
    pub const fn executes(&mut self) {
        self.runs(self.unnamed_portal.and(self.named_portals));
    }

    /// A Sync is sent; `is_end` if it may end a transaction of its own.
    pub const fn syncs(&mut self, is_end: bool) {
        if is_end {
            self.runs(Power::ENDS);
        }
    }

    /// A reported setting has changed.
    pub const fn reported(&mut self) {
        self.is_bent = true;
    }

    /// True if [`Trust::answered`] has something to do.
    pub const fn is_unanswered(&self) -> bool {
        self.is_unanswered
    }

    /// Everything sent has been answered.
    pub const fn answered(&mut self) {
        self.is_unanswered = false;
        self.awaits_creation = false;
        self.temporary_tags = 0;
        if !self.is_hidden && !self.is_shaped {
            self.world = self.common;
        }
    }

    /// A command has been completed. True if the generation is to be raised.
    #[must_use]
    pub fn completed(&mut self, tag: &[u8]) -> bool {
        if self.temporary_tags > 0 && power::may_be_temporary(tag) {
            self.temporary_tags -= 1;
            return false;
        }
        let has_created = self.awaits_creation && tag.starts_with(b"SELECT ");
        if has_created || power::changes_objects(tag) {
            self.is_shaped = true;
            if !self.is_unanswered {
                self.world = self.new_private();
            }
        }
        self.is_shaped && tag == b"COMMIT"
    }

    /// Something has failed.
    pub const fn failed(&mut self) {
        self.temporary_tags = 0;
    }

    /// The server says that it is ready; `is_settled` if nothing else is owed. True if the generation is
    /// to be raised.
    #[must_use]
    pub const fn ready(&mut self, is_idle: bool, is_settled: bool) -> bool {
        if !is_idle {
            return false;
        }
        let is_shaped = self.is_shaped;
        if is_shaped {
            self.leave_common();
        }
        if is_settled {
            self.is_shaped = false;
            self.is_bent = false;
            self.unnamed_portal = Power::NONE;
            self.named_portals = Power::NONE;
            self.answered();
        }
        is_shaped
    }

    /// The client gives the server back, and what it has left there is removed before it is lent again,
    /// or it is not (`is_removed`).
    pub const fn released(&mut self, is_removed: bool) {
        if self.is_hidden && !is_removed {
            self.leave_common();
        }
        self.is_hidden = false;
        self.is_shaped = false;
        self.is_bent = false;
        self.unnamed_statement = Power::NONE;
        self.answered();
    }

    /// True if a transaction that may have changed objects is not known to be over. If nothing more will
    /// be heard of it, the generation is to be raised.
    pub const fn is_open(&self) -> bool {
        self.is_shaped || self.is_unanswered
    }

    const fn leave_common(&mut self) {
        let is_private = self.world.is_private;
        self.last += 1;
        self.common = World {
            number: self.last,
            generation: self.generation,
            is_private: false,
        };
        self.world = if is_private {
            self.new_private()
        } else {
            self.common
        };
    }

    const fn new_private(&mut self) -> World {
        self.last += 1;
        World {
            number: self.last,
            generation: self.generation,
            is_private: true,
        }
    }
}

#[cfg(test)]
mod tests;
