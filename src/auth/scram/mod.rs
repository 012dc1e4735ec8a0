//! SCRAM-SHA-256, both sides.
//!
//! **Owns:** the two machines and the keys they share.
//! **Does not own:** IO, randomness, threads.
//! **Invariants:** see the files; nothing here reads a clock or waits.
//!
//! Source: RFC 5802, RFC 7677.

mod client;
mod keys;
mod message;
mod server;

#[cfg(test)]
mod tests;

pub use client::{Gs2, NeedKeys, ScramClient, ScramClientAwaitFinal};
pub use keys::{ScramKeys, ScramVerifier, derive_keys};
pub use message::{ITERATIONS, KEY_BYTES, MECHANISM, MECHANISM_PLUS};
pub use server::{MOCK_ITERATIONS, ScramAccepted, ScramServer, ScramServerAwaitFinal};
