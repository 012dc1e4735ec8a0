//! Tests of the console as a function, and of its page in `docs/`.

use super::*;

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/admin.md"));

/// The tags of the messages in `bytes`, which must be whole.
fn tags(bytes: &[u8]) -> String {
    let mut tags = String::new();
    let mut rest = bytes;
    while let Some((&[tag, l0, l1, l2, l3], _)) = rest.split_first_chunk::<5>() {
        tags.push(tag.into());
        rest = &rest[1 + u32::from_be_bytes([l0, l1, l2, l3]) as usize..];
    }
    assert!(rest.is_empty());
    tags
}

fn answer(text: &str) -> Vec<u8> {
    let fleet = Fleet::new(2);
    let view = View {
        version: "1.2.3",
        fleet: &fleet,
    };
    match respond(text.as_bytes(), &view) {
        Action::Send(bytes) => bytes,
        Action::AskStatements | Action::Reload => panic!("{text}"),
    }
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

/// The rows of the page between two marks: what is in backticks at their start, and what follows.
fn listed(mark: &str) -> Vec<(&'static str, &'static str)> {
    let start = format!("<!-- {mark} -->");
    let (_, rest) = PAGE.split_once(&start).expect(mark);
    let (part, _) = rest.split_once("<!-- end -->").expect("an end");
    part.lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .collect()
}

#[test]
fn answers_are_whole_and_end_with_ready() {
    for (text, expected) in [
        ("SHOW VERSION", "TDCZ"),
        ("SHOW SHARDS", "TDDCZ"),
        ("", "IZ"),
        (";", "IZ"),
        ("SELECT 1", "EZ"),
        ("SHOW", "EZ"),
        ("SHOW STATISTICS", "EZ"),
    ] {
        assert_eq!(tags(&answer(text)), expected, "{text}");
    }
    let rows = "D".repeat(help::items().count());
    assert_eq!(tags(&answer("SHOW HELP")), format!("T{rows}CZ"));
    assert!(has(&answer("SHOW VERSION"), "PgDoorman 1.2.3"));
    assert!(has(&answer("SHOW VERSION"), "SHOW\0"));
}

#[test]
fn errors_are_fatal_in_name_only() {
    let bytes = answer("nothing");
    assert!(has(&bytes, "SFATAL\0"));
    assert!(has(&bytes, "C58000\0"));
    assert!(has(
        &bytes,
        "MUnsupported query against the admin database\0"
    ));
}

#[test]
fn a_reload_is_answered_by_its_outcome() {
    let fleet = Fleet::new(1);
    let view = View {
        version: "",
        fleet: &fleet,
    };
    assert_eq!(respond(b"reload;", &view), Action::Reload);
    assert_eq!(tags(&reloaded(&Ok(()))), "CZ");
    let failed = reloaded(&Err("line 3".to_owned()));
    assert_eq!(tags(&failed), "EZ");
    assert!(has(&failed, "Mline 3\0"));
}

#[test]
fn only_the_two_names_are_the_console() {
    assert!(is_console("pgdoorman") && is_console("pgbouncer"));
    assert!(!is_console("PgDoorman") && !is_console("pg_doorman") && !is_console(""));
}

#[test]
fn the_page_has_all_commands() {
    let items: Vec<_> = help::items().collect();
    let listed: Vec<_> = listed("commands")
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(listed, items);
}

#[test]
fn the_page_has_all_columns() {
    let shards = show_shards::table(&Fleet::new(1));
    let statements = show_statements::table(Vec::new());
    for (mark, table) in [
        ("columns of SHOW SHARDS", shards),
        ("columns of SHOW PREPARED_STATEMENTS", statements),
    ] {
        let listed = listed(mark);
        let names: Vec<_> = listed.iter().map(|(name, _)| *name).collect();
        let columns: Vec<_> = table.columns().iter().map(|c| c.name.as_ref()).collect();
        assert_eq!(names, columns, "{mark}");
        for ((name, rest), column) in listed.iter().zip(table.columns()) {
            let kind = match column.kind {
                ColumnType::Int => " | int4 |",
                ColumnType::Numeric => " | numeric |",
                ColumnType::Text => " | text |",
            };
            assert!(rest.starts_with(kind), "{name} is{kind}");
        }
    }
}

#[test]
fn statements_are_answered_by_their_accounts() {
    let account = StatementAccount {
        pool: "u@d".into(),
        key: 7 << 64 | 1,
        name: "PGD_7".into(),
        text: "select 1".into(),
        uses: 12,
        names: 3,
        idle_servers: 2,
        shards: 1,
    };
    let table = show_statements::table(vec![account.clone(), account.clone()]);
    let row = ["u@d", "7", "PGD_7", "select 1", "24", "6", "4", "2"];
    assert_eq!(table.rows(), [row.map(str::to_owned)]);
    assert_eq!(tags(&statements(Ok(vec![account]))), "TDCZ");
    let failed = statements(Err("a shard does not answer".to_owned()));
    assert_eq!(tags(&failed), "EZ");
    let fleet = Fleet::new(1);
    let view = View {
        version: "",
        fleet: &fleet,
    };
    let action = respond(b"show prepared_statements;", &view);
    assert_eq!(action, Action::AskStatements);
}
