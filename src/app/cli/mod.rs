//! The command line.
//!
//! **Owns:** arguments, their environment variables, exit codes, `--test-config`.
//! **Does not own:** acting on the other arguments.
//! **Invariants:** a refused argument exits with 2, a refused configuration with 78 and its reason
//! on standard error, whether or not anybody watches a terminal.
//!
//! Source: sysexits.h for 78 (`EX_CONFIG`).

use std::convert::Infallible;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use tracing::Level;

use crate::config::{self, ConfigError};
use crate::tls::Material;

use super::advice::{self, Facts};
use super::generate::GenerateArgs;
use super::migrate::MigrateArgs;
use super::prover::Prover;
use super::say;

/// Exit code for a configuration that cannot be used.
pub const EXIT_CONFIG: u8 = 78;

/// What `--help` says besides the options.
const AFTER_HELP: &str = "\
Start with:
  pg_doorman generate --reference -o pg_doorman.toml   an example with every key, explained
  pg_doorman migrate pgbouncer.ini -o pg_doorman.toml  from a configuration of PgBouncer
  pg_doorman -t pg_doorman.toml                        checks the file and warns of what is doubtful
  pg_doorman pg_doorman.toml                           runs

Signals:
  SIGHUP           reads the configuration again; clients stay
  SIGTERM          stops at once
  SIGUSR2          has the program that is on disk now take over; clients stay
  SIGINT           at a terminal: lets transactions end, for shutdown_timeout at most, and stops;
                   otherwise as SIGUSR2

Exit codes:
  0   ended by a signal; the check or the command succeeded
  1   a command (generate, migrate) could not read, ask or write something
  2   an argument is wrong
  71  the operating system refuses something; standard error tells what
  78  the configuration cannot be used; standard error tells where and why";

/// PostgreSQL connection pooler: many clients share few server connections
///
/// Reads one configuration file, listens for PostgreSQL clients and lends them server connections, for
/// a transaction or for as long as they stay.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "pg_doorman", version, max_term_width = 100, after_long_help = AFTER_HELP)]
#[command(after_help = "`pg_doorman --help` tells more, with examples, signals and exit codes.")]
#[command(disable_help_subcommand = true)]
pub struct Cli {
    /// What to do instead of running the pooler.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Configuration file: TOML, or YAML if it is called *.yaml or *.yml
    #[arg(env = "CONFIG_FILE", default_value = "pg_doorman.toml")]
    pub config_file: PathBuf,

    /// How much is logged: error, warn, info, debug or trace, or 1 to 5; `general.log_level` goes before
    ///
    /// `RUST_LOG` may name other levels for parts of the program, as in
    /// `RUST_LOG=pg_doorman::pool=debug`.
    #[arg(
        short,
        long,
        env = "LOG_LEVEL",
        default_value = "INFO",
        value_name = "LEVEL"
    )]
    pub log_level: Level,

    /// Form of the log lines
    #[arg(
        short = 'F',
        long,
        env = "LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    #[arg(value_enum, ignore_case = true)]
    pub log_format: LogFormat,

    /// No colours in the log; they are on by default even if it is a file
    #[arg(short, long, env = "NO_COLOR", action = ArgAction::SetTrue, value_parser = no_color)]
    pub no_color: bool,

    /// Run in the background; returns when clients can connect
    ///
    /// The process id is written to `general.daemon_pid_file`. Standard output is closed, and the log
    /// with it, unless `general.syslog_prog_name` is set.
    #[arg(short, long, env = "DAEMON", action = ArgAction::SetTrue)]
    #[arg(value_parser = BoolishValueParser::new())]
    pub daemon: bool,

    /// Adopt this listening socket; used by the binary upgrade
    #[arg(long, env = "INHERIT_FD", value_name = "FD")]
    pub inherit_fd: Option<RawFd>,

    /// Check the configuration file, tell what is wrong or doubtful, and end
    #[arg(short, long)]
    pub test_config: bool,
}

/// What to do instead of running the pooler.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Write a configuration for the databases and users of a running PostgreSQL, or an example
    ///
    /// Logs in to a PostgreSQL server, asks it for its databases and users, and writes a configuration
    /// in which every user may use every database. The stored passwords of the users, as in `pg_authid`,
    /// become those of the pooler, so clients keep theirs. Nothing on the server is changed.
    #[command(after_help = "\
Examples:
  pg_doorman generate --reference -o pg_doorman.toml
  PGPASSWORD=... pg_doorman generate --host db1 -u postgres -o pg_doorman.toml
  pg_doorman generate --host /var/run/postgresql -f toml --no-comments")]
    Generate(GenerateArgs),

    /// Turn a configuration of PgBouncer into one for this program
    ///
    /// Reads pgbouncer.ini, the files it includes and its list of users, and writes a configuration for
    /// this program with a comment for each value that tells where it comes from. What has no counterpart
    /// or another meaning is told on standard error and at the head of the result. Nothing of PgBouncer
    /// is changed.
    #[command(after_help = "\
Examples:
  pg_doorman migrate /etc/pgbouncer/pgbouncer.ini -o pg_doorman.toml
  pg_doorman migrate pgbouncer.ini -d shop -d billing -o pg_doorman.toml   # a `*` stands for these
  pg_doorman -t pg_doorman.toml                                            # then check it

Relative names of files in pgbouncer.ini start at the working directory, as they do for PgBouncer.
The result holds passwords; a file is made readable by you only.")]
    Migrate(MigrateArgs),
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One readable line an event
    Text,
    /// One JSON object a line
    Structured,
    /// Several lines an event
    Debug,
}

/// By custom any value of `NO_COLOR` but the empty one asks for no colours. `false` is the exception:
/// it has always meant the opposite here.
#[expect(clippy::unnecessary_wraps, reason = "the form of a value parser")]
fn no_color(value: &str) -> Result<bool, Infallible> {
    Ok(!value.is_empty() && !value.eq_ignore_ascii_case("false"))
}

/// Checks the configuration at `path` and tells the result: two lines on standard output, or the
/// fault on standard error. Warnings go to standard error.
pub fn test_config(path: &Path) -> ExitCode {
    match config::load(path) {
        Ok(mut loaded) => {
            if let Err(error) = Prover::new().prepare(&mut loaded.config) {
                return refuse_config(&error);
            }
            let material = match Material::load(&loaded.config) {
                Ok(material) => material,
                Err(error) => {
                    say::err(&format_args!(
                        "Config parse error: Configuration error: {error}"
                    ));
                    return ExitCode::from(EXIT_CONFIG);
                }
            };
            let doubts = advice::warnings(&loaded.config, Facts::gather(path));
            let found = loaded.warnings.iter().chain(&material.warnings);
            for warning in found.chain(&doubts) {
                say::err(&format_args!("warning: {warning}"));
            }
            let path = path.display();
            say::out(&format_args!(
                "pg_doorman: the configuration file {path} syntax is ok"
            ));
            say::out(&format_args!(
                "pg_doorman: configuration file {path} test is successful"
            ));
            ExitCode::SUCCESS
        }
        Err(error) => refuse_config(&error),
    }
}

/// Says on standard error why the configuration cannot be used; returns the exit code for it.
pub fn refuse_config(error: &ConfigError) -> ExitCode {
    say::err(&format_args!("Config parse error: {error}"));
    ExitCode::from(EXIT_CONFIG)
}

#[cfg(test)]
mod tests;
