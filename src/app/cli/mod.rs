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
use clap::{ArgAction, Parser, ValueEnum};
use tracing::Level;

use crate::config::{self, ConfigError};

/// Exit code for a configuration that cannot be used.
pub const EXIT_CONFIG: u8 = 78;

/// PostgreSQL connection pooler.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "pg_doorman", version)]
pub struct Cli {
    /// Configuration file, TOML, or YAML if it is called *.yaml or *.yml
    #[arg(env = "CONFIG_FILE", default_value = "pg_doorman.toml")]
    pub config_file: PathBuf,

    /// Log level: error, warn, info, debug, trace, or 1 to 5
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

    /// No colours in the log
    #[arg(short, long, env = "NO_COLOR", action = ArgAction::SetTrue, value_parser = no_color)]
    pub no_color: bool,

    /// Detach into the background
    #[arg(short, long, env = "DAEMON", action = ArgAction::SetTrue)]
    #[arg(value_parser = BoolishValueParser::new())]
    pub daemon: bool,

    /// Adopt this listening socket; used by the binary upgrade
    #[arg(long, env = "INHERIT_FD", value_name = "FD")]
    pub inherit_fd: Option<RawFd>,

    /// Check the configuration file and exit
    #[arg(short, long)]
    pub test_config: bool,
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
        Ok(loaded) => {
            for warning in &loaded.warnings {
                eprintln!("warning: {warning}");
            }
            let path = path.display();
            println!("pg_doorman: the configuration file {path} syntax is ok");
            println!("pg_doorman: configuration file {path} test is successful");
            ExitCode::SUCCESS
        }
        Err(error) => refuse_config(&error),
    }
}

/// Says on standard error why the configuration cannot be used; returns the exit code for it.
pub fn refuse_config(error: &ConfigError) -> ExitCode {
    eprintln!("Config parse error: {error}");
    ExitCode::from(EXIT_CONFIG)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Environment variables are left out: other tests of this process may run at the same time.
    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        use clap::{CommandFactory, FromArgMatches};
        let command = Cli::command().mut_args(|argument| argument.env(None::<&str>));
        let arguments = std::iter::once("pg_doorman").chain(arguments.iter().copied());
        command
            .try_get_matches_from(arguments)
            .and_then(|found| Cli::from_arg_matches(&found))
    }

    #[test]
    fn without_arguments_everything_has_its_default() {
        let expected = Cli {
            config_file: "pg_doorman.toml".into(),
            log_level: Level::INFO,
            log_format: LogFormat::Text,
            no_color: false,
            daemon: false,
            inherit_fd: None,
            test_config: false,
        };
        assert_eq!(parse(&[]).unwrap(), expected);
    }

    #[test]
    fn short_and_long_arguments_are_understood() {
        let expected = Cli {
            config_file: "x.yaml".into(),
            log_level: Level::TRACE,
            log_format: LogFormat::Structured,
            no_color: true,
            daemon: true,
            inherit_fd: Some(7),
            test_config: true,
        };
        let short = [
            "-l",
            "tRace",
            "-F",
            "structured",
            "-n",
            "-d",
            "-t",
            "--inherit-fd",
            "7",
        ];
        let long = [
            "--log-level",
            "5",
            "--log-format",
            "Structured",
            "--no-color",
            "--daemon",
        ];
        for arguments in [
            &short[..],
            &[&long[..], &["--test-config", "--inherit-fd=7"]].concat(),
        ] {
            let arguments = [arguments, &["x.yaml"]].concat();
            assert_eq!(parse(&arguments).unwrap(), expected, "{arguments:?}");
        }
    }

    #[test]
    fn bad_arguments_exit_with_two_and_version_with_zero() {
        for arguments in [
            &["-l", "loud"][..],
            &["-F", "xml"],
            &["--config", "x"],
            &["a", "b"],
        ] {
            assert_eq!(
                parse(arguments).unwrap_err().exit_code(),
                2,
                "{arguments:?}"
            );
        }
        let version = parse(&["-V"]).unwrap_err();
        assert_eq!(version.exit_code(), 0);
        let expected = format!("pg_doorman {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(version.to_string(), expected);
    }

    #[test]
    fn every_value_of_no_color_is_accepted() {
        for (value, expected) in [("1", true), ("true", true), ("x", true), ("0", true)] {
            assert_eq!(no_color(value), Ok(expected), "{value}");
        }
        assert_eq!((no_color("false"), no_color("")), (Ok(false), Ok(false)));
    }
}
