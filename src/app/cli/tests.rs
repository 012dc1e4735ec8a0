//! Tests of arguments and help.

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
        command: None,
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
        command: None,
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
        &["generate", "--pool-size", "x"],
        &["migrate"],
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

#[test]
fn as_many_shards_as_can_be_started_are_allowed_by_the_check() {
    assert_eq!(config::WORKER_THREADS_MAX, shards::ShardCount::MAX);
}

#[test]
fn commands_have_arguments_of_their_own() {
    let line = [
        "-n", "generate", "-d", "shop", "-s", "-p", "1", "--ru", "-f", "TOML",
    ];
    let cli = parse(&line).unwrap();
    let Some(Command::Generate(args)) = cli.command else {
        panic!("{cli:?}");
    };
    assert!(cli.no_color && !cli.daemon && args.session_pool_mode && args.russian_comments);
    assert_eq!((args.database.as_str(), args.port), ("shop", 1));
    let cli = parse(&["migrate", "x.ini", "-d", "a", "-d", "b", "-o", "y"]).unwrap();
    let Some(Command::Migrate(args)) = cli.command else {
        panic!("{cli:?}");
    };
    assert_eq!(args.databases, ["a", "b"]);
}

#[test]
fn help_tells_how_to_start_and_every_exit_code() {
    for line in [
        &["--help"][..],
        &["generate", "--help"],
        &["migrate", "--help"],
        &["-h"],
    ] {
        let help = parse(line).unwrap_err();
        assert_eq!(help.exit_code(), 0);
        let text = help.to_string();
        assert!(text.contains("Usage: pg_doorman"), "{text}");
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest < Some(140), "{text}");
    }
    let text = parse(&["--help"]).unwrap_err().to_string();
    for code in ["  0 ", "  1 ", "  2 ", "  71 ", "  78 "] {
        assert!(text.contains(code), "{code}: {text}");
    }
    let text = parse(&["generate", "-h"]).unwrap_err().to_string();
    assert!(text.contains("given as PGPASSWORD"), "{text}");
}

#[test]
fn the_manual_names_every_argument_and_its_variable() {
    use clap::CommandFactory;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manual = std::fs::read_to_string(root.join("docs/operations/running.md")).unwrap();
    let migration = root.join("docs/operations/migration-from-pgbouncer.md");
    let migration = std::fs::read_to_string(migration).unwrap();
    let program = Cli::command();
    let commands = program.get_subcommands().chain([&program]);
    for command in commands {
        let manual = if command.get_name() == "migrate" {
            &migration
        } else {
            &manual
        };
        for argument in command.get_arguments() {
            // `-o` of migrate needs no long form in the text.
            let name = match (argument.get_long(), argument.get_short()) {
                (_, Some(short)) if command.get_name() == "migrate" => format!("-{short} "),
                (Some(long), _) => format!("--{long}"),
                (None, _) => continue,
            };
            assert!(manual.contains(&name), "{}: {name}", command.get_name());
            if let Some(variable) = argument.get_env() {
                let variable = format!("`{}`", variable.display());
                assert!(manual.contains(&variable), "{variable}");
            }
        }
    }
}
