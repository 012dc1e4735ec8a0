//! Tests of formats, includes and merging.

use std::collections::HashMap;
use std::io;

use super::*;
use crate::config::Secret;

const GENERAL: &str = "[general]\nadmin_username = 'a'\nadmin_password = 'b'\n";

/// Loads the first of `files`; the others are reachable from it.
fn load(files: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let all: HashMap<PathBuf, Vec<u8>> = files
        .iter()
        .map(|(name, text)| (name.into(), text.as_bytes().to_vec()))
        .collect();
    let read = |path: &Path| all.get(path).cloned().ok_or(io::ErrorKind::NotFound.into());
    load_with(Path::new(files[0].0), &read)
}

fn error(files: &[(&str, &str)]) -> String {
    load(files).unwrap_err().to_string()
}

#[test]
fn format_follows_the_name_in_any_letter_case() {
    let yaml = "general: {admin_username: a, admin_password: b}\npools: {}";
    for name in ["x.yaml", "x.yml", "x.YAML", "dir.toml/x.Yml"] {
        assert!(load(&[(name, yaml)]).is_ok(), "{name}");
    }
    let toml = format!("{GENERAL}[pools]");
    for name in ["x.toml", "x", "x.conf", "yaml", "x.yaml.bak"] {
        assert!(load(&[(name, &toml)]).is_ok(), "{name}");
        assert!(load(&[(name, yaml)]).is_err(), "{name}");
    }
}

#[test]
fn yaml_and_toml_with_the_same_content_give_the_same_settings() {
    let toml = format!(
        "{GENERAL}idle_timeout = '10m'\nport = 6432\nhba = ['10.0.0.0/8']\n\
         pooler_check_query_request_bytes = [81, 0, 0, 0, 5]\n\
         [pools.7]\npool_mode = 'Session'\n\
         [pools.7.users.0]\nusername = 'u'\npassword = '0123'\npool_size = 1\n\
         [pools.7.users.10]\nusername = 'v'\npassword = 'yes'\npool_size = 2\nmin_pool_size = 1"
    );
    let yaml = "
general:
  admin_username: a
  admin_password: 'b'
  idle_timeout: 10m
  port: 6432
  hba: [10.0.0.0/8]
  syslog_prog_name: ~
  pooler_check_query_request_bytes: [81, 0, 0, 0, 5]
prometheus:
talos: null
pools:
  7:
    pool_mode: Session
    users:
      0: {username: u, password: 0123, pool_size: 1}
      10: {username: v, password: yes, pool_size: 2, min_pool_size: 1}
";
    let toml = load(&[("x", &toml)]).unwrap();
    let mut yaml = load(&[("x.yml", yaml)]).unwrap();
    yaml.config.path = "x".into();
    assert_eq!(toml, yaml);
    assert_eq!(toml.config.pools[0].users[1].password, Secret::new("yes"));
}

#[test]
fn includes_merge_in_order_and_only_one_level_deep() {
    let main = format!(
        "include.files = ['sub/one.toml', 'two.yaml']\n{GENERAL}hba = ['10.0.0.0/8']\n\
         [[pools.db.users]]\nusername = 'u0'\npassword = ''\npool_size = 1\n"
    );
    let one = "[include]\nfiles = ['three.toml']\n[general]\nport = 1\nhost = 'one'\n\
               hba = ['11.0.0.0/8']\n\
               [[pools.db.users]]\nusername = 'u1'\npassword = ''\npool_size = 1\n";
    let two = "general: {port: 2}\npools:\n  db:\n    server_port: 7\n    users:\n    \
               - {username: u2, password: '', pool_size: 1}\n  other: {}";
    let files = [
        ("main.toml", main.as_str()),
        ("sub/one.toml", one),
        ("two.yaml", two),
    ];
    let config = load(&files).unwrap().config;
    assert_eq!(
        (config.general.port, config.general.host.as_str()),
        (2, "one")
    );
    assert_eq!(config.general.hba.len(), 2);
    let users: Vec<_> = config.pools[0]
        .users
        .iter()
        .map(|user| user.username.as_str())
        .collect();
    assert_eq!(users, ["u0", "u1", "u2"]);
    assert_eq!(config.pools[1].name, "other");
}

#[test]
fn paths_of_includes_do_not_depend_on_the_place_of_the_main_file() {
    let main = format!("include.files = ['pools.toml']\n{GENERAL}");
    let pools = "[pools]";
    assert!(load(&[("etc/main.toml", &main), ("pools.toml", pools)]).is_ok());
    let error = error(&[("etc/main.toml", &main), ("etc/pools.toml", pools)]);
    assert!(
        error.contains("Could not read config file") && error.ends_with("(pools.toml)"),
        "{error}"
    );
}

#[test]
fn merging_different_types_is_an_error() {
    let main = format!("include.files = ['i.toml']\n{GENERAL}port = 1\nhba = []\n[pools]");
    for (include, expected) in [
        (
            "general.port = 'x'",
            "general.port: expected integer, found string",
        ),
        (
            "general.port = 1.5",
            "general.port: expected integer, found float",
        ),
        (
            "general.hba.x = 1",
            "general.hba: expected array, found table",
        ),
        ("pools = []", "pools: expected table, found array"),
    ] {
        let text = error(&[("m.toml", &main), ("i.toml", include)]);
        let expected = format!("Could not merge config file i.toml: {expected} (");
        assert!(
            text.contains(&expected) && text.ends_with(" in i.toml)"),
            "{text}"
        );
    }
    let text = error(&[("m.toml", &format!("include.files = 'x'\n{GENERAL}[pools]"))]);
    let expected = "Could not merge config: invalid type: string, expected a sequence (include.files in m.toml)";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn a_fault_is_attributed_to_the_file_that_holds_the_value() {
    let user = |name: &str, size: &str| {
        format!("[[pools.db.users]]\nusername = '{name}'\npassword = ''\npool_size = {size}\n")
    };
    let main = format!(
        "include.files = ['1.toml', '2.toml']\n{GENERAL}{}",
        user("a", "1")
    );
    let one = format!("general.port = 1\n{}{}", user("b", "1"), user("c", "'x'"));
    let two = user("d", "1");
    let text = error(&[("m.toml", &main), ("1.toml", &one), ("2.toml", &two)]);
    assert!(
        text.ends_with("(pools.db.users[2].pool_size in 1.toml)"),
        "{text}"
    );
    let one = user("b", "1");
    let two = user("a", "1");
    let text = error(&[("m.toml", &main), ("1.toml", &one), ("2.toml", &two)]);
    assert_eq!(
        text,
        "Configuration error: duplicate username 'a' in pool users \
         (pools.db.users[2].username in 2.toml)"
    );
}

#[test]
fn syntax_errors_name_the_line_and_show_nothing_of_it() {
    for (name, text) in [
        ("x.toml", "[general]\nadmin_password = \"hunter2\n"),
        ("x.toml", "[general]\nadmin_password = hunter2\n"),
        ("x.toml", "[general]\n\"admin\"hunter2 = 1\n"),
        ("x.toml", "[general]\npassword = 'a' 'hunter2'\n"),
        ("x.toml", "[general]\nx = { hunter2 }\n"),
        ("x.toml", "[general]\nx = \"\\hunter2\"\n"),
        ("x.yaml", "general:\n  admin_password: @hunter2\n"),
        ("x.yaml", "general:\n  admin_password: a: hunter2\n"),
        ("x.yaml", "general:\n  admin_password: \"hunter2\n"),
    ] {
        let text_of_error = error(&[(name, text)]);
        assert!(
            text_of_error.ends_with(&format!("(line 2 in {name})")),
            "{text_of_error}"
        );
        assert!(!text_of_error.contains("unter"), "{text_of_error}");
    }
    assert!(error(&[("x.toml", "a = 1\n\n\na = 2")]).ends_with("(line 4 in x.toml)"));
}

#[test]
fn type_errors_show_kinds_and_not_values() {
    for (line, expected) in [
        (
            "port = 'hunter2'",
            "invalid type: string, expected u16 (general.port in x)",
        ),
        (
            "port = 70000",
            "invalid value: integer, expected u16 (general.port in x)",
        ),
        (
            "port = -1",
            "invalid value: integer, expected u16 (general.port in x)",
        ),
        (
            "tcp_user_timeout = '5s'",
            "invalid type: string, expected u64 (general.tcp_user_timeout in x)",
        ),
        (
            "idle_timeout = 1.5",
            "(ms, s, m, h, d) (general.idle_timeout in x)",
        ),
        (
            "idle_timeout = '5x'",
            "with suffix (ms, s, m, h, d) (general.idle_timeout in x)",
        ),
        (
            "hba = 'hunter2, expected \"x'",
            "string, expected a sequence (general.hba in x)",
        ),
        (
            "pg_hba = 5",
            "or a table with 'path' or 'content' (general.pg_hba in x)",
        ),
        (
            "pg_hba = {}",
            "expected either 'path' or 'content' field for PgHba (general.pg_hba in x)",
        ),
        (
            "pg_hba = { file = 'x' }",
            "`path` or `content` (general.pg_hba.file in x)",
        ),
    ] {
        let text = error(&[("x", &format!("{GENERAL}{line}\n[pools]"))]);
        assert!(text.ends_with(expected), "{text}");
        assert!(
            text.starts_with("Configuration error: Could not merge config: "),
            "{text}"
        );
        assert!(
            !text.contains("hunter2") && !text.contains("70000"),
            "{text}"
        );
    }
    let text = error(&[(
        "x",
        "[general]\nadmin_username = 'a'\nadmin_password = 777123\n[pools]",
    )]);
    assert!(
        text.ends_with("invalid type: integer, expected a string (general.admin_password in x)"),
        "{text}"
    );
}

#[test]
fn files_that_are_missing_or_not_text_are_named() {
    let read = |_: &Path| Ok(vec![0xff]);
    let error = load_with(Path::new("x.toml"), &read)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "Configuration error: the file is not valid UTF-8 (x.toml)"
    );
    let error = crate::config::load(Path::new("/nonexistent/x.toml"))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("Configuration error: Could not read config file: "),
        "{error}"
    );
    assert!(error.ends_with("(/nonexistent/x.toml)"), "{error}");
}
