//! Signals: SIGHUP reads the configuration again, SIGTERM and SIGINT end.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::common::{
    Client, Config, Doorman, Postgres, User, eventually, message, with_one_and_two_shards,
};

with_one_and_two_shards!(
    reload_adds_a_pool,
    reload_adds_a_user,
    reload_removes_a_user,
    reload_changes_pool_size,
    reload_keeps_connected_clients,
    reload_of_general_settings_keeps_servers_and_is_used,
    reload_gives_listening_sockets_their_options_again,
    reload_of_a_bad_file_keeps_the_old_configuration,
    many_reloads_under_load_lose_nothing,
    termination_ends_at_once,
    interrupt_lets_transactions_end,
    interrupt_ends_when_its_time_is_over,
    termination_under_load_ends_at_once,
);

fn config(shards: usize) -> Config {
    // Without a terminal SIGINT would have another process take over.
    Config::new(Postgres::shared())
        .environment("PG_DOORMAN_CI_SHUTDOWN_ONLY", "1")
        .shards(shards)
        .pool_size(2)
}

fn reload_adds_a_pool(shards: usize) {
    let doorman = config(shards).start();
    let login = doorman.login().database("app");
    assert_eq!(login.refusal().sqlstate(), "3D000");
    let users = vec![User::new("app", 2)];
    doorman.rewrite(config(shards).pool("app", Postgres::shared().port(), users));
    doorman.sighup();
    eventually("the new pool serves", || login.attempt().is_ok());
    assert_eq!(login.connect().value("select current_database()"), "app");
    doorman.assert_serves();
}

fn reload_adds_a_user(shards: usize) {
    let doorman = config(shards).start();
    let login = doorman.login().user("other");
    assert!(login.attempt().is_err());
    doorman.rewrite(config(shards).users(vec![User::new("app", 2), User::new("other", 2)]));
    doorman.sighup();
    eventually("the new user is let in", || login.attempt().is_ok());
    assert_eq!(login.connect().value("select 1"), "1");
}

fn reload_removes_a_user(shards: usize) {
    let both = config(shards).users(vec![User::new("app", 2), User::new("other", 2)]);
    let doorman = both.start();
    let login = doorman.login().user("other");
    assert_eq!(login.connect().value("select 1"), "1");
    doorman.rewrite(config(shards));
    doorman.sighup();
    eventually("the user is gone", || login.attempt().is_err());
    doorman.assert_serves();
}

fn reload_changes_pool_size(shards: usize) {
    let wait = |config: Config| config.general("query_wait_timeout", "300ms");
    let doorman = wait(config(shards)).start();
    assert!(transactions_at_once(&doorman, 6) <= 2);
    doorman.rewrite(wait(config(shards)).pool_size(6));
    doorman.sighup();
    eventually("six transactions at once", || {
        transactions_at_once(&doorman, 6) == 6
    });
    doorman.rewrite(wait(config(shards)).pool_size(2));
    doorman.sighup();
    eventually("two transactions at once", || {
        transactions_at_once(&doorman, 6) <= 2
    });
    eventually("two servers", || {
        doorman.server_pids(Postgres::shared()).len() <= 2
    });
}

/// How many of `count` clients can be in a transaction at the same time.
fn transactions_at_once(doorman: &Doorman, count: usize) -> usize {
    let mut clients: Vec<Client> = (0..count).map(|_| doorman.connect()).collect();
    for client in &mut clients {
        client.send(&message::query("begin"));
    }
    let begun = clients
        .iter_mut()
        .map(|client| client.expect_any(&['C', 'E']));
    let begun = begun.filter(|message| message.tag == b'C').count();
    for client in clients {
        client.abort();
    }
    begun
}

fn reload_keeps_connected_clients(shards: usize) {
    let doorman = config(shards).start();
    let mut idle = doorman.connect();
    let mut busy = doorman.connect();
    busy.execute("begin");
    let pid = busy.backend_pid();
    let other = doorman.login().user("other");
    doorman.rewrite(config(shards).users(vec![User::new("app", 4), User::new("other", 2)]));
    doorman.sighup();
    eventually("the reload is done", || other.attempt().is_ok());
    assert_eq!(busy.backend_pid(), pid);
    assert_eq!(busy.query("commit").status, 'I');
    assert_eq!(idle.value("select 1"), "1");
    assert_eq!(busy.value("select 2"), "2");
}

fn reload_of_general_settings_keeps_servers_and_is_used(shards: usize) {
    let postgres = Postgres::shared();
    let config = |wait: &str, idle: i64| {
        let user = User::new("app", 2).key("min_pool_size", 2);
        let config = config(shards).users(vec![user]);
        config
            .general("query_wait_timeout", wait)
            .general("tcp_keepalives_idle", idle)
            .general("connect_timeout", format!("{idle}s"))
            .general("prepared_statements_cache_size", idle)
    };
    let doorman = config("20s", 5).start();
    eventually("the minimum is open", || {
        doorman.server_pids(postgres).len() == 2
    });
    let before = doorman.server_pids(postgres);
    let holders: Vec<_> = (0..2)
        .map(|_| {
            let mut client = doorman.connect();
            client.execute("begin");
            client
        })
        .collect();
    let mut waiting = doorman.connect();
    doorman.rewrite(config("200ms", 9));
    doorman.sighup();
    eventually("the reload is done", || {
        doorman.log().contains("configuration reloaded")
    });
    eventually("the new time is used", || {
        let start = Instant::now();
        let mut late = doorman.connect();
        let refused = late
            .try_query("begin")
            .is_ok_and(|reply| reply.status != 'T');
        refused && start.elapsed() < Duration::from_secs(5)
    });
    assert_eq!(doorman.server_pids(postgres), before, "no further server");
    drop(holders);
    assert_eq!(waiting.value("select 1"), "1");
    eventually("the same servers are there", || {
        doorman.server_pids(postgres) == before
    });
}

fn reload_gives_listening_sockets_their_options_again(shards: usize) {
    let doorman = config(shards).start();
    let refused = "option=\"tcp_keepalives_count\" value=1000";
    assert!(!doorman.log().contains(refused));
    // No server is opened: there has been no client that would need one.
    doorman.rewrite(config(shards).general("tcp_keepalives_count", 1000));
    doorman.sighup();
    eventually("the system has been asked", || {
        doorman.log().contains(refused)
    });
    let text = doorman.log();
    assert!(
        text.contains("general.tcp_keepalives_count = 1000: the system takes"),
        "{text}"
    );
    doorman.assert_serves();
}

#[test]
fn socket_options_that_the_system_refuses_stop_nobody() {
    for (key, value) in [
        ("tcp_keepalives_idle", 0_i64),
        ("tcp_keepalives_interval", 0),
        ("tcp_keepalives_count", 0),
        ("tcp_keepalives_idle", 100_000),
        ("tcp_keepalives_count", 128),
        ("tcp_user_timeout", 3_000_000),
    ] {
        let doorman = config(1).general(key, value).start();
        doorman.assert_serves();
    }
}

#[test]
fn changed_settings_that_need_a_restart_are_named() {
    let doorman = config(1).start();
    let expected = "general.backlog differs from the start";
    let changed = || config(1).general("backlog", 7);
    for times in 1..3 {
        doorman.rewrite(changed());
        doorman.sighup();
        eventually("the key is named at each reload", || {
            doorman.log().matches(expected).count() == times
        });
    }
    assert!(!doorman.log().contains("general.port differs"));
}

fn reload_of_a_bad_file_keeps_the_old_configuration(shards: usize) {
    let doorman = config(shards).start();
    let mut client = doorman.connect();
    let mut length = doorman.log().len();
    for text in [
        "",
        "[general",
        "[general]\nport = 'x'\n[pools]\n",
        "\u{0}\u{1}",
    ] {
        doorman.rewrite_text(text);
        doorman.sighup();
        eventually("the bad file is noted in the log", || {
            doorman.log().len() > length
        });
        length = doorman.log().len();
        assert_eq!(client.value("select 1"), "1");
        doorman.assert_serves();
    }
    doorman.rewrite(config(shards).users(vec![User::new("app", 2), User::new("other", 2)]));
    doorman.sighup();
    let login = doorman.login().user("other");
    eventually("a good file is taken again", || login.attempt().is_ok());
}

fn many_reloads_under_load_lose_nothing(shards: usize) {
    let doorman = config(shards).start();
    let end = Instant::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let doorman = &doorman;
            scope.spawn(move || {
                let mut client = doorman.connect();
                let mut round = 0;
                while Instant::now() < end {
                    let value = format!("{number} {round}");
                    assert_eq!(client.value(&format!("select '{value}'")), value);
                    round += 1;
                }
            });
        }
        for round in 0.. {
            if Instant::now() >= end {
                break;
            }
            doorman.rewrite(config(shards).pool_size(2 + round % 4));
            doorman.sighup();
            doorman.assert_serves();
        }
    });
    eventually("servers within the largest pool_size", || {
        doorman.server_pids(Postgres::shared()).len() <= 5
    });
    doorman.assert_serves();
}

fn termination_ends_at_once(shards: usize) {
    let mut doorman = config(shards).start();
    doorman.assert_serves();
    let start = Instant::now();
    doorman.sigterm();
    let status = doorman.wait();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "after {:?}",
        start.elapsed()
    );
}

/// Asserts that the client is told of the end, and closed.
fn assert_told_of_the_end(client: &mut Client) {
    assert_eq!(client.expect('E').error_fields().sqlstate, "57P01");
    assert!(client.is_closed());
}

fn interrupt_lets_transactions_end(shards: usize) {
    let mut doorman = config(shards).start();
    let mut idle = doorman.connect();
    let mut busy = doorman.connect();
    busy.execute("begin");
    doorman.sigint();
    eventually("nobody is let in", || {
        TcpStream::connect(("127.0.0.1", doorman.port())).is_err()
    });
    doorman.sigint();
    assert_eq!(busy.value("select 1"), "1");
    idle.send(&message::query("select 2"));
    busy.execute("commit");
    for client in [&mut idle, &mut busy] {
        assert_told_of_the_end(client);
    }
    assert_eq!(doorman.wait().code(), Some(0));
}

fn interrupt_ends_when_its_time_is_over(shards: usize) {
    let mut doorman = config(shards).general("shutdown_timeout", "1s").start();
    let mut busy = doorman.connect();
    busy.execute("begin");
    let start = Instant::now();
    doorman.sigint();
    assert_told_of_the_end(&mut busy);
    assert_eq!(doorman.wait().code(), Some(0));
    let took = start.elapsed();
    let expected = Duration::from_secs(1)..Duration::from_secs(5);
    assert!(expected.contains(&took), "{took:?}");
}

fn termination_under_load_ends_at_once(shards: usize) {
    let mut doorman = config(shards).start();
    let mut idle = doorman.connect();
    let mut in_transaction = doorman.connect();
    in_transaction.execute("begin");
    let mut sleeping = doorman.connect();
    sleeping.send(&message::query("select pg_sleep(4)"));
    let mut waiting = doorman.connect();
    waiting.send(&message::query("select pg_sleep(4)"));
    let start = Instant::now();
    doorman.sigterm();
    let status = doorman.wait();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "after {:?}",
        start.elapsed()
    );
    for client in [&mut idle, &mut in_transaction, &mut sleeping, &mut waiting] {
        // Whether with a last word or without: the connection ends.
        while client.try_receive().is_ok() {}
    }
    eventually("no server is left", || {
        doorman.server_pids(Postgres::shared()).is_empty()
    });
}

/// Goal: a signal never meets a process that accepts connections and has no handler yet.
/// Method: as many starts as are likely to show the gap, each with a signal at the first accept.
#[test]
fn reload_right_after_the_start_does_not_end_the_process() {
    for _ in 0..10 {
        let doorman = config(2).start();
        doorman.sighup();
        doorman.assert_serves();
    }
}
