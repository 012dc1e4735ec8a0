//! One client, from accept to close.
//!
//! **Owns:** login, the client's settings, when a server is needed and when it is given back,
//! forwarding in both directions.
//! **Does not own:** the servers (`pool`), the shard's listeners and mailboxes (`app`).
//!
//! ```text
//!   login ──▶ Idle ──message that needs a server──▶ Waiting ──▶ Preparing ──▶ Serving
//!              ▲                                       └────────────────────▶    │
//!              └────────────── nothing owed, no transaction (transaction mode) ──┘
//! ```
//!
//! From `Idle` a session may also go to another shard (`resume`).

mod awaiting;
mod binding;
mod bounds;
pub mod budget;
pub mod cancel;
pub mod card;
pub mod client;
mod commands;
pub mod company;
pub mod console;
mod deallocate;
pub mod directory;
mod dismiss;
pub mod doors;
mod ending;
pub mod first_server;
pub mod greeting;
mod guard;
pub mod headcount;
mod heal;
mod held;
mod kill;
mod local;
pub mod login;
pub mod lookup;
pub mod orders;
pub mod overtime;
mod parting;
pub mod passport;
mod pipeline;
pub mod prepared;
pub mod proofs;
mod provide;
mod proxied;
pub mod pursuit;
pub mod registry;
pub mod relay;
pub mod report;
pub mod resume;
mod rewrite;
pub mod roster;
mod secure;
pub mod shard;
mod slow;
mod splice;
pub mod startup;
pub mod survey;

pub use commands::wind_down;
pub use directory::{Directory, Tenant};
pub use shard::Shard;
