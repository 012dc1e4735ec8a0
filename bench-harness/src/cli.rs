//! The command line.
//!
//! Owns: options, their defaults and their help.
//! Does not own: what they mean to a run (`main.rs` turns them into a plan).
//! Invariants: every option has a default that suits the comparison in README.md.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::load::Script;

/// Measures PostgreSQL connection poolers side by side.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure and write a report.
    Run(RunOptions),
    /// Check that the shards of `pg_doorman` are one pool.
    Mesh(MeshOptions),
    /// Check that `pg_doorman` can be operated while clients work.
    Operate(OperateOptions),
    /// Show a pooler at work: start it, drive it, print what it did.
    Demo(DemoOptions),
    /// List targets, scenarios and checks.
    List(TargetOptions),
}

/// Where the targets come from.
#[derive(Debug, Args)]
pub(crate) struct TargetOptions {
    /// The `pg_doorman` program.
    #[arg(long, value_name = "PATH", default_value = "target/release/pg_doorman")]
    pub(crate) pg_doorman: PathBuf,
    /// Another build of `pg_doorman`, as a target called NAME.
    #[arg(long, value_name = "NAME=PATH", value_parser = name_and_path)]
    pub(crate) build: Vec<(String, PathBuf)>,
    /// A TOML file that describes further targets.
    #[arg(long, value_name = "FILE")]
    pub(crate) target_file: Vec<PathBuf>,
    /// Shards (threads) of targets that have them; NAME@N sets them for one target.
    #[arg(long, default_value_t = 1)]
    pub(crate) shards: u16,
    /// The directory of PostgreSQL's programs [default: the newest installed].
    #[arg(long, value_name = "DIR")]
    pub(crate) pg_bin: Option<PathBuf>,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// Targets to measure, in this order.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "direct,pg_doorman,pgbouncer"
    )]
    pub(crate) targets: Vec<String>,
    /// Scenarios: names, patterns such as `simple*` or `*-40`, `quick`, `all`.
    #[arg(long, value_delimiter = ',', default_value = "quick")]
    pub(crate) scenarios: Vec<String>,
    /// How often each target is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Length of one measurement.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) seconds: u32,
    /// Server connections a pooler may open.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=250))]
    pub(crate) pool_size: u32,
    /// What pgbench runs.
    #[arg(long, value_enum, default_value_t = Script::SelectOnly)]
    pub(crate) script: Script,
    /// Threads of pgbench [default: the CPUs, at most 4].
    #[arg(long)]
    pub(crate) jobs: Option<u32>,
    /// The target that ratios refer to.
    #[arg(long, default_value = "pgbouncer")]
    pub(crate) baseline: String,
    /// Where the report goes, in a directory named by the time.
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) target: TargetOptions,
}

/// Options of `mesh`. Every check sets the shards and the pool size it needs.
#[derive(Debug, Args)]
pub(crate) struct MeshOptions {
    /// Checks to make [default: all].
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) only: Vec<String>,
    /// Length of one measurement, where a check has one [default: each has its own].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) seconds: Option<u32>,
    /// Seed of everything random [default: another one each time; it is printed].
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Where the report goes, in a directory named by the time.
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) target: TargetOptions,
}

/// Options of `operate`. Every check sets the shards and the pool size it needs.
#[derive(Debug, Args)]
pub(crate) struct OperateOptions {
    /// Checks to make [default: all].
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) only: Vec<String>,
    /// How often each check is made.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Length of one round [default: each check has its own].
    #[arg(long, value_parser = clap::value_parser!(u32).range(12..))]
    pub(crate) seconds: Option<u32>,
    /// Reloads or moves of one round [default: each check has its own].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) steps: Option<u32>,
    /// Where the report goes, in a directory named by the time.
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) target: TargetOptions,
}

/// Options of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoOptions {
    /// Leave the pooler up for psql until Ctrl-C.
    #[arg(long)]
    pub(crate) stay: bool,
    /// The pooler to show.
    #[arg(long, default_value = "pg_doorman")]
    pub(crate) pooler: String,
    /// Length of one measurement.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) seconds: u32,
    #[command(flatten)]
    pub(crate) target: TargetOptions,
}

fn name_and_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((name.to_owned(), PathBuf::from(path)))
        }
        _ => Err("expected NAME=PATH".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn lists_are_separated_by_commas() {
        let words = [
            "bench-harness",
            "run",
            "--targets",
            "direct,x@2",
            "--build",
            "old=/x/y",
        ];
        let arguments = Arguments::try_parse_from(words).expect("valid");
        let Command::Run(options) = arguments.command else {
            panic!("not a run")
        };
        assert_eq!(options.targets, ["direct", "x@2"]);
        assert_eq!(
            options.target.build,
            [("old".to_owned(), PathBuf::from("/x/y"))]
        );
        assert!(Arguments::try_parse_from(["bench-harness", "run", "--build", "old"]).is_err());
    }
}
