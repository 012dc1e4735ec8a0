//! What all sessions of a shard share.
//!
//! **Owns:** the current directory of pools, the registry, the process-wide counters' handles.
//! **Does not own:** listeners and mailboxes (`app::shard_main`).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::admin::Listening;
use crate::config::Limits;
use crate::metrics::{Fleet, ShardMetrics};
use crate::pool::Host;
use crate::transport::Gate;

use super::budget::Budget;
use super::cancel::Cancels;
use super::directory::Directory;
use super::doors::Doors;
use super::headcount::{Group, Headcounts, Member};
use super::lookup::Lookups;
use super::orders::Staff;
use super::proofs::cap::Caps;
use super::pursuit::Pursuits;
use super::registry::Registry;
use super::resume::Neighbours;
use super::roster::Roster;
use super::survey::Surveys;

/// Open client connections of the process.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    all: Arc<AtomicU64>,
    /// Of those, connections of the process before this one.
    elsewhere: Arc<AtomicU64>,
    headcounts: Headcounts,
}

/// One open client connection. Ends when dropped.
#[derive(Debug)]
pub struct Connection(Box<Counted>);

/// Where it counts. Boxed: every session has one.
#[derive(Debug)]
struct Counted {
    connections: Connections,
    /// Once it has logged in to a pool.
    member_of: Option<[Member; 2]>,
}

impl Connections {
    /// Counts one more; `Err` if there are more than `limit` with it.
    ///
    /// # Errors
    ///
    /// The connection, which counts until it is dropped.
    pub fn open(&self, limit: u64) -> Result<Connection, Connection> {
        let before = self.all.fetch_add(1, Ordering::Relaxed);
        let connection = Connection(Box::new(Counted {
            connections: self.clone(),
            member_of: None,
        }));
        if before < limit {
            Ok(connection)
        } else {
            Err(connection)
        }
    }

    /// Counts `count` connections of the process before this one, instead of those counted before.
    pub fn set_elsewhere(&self, count: u64) {
        let before = self.elsewhere.swap(count, Ordering::Relaxed);
        self.all.fetch_add(count, Ordering::Relaxed);
        self.all.fetch_sub(before, Ordering::Relaxed);
    }

    /// One that has come from the process before this one: there is room for it.
    pub fn take_over(&self) -> Connection {
        let one_less = |count: u64| count.checked_sub(1);
        let was_counted =
            self.elsewhere
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        if was_counted.is_err() {
            self.all.fetch_add(1, Ordering::Relaxed);
        }
        Connection(Box::new(Counted {
            connections: self.clone(),
            member_of: None,
        }))
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.all.load(Ordering::Relaxed)
    }
}

impl Connection {
    /// Counts it as one of its database and one of its user.
    ///
    /// # Errors
    ///
    /// The one of the two that has as many as it may have.
    pub fn join(&mut self, database: &str, user: &str, limits: &Limits) -> Result<(), Group> {
        let enter = |group, name, limit| {
            let entered = self.0.connections.headcounts.enter(group, name, limit);
            entered.ok_or(group)
        };
        let of_database = enter(Group::Database, database, limits.max_db_client_connections)?;
        let of_user = enter(Group::User, user, limits.max_user_client_connections)?;
        self.0.member_of = Some([of_database, of_user]);
        Ok(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.connections.all.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What all sessions of a shard share.
pub struct Shard {
    /// Number of this shard.
    pub index: usize,
    /// Number of shards.
    pub count: usize,
    /// Counts this process among those that handed clients on to each other.
    pub generation: u8,
    /// The pools and general settings as of the last reload.
    pub directory: RefCell<Rc<Directory>>,
    /// The sessions of this shard.
    pub registry: Rc<Registry>,
    /// The clients of this shard, consoles included.
    pub roster: Rc<Roster>,
    /// Carry out what consoles ask for.
    pub staff: Rc<dyn Staff>,
    /// Whether clients are let in, and whether they may stay.
    pub doors: Doors,
    /// Clients to be closed when they arrive.
    pub pursuits: Pursuits,
    /// The cancel requests on their way.
    pub cancels: Cancels,
    /// The surveys of this shard's consoles.
    pub surveys: Surveys,
    /// The other shards.
    pub neighbours: Rc<dyn Neighbours>,
    /// What all pools share.
    pub host: Rc<Host>,
    /// Open client connections of the process.
    pub connections: Connections,
    /// Memory claimed by incomplete messages, in the process.
    pub budget: Budget,
    /// The numbers of all shards.
    pub fleet: Fleet,
    /// Where handshakes wait for their turn.
    pub gate: Gate,
    /// Where logins wait for theirs.
    pub logins: Rc<Gate>,
    /// Where proofs wait that are computed elsewhere.
    pub proofs: Caps,
    /// What servers have answered of users.
    pub lookups: Lookups,
    /// Makes the salts of users who do not exist.
    pub mock_secret: [u8; 32],
    /// Where clients can connect.
    pub listening: Arc<[Listening]>,
}

impl Shard {
    /// The numbers of this shard.
    pub fn metrics(&self) -> &ShardMetrics {
        self.fleet.shard(self.index)
    }

    /// The pools and settings at this moment.
    pub fn directory(&self) -> Rc<Directory> {
        Rc::clone(&self.directory.borrow())
    }
}
