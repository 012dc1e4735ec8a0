//! Cancel requests: they reach the statement of their client and no other.
//!
//! Source: protocol-flow.html (cancelling requests in progress).

use crate::common::client::Client;
use crate::common::message::{self, packet, query};
use crate::common::{
    Config, Doorman, Postgres, Target, eventually, everywhere, not_yet_pooled,
    with_one_and_two_shards,
};

everywhere!(
    cancel_with_a_wrong_key_does_nothing,
    cancel_of_an_idle_client_does_nothing,
);

not_yet_pooled!(
    "the pooler does not forward cancel requests yet":
    running_statement_is_cancelled,
    statement_in_a_transaction_is_cancelled,
    cancel_after_a_refused_ssl_request_works,
);

with_one_and_two_shards!(
    late_cancel_never_hits_another_client,
    waiting_client_can_be_cancelled,
    cancel_flood_harms_nobody,
);

/// Sends a `CancelRequest` with `key` and waits until the other side has closed.
fn cancel(port: u16, key: &[u8]) {
    let mut client = Client::dial(port);
    client.send(&packet(&[&80_877_102_u32.to_be_bytes()[..], key].concat()));
    assert!(client.is_closed());
}

/// Waits until a statement that contains `mark` runs.
fn wait_until_running(mark: &str) {
    let sql = format!(
        "select count(*) from pg_stat_activity where state = 'active' \
         and query like '%{mark}%' and pid <> pg_backend_pid()"
    );
    let mut superuser = Postgres::shared().superuser();
    eventually("the statement runs", || superuser.value(&sql) != "0");
}

fn running_statement_is_cancelled(target: &Target) {
    let mark = crate::common::unique("cancel_mark");
    let mut client = target.connect();
    for _ in 0..3 {
        client.send(&query(&format!("select pg_sleep(60) as {mark}")));
        wait_until_running(&mark);
        cancel(target.port(), &client.key);
        let reply = client.reply();
        assert_eq!((reply.sqlstate(), reply.status), ("57014", 'I'));
        assert_eq!(client.value("select 'after'"), "after");
    }
}

fn statement_in_a_transaction_is_cancelled(target: &Target) {
    let mark = crate::common::unique("cancel_mark");
    let mut client = target.connect();
    client.execute("begin");
    client.send(&query(&format!("select pg_sleep(60) as {mark}")));
    wait_until_running(&mark);
    cancel(target.port(), &client.key);
    let reply = client.reply();
    assert_eq!((reply.sqlstate(), reply.status), ("57014", 'E'));
    assert_eq!(client.query("rollback").status, 'I');
}

fn cancel_with_a_wrong_key_does_nothing(target: &Target) {
    let mark = crate::common::unique("cancel_mark");
    let mut client = target.connect();
    client.send(&query(&format!(
        "select 'slept' as {mark} from pg_sleep(1)"
    )));
    wait_until_running(&mark);
    for byte in 0..client.key.len() {
        let mut key = client.key.clone();
        key[byte] ^= 0x55;
        cancel(target.port(), &key);
    }
    cancel(target.port(), &[0; 8]);
    cancel(target.port(), &[0xff; 8]);
    assert_eq!(client.reply().value(), "slept");
}

fn cancel_of_an_idle_client_does_nothing(target: &Target) {
    let mut idle = target.connect();
    let mut other = target.connect();
    idle.execute("select 1");
    other.send(&query("select 'slept' from pg_sleep(0.3)"));
    cancel(target.port(), &idle.key);
    assert_eq!(other.reply().value(), "slept");
    assert_eq!(idle.value("select 2"), "2");
}

fn cancel_after_a_refused_ssl_request_works(target: &Target) {
    let mark = crate::common::unique("cancel_mark");
    let mut client = target.connect();
    client.send(&query(&format!("select pg_sleep(60) as {mark}")));
    wait_until_running(&mark);
    let mut canceller = Client::dial(target.port());
    canceller.send(&message::ssl_request());
    assert_eq!(canceller.receive_byte(), b'N');
    let request = [&80_877_102_u32.to_be_bytes()[..], &client.key].concat();
    canceller.send(&packet(&request));
    assert!(canceller.is_closed());
    assert_eq!(client.reply().sqlstate(), "57014");
}

fn doorman(shards: usize) -> Doorman {
    Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(shards)
        .general("query_wait_timeout", "2s")
        .start()
}

fn late_cancel_never_hits_another_client(shards: usize) {
    let doorman = doorman(shards);
    let mut first = doorman.connect();
    let mut others: Vec<_> = (0..4).map(|_| doorman.connect()).collect();
    for round in 0..30 {
        let port = doorman.port();
        let key = first.key.clone();
        first.send(&query("select pg_sleep(0.005)"));
        // Races with the end of the statement; the servers go to the others at once.
        let canceller = std::thread::spawn(move || cancel(port, &key));
        for other in &mut others {
            other.send(&query(&format!(
                "select 'round {round}' from pg_sleep(0.002)"
            )));
        }
        let reply = first.reply();
        assert!(["", "57014"].contains(&reply.sqlstate()), "{reply:?}");
        for other in &mut others {
            assert_eq!(other.reply().value(), format!("round {round}"));
        }
        canceller.join().unwrap();
    }
}

fn waiting_client_can_be_cancelled(shards: usize) {
    let doorman = doorman(shards);
    let mut holders = doorman.hold_servers(shards);
    let mut waiter = doorman.connect();
    waiter.send(&query("select 'served'"));
    cancel(doorman.port(), &waiter.key);
    for holder in &mut holders {
        assert_eq!(holder.query("select 1").status, 'T');
        assert_eq!(holder.query("commit").status, 'I');
    }
    // Served late or cancelled while it waited: both are honest.
    match waiter.try_reply() {
        Ok(reply) if reply.errors.is_empty() => assert_eq!(reply.value(), "served"),
        Ok(reply) => assert_eq!(reply.sqlstate(), "57014"),
        Err(error) => assert!(crate::common::client::is_close(&error), "{error}"),
    }
    doorman.assert_serves();
}

fn cancel_flood_harms_nobody(shards: usize) {
    let doorman = doorman(shards);
    let mut client = doorman.connect();
    for round in 0..100_u32 {
        let key = [round.to_be_bytes(), (!round).to_be_bytes()].concat();
        cancel(doorman.port(), &key);
        cancel(doorman.port(), &client.key);
    }
    assert_eq!(client.value("select 'unharmed'"), "unharmed");
}
