//! What a command at the console does to others, and what others do to a console that waits.
//!
//! Source: docs/admin.md.

use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::common::{
    Client, Config, Doorman, Login, Postgres, User, eventually, message, port,
    with_one_and_two_shards,
};

with_one_and_two_shards!(
    shutdown_waits_until_answers_have_been_taken,
    shutdown_waits_for_clients_that_log_in,
    clients_are_served_between_the_commands_of_a_query,
    console_that_does_not_read_is_not_answered_further,
    a_query_of_too_many_commands_is_refused,
    console_that_does_not_read_can_be_closed,
    console_that_waits_is_told_that_it_is_closed,
    console_that_floods_a_command_is_closed,
    kill_meets_clients_that_log_in,
    logins_that_wait_go_over_to_the_new_pool,
    clients_log_in_to_a_replaced_pool_that_is_paused,
    pause_does_not_take_a_later_pause_for_its_own,
    clients_of_a_removed_database_are_not_paused_for_ever,
    reload_is_answered_when_all_shards_have_it,
    resume_behind_a_reload_opens_nothing_at_the_old_address,
    commands_are_logged_with_who_gave_them,
    short_lived_servers_serve_once,
);

fn config(shards: usize) -> Config {
    let config = Config::new(Postgres::shared()).shards(shards);
    config.pool_size(2 * shards)
}

fn console_of(doorman: &Doorman, user: &str) -> Client {
    let login = doorman.login().database("pgdoorman").user(user);
    login.connect()
}

fn console(doorman: &Doorman) -> Client {
    console_of(doorman, "admin")
}

/// The value of a column in the first row in which another one has a value.
fn shown(console: &mut Client, what: &str, key: (usize, &str), column: usize) -> Option<String> {
    let rows = console.rows(what);
    let row = rows.iter().find(|row| row[key.0].as_deref() == Some(key.1));
    row.and_then(|row| row[column].clone())
}

fn is_paused(console: &mut Client, database: &str) -> bool {
    shown(console, "show databases", (0, database), 11).as_deref() == Some("1")
}

/// The number of clients of pool `database` that wait for a server.
fn waiting(console: &mut Client, database: &str) -> String {
    shown(console, "show pools", (0, database), 5).unwrap()
}

fn is_logging_in(console: &mut Client) -> bool {
    shown(console, "show lists", (0, "login_clients"), 1).as_deref() != Some("0")
}

fn id_of(console: &mut Client, user: &str) -> Option<String> {
    shown(console, "show clients", (2, user), 0)
}

/// A client whose socket takes little.
fn small_client(login: &Login, port: u16) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address: std::net::SocketAddr = ([127, 0, 0, 1], port).into();
    socket.connect(&address.into()).unwrap();
    let client = Client::raw(TcpStream::from(socket));
    login.attempt_on(client).unwrap().0
}

fn assert_told(client: &mut Client) {
    let error = client.expect('E').error_fields();
    assert_eq!(
        (error.severity.as_str(), error.sqlstate.as_str()),
        ("FATAL", "57P01")
    );
    assert!(client.is_closed());
}

fn shutdown_waits_until_answers_have_been_taken(shards: usize) {
    const BYTES: usize = 200_000;
    let mut doorman = config(shards).start();
    let mut slow = small_client(&doorman.login(), doorman.port());
    slow.send(&message::query(&format!("select repeat('x', {BYTES})")));
    let mut idle = doorman.connect();
    idle.execute("select 1");
    let mut busy = doorman.connect();
    busy.execute("begin; select 1");
    let (mut first, mut second) = (console(&doorman), console(&doorman));
    eventually("the long answer has ended at the server", || {
        let queries = shown(&mut first, "show stats_totals", (0, "it"), 3).unwrap();
        shown(&mut first, "show pools", (0, "it"), 7).as_deref() == Some("1") && queries == "3"
    });
    let mut entering = Client::dial(doorman.port());
    eventually("somebody logs in", || is_logging_in(&mut first));
    assert_eq!(first.query("shutdown wait_for_servers").tags, "TDCZ");
    let late = doorman_client_that_waits(&mut idle, &mut second);
    busy.execute("commit");
    for client in [late, &mut first, &mut second, &mut busy, &mut entering] {
        assert_told(client);
    }
    let reply = slow.reply();
    assert_eq!(reply.value().len(), BYTES);
    assert_told(&mut slow);
    assert!(doorman.wait().success());
}

/// Has `client` wait in the queue of a paused pool.
fn doorman_client_that_waits<'a>(client: &'a mut Client, console: &mut Client) -> &'a mut Client {
    client.send(&message::query("select 2"));
    eventually("it waits", || waiting(console, "it") == "1");
    client
}

fn shutdown_waits_for_clients_that_log_in(shards: usize) {
    let mut doorman = config(shards).start();
    let mut console = console(&doorman);
    let entering = Client::dial(doorman.port());
    eventually("somebody logs in", || is_logging_in(&mut console));
    assert_eq!(console.query("shutdown wait_for_clients").tags, "TDCZ");
    let (mut client, _) = doorman.login().attempt_on(entering).unwrap();
    assert_eq!(client.value("select 1"), "1");
    client.terminate();
    assert_told(&mut console);
    assert!(doorman.wait().success());
}

fn clients_are_served_between_the_commands_of_a_query(shards: usize) {
    let doorman = config(shards).start();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (doorman, stop) = (&doorman, &stop);
        for _ in 0..shards {
            scope.spawn(move || {
                let mut client = doorman.connect();
                while !stop.load(Ordering::Relaxed) {
                    client.execute("select 1");
                }
            });
        }
        let mut console = console(doorman);
        let count = |row: &[Option<String>]| row[3].as_ref().unwrap().parse::<u64>().unwrap();
        eventually("queries run", || {
            count(&console.rows("show stats_totals")[0]) > 10
        });
        let reply = console.query(&"show stats_totals;".repeat(1000));
        assert_eq!(reply.commands.len(), 1000);
        let (first, last) = (&reply.rows[0], &reply.rows[999]);
        stop.store(true, Ordering::Relaxed);
        assert!(count(last) > count(first), "{first:?} {last:?}");
    });
}

/// As many pools as make the tables long.
fn many_pools(shards: usize) -> Config {
    (0..100).fold(config(shards), |config, number| {
        let users = vec![User::new("app", 1)];
        config.pool(&format!("db{number}"), Postgres::shared().port(), users)
    })
}

fn console_that_does_not_read_is_not_answered_further(shards: usize) {
    let doorman = many_pools(shards).start();
    let mut other = console(&doorman);
    let expected = other.query("show config").rows.len();
    let before = doorman.resident_bytes();
    let mut silent = console(&doorman);
    silent.send(&message::query(&"show config;".repeat(1000)));
    // On the same shard and on another.
    for _ in 0..4 {
        console(&doorman).execute("resume");
    }
    let grown = doorman.resident_bytes().saturating_sub(before);
    assert!(grown < 6 << 20, "{grown} bytes");
    assert_eq!(silent.reply().rows.len(), 1000 * expected);
}

fn a_query_of_too_many_commands_is_refused(shards: usize) {
    let doorman = config(shards).start();
    let mut console = console(&doorman);
    let reply = console.query(&"show version;".repeat(1001));
    assert_eq!((reply.tags.as_str(), reply.sqlstate()), ("EZ", "54000"));
    assert_eq!(console.rows("show shards").len(), shards);
}

fn console_that_does_not_read_can_be_closed(shards: usize) {
    let doorman = many_pools(shards).start();
    let mut silent = console_of(&doorman, "silent");
    silent.send(&message::query(&"show config;".repeat(1000)));
    let mut console = console(&doorman);
    let id = id_of(&mut console, "silent").unwrap();
    console.execute(&format!("kill_client {id}"));
    eventually("it is not there any more", || {
        id_of(&mut console, "silent").is_none()
    });
    drop(silent);
}

fn console_that_waits_is_told_that_it_is_closed(shards: usize) {
    let doorman = config(shards).start();
    let mut busy = doorman.connect();
    busy.execute("begin; select 1");
    let mut pausing = console_of(&doorman, "pausing");
    pausing.send(&message::query("pause"));
    let mut console = console(&doorman);
    eventually("it waits", || is_paused(&mut console, "it"));
    let id = id_of(&mut console, "pausing").unwrap();
    console.execute(&format!("kill_client {id}"));
    assert_told(&mut pausing);
    console.execute("resume");
    busy.execute("commit");
    doorman.assert_serves();
}

fn console_that_floods_a_command_is_closed(shards: usize) {
    let doorman = config(shards).start();
    let mut busy = doorman.connect();
    busy.execute("begin; select 1");
    let mut flooding = console_of(&doorman, "flooding");
    // What is sent ahead is answered later.
    flooding.send_all(&[message::query("pause"), message::query("show version")]);
    let mut console = console(&doorman);
    eventually("it waits", || is_paused(&mut console, "it"));
    console.execute("resume");
    assert_eq!(flooding.reply().sqlstate(), "58000");
    assert_eq!(flooding.reply().tags, "TDCZ");
    flooding.send(&message::query("pause"));
    eventually("it waits again", || is_paused(&mut console, "it"));
    let mut writer = flooding.writer();
    let patience = Some(Duration::from_millis(200));
    writer.set_write_timeout(patience).unwrap();
    let queries = message::query("show version").repeat(4096);
    let error = loop {
        if let Err(error) = writer.write_all(&queries) {
            break error;
        }
    };
    drop((flooding, writer, error));
    eventually("it is not there any more", || {
        id_of(&mut console, "flooding").is_none()
    });
    console.execute("resume");
    busy.execute("commit");
}

fn kill_meets_clients_that_log_in(shards: usize) {
    let doorman = config(shards).start();
    let mut console = console(&doorman);
    console.execute("pause it");
    // The pool has never had a server, so they wait for the first one.
    let mut entering: Vec<_> = (0..2 * shards)
        .map(|_| {
            let mut client = Client::dial(doorman.port());
            client.send(&doorman.login().startup_packet());
            client
        })
        .collect();
    let expected = entering.len().to_string();
    eventually("they log in", || {
        shown(&mut console, "show lists", (0, "login_clients"), 1).as_ref() == Some(&expected)
    });
    console.execute("kill it");
    console.execute("resume it");
    for client in &mut entering {
        // The login may be finished first.
        while client.receive().tag != b'Z' {}
        assert_told(client);
    }
    doorman.assert_serves();
}

fn logins_that_wait_go_over_to_the_new_pool(shards: usize) {
    let wrong = Config::to_port(port::free()).shards(shards);
    let doorman = wrong.pool_size(2 * shards).start();
    let mut console = console(&doorman);
    console.execute("pause it");
    let mut entering = Client::dial(doorman.port());
    entering.send(&doorman.login().startup_packet());
    eventually("it waits", || is_logging_in(&mut console));
    doorman.rewrite(config(shards));
    console.execute("reload");
    console.execute("resume it");
    while entering.expect_any(&['R', 'S', 'K', 'Z']).tag != b'Z' {}
    assert_eq!(entering.value("select 1"), "1");
}

fn clients_log_in_to_a_replaced_pool_that_is_paused(shards: usize) {
    let doorman = config(shards).start();
    let mut client = doorman.connect();
    client.execute("select 1");
    let version = client.parameters["server_version"].clone();
    let mut console = console(&doorman);
    console.execute("pause it");
    doorman.rewrite(config(shards).pool_key("idle_timeout", "1h"));
    console.execute("reload");
    let mut clients: Vec<_> = (0..2 * shards).map(|_| doorman.connect()).collect();
    console.execute("resume it");
    for client in &mut clients {
        assert_eq!(client.parameters["server_version"], version);
        assert_eq!(client.value("select 1"), "1");
    }
}

fn pause_does_not_take_a_later_pause_for_its_own(shards: usize) {
    let doorman = config(shards).start();
    let mut busy = doorman.connect();
    busy.execute("begin; select 1");
    let (mut pausing, mut other) = (console(&doorman), console(&doorman));
    for (first, then) in [
        ("pause", "resume; pause it"),
        ("pause it", "resume it; pause"),
    ] {
        pausing.send(&message::query(first));
        eventually("it is paused", || is_paused(&mut other, "it"));
        // The second pause waits, too.
        let mut third = console(&doorman);
        third.send(&message::query(then));
        assert_eq!(pausing.reply().sqlstate(), "58000");
        other.execute("resume");
        assert_eq!(third.reply().sqlstate(), "58000");
    }
    busy.execute("commit");
}

fn clients_of_a_removed_database_are_not_paused_for_ever(shards: usize) {
    let users = vec![User::new("app", 2)];
    let both = config(shards).pool("app", Postgres::shared().port(), users);
    let doorman = both.start();
    let mut client = doorman.login().database("app").connect();
    client.execute("select 1");
    let mut console = console(&doorman);
    console.execute("pause app");
    client.send(&message::query("select 2"));
    eventually("it waits", || waiting(&mut console, "app") == "1");
    doorman.rewrite(config(shards));
    console.execute("reload");
    assert_eq!(client.reply().value(), "2");
    // As long as somebody uses it the name is known.
    console.execute("resume app");
    client.terminate();
    eventually("nobody uses it any more", || {
        let reply = console.query("resume app");
        !reply.errors.is_empty() && reply.sqlstate() == "3D000"
    });
}

fn reload_is_answered_when_all_shards_have_it(shards: usize) {
    let doorman = config(shards).start();
    let mut console = console(&doorman);
    for round in 0..20 {
        let name = format!("user{round}");
        doorman.rewrite(config(shards).users(vec![User::new(&name, 2)]));
        console.execute("reload");
        for _ in 0..4 * shards {
            let login = doorman.login().user(&name);
            assert!(login.attempt().is_ok(), "round {round}");
        }
    }
}

fn resume_behind_a_reload_opens_nothing_at_the_old_address(shards: usize) {
    let old = TcpListener::bind(("127.0.0.1", port::free())).unwrap();
    old.set_nonblocking(true).unwrap();
    let wrong = i64::from(old.local_addr().unwrap().port());
    let doorman = config(shards).start();
    let mut clients: Vec<_> = (0..4 * shards).map(|_| doorman.connect()).collect();
    let mut console = console(&doorman);
    for client in &mut clients {
        client.execute("select 1");
    }
    for _ in 0..10 {
        doorman.rewrite(config(shards).pool_key("server_port", wrong));
        console.execute("pause");
        console.execute("reload");
        for client in &mut clients {
            client.send(&message::query("select 2"));
        }
        let expected = clients.len().to_string();
        eventually("they wait", || waiting(&mut console, "it") == expected);
        doorman.rewrite(config(shards));
        assert_eq!(
            console.query("reload; resume").commands,
            ["RELOAD", "RESUME"]
        );
        for client in &mut clients {
            assert_eq!(client.reply().value(), "2");
        }
        let stray = old.accept().map(|_| ()).map_err(|error| error.kind());
        assert_eq!(stray, Err(ErrorKind::WouldBlock));
    }
}

fn commands_are_logged_with_who_gave_them(shards: usize) {
    let doorman = config(shards).start();
    let client = doorman.connect();
    let mut console = console_of(&doorman, "operator");
    for command in [
        "pause it",
        "resume it",
        "reconnect",
        "kill it",
        "resume",
        "show version",
    ] {
        console.execute(command);
    }
    let log = doorman.log();
    for expected in ["Pause(", "Resume(", "Reconnect(", "Kill("] {
        let line = log
            .lines()
            .find(|line| line.contains("a command at the console") && line.contains(expected));
        let line = line.unwrap_or_else(|| panic!("{expected}: {log}"));
        assert!(
            line.contains("operator") && line.contains("127.0.0.1:"),
            "{line}"
        );
    }
    assert!(!log.contains("Show("));
    drop(client);
}

fn short_lived_servers_serve_once(shards: usize) {
    let doorman = config(shards).general("server_lifetime", "1ms").start();
    let mut client = doorman.connect();
    for number in 0..20 {
        let value = client.value(&format!("select {number}"));
        assert_eq!(value, number.to_string());
    }
}
