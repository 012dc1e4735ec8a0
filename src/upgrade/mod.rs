//! What two processes say to each other while one takes over from the other.
//!
//! **Owns:** the form of messages (`frame`) and of what is in them (`bytes`), the socket between the two
//! processes and the descriptors that go through it (`channel`).
//! **Does not own:** what a session is (`session::passport`), who says what when (`app::succession`).
//!
//! The two processes may be different versions of the program. Each message carries the version of its
//! form; one that knows another version says so, and the older process goes on.

pub mod bytes;
pub mod channel;
pub mod frame;
