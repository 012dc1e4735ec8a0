//! What shards and the control thread tell each other.
//!
//! **Owns:** the messages.
//! **Does not own:** how they travel (`shards`).
//!
//! **Invariant:** a message is small; what is large travels behind a pointer.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::mpsc::Sender;

use crate::admin::Sockets;
use crate::auth::ScramKeys;
use crate::config::{Config, Secret};
use crate::metrics::pool::Leave;
use crate::metrics::statements::StatementAccount;
use crate::pool::PoolId;
use crate::pool::travel::Letter;
use crate::server::chores::{Chore, Done, Guest};
use crate::server::passport::ServerRecord;
use crate::session::cancel::Forwarded;
use crate::session::orders::{Order, Outcome};
use crate::session::resume::{Notice, SessionRecord};

use super::succession::departure::Departure;

/// A message between two seats.
#[derive(Debug)]
pub enum ShardMessage {
    /// To the control thread: do this for errand `number`.
    Ask {
        /// Names the errand on its shard.
        number: u32,
        /// What to do.
        work: Box<Work>,
    },
    /// To a shard: errand `number` is done.
    Answer {
        /// Names the errand on its shard.
        number: u32,
        /// What has come of it.
        result: Box<WorkResult>,
    },
    /// Between shards: a letter of one pool's part to another.
    Pool(Box<(PoolId, Letter)>),
    /// To the shard that gave out `key`, or to control for a key of another process: run this cancel request, then answer.
    Cancel {
        /// Names the request on the shard that asks.
        ticket: u32,
        /// What is asked.
        request: Box<Forwarded>,
    },
    /// To the shard that asked: its cancel request `ticket` is over, whatever came of it.
    CancelDone {
        /// Names the request on the shard that asked.
        ticket: u32,
    },
    /// To a shard: serve this fresh connection.
    Client(OwnedFd),
    /// To a shard: carry out this order of a console, then answer.
    Order {
        /// Names the order on the shard that asks.
        ticket: u32,
        /// What is asked.
        order: Box<Order>,
    },
    /// To the shard that asked: its order `ticket` was carried out.
    OrderDone {
        /// Names the order on the shard that asked.
        ticket: u32,
        /// What has come of it.
        outcome: Box<Outcome>,
    },
    /// To a shard: another process takes over, or does not any more.
    Depart(Box<Departure>),
    /// To the control thread: a session for another process.
    Emigrant(Box<SessionRecord>),
    /// To the control thread: a server for another process, which counts here as long as it is on its way.
    EmigrantServer(Box<ServerRecord>, Leave),
    /// To the control thread: a session for another process with its server.
    EmigrantPair(Box<Pair>, Leave),
    /// To the home shard of its pool: the same of another process. As for a server, a configuration follows.
    ImmigrantPair(Box<Pair>),
    /// To a shard: go on with this session of another process.
    Immigrant(Box<SessionRecord>),
    /// To the home shard of its pool: a server of another process. The configuration that follows makes room
    /// for it.
    ImmigrantServer(Box<ServerRecord>),
    /// To a shard: this is the configuration from now on.
    Reload(Arc<Config>, Confirmation),
    /// To a shard: answer.
    Ping(Confirmation),
    /// To a shard: go on with this session.
    Session(Box<SessionRecord>),
    /// To one shard: let transactions end, on all shards, and then have control end the process.
    WindDown,
    /// To a shard: close everything and end.
    Stop,
    /// To a shard: tell of your prepared statements, for survey `ticket` of mine.
    Survey {
        /// Names the survey on the shard that asks.
        ticket: u32,
    },
    /// To the shard that asked: the account for survey `ticket`.
    Surveyed {
        /// Names the survey on the shard that asked.
        ticket: u32,
        /// The account.
        accounts: Box<Vec<StatementAccount>>,
    },
    /// To a shard: where a session is that has logged in there.
    Whereabouts(Notice),
}

/// A session and its server.
pub type Pair = (SessionRecord, ServerRecord);

/// Dropped when a shard has taken a configuration over, or has ended: control waits for all of them.
#[derive(Clone, Debug)]
pub struct Confirmation(pub Sender<Infallible>);

/// Work that would block a shard.
#[derive(Debug)]
pub enum Work {
    /// Look up a host.
    Resolve {
        /// Name of the host.
        host: String,
        /// Port to put into the addresses.
        port: u16,
    },
    /// Derive SCRAM keys.
    Derive {
        /// The password.
        password: Secret,
        /// The salt.
        salt: Vec<u8>,
        /// The iteration count.
        iterations: u32,
    },
    /// Do something else.
    Chore(Chore),
    /// Tell all shards of a user that is not in the file.
    Guest(Guest),
    /// Read the configuration again.
    Reload,
    /// Change a setting.
    Set {
        /// Its name.
        key: String,
        /// Its new value.
        value: String,
    },
    /// End the process.
    ShutDown,
    /// Listen on nothing any more.
    Refuse,
    /// Count the sockets of the process.
    Sockets,
    /// Have another process take over.
    Upgrade,
}

/// What has come of work; errors as text.
#[derive(Debug)]
pub enum WorkResult {
    /// Addresses of a host.
    Resolved(Result<Vec<SocketAddr>, String>),
    /// Keys.
    Derived(Result<ScramKeys, String>),
    /// Something else is done.
    Done(Result<Done, String>),
    /// All shards have the new configuration.
    Reloaded(Result<(), String>),
    /// All shards have the setting.
    Set(Result<(), String>),
    /// Nothing is listened on any more.
    Refused,
    /// Another process has taken over.
    Upgraded(Result<(), String>),
    /// The sockets.
    Sockets(io::Result<Box<Sockets>>),
}

const _: () = assert!(
    size_of::<ShardMessage>() <= 32,
    "messages sit in queues by the thousand"
);
