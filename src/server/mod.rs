//! One server connection.
//!
//! **Owns:** logging in to PostgreSQL, the account of owed replies, the session's settings and what
//! clients left behind, and whether the connection is fit for another client.
//! **Does not own:** who gets it (`pool`), what a client wants of it (`session`).

pub mod connection;
pub mod detach;
pub mod errands;
pub mod error;
pub mod handshake;
pub mod parameters;
pub mod reset;
pub mod sync;

pub use connection::{Login, ServerConnection, Socket};
pub use errands::Errands;
pub use error::ServerError;
