//! A Patroni cluster as its REST API tells it.
//!
//! ```text
//!   hosts ──▶ which one to ask ──▶ GET /cluster ──▶ parse ──▶ Cluster ──▶ Rule: who is eligible
//! ```
//!
//! **Owns:** asking for the members, what an answer means, who is eligible for which work.
//! **Does not own:** when to ask, connections to members.
//! **Invariant:** a [`Cluster`] is what one answer said; odd members are left out, never guessed.
//!
//! Source: Patroni documentation, "Patroni REST API", `GET /cluster`.

mod client;
mod cluster;
mod hosts;
mod watcher;

pub use client::{FETCH_MAX, FetchError, fetch};
pub use cluster::{Cluster, Member, ParseError, Role, Roles, Rule, Standing, parse};
pub use hosts::{Hosts, REST};
pub use watcher::{AllUnavailable, SILENCE, Watcher};
