//! Binary upgrade: what goes over, to another configuration, over TLS, and what does not harm.
//!
//! Owns: server connections, encrypted clients, other numbers of shards, other ports, pools that have gone,
//! processes that fail.
//! Does not own: clients without encryption (`upgrade`).
//! Invariant: no process of a chain outlives its test.

use std::net::TcpStream;
use std::sync::Arc;

use crate::common::tls::Certificates;
use crate::common::{
    Client, Config, Postgres, eventually, message, unique, with_one_and_two_shards,
};
use crate::tls::{connect, encrypted};
use crate::upgrade::{Chain, config, is_running, kill};

with_one_and_two_shards!(
    servers_go_to_the_new_process,
    servers_that_would_lead_elsewhere_are_opened_anew,
    a_change_of_a_table_is_known_behind_an_upgrade,
    the_number_of_shards_may_change,
    a_smaller_pool_keeps_to_its_size,
    another_port_is_listened_on_and_the_old_one_is_not,
    clients_of_a_pool_that_is_gone_are_told,
    encrypted_clients_stay_over_several_upgrades,
    a_relay_ends_with_its_client,
    a_relay_ends_between_two_transactions_when_its_time_is_over,
    a_process_that_is_killed_while_it_starts_changes_nothing,
    a_process_that_is_told_to_end_takes_the_old_one_along,
    many_upgrades_leave_nothing_behind,
);

fn run(statement: &str) -> [Vec<u8>; 2] {
    [message::bind("", statement, &[]), message::execute("", 0)]
}

/// Upgrades and waits until the process before has ended.
fn upgrade_whole(chain: &Chain) {
    let old = chain.present();
    chain.upgrade();
    eventually("the old process ends", || !is_running(&old));
}

fn hold(chain: &Chain, count: usize) -> Vec<Client> {
    let mut clients: Vec<_> = (0..count).map(|_| chain.0.connect()).collect();
    for client in &mut clients {
        client.execute("begin");
        client.batch(&[message::parse("named", "select 5")]);
        assert_eq!(client.batch(&run("named")).value(), "5");
    }
    clients
}

fn servers_go_to_the_new_process(shards: usize) {
    let chain = Chain::start(config(shards).pool_size(4));
    let mut clients = hold(&chain, 4);
    for client in &mut clients {
        client.execute("commit");
    }
    let before = chain.0.server_pids(Postgres::shared());
    assert_eq!(before.len(), 4);
    for _ in 0..3 {
        upgrade_whole(&chain);
        assert_eq!(chain.0.server_pids(Postgres::shared()), before);
        // All of them are used, with the statement that they have.
        for client in &mut clients {
            client.execute("begin");
            assert_eq!(client.batch(&run("named")).value(), "5");
            let count = "select count(*) from pg_prepared_statements where statement = 'select 5'";
            assert_eq!(client.value(count), "1");
        }
        for client in &mut clients {
            client.execute("commit");
        }
    }
    // Also those that are lent when it begins.
    for client in &mut clients {
        client.execute("begin");
    }
    let old = chain.present();
    chain.upgrade();
    for client in &mut clients {
        assert_eq!(client.batch(&run("named")).value(), "5");
        client.execute("commit");
    }
    eventually("the old process ends", || !is_running(&old));
    assert_eq!(chain.0.server_pids(Postgres::shared()), before);
}

fn servers_that_would_lead_elsewhere_are_opened_anew(shards: usize) {
    let chain = Chain::start(config(shards));
    let mut client = chain.0.connect();
    let before = client.backend_pid();
    chain
        .0
        .rewrite(config(shards).pool_key("server_host", "localhost"));
    upgrade_whole(&chain);
    assert_ne!(client.backend_pid(), before);
}

fn a_change_of_a_table_is_known_behind_an_upgrade(shards: usize) {
    let chain = Chain::start(config(shards));
    let table = unique("upgrade_change");
    let select = format!("select * from {table}");
    let mut client = chain.0.connect();
    client.execute(&format!("create table {table} (a int)"));
    client.execute(&format!("insert into {table} values (1)"));
    client.batch(&[message::parse("s", &select)]);
    assert_eq!(client.batch(&run("s")).value(), "1");
    upgrade_whole(&chain);
    client.execute(&format!("alter table {table} add b int default 2"));
    // A new definition has the new result.
    client.batch(&[message::close(b'S', "s"), message::parse("s", &select)]);
    let reply = client.batch(&run("s"));
    assert_eq!(reply.rows, [[Some("1".to_owned()), Some("2".to_owned())]]);
    client.execute(&format!("drop table {table}"));
}

fn the_number_of_shards_may_change(shards: usize) {
    let chain = Chain::start(config(shards));
    let mut clients: Vec<_> = (0..10).map(|_| chain.0.connect()).collect();
    for client in &mut clients {
        client.execute("set timezone to 'Asia/Tokyo'");
    }
    for count in [3 - shards, shards, 2] {
        chain.0.rewrite(config(count));
        upgrade_whole(&chain);
        for client in &mut clients {
            assert_eq!(client.value("show timezone"), "Asia/Tokyo");
        }
        for _ in 0..8 {
            chain.0.assert_serves();
        }
    }
}

fn a_smaller_pool_keeps_to_its_size(shards: usize) {
    let chain = Chain::start(config(shards).pool_size(4));
    let mut clients = hold(&chain, 4);
    for client in &mut clients {
        client.execute("commit");
    }
    chain.0.rewrite(config(shards).pool_size(2));
    upgrade_whole(&chain);
    for client in &mut clients {
        assert_eq!(client.batch(&run("named")).value(), "5");
    }
    eventually("two servers are left", || {
        chain.0.server_pids(Postgres::shared()).len() <= 2
    });
}

fn another_port_is_listened_on_and_the_old_one_is_not(shards: usize) {
    let chain = Chain::start(config(shards));
    let mut client = chain.0.connect();
    let mut encrypted = chain.0.connect();
    encrypted.execute("begin");
    let other = config(shards);
    let port = other.port();
    chain.0.rewrite_text(&other.text());
    chain.upgrade();
    assert_eq!(client.value("select 1"), "1");
    encrypted.execute("commit");
    eventually("the new port is open", || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    eventually("the old port is closed", || {
        TcpStream::connect(("127.0.0.1", chain.0.port())).is_err()
    });
    assert_eq!(encrypted.value("select 2"), "2");
}

fn clients_of_a_pool_that_is_gone_are_told(shards: usize) {
    let postgres = Postgres::shared();
    let both = || {
        let user = crate::common::User::new("app", 2);
        config(shards).pool("app", postgres.port(), vec![user])
    };
    let chain = Chain::start(both());
    let mut kept = chain.0.connect();
    let mut gone = chain.0.login().database("app").connect();
    assert_eq!(gone.value("select 1"), "1");
    chain.0.rewrite(config(shards));
    upgrade_whole(&chain);
    assert_eq!(gone.expect('E').error_fields().sqlstate, "57P01");
    assert!(gone.is_closed());
    assert_eq!(kept.value("select 1"), "1");
}

fn secured(shards: usize) -> Config {
    encrypted(Certificates::shared())
        .shards(shards)
        .pool_size(2)
}

fn encrypted_clients_stay_over_several_upgrades(shards: usize) {
    let chain = Chain::start(secured(shards));
    let tls = Arc::new(Certificates::shared().client_config(None));
    let mut clients: Vec<_> = (0..8).map(|_| connect(chain.0.port(), &tls)).collect();
    for client in &mut clients {
        client.execute("set timezone to 'Asia/Tokyo'");
    }
    let first = chain.present();
    for step in 0..3 {
        let mut late = connect(chain.0.port(), &tls);
        late.execute("set timezone to 'Asia/Tokyo'");
        clients[0].execute("begin");
        chain.upgrade();
        for client in &mut clients {
            assert_eq!(client.value("show timezone"), "Asia/Tokyo");
            let length = 3_000_000 + step;
            let row = client.value(&format!("select repeat('x', {length})"));
            assert_eq!(row.len(), length);
        }
        clients[0].execute("commit");
        assert_eq!(late.value("select 3"), "3");
        chain.0.assert_serves();
        clients.push(late);
    }
    assert!(is_running(&first));
    drop(clients);
    for process in [&first].into_iter().chain(&chain.heirs()[..2]) {
        eventually("a process without clients ends", || !is_running(process));
    }
    chain.0.assert_serves();
}

fn a_relay_ends_with_its_client(shards: usize) {
    let chain = Chain::start(secured(shards));
    let tls = Arc::new(Certificates::shared().client_config(None));
    let first = chain.present();
    let (mut polite, lost) = (connect(chain.0.port(), &tls), connect(chain.0.port(), &tls));
    let mut late = connect(chain.0.port(), &tls);
    upgrade_whole_but_relays(&chain, &mut late);
    polite.execute("select 1");
    polite.terminate();
    lost.abort();
    // What was asked before the good-bye is done, although nothing more is to come.
    let table = unique("relay_end");
    late.execute(&format!("create table {table} (a int)"));
    late.send(&message::query(&format!("insert into {table} values (1)")));
    late.send(&message::terminate());
    late.finish_sending();
    let count = format!("select count(*) from {table}");
    eventually("the row is there", || {
        Postgres::shared().value(&count) == "1"
    });
    while late.try_receive_anything().is_ok_and(|count| count > 0) {}
    Postgres::shared().sql(&format!("drop table {table}"));
    eventually("the old process ends", || !is_running(&first));
    chain.0.assert_serves();
}

fn a_relay_ends_between_two_transactions_when_its_time_is_over(shards: usize) {
    let chain = Chain::start(secured(shards).general("tls_relay_max_lifetime", "1s"));
    let tls = Arc::new(Certificates::shared().client_config(None));
    let first = chain.present();
    let mut silent = connect(chain.0.port(), &tls);
    let mut busy = connect(chain.0.port(), &tls);
    chain.upgrade();
    assert_eq!(silent.value("select 1"), "1");
    busy.execute("begin");
    assert_eq!(silent.expect('E').error_fields().sqlstate, "57P01");
    assert!(silent.is_closed());
    assert_eq!(busy.value("select 2"), "2");
    assert!(is_running(&first));
    busy.execute("commit");
    assert_eq!(busy.expect('E').error_fields().sqlstate, "57P01");
    assert!(busy.is_closed());
    eventually("the old process ends", || !is_running(&first));
    chain.0.assert_serves();
}

fn upgrade_whole_but_relays(chain: &Chain, client: &mut Client) {
    chain.upgrade();
    assert_eq!(client.value("select 1"), "1");
}

fn a_process_that_is_killed_while_it_starts_changes_nothing(shards: usize) {
    const STARTS: &str = "the new process starts pid=";
    let chain = Chain::start(config(shards));
    let mut client = chain.0.connect();
    let mut started = 0;
    for _ in 0..5 {
        chain.signal_first("-USR2");
        let starts = || chain.0.log().matches(STARTS).count();
        eventually("the new process starts", || starts() > started);
        started = starts();
        let log = chain.0.log();
        let pid = log.rsplit(STARTS).next().unwrap();
        kill("-KILL", pid.split_whitespace().next().unwrap());
        eventually("the upgrade is given up, or too far", || {
            chain.0.log().matches("BINARY UPGRADE ABORTED").count()
                + chain.0.log().matches("this one serves again").count()
                == started
        });
        // It was idle: if the new process was ready already, it may have been there.
        if client.try_query("select 1").is_err() {
            client = chain.0.connect();
        }
        assert_eq!(client.value("select 1"), "1");
        chain.0.assert_serves();
    }
    let mut client = chain.0.connect();
    let old = chain.0.pid().to_string();
    chain.signal_first("-USR2");
    eventually("the old process ends", || !is_running(&old));
    assert_eq!(client.value("select 1"), "1");
}

fn a_process_that_is_told_to_end_takes_the_old_one_along(shards: usize) {
    let mut chain = Chain::start(config(shards));
    let mut busy = chain.0.connect();
    busy.execute("begin");
    chain.upgrade();
    chain.signal("-TERM");
    assert_eq!(chain.0.wait().code(), Some(0));
    assert!(busy.is_closed());
}

fn descriptors(pid: &str) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

fn many_upgrades_leave_nothing_behind(shards: usize) {
    let chain = Chain::start(config(shards));
    let mut clients: Vec<_> = (0..5).map(|_| chain.0.connect()).collect();
    for client in &mut clients {
        client.execute("select 1");
    }
    upgrade_whole(&chain);
    let before = descriptors(&chain.present());
    for _ in 0..10 {
        upgrade_whole(&chain);
        for client in &mut clients {
            assert_eq!(client.value("select 2"), "2");
        }
    }
    assert!(descriptors(&chain.present()) <= before + 4);
    let running = chain.heirs().iter().filter(|pid| is_running(pid)).count();
    assert_eq!(running, 1);
}
