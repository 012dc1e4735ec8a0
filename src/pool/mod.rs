//! The servers of one (database, user) on one shard.
//!
//! **Owns:** checkout, checkin, waiting, opening, retiring and cleaning of server connections.
//! **Does not own:** what a client does with a server (`session`), a server's protocol (`server`).
//!
//! `state` and `part` decide and do no I/O; `driver` and `travel` act. A pool of `pool_size`
//! connections is one pool over all shards: the right to have a connection is a *permit*, each permit
//! is at one shard or on its way to another, and no connection exists without one, so the limit holds
//! without a shared counter. A shard whose clients wait gets permits, and connections with them, of
//! shards that have them to spare, or whose clients have waited less.

pub mod alarm;
pub mod base;
pub mod cleaner;
pub mod driver;
pub mod error;
pub mod host;
pub mod letter;
pub mod part;
pub mod pause;
pub mod permits;
mod quarantine;
mod room;
pub mod state;
pub mod succession;
pub mod travel;

pub use alarm::Alarm;
pub use driver::{Acquired, Pool, PoolId, PoolKey, Settings};
pub use error::CheckoutError;
pub use host::Host;
pub use part::{Habits, Sizes};
pub use state::Ticket;
pub use travel::Mail;
