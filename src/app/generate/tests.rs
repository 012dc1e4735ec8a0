//! Tests of generated files.

use clap::Parser;

use super::*;
use crate::config::{self, Config};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: GenerateArgs,
}

fn args(line: &[&str]) -> GenerateArgs {
    use clap::{CommandFactory as _, FromArgMatches as _};
    // Other tests of this process, or its caller, may have set variables.
    let command = Line::command().mut_args(|argument| argument.env(None::<&str>));
    let line = std::iter::once("generate").chain(line.iter().copied());
    let found = command.try_get_matches_from(line).unwrap();
    Line::from_arg_matches(&found).unwrap().args
}

fn load(text: &str, extension: &str) -> Config {
    let name = format!("doorman-generate-{}.{extension}", rand::random::<u64>());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, text).unwrap();
    let loaded = config::load(&path);
    std::fs::remove_file(&path).unwrap();
    let loaded = loaded.unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(loaded.warnings, [""; 0]);
    loaded.config
}

#[test]
fn the_example_loads_in_every_form() {
    for (line, extension) in [
        (&["--reference"][..], "yaml"),
        (&["--reference", "-f", "toml"], "toml"),
        (&["--reference", "--no-comments"], "yaml"),
        (&["--reference", "--ru"], "yaml"),
        (
            &["--reference", "--russian-comments", "-o", "x.conf"],
            "toml",
        ),
        (
            &["--reference", "-o", "x.YML", "-s", "--pool-size", "7"],
            "yml",
        ),
    ] {
        let args = args(line);
        let config = load(&text(&args, &example()), extension);
        let general = &config.general;
        assert_eq!((general.host.as_str(), general.port), ("0.0.0.0", 6432));
        assert_eq!(general.admin_username, "admin");
        let user = &config.pools[0].users[0];
        assert_eq!(config.pools[0].name, "exampledb");
        assert_eq!(user.username, "app_user");
        assert_eq!(user.password.expose(), EXAMPLE_PASSWORD);
        let size = if args.session_pool_mode { 7 } else { 40 };
        assert_eq!(user.pool_size, size, "{line:?}");
    }
}

#[test]
fn an_empty_variable_counts_as_none() {
    let line = ["--host", "", "-p", "", "-u", "", "-d", ""];
    let args = args(&line).with_defaults();
    assert_eq!((args.host.as_str(), args.port), ("localhost", 5432));
    assert_eq!(
        (args.user.as_str(), args.database.as_str()),
        ("postgres", "postgres")
    );
    assert!(port("x").is_err() && port("65536").is_err());
}

#[test]
fn every_database_gets_every_user() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let inventory = Inventory {
        users: vec![
            ("a".to_owned(), "md5x".to_owned()),
            ("b\"c".to_owned(), "SCRAM-SHA-256$1".to_owned()),
        ],
        databases: names(&["one", "two. three"]),
    };
    let args = args(&[
        "--host",
        "db",
        "-p",
        "5433",
        "--server-host",
        "/run",
        "--ssl",
    ]);
    let config = load(&text(&args, &inventory), "yaml");
    assert!(config.general.server_tls);
    for pool in &config.pools {
        assert_eq!(pool.server.to_string(), "/run/.s.PGSQL.5433");
        assert_eq!(pool.server_database, pool.name);
        let users: Vec<_> = pool
            .users
            .iter()
            .map(|user| user.username.as_str())
            .collect();
        assert_eq!(users, ["a", "b\"c"]);
    }
    assert_eq!(config.pools.len(), 2);
}
