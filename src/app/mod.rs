//! The program around the library: command line and wiring.
//!
//! **Owns:** what happens between `main` and the shards: the control thread, what each shard runs,
//! the messages between them.
//! **Does not own:** anything a client or server sees on the wire.

mod activation;
pub mod advice;
pub mod balance;
pub mod busy;
pub mod cancels;
pub mod chores;
pub mod cli;
pub mod control;
mod daemon;
pub mod errands;
pub mod generate;
pub mod guests;
pub mod hand_over;
mod listen;
pub mod logging;
pub mod mailbox;
pub mod migrate;
pub mod not_yet;
pub mod orders;
pub mod post;
pub mod prover;
mod report;
mod result_file;
pub mod run;
mod say;
pub mod scrape;
pub mod shard_main;
mod sockets;
pub mod succession;
pub mod surveys;
