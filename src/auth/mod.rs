//! Authentication: who a client is, and who we are to a server.
//!
//! **Owns:** SCRAM-SHA-256 in both roles, md5, the forms of stored passwords, the host-based
//! decision, tokens.
//! **Does not own:** sockets, the order of protocol messages, configuration files, randomness,
//! threads for key derivation.
//! **Invariants:** pure: no IO, no clock, no waiting. Secrets are compared in constant time and no
//! `Debug` shows one. Imports from the crate only `protocol` and `config`.
//!
//! Source: PostgreSQL documentation, chapters "Client Authentication" and "SASL Authentication";
//! RFC 5802, RFC 7677.

pub mod error;
pub mod hba;
pub mod jwt;
pub mod lookup;
pub mod md5;
pub mod scram;
pub mod talos;
pub mod verifier;

#[cfg(test)]
mod tests;

pub use error::{ScramError, ScramMessage, VerifierError};
pub use md5::Md5Secret;
pub use scram::{ScramKeys, ScramVerifier, derive_keys};
pub use verifier::StoredPassword;
