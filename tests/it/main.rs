//! The integration tests: real sockets, a real PostgreSQL and the real `pg_doorman` program.
//!
//! Owns: one test binary with one module a topic, and the tools they share (`common`).
//! Does not own: unit tests (they live beside the code) and the rules of the source (`tests/tidy.rs`).
//! Invariants:
//! - every test has its own pooler process, port and table names, so tests run in parallel;
//! - a test whose name ends in `directly` talks to PostgreSQL without a pooler and checks the
//!   tests themselves; `through_one_shard` and `through_two_shards` are the same body through
//!   `pg_doorman`;
//! - nothing waits by sleeping: a wait is a read with a deadline or a poll of a condition.
//!
//! One topic: `cargo test --test it copy::`; one test: `cargo test --test it -- --exact
//! copy::copy_in_stores_the_rows::through_one_shard --nocapture`; all that need no pooler:
//! `cargo test --test it directly`.
//!
//! Environment: `PG_BIN` (directory of the PostgreSQL programs), `PG_DOORMAN_BIN` (another pooler
//! program to test), `IT_TLS=1` (all poolers over TLS, on both sides), `CHAOS_SECONDS`, `CHURN_SECONDS`, `SEED`.
//!
//! Source: protocol-flow.html, protocol-message-formats.html.

#![allow(
    clippy::unwrap_used,
    reason = "the whole crate is a test: a failed unwrap is a failed test"
)]

mod common;

mod admin;
mod auth;
mod auth_query;
mod cancel;
mod cancel_storm;
mod chaos;
mod command_line;
mod compatibility;
mod console;
mod copy;
mod daemon;
mod database_limits;
mod drivers;
mod extended;
mod hostile;
mod identities;
mod large_data;
mod limits;
mod listening;
mod local_answers;
mod logging;
mod malformed;
mod mesh;
mod metrics;
mod operate;
#[cfg(feature = "pam")]
mod pam;
mod parameters;
mod passing_on;
mod patroni;
mod prepared;
mod prepared_flow;
mod prepared_shape;
mod prepared_trust;
mod prepared_waits;
mod programs;
mod proofs;
mod protocol_versions;
mod proxy_protocol;
mod quarantine;
mod rebalance;
mod reload;
mod reset;
mod scripted_server;
mod secrets;
mod server_failures;
mod service;
mod session_ends;
mod session_pooling;
mod session_state;
mod startup;
mod statement_memory;
mod statement_numbers;
mod statistics;
mod time_limits;
mod tls;
mod tls_files;
mod tls_servers;
mod transaction_pooling;
mod tutorials;
mod tutorials_console;
mod upgrade;
mod upgrade_continuity;
mod upgrade_load;
mod upgrade_moves;
mod upgrade_sessions;
mod upkeep;
