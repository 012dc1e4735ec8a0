//! `pg_doorman`: a PostgreSQL connection pooler.
//!
//! ```text
//!  F6  app        wiring: command line, control thread, signals, what a shard runs
//!  F5  session    one client: login, checkout, relay
//!  F4  pool       the servers of one (database, user) on one shard
//!  F3  server     one server connection: login, owed replies, settings, reset
//!  F2  admin      the console: commands and their results
//!      transport  bytes over a socket, plain or TLS
//!      patroni    the members of a cluster, as its REST API tells them
//!      upgrade    what two processes say to each other at a binary upgrade
//!  F1  auth       who is who: SCRAM, md5, host-based rules
//!      tls        keys, certificates, records; no sockets
//!  F0  protocol   bytes ↔ messages        config   checked settings        metrics   numbers
//!  ──────────────────────────────────────────────────────────────────
//!  shards (a crate of its own): executors, io_uring, sockets, mailboxes
//! ```
//!
//! A module imports only from lower floors; `tests/tidy.rs` checks it. Requests travel up as return
//! values, configuration travels down as data.

#![forbid(unsafe_code)]

pub mod protocol;

pub mod config;

pub mod metrics;

pub mod auth;

pub mod tls;

pub mod patroni;

pub mod admin;

pub mod transport;

pub mod upgrade;

pub mod server;

pub mod pool;

pub mod session;

pub mod app;
