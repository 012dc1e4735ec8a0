//! The servers of one (database, user) on one shard.
//!
//! **Owns:** checkout, checkin, waiting, opening, retiring and cleaning of server connections.
//! **Does not own:** what a client does with a server (`session`), a server's protocol (`server`).
//!
//! `state` decides and does no I/O; `driver` acts. A pool of `pool_size` connections is split over
//! the shards: each shard's part are its *permits*, and no connection exists without one, so the
//! limit holds without a shared counter.

pub mod alarm;
pub mod cleaner;
pub mod driver;
pub mod error;
pub mod permits;
mod quarantine;
pub mod state;

pub use alarm::Alarm;
pub use driver::{Acquired, Host, Pool, PoolKey, Settings};
pub use error::CheckoutError;
pub use state::{Limits, Ticket};
