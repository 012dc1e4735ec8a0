//! Bytes over a socket, plain or TLS.
//!
//! **Owns:** the streams that sessions and server connections read and write; handshakes; how many of
//! those a shard works on in a turn.
//! **Does not own:** the socket and its buffers (`shards`), records (`tls`), who asks for TLS (`session`,
//! `server`).
//!
//! **Invariants**
//! 1. A plain stream costs a comparison more than the shard's own.
//! 2. A connection at rest holds no buffer, over TLS neither.
//! 3. A TLS stream that ends without saying so is an error, never an end.

mod encrypted;
mod gate;
mod handshake;
mod stream;

pub use encrypted::{Encrypted, Sealed};
pub use gate::Gate;
pub use handshake::{HandshakeError, accept, connect};
pub use stream::{Detached, Stream};
