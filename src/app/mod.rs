//! The program around the library: command line and wiring.
//!
//! **Owns:** what happens between `main` and the shards.
//! **Does not own:** anything a client or server sees on the wire.

pub mod cli;
