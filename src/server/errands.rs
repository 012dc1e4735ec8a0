//! Work that a shard must not do itself, because it blocks or burns.
//!
//! **Owns:** the interface.
//! **Does not own:** who runs the errands (`app::errands` asks the control thread).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use crate::auth::ScramKeys;

use super::chores::{Chore, Done, Guest};

/// The answer to an errand, later.
pub type Answer<T> = Pin<Box<dyn Future<Output = io::Result<T>>>>;

/// Somebody who runs errands for a shard.
pub trait Errands {
    /// Looks up the addresses of a host.
    fn resolve(&self, host: &str, port: u16) -> Answer<Vec<SocketAddr>>;

    /// Derives SCRAM keys from a password: some milliseconds of computing, so done once for each
    /// password, salt and iteration count.
    fn derive_keys(&self, password: &str, salt: &[u8], iterations: u32) -> Answer<ScramKeys>;

    /// Does something else that a shard must not do.
    fn chore(&self, chore: Chore) -> Answer<Done> {
        drop(chore);
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }

    /// Tells all shards of a user that is not in the file. This shard knows it when the answer comes.
    fn guest(&self, guest: Guest) -> Answer<()> {
        drop(guest);
        Box::pin(std::future::ready(Err(io::ErrorKind::Unsupported.into())))
    }

    /// Reads the configuration again and gives it to all shards.
    fn reload(&self) -> Answer<()>;
}
