//! The `pg_doorman` program.

use std::process::ExitCode;

use clap::Parser;
use pg_doorman::app::cli::Cli;
use pg_doorman::app::run::run;

fn main() -> ExitCode {
    run(&Cli::parse())
}
