//! The console: logging in to it, its commands, and what it makes of messages that are none.
//!
//! Source: docs/admin.md, protocol-flow.html.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use crate::common::{
    Client, Config, Doorman, Login, Postgres, User, eventually, message, port,
    with_one_and_two_shards,
};

with_one_and_two_shards!(
    console_asks_for_the_password_of_the_admin,
    console_asks_as_the_rule_says,
    console_obeys_the_rules,
    console_under_trust_takes_any_name,
    console_tells_of_itself_at_login,
    show_shards_has_a_row_a_shard,
    show_version_and_help_are_tables,
    errors_keep_the_console,
    extended_queries_are_answered_as_simple_ones,
    errors_in_extended_queries_skip_to_the_sync,
    several_commands_run_up_to_the_first_error,
    malformed_messages_end_only_that_console,
    messages_cut_anywhere_are_understood,
    console_needs_no_server,
    reload_by_the_console_is_answered,
    console_that_does_not_read_holds_no_memory,
);

/// A pooler whose server is not there, with these rules.
fn doorman(shards: usize, rules: &str) -> Doorman {
    let config = Config::to_port(port::free()).shards(shards);
    config.hba(rules).start()
}

fn login(doorman: &Doorman) -> Login {
    let login = doorman.login().database("pgdoorman");
    login.user("admin").password("admin")
}

/// A console of a pooler without a server.
fn console(shards: usize) -> (Doorman, Client) {
    let doorman = doorman(shards, "host all all 127.0.0.1/32 md5");
    let client = login(&doorman).connect();
    (doorman, client)
}

/// The name and the OID of the type of each column.
fn columns(client: &mut Client, sql: &str) -> Vec<(String, u32)> {
    client.send(&message::query(sql));
    let description = client.expect('T').body;
    client.reply();
    let mut rest = &description[2..];
    let mut columns = Vec::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == 0).unwrap();
        let name = String::from_utf8(rest[..end].to_vec()).unwrap();
        let fields = &rest[end + 1..];
        columns.push((name, u32::from_be_bytes(fields[6..10].try_into().unwrap())));
        rest = &fields[18..];
    }
    columns
}

fn console_asks_for_the_password_of_the_admin(shards: usize) {
    for rules in [
        "host all all 127.0.0.1/32 md5",
        "host all all 127.0.0.1/32 scram-sha-256",
        "host pgdoorman,pgbouncer admin,app 127.0.0.1/32 md5",
    ] {
        let doorman = doorman(shards, rules);
        for database in ["pgdoorman", "pgbouncer"] {
            let right = login(&doorman).database(database);
            let version = right.connect().value("show version");
            assert!(version.starts_with("PgDoorman "), "{version}");
            for wrong in [
                right.clone().password("wrong"),
                right.clone().password(""),
                right.clone().user("app"),
                right.clone().user("app").password("secret"),
            ] {
                let refusal = wrong.refusal();
                assert_eq!(refusal.sqlstate(), "28P01");
                // As whoever else fails by this method.
                let expected = if rules.ends_with("scram-sha-256") {
                    "Authentication failed."
                } else {
                    "password authentication failed for user \""
                };
                assert!(refusal.message().starts_with(expected), "{refusal:?}");
            }
        }
        assert!(login(&doorman).connect().rows("show shards").len() == shards);
    }
}

fn console_asks_as_the_rule_says(shards: usize) {
    for (method, code) in [("password", 3), ("md5", 5), ("scram-sha-256", 10)] {
        let doorman = doorman(shards, &format!("host all all 127.0.0.1/32 {method}"));
        for user in ["admin", "nobody"] {
            let mut client = Client::dial(doorman.port());
            client.send(&login(&doorman).user(user).startup_packet());
            let asked = client.expect('R').body;
            assert_eq!(asked[..4], [0, 0, 0, code], "{method} for {user}");
        }
    }
}

fn console_obeys_the_rules(shards: usize) {
    for rules in [
        "host all all 127.0.0.1/32 reject",
        "host it all 127.0.0.1/32 trust",
        "host all all 10.0.0.0/8 md5",
    ] {
        let doorman = doorman(shards, rules);
        assert_eq!(login(&doorman).refusal().sqlstate(), "28000", "{rules}");
    }
    // The first rule decides.
    let rules = "host all all 127.0.0.1/32 reject\nhost all all 127.0.0.1/32 md5";
    assert_eq!(login(&doorman(shards, rules)).refusal().sqlstate(), "28000");
    let rules = "host all all 127.0.0.1/32 md5\nhost all all 127.0.0.1/32 reject";
    let doorman = doorman(shards, rules);
    login(&doorman).connect();
    // The name of another database, however similar.
    let other = login(&doorman).database("PgDoorman");
    assert_eq!(other.refusal().sqlstate(), "3D000");
}

fn console_under_trust_takes_any_name(shards: usize) {
    let doorman = doorman(shards, "host all all 127.0.0.1/32 trust");
    for user in ["admin", "app", "nobody"] {
        let mut client = login(&doorman).user(user).password("wrong").connect();
        assert_eq!(client.rows("show shards").len(), shards);
    }
}

fn console_tells_of_itself_at_login(shards: usize) {
    let (doorman, client) = console(shards);
    let parameter = |client: &Client, name: &str| client.parameters[name].clone();
    assert_eq!(parameter(&client, "client_encoding"), "UTF8");
    assert_eq!(parameter(&client, "standard_conforming_strings"), "on");
    assert_eq!(parameter(&client, "application_name"), "pg_doorman");
    let version = parameter(&client, "server_version");
    assert!(version.split('.').all(|part| part.parse::<u32>().is_ok()));
    assert_eq!(client.key.len(), 8);
    let named = login(&doorman).parameter("application_name", "psql");
    let named = named.parameter("server_version", "99").connect();
    assert_eq!(parameter(&named, "application_name"), "psql");
    assert_eq!(parameter(&named, "server_version"), version);
}

fn show_shards_has_a_row_a_shard(shards: usize) {
    let (doorman, mut client) = console(shards);
    let columns = columns(&mut client, "SHOW SHARDS");
    assert_eq!(columns[0], ("shard".to_owned(), 23));
    assert!(columns[1..].iter().all(|(_, oid)| *oid == 1700));
    for expected in ["clients", "busy_percent", "servers", "wants_wait_avg_us"] {
        assert!(columns.iter().any(|(name, _)| name == expected));
    }
    let rows = client.rows("show shards;");
    assert_eq!(rows.len(), shards);
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(row[0].as_deref(), Some(&*index.to_string()));
        assert_eq!(row.len(), columns.len());
        for value in row {
            value.as_ref().unwrap().parse::<f64>().unwrap();
        }
    }
    let busy = columns.iter().position(|(name, _)| name == "busy_us");
    let busy = |client: &mut Client| {
        let rows = client.rows("show shards");
        let values = rows.iter().map(|row| row[busy.unwrap()].as_ref().unwrap());
        values
            .map(|value| value.parse::<u64>().unwrap())
            .collect::<Vec<_>>()
    };
    let first = busy(&mut client);
    eventually("all shards have used some CPU time", || {
        let now = busy(&mut client);
        now.iter().zip(&first).all(|(now, first)| now > first)
    });
    drop(doorman);
}

fn show_version_and_help_are_tables(shards: usize) {
    let (_doorman, mut client) = console(shards);
    let expected = vec![("version".to_owned(), 25)];
    assert_eq!(columns(&mut client, "show version"), expected);
    let reply = client.query("ShoW\tVERSION ;");
    assert_eq!((reply.tags.as_str(), reply.status), ("TDCZ", 'I'));
    assert_eq!(reply.commands, ["SHOW"]);
    assert_eq!(
        reply.value(),
        format!("PgDoorman {}", env!("CARGO_PKG_VERSION"))
    );
    let help = client.rows("show help");
    for command in ["SHOW HELP", "SHOW SHARDS", "SHOW VERSION"] {
        assert!(help.iter().any(|row| row[0].as_deref() == Some(command)));
    }
    // Whatever is listed can be shown.
    let listed = help.iter().map(|row| row[0].as_deref().unwrap());
    for command in listed.filter(|command| command.starts_with("SHOW")) {
        assert!(client.query(command).errors.is_empty(), "{command}");
    }
}

fn errors_keep_the_console(shards: usize) {
    let (_doorman, mut client) = console(shards);
    let unknown = "Unsupported query against the admin database";
    let what = "Unsupported query against the admin database, please use SHOW HELP for a list of \
                supported subcommands";
    let subject = "Unsupported SHOW query against the admin database";
    for (sql, expected) in [
        ("select 1", unknown),
        ("begin", unknown),
        ("show", what),
        ("show help version", what),
        ("show nothing", subject),
        ("show \u{17e}", subject),
    ] {
        let reply = client.query(sql);
        assert_eq!((reply.tags.as_str(), reply.status), ("EZ", 'I'), "{sql}");
        assert_eq!(reply.errors[0].message, expected, "{sql}");
        assert_eq!(reply.sqlstate(), "58000");
        assert_eq!(reply.errors[0].severity, "FATAL");
    }
    for nothing in ["", ";", " \n"] {
        assert_eq!(client.query(nothing).tags, "IZ");
    }
    assert_eq!(client.rows("show shards").len(), shards);
}

fn extended_queries_are_answered_as_simple_ones(shards: usize) {
    let (_doorman, mut client) = console(shards);
    for subject in ["version", "shards", "pools", "clients", "stats"] {
        let sql = format!("show {subject}");
        let simple = client.query(&sql);
        let reply = client.batch(&[
            message::parse("", &sql),
            message::bind("", "", &[]),
            message::describe(b'P', ""),
            message::execute("", 0),
        ]);
        let rows = "D".repeat(simple.rows.len());
        assert_eq!(reply.tags, format!("12T{rows}CZ"), "{sql}");
        assert_eq!(reply.commands, ["SHOW"]);
    }
    let reply = client.batch(&[
        message::parse("named", "show version;"),
        message::describe(b'S', "named"),
        message::bind("portal", "named", &[]),
        message::execute("portal", 0),
        message::bind("", "named", &[]),
        message::execute("", 1),
        message::close(b'P', "portal"),
        message::close(b'S', "named"),
    ]);
    assert_eq!(reply.tags, "1tT2DC2DC33Z");
    assert!(reply.value().starts_with("PgDoorman "));
    // A command without a result, and none at all.
    let reply = client.batch(&[
        message::parse("", "resume"),
        message::describe(b'S', ""),
        message::bind("", "", &[]),
        message::execute("", 0),
        message::parse("", ""),
        message::bind("", "", &[]),
        message::execute("", 0),
    ]);
    assert_eq!(reply.tags, "1tn2C12IZ");
    assert_eq!(reply.commands, ["RESUME"]);
    client.send(&message::terminate());
    assert!(client.is_closed());
}

fn errors_in_extended_queries_skip_to_the_sync(shards: usize) {
    let (_doorman, mut client) = console(shards);
    let prepared = [
        message::parse("s", "show version"),
        message::bind("", "s", &[]),
    ];
    for (batch, tags, sqlstate) in [
        (
            vec![message::parse("", "select 1"), message::bind("", "", &[])],
            "EZ",
            "58000",
        ),
        (vec![message::parse("", "show help; reload")], "EZ", "42601"),
        (vec![message::parse("", "pause a b")], "EZ", "42601"),
        (vec![message::bind("", "missing", &[])], "EZ", "26000"),
        (vec![message::execute("missing", 0)], "EZ", "26000"),
        (
            vec![prepared[0].clone(), message::bind("", "s", &[Some(b"1")])],
            "1EZ",
            "0A000",
        ),
        (
            vec![prepared.concat(), message::describe(b'P', "x")],
            "12EZ",
            "26000",
        ),
        (
            vec![message::message(b'P', b"no end"), message::parse("", "x")],
            "EZ",
            "08P01",
        ),
    ] {
        let reply = client.batch(&batch);
        assert_eq!((reply.tags.as_str(), reply.sqlstate()), (tags, sqlstate));
        assert!(client.value("show version").starts_with("PgDoorman"));
    }
    assert_eq!(client.batch(&[message::flush()]).tags, "Z");
    client.send(&message::function_call(1, &[]));
    assert_eq!(client.reply().tags, "EZ");
    for number in 0..300 {
        let name = number.to_string();
        let reply = client.batch(&[message::parse(&name, "show help")]);
        let expected = if number < 255 { "1Z" } else { "EZ" };
        assert_eq!(reply.tags, expected, "{number}");
    }
}

fn several_commands_run_up_to_the_first_error(shards: usize) {
    let (_doorman, mut client) = console(shards);
    let reply = client.query("show version; resume ;show users;");
    assert_eq!(reply.tags, "TDCCTDCZ");
    assert_eq!(reply.commands, ["SHOW", "RESUME", "SHOW"]);
    let reply = client.query("show version; nonsense; show version");
    assert_eq!(reply.tags, "TDCEZ");
    let reply = client.query("pause missing; show version");
    assert_eq!((reply.tags.as_str(), reply.sqlstate()), ("EZ", "3D000"));
    let reply = client.query("set \"it");
    assert_eq!((reply.tags.as_str(), reply.sqlstate()), ("EZ", "42601"));
}

fn malformed_messages_end_only_that_console(shards: usize) {
    let (doorman, mut other) = console(shards);
    let with_length = |tag: u8, length: u32| [&[tag][..], &length.to_be_bytes()].concat();
    for bytes in [
        with_length(b'Q', 0),
        with_length(b'Q', 3),
        with_length(b'Q', 64 * 1024 + 5),
        with_length(b'Q', u32::MAX),
        with_length(b'P', 1 << 20),
        message::message(b'Q', b"show version"),
        message::message(b'Q', b"show\0version\0"),
        message::message(b'Q', b""),
        message::message(b'!', b""),
        message::message(0, b""),
        message::message(b'p', b"secret\0"),
    ] {
        let mut client = login(&doorman).connect();
        client.send(&bytes);
        let error = client.expect('E').error_fields();
        assert_eq!(error.sqlstate, "08P01", "{}", bytes.escape_ascii());
        assert!(client.is_closed());
    }
    assert_eq!(other.rows("show shards").len(), shards);
    // The longest text that is taken.
    let longest = "x".repeat(64 * 1024 - 1);
    assert_eq!(other.query(&longest).sqlstate(), "58000");
    other.send(&message::query(&(longest + "x")));
    assert_eq!(other.expect('E').error_fields().sqlstate, "08P01");
    assert!(other.is_closed());
}

fn messages_cut_anywhere_are_understood(shards: usize) {
    let (_doorman, mut client) = console(shards);
    let bytes = [
        message::query("show version"),
        message::parse("", "select 1"),
        message::sync(),
        message::query("show shards"),
    ]
    .concat();
    for cut in 1..bytes.len() {
        client.send(&bytes[..cut]);
        client.send(&bytes[cut..]);
        assert_eq!(client.reply().tags, "TDCZ", "cut at {cut}");
        assert_eq!(client.reply().tags, "EZ", "cut at {cut}");
        assert_eq!(client.reply().rows.len(), shards, "cut at {cut}");
    }
}

fn console_needs_no_server(shards: usize) {
    // Fewer servers than consoles.
    let config = Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(shards);
    let doorman = config.start();
    let mut consoles: Vec<_> = (0..4 * shards).map(|_| login(&doorman).connect()).collect();
    for console in &mut consoles {
        assert_eq!(console.rows("show shards").len(), shards);
    }
    assert!(doorman.server_pids(Postgres::shared()).is_empty());
    doorman.assert_serves();
}

fn reload_by_the_console_is_answered(shards: usize) {
    let config = || Config::new(Postgres::shared()).shards(shards);
    let doorman = config().start();
    let mut client = login(&doorman).connect();
    let other = doorman.login().user("other");
    assert!(other.attempt().is_err());
    doorman.rewrite(config().users(vec![User::new("app", 2), User::new("other", 2)]));
    let reply = client.query("reload;");
    assert_eq!(reply.tags, "CZ");
    assert_eq!(reply.commands, ["RELOAD"]);
    eventually("the new user is let in", || other.attempt().is_ok());
    doorman.rewrite_text("[general]\nhost = 7\n");
    let reply = client.query("RELOAD");
    assert_eq!(reply.sqlstate(), "58000");
    assert!(reply.errors[0].message.contains("host"), "{reply:?}");
    assert_eq!(client.rows("show shards").len(), shards);
    doorman.assert_serves();
}

fn console_that_does_not_read_holds_no_memory(shards: usize) {
    let (doorman, mut other) = console(shards);
    let before = doorman.resident_bytes();
    let client = login(&doorman).connect();
    let mut writer = client.writer();
    let patience = Some(Duration::from_millis(500));
    writer.set_write_timeout(patience).unwrap();
    let queries = message::query("show shards").repeat(4096);
    // The pooler stops reading, and then there is no more room in the kernel.
    let error = loop {
        if let Err(error) = writer.write_all(&queries) {
            break error;
        }
    };
    let kinds = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
    assert!(kinds.contains(&error.kind()), "{error}");
    assert_eq!(other.rows("show shards").len(), shards);
    let grown = doorman.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes");
    drop(client);
    assert_eq!(other.rows("show shards").len(), shards);
}
