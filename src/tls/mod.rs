//! TLS without sockets: keys and certificates, what is verified, records in and out.
//!
//! **Owns:** reading keys and certificates, what rustls is told, the limit of handshakes a second.
//! **Does not own:** sockets (`transport`), modes and their words (`config`), who asks whom for TLS
//! (`session`, `server`).
//!
//! **Invariants**
//! 1. A [`Material`] exists only if every file of the configuration could be read and fits; a reload that
//!    fails leaves the one before in place.
//! 2. Tickets are good for all shards, and only as long as what clients must prove stays the same.
//!
//! Source: RFC 5246, RFC 8446, RFC 5929; PostgreSQL documentation, `ssl-tcp.html`, `libpq-ssl.html`.

mod error;
mod files;
mod https;
mod limit;
mod material;
mod pump;
mod suites;
mod verify;
mod x509;

pub use error::TlsError;
pub use https::{HttpsOptions, https};
pub use limit::RateLimit;
pub use material::{Acceptor, Connector, Keyring, Material};
pub use pump::{Progress, Pump};
pub use x509::{common_name, end_point_hash};

/// The application protocol of PostgreSQL in ALPN.
pub const ALPN: &[u8] = b"postgresql";
