//! The PostgreSQL wire protocol: bytes ↔ messages.
//!
//! **Owns:** tags, the startup packet, borrowed views of message bodies, writing of messages, the
//! layout of cancel keys, SQLSTATE codes.
//! **Does not own:** sockets, state of a session, who may log in.
//! **Invariants:** nothing here reads a clock, waits, or does IO, and this floor imports no other
//! module of the crate. Whatever a peer sends gives a value or an error, never a panic, and never
//! an allocation larger than the bytes already received.
//!
//! | file | direction | form |
//! |---|---|---|
//! | [`startup`] | from clients, untagged | owned values: the packet is read once a connection |
//! | [`frontend`], [`backend`] | from clients, from servers | borrowed views of a frame's body |
//! | [`writer`] | to both | functions that append to a buffer |
//!
//! Source: PostgreSQL documentation, chapter "Frontend/Backend Protocol" (`protocol.html`),
//! versions 3.0 and 3.2.

pub mod backend;
pub mod cancel_key;
pub mod error;
pub mod framer;
pub mod frontend;
pub mod proxy;
mod reader;
pub mod sqlstate;
pub mod startup;
pub mod tag;
pub mod writer;

#[cfg(test)]
mod tests;

pub use cancel_key::{CancelKey, CancelSecret};
pub use error::{DecodeError, StartupError};
pub use startup::{StartupMessage, StartupPacket, parse_first_packet, parse_options};
pub use tag::{BackendTag, FrontendTag};
