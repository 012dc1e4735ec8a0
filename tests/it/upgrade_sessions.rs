//! Binary upgrade: clients that keep their servers.
//!
//! Owns: session mode: temporary tables, channels that are listened to, settings, statements.
//! Does not own: clients of transaction mode (`upgrade`), servers alone (`upgrade_moves`).
//! Invariant: no process of a chain outlives its test.
//!
//! Source: sql-listen.html, sql-createtable.html.

use crate::common::{
    Client, Config, Postgres, eventually, message, unique, with_one_and_two_shards,
};
use crate::upgrade::{Chain, is_running};

with_one_and_two_shards!(
    a_session_goes_with_all_that_its_server_knows,
    a_session_goes_when_its_transaction_ends,
    a_notification_on_the_way_arrives,
    sessions_go_over_several_upgrades,
    a_killed_process_gives_sessions_back,
    a_session_whose_pool_leads_elsewhere_is_told,
);

const SIZE: usize = 4;

fn config(shards: usize) -> Config {
    let config = Config::new(Postgres::shared()).shards(shards);
    config.session_mode().pool_size(SIZE)
}

/// A client with a temporary table, a setting and a statement, and the pid of its server.
fn settle(chain: &Chain, number: usize) -> (Client, String) {
    let mut client = chain.0.connect();
    client.execute("create temp table mine (n int)");
    client.execute(&format!("insert into mine values ({number})"));
    client.execute(&format!("set work_mem = '{number}MB'"));
    client.batch(&[message::parse("s", "select n from mine")]);
    let pid = client.value("select pg_backend_pid()");
    (client, pid)
}

fn check(client: &mut Client, pid: &str, number: usize) {
    assert_eq!(client.value("select pg_backend_pid()"), pid);
    assert_eq!(client.value("show work_mem"), format!("{number}MB"));
    let run = [message::bind("", "s", &[]), message::execute("", 0)];
    assert_eq!(client.batch(&run).value(), number.to_string());
}

fn upgrade_whole(chain: &Chain) {
    let old = chain.present();
    chain.upgrade();
    eventually("the old process ends", || !is_running(&old));
}

fn a_session_goes_with_all_that_its_server_knows(shards: usize) {
    let chain = Chain::start(config(shards));
    let mut all: Vec<_> = (1..=SIZE).map(|number| settle(&chain, number)).collect();
    upgrade_whole(&chain);
    for (number, (client, pid)) in (1..).zip(&mut all) {
        check(client, pid, number);
    }
    assert_eq!(chain.0.server_pids(Postgres::shared()).len(), SIZE);
    // Each gives its server back when it goes, without what it had.
    drop(all);
    for _ in 0..SIZE {
        let mut next = chain.0.connect();
        assert!(next.try_query("select n from mine").unwrap().sqlstate() == "42P01");
    }
}

fn a_session_goes_when_its_transaction_ends(shards: usize) {
    let chain = Chain::start(config(shards));
    let (mut client, pid) = settle(&chain, 3);
    client.execute("begin");
    let old = chain.present();
    chain.upgrade();
    chain.0.assert_serves();
    check(&mut client, &pid, 3);
    assert!(is_running(&old));
    client.execute("commit");
    eventually("the old process ends", || !is_running(&old));
    check(&mut client, &pid, 3);
}

fn a_notification_on_the_way_arrives(shards: usize) {
    let chain = Chain::start(config(shards));
    let channel = unique("upgrade_channel");
    let mut listener = chain.0.connect();
    listener.execute(&format!("listen {channel}"));
    let mut count = 0;
    let old = chain.present();
    chain.signal("-USR2");
    while is_running(&old) {
        Postgres::shared().sql(&format!("notify {channel}, '{count}'"));
        count += 1;
    }
    Postgres::shared().sql(&format!("notify {channel}, '{count}'"));
    for number in 0..=count {
        let message = listener.expect('A');
        let text = format!("{channel}\0{number}\0");
        let body = message.body;
        assert!(body.ends_with(text.as_bytes()), "{number} of {count}");
    }
    assert_eq!(listener.value("select 1"), "1");
}

fn sessions_go_over_several_upgrades(shards: usize) {
    let chain = Chain::start(config(shards));
    let (mut client, pid) = settle(&chain, 2);
    for count in [3 - shards, shards, 2] {
        chain.0.rewrite(config(count));
        upgrade_whole(&chain);
        check(&mut client, &pid, 2);
        chain.0.assert_serves();
    }
}

fn a_killed_process_gives_sessions_back(shards: usize) {
    for pause in [0, 3, 10] {
        let chain = Chain::start(config(shards));
        let mut all: Vec<_> = (1..SIZE).map(|number| settle(&chain, number)).collect();
        let (mut busy, pid) = settle(&chain, SIZE);
        busy.execute("begin");
        chain.upgrade();
        // At different stages of what the new process does first.
        std::thread::sleep(std::time::Duration::from_millis(pause));
        chain.signal("-KILL");
        eventually("the old process serves again", || {
            chain.0.log().contains("this one serves again")
        });
        check(&mut busy, &pid, SIZE);
        busy.execute("commit");
        // Those that the new process had are lost, the others are as before.
        for (number, (client, pid)) in (1..).zip(&mut all) {
            if client.try_query("select 1").is_ok() {
                check(client, pid, number);
            }
        }
        drop(all);
        chain.0.assert_serves();
    }
}

fn a_session_whose_pool_leads_elsewhere_is_told(shards: usize) {
    let chain = Chain::start(config(shards));
    let (mut client, _) = settle(&chain, 1);
    chain
        .0
        .rewrite(config(shards).pool_key("server_host", "localhost"));
    upgrade_whole(&chain);
    assert_eq!(client.expect('E').error_fields().sqlstate, "57P01");
    assert!(client.is_closed());
    chain.0.assert_serves();
}
