//! What the pooler answers itself to a client without a server: the check query, a BEGIN that is put
//! off, a lone Sync.
//!
//! Most bodies also run against PostgreSQL itself, which tells what the answers have to be.
//!
//! Source: protocol-flow.html (simple query), sql-begin.html, sql-prepare.html.

use crate::common::message::{bind, execute, message, parse, query, sync};
use crate::common::scripted::{ScriptedServer, answer, command, error, ready};
use crate::common::{
    Client, Config, Doorman, Postgres, Target, at_once, eventually, everywhere, unique,
    with_one_and_two_shards,
};

everywhere!(
    begun_transaction_commits_and_rolls_back,
    begun_transaction_ends_at_once,
    begun_transaction_may_be_begun_again,
    begun_transaction_answers_what_needs_no_server,
    begun_transaction_runs_the_extended_protocol,
    begun_transaction_fails_like_any_other,
    begun_transaction_has_the_settings_of_its_client,
    begin_in_one_write_with_what_follows_is_answered_in_order,
    begin_cut_into_bytes_is_answered,
    answers_without_a_server_forget_the_unnamed_statement,
    transaction_begins_copies,
);

with_one_and_two_shards!(
    check_query_needs_no_server,
    check_query_is_compared_byte_by_byte,
    check_query_may_be_any_text,
    check_query_may_be_any_message,
    check_query_in_a_transaction_goes_to_the_server,
    check_query_changes_with_a_reload,
    begun_transaction_takes_no_server,
    begun_transaction_waits_for_a_server_like_any_query,
    begun_transaction_of_one_who_leaves_costs_nothing,
    begun_transaction_survives_the_change_of_its_pool,
    begun_transaction_in_session_mode_stays_on_one_server,
    begun_transaction_cannot_be_cancelled,
    begun_transactions_at_once_do_not_mix,
    lost_server_does_not_lose_the_begin,
    begin_that_the_server_refuses_is_an_error,
    begin_that_begins_nothing_is_an_error,
);

/// A pooler with one server that is in use by the first client.
fn busy_doorman(config: Config) -> (Doorman, Client) {
    let doorman = config.pool_size(1).start();
    let mut holder = doorman.connect();
    holder.execute("begin");
    (doorman, holder)
}

fn config(shards: usize) -> Config {
    Config::new(Postgres::shared()).shards(shards)
}

fn check_query_needs_no_server(shards: usize) {
    let (doorman, mut holder) = busy_doorman(config(shards));
    let mut client = doorman.connect();
    for _ in 0..3 {
        let reply = client.query(";");
        assert_eq!((reply.tags.as_str(), reply.status), ("IZ", 'I'));
    }
    client.send_all(&[query(";"), sync(), query(";")]);
    for tags in ["IZ", "Z", "IZ"] {
        assert_eq!(client.reply().tags, tags);
    }
    holder.execute("commit");
    assert_eq!(client.value("select 1"), "1");
}

fn check_query_is_compared_byte_by_byte(shards: usize) {
    let doorman = config(shards)
        .general("pooler_check_query", "select 'Check'")
        .start();
    let mut client = doorman.connect();
    assert_eq!(client.query("select 'Check'").tags, "IZ");
    for sql in ["SELECT 'Check'", "select 'Check' ", "select 'Check';"] {
        assert_eq!(client.value(sql), "Check", "{sql}");
    }
    assert_eq!(client.value("select 'check'"), "check");
    let batch = [
        parse("", "select 'Check'"),
        bind("", "", &[]),
        execute("", 0),
    ];
    assert_eq!(client.batch(&batch).value(), "Check");
}

fn check_query_may_be_any_text(shards: usize) {
    for text in ["", "not even SQL", "žlutý kůň", "begin;"] {
        let config = config(shards).general("pooler_check_query", text);
        let (doorman, _holder) = busy_doorman(config);
        let reply = doorman.connect().query(text);
        assert_eq!((reply.tags.as_str(), reply.status), ("IZ", 'I'), "{text}");
    }
}

fn check_query_may_be_any_message(shards: usize) {
    let key = "pooler_check_query_request_bytes";
    let bytes = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| i64::from(*byte))
            .collect::<Vec<_>>()
    };
    let config_of = |message: &[u8]| config(shards).general(key, bytes(message));
    let (doorman, mut holder) = busy_doorman(config_of(&query("select 1")));
    let mut client = doorman.connect();
    assert_eq!(client.query("select 1").tags, "IZ");
    // Instead of the text, not beside it.
    holder.execute("commit");
    assert_eq!(client.value("select 1 "), "1");
    assert_eq!(client.query(";").tags, "IZ");
    let doorman = config_of(&message(b'!', b"well?")).start();
    let mut client = doorman.connect();
    client.send(&message(b'!', b"well?"));
    assert_eq!(client.reply().tags, "IZ");
    // What is no message is never found, and does no harm.
    for never in [&[][..], b"Q", b"Q\0\0\0\x63;\0", b"Q\0\0\0\0;\0"] {
        let doorman = config_of(never).start();
        let mut client = doorman.connect();
        assert_eq!(client.query(";").tags, "IZ");
        assert_eq!(client.value("select 1"), "1");
    }
}

fn check_query_in_a_transaction_goes_to_the_server(shards: usize) {
    let doorman = config(shards)
        .general("pooler_check_query", "select 7")
        .start();
    let mut client = doorman.connect();
    client.execute("begin");
    assert_eq!(client.value("select 7"), "7");
    client.execute("commit");
    assert_eq!(client.query("select 7").tags, "IZ");
    let doorman = config(shards)
        .general("pooler_check_query", "select 7")
        .session_mode()
        .start();
    let mut client = doorman.connect();
    assert_eq!(client.query("select 7").tags, "IZ");
    assert_eq!(client.value("select 8"), "8");
    assert_eq!(client.value("select 7"), "7");
}

fn check_query_changes_with_a_reload(shards: usize) {
    let doorman = config(shards).start();
    let mut clients: Vec<_> = (0..4).map(|_| doorman.connect()).collect();
    doorman.rewrite(config(shards).general("pooler_check_query", "select 1"));
    doorman.sighup();
    for client in &mut clients {
        eventually("the other text is known", || {
            client.query("select 1").tags == "IZ"
        });
    }
}

fn begun_transaction_commits_and_rolls_back(target: &Target) {
    let mut client = target.connect();
    let table = unique("begun");
    client.execute(&format!("create table {table} (a int)"));
    for (n, (begin, end)) in [
        ("begin;", "commit"),
        ("BEGIN;", "rollback"),
        ("Begin;", "commit;"),
    ]
    .into_iter()
    .enumerate()
    {
        let reply = client.query(begin);
        assert_eq!(reply.commands, ["BEGIN"]);
        assert_eq!((reply.tags.as_str(), reply.status), ("CZ", 'T'));
        let insert = client.query(&format!("insert into {table} values ({n})"));
        assert_eq!((insert.tags.as_str(), insert.status), ("CZ", 'T'));
        let pid = client.backend_pid();
        assert_eq!(client.backend_pid(), pid);
        assert_eq!(client.query(end).status, 'I');
    }
    let sum = format!("select string_agg(a::text, ' ' order by a) from {table}");
    assert_eq!(client.value(&sum), "0 2");
}

fn begun_transaction_ends_at_once(target: &Target) {
    let mut client = target.connect();
    for (end, tag) in [
        ("commit", "COMMIT"),
        ("rollback", "ROLLBACK"),
        ("end;", "COMMIT"),
    ] {
        client.execute("begin;");
        let reply = client.query(end);
        assert_eq!(reply.commands, [tag]);
        assert_eq!((reply.tags.as_str(), reply.status), ("CZ", 'I'), "{end}");
        let reply = client.query(end);
        assert_eq!((reply.tags.as_str(), reply.status), ("NCZ", 'I'), "{end}");
    }
}

fn begun_transaction_may_be_begun_again(target: &Target) {
    let mut client = target.connect();
    client.execute("begin;");
    for sql in ["begin;", "begin;", "BEGIN"] {
        let reply = client.query(sql);
        assert_eq!((reply.tags.as_str(), reply.status), ("NCZ", 'T'));
        assert_eq!(reply.notices[0].sqlstate, "25001");
    }
    client.execute("rollback");
    assert_eq!(client.query("begin transaction;").status, 'T');
    assert_eq!(client.query("begin;").notices[0].sqlstate, "25001");
    client.execute("commit");
}

fn begun_transaction_answers_what_needs_no_server(target: &Target) {
    let mut client = target.connect();
    client.execute("begin;");
    for _ in 0..3 {
        let reply = client.query(";");
        assert_eq!((reply.tags.as_str(), reply.status), ("IZ", 'T'));
        let reply = client.batch(&[]);
        assert_eq!((reply.tags.as_str(), reply.status), ("Z", 'T'));
    }
    assert_eq!(client.value("select 1"), "1");
    assert_eq!(client.query(";").status, 'T');
    assert_eq!(client.query("commit").status, 'I');
    assert_eq!(client.query(";").status, 'I');
    client.execute("begin;");
    client.terminate();
}

fn begun_transaction_runs_the_extended_protocol(target: &Target) {
    let mut client = target.connect();
    assert_eq!(client.batch(&[parse("two", "select 2")]).tags, "1Z");
    client.execute("begin;");
    let reply = client.batch(&[bind("", "two", &[]), execute("", 0)]);
    assert_eq!((reply.value(), reply.status), ("2", 'T'));
    let reply = client.batch(&[parse("", "commit"), bind("", "", &[]), execute("", 0)]);
    assert_eq!((reply.tags.as_str(), reply.status), ("12CZ", 'I'));
}

fn begun_transaction_fails_like_any_other(target: &Target) {
    let mut client = target.connect();
    client.execute("begin;");
    let reply = client.query("select 1/0");
    assert_eq!((reply.sqlstate(), reply.status), ("22012", 'E'));
    assert_eq!(client.query("begin;").sqlstate(), "25P02");
    assert_eq!(client.query(";").status, 'E');
    let reply = client.query("commit");
    assert_eq!(
        (reply.commands[0].as_str(), reply.status),
        ("ROLLBACK", 'I')
    );
    client.execute("begin;");
    assert_eq!(client.value("select 3"), "3");
    client.execute("commit");
}

fn begun_transaction_has_the_settings_of_its_client(target: &Target) {
    let mut clients: Vec<_> = (0..4).map(|_| target.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.execute(&format!("set application_name = 'own {n}'"));
        client.execute(&format!("set timezone = 'Etc/GMT+{n}'"));
    }
    for _ in 0..3 {
        for (n, client) in clients.iter_mut().enumerate() {
            client.execute("begin;");
            let own = client.value("select current_setting('application_name')");
            assert_eq!(own, format!("own {n}"));
            client.execute("set local timezone = 'Etc/GMT-1'");
            client.execute("commit");
            assert_eq!(client.value("show timezone"), format!("Etc/GMT+{n}"));
        }
    }
}

fn begin_in_one_write_with_what_follows_is_answered_in_order(target: &Target) {
    let mut client = target.connect();
    for _ in 0..20 {
        let texts = ["begin;", "select 1", ";", "begin;", "commit", ";", "begin;"];
        let messages: Vec<_> = texts.iter().map(|sql| query(sql)).collect();
        client.send_all(&messages);
        let replies: Vec<_> = texts.iter().map(|_| client.reply()).collect();
        let tags: Vec<_> = replies.iter().map(|reply| reply.tags.as_str()).collect();
        assert_eq!(tags, ["CZ", "TDCZ", "IZ", "NCZ", "CZ", "IZ", "CZ"]);
        let statuses: String = replies.iter().map(|reply| reply.status).collect();
        assert_eq!(statuses, "TTTTIIT");
        assert_eq!(client.query("rollback").status, 'I');
    }
}

fn begin_cut_into_bytes_is_answered(target: &Target) {
    let mut client = target.connect();
    for byte in query("begin;") {
        client.send(&[byte]);
    }
    assert_eq!(client.reply().status, 'T');
    for byte in query("commit") {
        client.send(&[byte]);
    }
    assert_eq!(client.reply().status, 'I');
}

fn answers_without_a_server_forget_the_unnamed_statement(target: &Target) {
    let mut client = target.connect();
    for sql in [";", "begin;"] {
        assert_eq!(client.batch(&[parse("", "select 1")]).tags, "1Z");
        client.query(sql);
        assert_eq!(client.batch(&[bind("", "", &[])]).sqlstate(), "26000");
        client.execute("rollback");
    }
}

fn transaction_begins_copies(target: &Target) {
    let mut client = target.connect();
    let table = unique("begun_copy");
    client.execute(&format!("create table {table} (a text)"));
    client.execute("begin;");
    client.send(&query(&format!("copy {table} from stdin")));
    client.expect('G');
    client.send_all(&[message(b'd', b"one\n"), message(b'c', b"")]);
    let reply = client.reply();
    assert_eq!((reply.commands[0].as_str(), reply.status), ("COPY 1", 'T'));
    client.execute("commit");
    let long = format!("select length('{}')", "x".repeat(300_000));
    client.execute("begin;");
    assert_eq!(client.value(&long), "300000");
    client.execute("commit");
}

fn begun_transaction_takes_no_server(shards: usize) {
    let doorman = config(shards).pool_size(1).start();
    let mut clients: Vec<_> = (0..8).map(|_| doorman.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.query("begin;").status, 'T');
    }
    assert_eq!(doorman.connect().value("select 1"), "1");
    for client in &mut clients {
        assert_eq!(client.value("select 2"), "2");
        assert_eq!(client.query("commit").status, 'I');
    }
}

fn begun_transaction_waits_for_a_server_like_any_query(shards: usize) {
    let (doorman, mut holder) = busy_doorman(config(shards).general("query_wait_timeout", "1s"));
    let mut client = doorman.connect();
    client.execute("begin;");
    client.send(&query("select 1"));
    let error = client.expect('E').error_fields();
    assert_eq!(error.sqlstate, "53300");
    assert!(error.message.contains("query_wait_timeout"), "{error:?}");
    let mut client = doorman.connect();
    client.execute("begin;");
    client.send(&query("select 1"));
    holder.execute("commit");
    assert_eq!(client.reply().status, 'T');
}

fn begun_transaction_of_one_who_leaves_costs_nothing(shards: usize) {
    let (doorman, mut holder) = busy_doorman(config(shards));
    for n in 0..6 {
        let mut client = doorman.connect();
        client.execute("begin;");
        match n % 3 {
            0 => client.terminate(),
            1 => client.abort(),
            _ => client.finish_sending(),
        }
    }
    let pid = holder.backend_pid();
    holder.execute("commit");
    assert_eq!(doorman.connect().backend_pid(), pid);
}

fn begun_transaction_survives_the_change_of_its_pool(shards: usize) {
    let doorman = config(shards).start();
    let mut clients: Vec<_> = (0..4).map(|_| doorman.connect()).collect();
    for client in &mut clients {
        client.execute("begin;");
    }
    doorman.rewrite(config(shards).pool_key("idle_timeout", "1h"));
    doorman.sighup();
    eventually("the configuration is read", || {
        doorman.log().contains("configuration reloaded")
    });
    for client in &mut clients {
        assert_eq!(client.query("select 1").status, 'T');
        assert_eq!(client.query("commit").status, 'I');
    }
}

fn begun_transaction_in_session_mode_stays_on_one_server(shards: usize) {
    let doorman = config(shards).session_mode().start();
    let mut client = doorman.connect();
    client.execute("begin;");
    let pid = client.backend_pid();
    assert_eq!(client.query("commit").status, 'I');
    assert_eq!(client.query("begin;").status, 'T');
    assert_eq!(client.backend_pid(), pid);
    assert_eq!(client.query("commit").status, 'I');
}

fn begun_transaction_cannot_be_cancelled(shards: usize) {
    let doorman = config(shards).start();
    let mut client = doorman.connect();
    client.execute("begin;");
    crate::cancel::cancel(doorman.port(), &client.key);
    assert_eq!(client.value("select 1"), "1");
    assert_eq!(client.query("commit").status, 'I');
}

fn begun_transactions_at_once_do_not_mix(shards: usize) {
    let doorman = config(shards).pool_size(2).start();
    let table = unique("begun_mix");
    doorman
        .connect()
        .execute(&format!("create table {table} (a int, b int)"));
    at_once(8, |number| {
        let mut client = doorman.connect();
        for round in 0..50 {
            client.execute("begin;");
            client.execute(&format!("insert into {table} values ({number}, {round})"));
            let end = if round % 2 == 0 { "commit" } else { "rollback" };
            assert_eq!(client.query(end).status, 'I');
        }
    });
    let sql = format!("select count(*), sum(b % 2) from {table}");
    let rows = doorman.connect().rows(&sql);
    assert_eq!(rows, [[Some("200".to_owned()), Some("0".to_owned())]]);
}

/// A pooler in front of a server that answers its first BEGIN with `first`, or closes.
fn with_begin(shards: usize, first: Option<Vec<u8>>) -> (Doorman, ScriptedServer) {
    let begins = std::sync::atomic::AtomicUsize::new(0);
    let server = ScriptedServer::start(move |peer| {
        peer.accept_login()?;
        loop {
            let message = peer.receive()?;
            if message.tag != b'Q' {
                return Ok(());
            }
            if !message.body.eq_ignore_ascii_case(b"begin;\0") {
                peer.send(&answer(&message))?;
                continue;
            }
            let is_first = begins.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
            match &first {
                None if is_first => return Ok(()),
                Some(bytes) if is_first => peer.send(bytes)?,
                _ => peer.send(&[command("BEGIN"), ready(b'T')].concat())?,
            }
        }
    });
    let config = Config::to_port(server.port()).shards(shards).pool_size(1);
    (config.start(), server)
}

fn lost_server_does_not_lose_the_begin(shards: usize) {
    let farewell = error("FATAL", "57P01", "terminating connection");
    for first in [None, Some(farewell)] {
        let (doorman, _server) = with_begin(shards, first);
        let mut client = doorman.connect();
        assert_eq!(client.query("begin;").status, 'T');
        assert_eq!(client.value("select 'told'"), "select 'told'");
    }
}

fn begin_that_the_server_refuses_is_an_error(shards: usize) {
    let refusal = [error("ERROR", "0A000", "no transactions"), ready(b'I')].concat();
    let (doorman, _server) = with_begin(shards, Some(refusal));
    let mut client = doorman.connect();
    assert_eq!(client.query("begin;").status, 'T');
    client.send(&query("select 1"));
    let error = client.expect('E').error_fields();
    assert_eq!(error.sqlstate, "0A000");
    assert_eq!(error.message, "no transactions");
    assert!(client.is_closed());
    assert_eq!(doorman.connect().value("select 2"), "select 2");
}

fn begin_that_begins_nothing_is_an_error(shards: usize) {
    let nothing = [command("BEGIN"), ready(b'I')].concat();
    let (doorman, _server) = with_begin(shards, Some(nothing));
    let mut client = doorman.connect();
    assert_eq!(client.query("begin;").status, 'T');
    client.send(&query("select 1"));
    let error = client.expect('E').error_fields();
    assert!(error.message.contains("did not begin"), "{error:?}");
    assert!(client.is_closed());
    assert_eq!(doorman.connect().value("select 2"), "select 2");
}
