//! The `patroni_proxy` program: a TCP proxy that follows Patroni clusters.
//!
//! ```text
//!   control thread                                    shards
//!   watch ── members ──▶ control ── Plan (message) ──▶ port ── accepts, chooses (balance)
//!   api   ── questions ─▶   │                           │
//!   signals ────────────────┘                         relay ── bytes between two sockets
//! ```
//!
//! **Owns:** the modules of the program and the floors between them, arguments.
//! **Does not own:** what an answer of Patroni means (`pg_doorman::patroni`).
//!
//! **Invariants**
//! 1. A change of a cluster or of the configuration touches only the connections that must end.
//! 2. Shards never wait for Patroni, name servers or the API.

#![forbid(unsafe_code)]

mod api;
mod balance;
mod config;
mod control;
mod fleet;
mod listen;
mod logging;
mod message;
mod notify;
mod numbers;
mod plans;
mod port;
mod relay;
mod reload;
mod report;
mod run;
mod shard;
mod signal;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// A TCP proxy that follows Patroni clusters.
#[derive(Debug, Parser)]
#[command(name = "patroni_proxy", version)]
struct Cli {
    /// The configuration: YAML, or TOML if its name ends in .toml.
    #[arg(default_value = "patroni_proxy.yaml")]
    config_file: PathBuf,
    /// Check the configuration and exit.
    #[arg(short = 't', long)]
    test_config: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    run::run(&cli.config_file, cli.test_config)
}
