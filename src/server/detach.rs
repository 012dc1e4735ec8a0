//! A server connection between two shards.
//!
//! **Owns:** taking a connection off its shard and putting it on another one.
//! **Does not own:** who may have it (`pool`), how it travels (`app`).
//!
//! Only a clean connection travels: nothing owed, no transaction, nothing left behind, no cancel on
//! its way. Its socket leaves the ring when the kernel holds nothing of it any more; what PostgreSQL
//! has said meanwhile (a notice, a changed parameter, its farewell) goes along unread.
//!
//! **Invariant:** a travelling connection that is dropped closes its socket.

use std::net::SocketAddr;
use std::time::Instant;

use crate::protocol::framer::Framer;
use crate::transport::Detached;

use super::card::ServerTally;
use super::parameters::ParameterSet;
use super::quota::Right;
use super::statements::Statements;

/// A server connection that belongs to no shard at the moment.
#[derive(Debug)]
pub struct Travelling {
    /// The socket and what has arrived on it.
    pub detached: Detached,
    /// The right to have it.
    pub right: Right,
    /// Its place in what the server sends.
    pub framer: Framer,
    /// The parameters that the server reported at login.
    pub base: ParameterSet,
    /// The settings that were made beyond them.
    pub applied: ParameterSet,
    /// The session has an unnamed statement of some client.
    pub has_unnamed: bool,
    /// The prepared statements that it has under names of the pooler's.
    pub statements: Statements,
    /// Process id and secret for cancel requests.
    pub key: Option<(i32, Box<[u8]>)>,
    /// The address that it is connected to, for cancel requests; none on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// What it has done.
    pub tally: ServerTally,
    /// When it was opened.
    pub born: Instant,
    /// When it is to be replaced.
    pub expires: Option<Instant>,
}
