//! One server connection.
//!
//! **Owns:** logging in to PostgreSQL, the account of owed replies, the session's settings and what
//! clients left behind, cancel requests, and whether the connection is fit for another client.
//! **Does not own:** who gets it (`pool`), what a client wants of it (`session`).

pub mod baits;
pub mod cancel;
pub mod card;
pub mod chores;
pub mod connection;
pub mod credentials;
pub mod detach;
pub mod errands;
pub mod error;
pub mod handshake;
pub mod lease;
pub mod parameters;
pub mod passport;
pub mod question;
pub mod quota;
pub mod reset;
pub mod secure;
pub mod statements;
pub mod sync;
pub mod tcp;
pub mod version;

pub use cancel::Canceller;
pub use card::{ServerCard, ServerTally};
pub use connection::{Login, ServerConnection, Socket};
pub use errands::Errands;
pub use error::ServerError;
pub use lease::Lease;
pub use secure::Security;
pub use tcp::TcpOptions;
