//! Operating a pooler that serves: pausing, moving servers, closing clients, changing settings, ending.
//!
//! Source: docs/admin.md.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::common::{
    Client, Config, Doorman, Postgres, at_once, eventually, message, with_one_and_two_shards,
};

with_one_and_two_shards!(
    pause_waits_for_servers_and_clients_wait_for_resume,
    pause_outlasts_the_time_for_waiting,
    resume_ends_a_pause_that_is_not_complete,
    one_database_is_paused_while_others_are_served,
    servers_move_during_a_pause_without_a_failed_transaction,
    reconnect_replaces_servers,
    kill_closes_the_clients_of_a_database_until_resume,
    begun_transactions_wait_through_a_pause_and_a_reload,
    kill_closes_those_who_have_begun,
    kill_client_closes_one_wherever_it_is,
    set_lasts_until_the_next_reload,
    shutdown_ends_the_process,
    shutdown_waits_for_clients,
    shutdown_waits_for_servers,
);

fn config(shards: usize) -> Config {
    Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(2 * shards)
}

fn console(doorman: &Doorman) -> Client {
    doorman
        .login()
        .database("pgdoorman")
        .user("admin")
        .connect()
}

/// The value of a column in the first row in which another one has a value.
fn shown(console: &mut Client, what: &str, key: (usize, &str), column: usize) -> String {
    let rows = console.rows(what);
    let row = rows.iter().find(|row| row[key.0].as_deref() == Some(key.1));
    let row = row.unwrap_or_else(|| panic!("{what}: {rows:?}"));
    row[column].clone().unwrap()
}

/// The number of clients of pool `it` that wait for a server.
fn waiting(console: &mut Client) -> String {
    shown(console, "show pools", (0, "it"), 5)
}

fn pause_waits_for_servers_and_clients_wait_for_resume(shards: usize) {
    let doorman = config(shards).start();
    let mut busy: Vec<_> = (0..2 * shards).map(|_| doorman.connect()).collect();
    for client in &mut busy {
        client.execute("begin");
    }
    let (mut pausing, mut other) = (console(&doorman), console(&doorman));
    pausing.send(&message::query("PAUSE"));
    eventually("the database is paused", || {
        shown(&mut other, "show databases", (0, "it"), 11) == "1"
    });
    let mut late: Vec<_> = (0..3 * shards).map(|_| doorman.connect()).collect();
    for client in &late {
        let mut writer = client.writer();
        std::io::Write::write_all(&mut writer, &message::query("select 7")).unwrap();
    }
    let expected = late.len().to_string();
    eventually("new clients wait", || waiting(&mut other) == expected);
    for client in &mut busy {
        client.execute("select 1");
        client.execute("commit");
    }
    assert_eq!(pausing.reply().commands, ["PAUSE"]);
    assert_eq!(shown(&mut other, "show databases", (0, "it"), 10), "0");
    eventually("PostgreSQL has no session of the pooler", || {
        doorman.server_pids(Postgres::shared()).is_empty()
    });
    assert_eq!(waiting(&mut other), expected);
    assert_eq!(other.query("resume").commands, ["RESUME"]);
    for client in &mut late {
        assert_eq!(client.reply().value(), "7");
    }
    for client in &mut busy {
        assert_eq!(client.value("select 8"), "8");
    }
}

fn pause_outlasts_the_time_for_waiting(shards: usize) {
    let doorman = config(shards).general("query_wait_timeout", "1s").start();
    let mut client = doorman.connect();
    client.execute("select 1");
    let mut console = console(&doorman);
    console.execute("pause it");
    client.send(&message::query("select 2"));
    // Longer than a client may wait otherwise, as the pooler itself measures it.
    eventually("the client has waited for a while", || {
        let rows = console.rows("show pools");
        let wait = |at: usize| rows[0][at].as_ref().unwrap().parse::<u64>().unwrap();
        1_000_000 * wait(11) + wait(12) > 2_000_000
    });
    console.execute("resume it");
    assert_eq!(client.reply().value(), "2");
}

fn resume_ends_a_pause_that_is_not_complete(shards: usize) {
    let doorman = config(shards).start();
    let mut client = doorman.connect();
    client.execute("begin");
    let (mut pausing, mut other) = (console(&doorman), console(&doorman));
    pausing.send(&message::query("pause it"));
    eventually("the database is paused", || {
        shown(&mut other, "show databases", (0, "it"), 11) == "1"
    });
    other.execute("resume it");
    assert_eq!(pausing.reply().sqlstate(), "58000");
    client.execute("commit");
    doorman.assert_serves();
    // A console that leaves while it waits leaves the pause behind.
    client.execute("begin");
    pausing.send(&message::query("pause it"));
    eventually("the database is paused again", || {
        shown(&mut other, "show databases", (0, "it"), 11) == "1"
    });
    drop(pausing);
    client.execute("commit");
    eventually("its servers are closed", || {
        shown(&mut other, "show databases", (0, "it"), 10) == "0"
    });
    other.execute("resume");
    doorman.assert_serves();
}

fn one_database_is_paused_while_others_are_served(shards: usize) {
    let users = vec![crate::common::User::new("app", 2)];
    let config = config(shards).pool("app", Postgres::shared().port(), users);
    let doorman = config.start();
    let mut other = doorman.login().database("app").connect();
    let mut client = doorman.connect();
    client.execute("select 1");
    let mut console = console(&doorman);
    console.execute("pause it");
    client.send(&message::query("select 2"));
    assert_eq!(other.value("select 3"), "3");
    assert_eq!(shown(&mut console, "show databases", (0, "app"), 11), "0");
    console.execute("resume it");
    assert_eq!(client.reply().value(), "2");
}

/// Runs transactions until told to stop, and counts those that have ended on the server at `port`.
fn run_transactions(doorman: &Doorman, stop: &AtomicBool, port: u16, moved: &AtomicUsize) {
    let mut client = doorman.connect();
    let mut has_moved = false;
    while !stop.load(Ordering::Relaxed) {
        client.execute("begin");
        let at = client.value("select inet_server_port()");
        assert_eq!(client.value("select inet_server_port()"), at);
        client.execute("commit");
        assert_eq!(client.value("select 5"), "5");
        if at == port.to_string() && !has_moved {
            has_moved = true;
            moved.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn servers_move_during_a_pause_without_a_failed_transaction(shards: usize) {
    const CLIENTS: usize = 8;
    let second = Postgres::private();
    let doorman = config(shards).start();
    let stop = AtomicBool::new(false);
    let moved = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let first_port = Postgres::shared().port();
    std::thread::scope(|scope| {
        let (doorman, stop, moved) = (&doorman, &stop, &moved);
        for number in 0..CLIENTS {
            let port = second.port();
            scope.spawn(move || run_transactions(doorman, stop, port, &moved[number % 2]));
        }
        let mut console = console(doorman);
        let count = |console: &mut Client| {
            shown(console, "show stats", (0, "it"), 2)
                .parse::<u64>()
                .unwrap()
        };
        eventually("transactions run", || count(&mut console) > 200);
        console.execute("pause it");
        eventually("no session is left", || {
            doorman.server_pids(Postgres::shared()).is_empty()
        });
        doorman.rewrite(config(shards).pool_key("server_port", i64::from(second.port())));
        console.execute("reload");
        console.execute("resume it");
        eventually("all clients are served by the other server", || {
            moved
                .iter()
                .map(|count| count.load(Ordering::Relaxed))
                .sum::<usize>()
                == CLIENTS
        });
        assert_ne!(first_port, second.port());
        eventually("no session is left at the first", || {
            doorman.server_pids(Postgres::shared()).is_empty()
        });
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(
        shown(&mut console(&doorman), "show stats", (0, "it"), 9),
        "0"
    );
}

fn reconnect_replaces_servers(shards: usize) {
    let doorman = config(shards).start();
    let mut busy = doorman.connect();
    busy.execute("begin");
    let kept = busy.backend_pid();
    at_once(2 * shards, |_| {
        doorman.connect().execute("select pg_sleep(0.05)");
    });
    let before = doorman.server_pids(Postgres::shared());
    let mut console = console(&doorman);
    console.execute("reconnect it");
    eventually("idle servers are closed", || {
        doorman.server_pids(Postgres::shared()) == [kept.clone()]
    });
    assert_eq!(busy.backend_pid(), kept);
    busy.execute("commit");
    eventually("the other one, too", || {
        !doorman.server_pids(Postgres::shared()).contains(&kept)
    });
    assert!(!before.contains(&busy.backend_pid()));
    assert_eq!(console.error("reconnect missing").sqlstate, "3D000");
}

fn kill_closes_the_clients_of_a_database_until_resume(shards: usize) {
    let users = vec![crate::common::User::new("app", 2)];
    let config = config(shards).pool("app", Postgres::shared().port(), users);
    let doorman = config.start();
    let mut other = doorman.login().database("app").connect();
    let mut clients: Vec<_> = (0..6 * shards).map(|_| doorman.connect()).collect();
    clients[0].execute("begin");
    clients[1].send(&message::query("select pg_sleep(600)"));
    let mut console = console(&doorman);
    eventually("the long query runs", || {
        shown(&mut console, "show pools", (0, "it"), 4) == "2"
    });
    console.execute("kill it");
    for client in &mut clients {
        let error = client.expect('E').error_fields();
        assert_eq!(
            (error.severity.as_str(), error.sqlstate.as_str()),
            ("FATAL", "57P01")
        );
        assert!(client.is_closed());
    }
    assert_eq!(other.value("select 1"), "1");
    eventually("its servers are closed", || {
        shown(&mut console, "show databases", (0, "it"), 10) == "0"
    });
    console.execute("resume it");
    doorman.assert_serves();
    assert_eq!(console.error("kill missing").sqlstate, "3D000");
}

fn begun_transactions_wait_through_a_pause_and_a_reload(shards: usize) {
    let doorman = config(shards).start();
    let mut clients: Vec<_> = (0..3).map(|_| doorman.connect()).collect();
    for client in &mut clients {
        client.execute("begin;");
    }
    let mut console = console(&doorman);
    // They have no servers yet, so nobody is waited for.
    console.execute("pause it");
    for client in &mut clients {
        client.send(&message::query("select 1"));
    }
    eventually("they wait", || waiting(&mut console) == "3");
    doorman.rewrite(config(shards).pool_key("idle_timeout", "1h"));
    console.execute("reload");
    eventually("they wait for the new pool", || {
        waiting(&mut console) == "3"
    });
    console.execute("resume it");
    for client in &mut clients {
        assert_eq!(client.reply().status, 'T');
        assert_eq!(client.query("commit").status, 'I');
    }
}

fn kill_closes_those_who_have_begun(shards: usize) {
    let doorman = config(shards).start();
    let mut clients: Vec<_> = (0..3).map(|_| doorman.connect()).collect();
    for client in &mut clients {
        client.execute("begin;");
    }
    clients[0].execute("select 1");
    let mut console = console(&doorman);
    console.execute("kill it");
    for client in &mut clients {
        assert_eq!(client.expect('E').error_fields().sqlstate, "57P01");
    }
    console.execute("resume it");
    doorman.assert_serves();
}

fn kill_client_closes_one_wherever_it_is(shards: usize) {
    let doorman = config(shards).start();
    let mut clients: Vec<_> = (0..4 * shards).map(|_| doorman.connect()).collect();
    let mut console = console(&doorman);
    for mut client in clients.split_off(2) {
        let id = u32::from_be_bytes(client.key[..4].try_into().unwrap());
        console.execute(&format!("kill_client 0x{id:08X}"));
        assert_eq!(client.expect('E').error_fields().sqlstate, "57P01");
        assert!(client.is_closed());
        eventually("it is not there any more", || {
            !console
                .query(&format!("kill_client {id}"))
                .errors
                .is_empty()
        });
        assert_eq!(
            console.error(&format!("kill_client {id}")).sqlstate,
            "42704"
        );
    }
    for client in &mut clients {
        assert_eq!(client.value("select 1"), "1");
    }
    // Consoles have numbers, too.
    let mut second = self::console(&doorman);
    let rows = console.rows("show clients");
    let mut ids = rows
        .iter()
        .filter(|row| row[1].as_deref() == Some("pgdoorman"));
    let is_other = |console: &mut Client, id: &str| {
        let rows = console.rows("show clients");
        rows.iter()
            .any(|row| row[0].as_deref() == Some(id) && row[9].as_deref() == Some("0"))
    };
    assert_eq!(ids.clone().count(), 2);
    let newest = ids.next_back().unwrap()[0].clone().unwrap();
    assert!(is_other(&mut console, &newest));
    let first = ids.next().unwrap()[0].clone().unwrap();
    assert_ne!(newest, first);
    assert!(second.value("show version").starts_with("PgDoorman"));
}

fn set_lasts_until_the_next_reload(shards: usize) {
    let config = || config(shards).general("query_wait_timeout", "30s");
    let doorman = config().start();
    let mut console = console(&doorman);
    let value = |console: &mut Client, key| shown(console, "show config", (0, key), 1);
    assert_eq!(value(&mut console, "query_wait_timeout"), "30000");
    console.execute("set query_wait_timeout = '1s'");
    eventually("all shards have it", || {
        value(&mut console, "query_wait_timeout") == "1000"
    });
    let held = doorman.hold_servers(2 * shards);
    let error = doorman.connect().error("select 1");
    assert_eq!(error.sqlstate, "53300");
    drop(held);
    console.execute("SET max_connections TO 3");
    eventually("the limit has changed", || {
        value(&mut console, "max_client_conn") == "3"
    });
    for wrong in [
        "set nonsense = 1",
        "set port = 1",
        "set max_connections = 'many'",
    ] {
        assert_eq!(console.error(wrong).sqlstate, "22023", "{wrong}");
    }
    console.execute("reload");
    eventually("the file counts again", || {
        value(&mut console, "query_wait_timeout") == "30000"
    });
}

fn shutdown_ends_the_process(shards: usize) {
    let mut doorman = config(shards).start();
    let mut client = doorman.connect();
    client.execute("select 1");
    let mut console = console(&doorman);
    let reply = console.query("shutdown");
    assert_eq!((reply.tags.as_str(), reply.value()), ("TDCZ", "t"));
    assert_eq!(reply.commands, ["SHUTDOWN"]);
    assert!(console.is_closed(), "nothing follows");
    assert!(doorman.wait().success());
}

fn shutdown_waits_for_clients(shards: usize) {
    let mut doorman = config(shards).start();
    let mut client = doorman.connect();
    let mut console = console(&doorman);
    assert_eq!(console.query("shutdown wait_for_clients").tags, "TDCZ");
    let port = doorman.port();
    eventually("nobody is let in", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_err()
    });
    assert_eq!(client.value("select 1"), "1");
    client.terminate();
    assert!(doorman.wait().success());
}

fn shutdown_waits_for_servers(shards: usize) {
    let mut doorman = config(shards).start();
    let mut busy = doorman.connect();
    busy.execute("begin");
    let mut console = console(&doorman);
    assert_eq!(console.query("shutdown wait_for_servers").tags, "TDCZ");
    let port = doorman.port();
    eventually("nobody is let in", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_err()
    });
    assert_eq!(busy.value("select 1"), "1");
    busy.execute("commit");
    assert!(doorman.wait().success());
}
