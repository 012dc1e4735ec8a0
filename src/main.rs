//! The `pg_doorman` program.

use std::process::ExitCode;

use clap::Parser;
use pg_doorman::app::cli::{self, Cli};
use pg_doorman::config;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.test_config {
        return cli::test_config(&cli.config_file);
    }
    match config::load(&cli.config_file) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => cli::refuse_config(&error),
    }
}
