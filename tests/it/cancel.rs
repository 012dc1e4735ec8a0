//! Cancel requests: they reach the statement of their client and no other.
//!
//! Source: protocol-flow.html (cancelling requests in progress).

use crate::common::client::Client;
use crate::common::message::{self, packet, query};
use crate::common::{
    Config, Doorman, Postgres, Target, eventually, everywhere, with_one_and_two_shards,
};

everywhere!(
    cancel_with_a_wrong_key_does_nothing,
    cancel_of_an_idle_client_does_nothing,
    running_statement_is_cancelled,
    statement_in_a_transaction_is_cancelled,
    pipeline_is_cancelled_up_to_its_sync,
    copy_to_the_client_is_cancelled,
    copy_from_the_client_is_cancelled,
    cancel_after_a_refused_encryption_request_works,
);

with_one_and_two_shards!(
    statement_of_a_session_is_cancelled,
    long_key_of_protocol_3_2_cancels,
    full_pooler_can_still_cancel,
    statement_of_a_client_who_has_gone_is_cancelled,
    statement_before_a_good_bye_runs_to_its_end,
    late_cancel_never_hits_another_client,
    waiting_query_is_cancelled,
    waiting_batch_is_cancelled_up_to_its_sync,
    long_query_that_waits_is_cancelled,
    cancel_that_races_with_the_end_of_a_wait_hits_its_query_or_nothing,
    cancel_flood_harms_nobody,
);

/// Sends a `CancelRequest` with `key`.
pub(crate) fn send_cancel(port: u16, key: &[u8]) -> Client {
    let mut client = Client::dial(port);
    client.send(&packet(&[&80_877_102_u32.to_be_bytes()[..], key].concat()));
    client
}

/// Sends a `CancelRequest` with `key` and waits until the other side has closed, in an orderly way.
pub(crate) fn cancel(port: u16, key: &[u8]) {
    match send_cancel(port, key).try_receive() {
        Ok(message) => panic!("{message:?}"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}"),
    }
}

/// Waits until a statement that contains `mark` runs.
pub(crate) fn wait_until_running(mark: &str) {
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

fn cancel_after_a_refused_encryption_request_works(target: &Target) {
    let mark = crate::common::unique("cancel_mark");
    let mut client = target.connect();
    client.send(&query(&format!("select pg_sleep(60) as {mark}")));
    wait_until_running(&mark);
    let mut canceller = Client::dial(target.port());
    let mut requests = vec![message::ssl_request()];
    // PostgreSQL may be built with GSSAPI, the pooler is not.
    requests.extend(target.is_pooled().then(message::gssenc_request));
    for request in requests {
        canceller.send(&request);
        assert_eq!(canceller.receive_byte(), b'N');
    }
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

/// Sends cancel requests until the client is told something. The first may come before its query.
fn cancel_until_answered(doorman: &Doorman, client: &Client) {
    let stream = client.writer();
    eventually("the request is answered", || {
        cancel(doorman.port(), &client.key);
        stream.set_nonblocking(true).unwrap();
        let is_answered = stream.peek(&mut [0]).is_ok();
        stream.set_nonblocking(false).unwrap();
        is_answered
    });
}

fn all_in_use(shards: usize) -> (Doorman, Vec<Client>) {
    let doorman = doorman(shards);
    let holders = doorman.hold_servers(shards);
    (doorman, holders)
}

fn waiting_query_is_cancelled(shards: usize) {
    let (doorman, mut holders) = all_in_use(shards);
    let mut waiter = doorman.connect();
    for _ in 0..3 {
        waiter.send(&query("select 'waits'"));
        cancel_until_answered(&doorman, &waiter);
        let reply = waiter.reply();
        assert_eq!((&*reply.tags, reply.status), ("EZ", 'I'));
        assert_eq!(reply.sqlstate(), "57014");
        let message = "canceling statement due to user request";
        assert_eq!(reply.errors[0].message, message);
    }
    for holder in &mut holders {
        assert_eq!(holder.query("select 1").status, 'T');
        assert_eq!(holder.query("commit").status, 'I');
    }
    assert_eq!(waiter.value("select 'served'"), "served");
    // No server is lost.
    drop(doorman.hold_servers(shards));
}

fn waiting_batch_is_cancelled_up_to_its_sync(shards: usize) {
    let (doorman, mut holders) = all_in_use(shards);
    let mut waiter = doorman.connect();
    let batch = message::unnamed("select 'skipped'", &[]);
    let skipped = [&batch[..], &query("select 'skipped'"), &message::sync()].concat();
    let served = query("select 'served'");
    waiter.send_all(&[skipped.clone(), served.clone()]);
    cancel_until_answered(&doorman, &waiter);
    let reply = waiter.reply();
    assert_eq!((&*reply.tags, reply.status), ("EZ", 'I'));
    assert_eq!(reply.sqlstate(), "57014");
    for holder in &mut holders {
        holder.execute("commit");
    }
    // Behind the Sync, and not cancelled unless a later request has met it.
    let reply = waiter.reply();
    if reply.errors.is_empty() {
        assert_eq!(reply.value(), "served");
    }
    // What is skipped comes late, and in pieces.
    let mut holders = doorman.hold_servers(shards);
    waiter.send(&batch);
    cancel_until_answered(&doorman, &waiter);
    for part in skipped.chunks(3) {
        waiter.send(part);
    }
    let reply = waiter.reply();
    assert_eq!((&*reply.tags, reply.sqlstate()), ("EZ", "57014"));
    for holder in &mut holders {
        holder.execute("commit");
    }
    assert_eq!(waiter.value("select 'served'"), "served");
    drop(doorman.hold_servers(shards));
}

fn long_query_that_waits_is_cancelled(shards: usize) {
    let (doorman, mut holders) = all_in_use(shards);
    let mut waiter = doorman.connect();
    let long = query(&format!("select '{}'", "x".repeat(300_000)));
    let (start, rest) = long.split_at(100_000);
    waiter.send(start);
    cancel_until_answered(&doorman, &waiter);
    waiter.send(rest);
    assert_eq!(waiter.reply().sqlstate(), "57014");
    for holder in &mut holders {
        holder.execute("commit");
    }
    assert_eq!(waiter.value("select 'served'"), "served");
}

fn cancel_that_races_with_the_end_of_a_wait_hits_its_query_or_nothing(shards: usize) {
    let (doorman, mut holders) = all_in_use(shards);
    let mut waiter = doorman.connect();
    for round in 0..40 {
        waiter.send(&query(&format!("select 'round {round}'")));
        let (port, key) = (doorman.port(), waiter.key.clone());
        let canceller = std::thread::spawn(move || cancel(port, &key));
        for holder in &mut holders {
            holder.execute("commit");
        }
        let reply = waiter.reply();
        canceller.join().unwrap();
        match reply.sqlstate() {
            "" => assert_eq!(reply.value(), format!("round {round}")),
            sqlstate => assert_eq!(sqlstate, "57014"),
        }
        let after = format!("after {round}");
        assert_eq!(waiter.value(&format!("select '{after}'")), after);
        for holder in &mut holders {
            holder.execute("begin");
            holder.execute("select 1");
        }
    }
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

fn pipeline_is_cancelled_up_to_its_sync(target: &Target) {
    let mark = crate::common::unique("cancel_mark");
    let mut client = target.connect();
    client.send_all(&[
        message::unnamed("select 'before'", &[]),
        message::unnamed(&format!("select pg_sleep(60) as {mark}"), &[]),
        message::unnamed("select 'skipped'", &[]),
        message::sync(),
        query("select 'behind'"),
    ]);
    wait_until_running(&mark);
    cancel(target.port(), &client.key);
    let reply = client.reply();
    assert_eq!((reply.sqlstate(), reply.status), ("57014", 'I'));
    assert_eq!(client.reply().value(), "behind");
}

fn copy_to_the_client_is_cancelled(target: &Target) {
    let mark = crate::common::unique("cancel_mark");
    let mut client = target.connect();
    client.send(&query(&format!(
        "copy (select n as {mark}, pg_sleep(0.01) from generate_series(1, 6000) n) to stdout"
    )));
    wait_until_running(&mark);
    cancel(target.port(), &client.key);
    let reply = client.reply();
    assert_eq!((reply.sqlstate(), reply.status), ("57014", 'I'));
}

fn copy_from_the_client_is_cancelled(target: &Target) {
    let mut client = target.connect();
    client.execute("begin; create temp table copied (n int)");
    client.send(&query("copy copied from stdin"));
    client.expect('G');
    client.send(&message::copy_data(b"1\n"));
    cancel(target.port(), &client.key);
    // PostgreSQL notices when it looks at the next row.
    client.send_all(&[message::copy_data(b"2\n3\n"), message::copy_done()]);
    let reply = client.reply();
    assert_eq!((reply.sqlstate(), reply.status), ("57014", 'E'));
    client.execute("rollback");
}

/// Cancels a long statement of `client`, some time after it has begun.
fn cancel_a_statement(doorman: &Doorman, client: &mut Client) {
    let mark = crate::common::unique("cancel_mark");
    client.send(&query(&format!("select pg_sleep(60) as {mark}")));
    wait_until_running(&mark);
    cancel(doorman.port(), &client.key);
    assert_eq!(client.reply().sqlstate(), "57014");
}

fn statement_of_a_session_is_cancelled(shards: usize) {
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(2 * shards)
        .session_mode()
        .start();
    let mut client = doorman.connect();
    let pid = client.backend_pid();
    for _ in 0..3 {
        cancel_a_statement(&doorman, &mut client);
        // Between two statements there is nothing to cancel.
        cancel(doorman.port(), &client.key);
        assert_eq!(client.backend_pid(), pid);
    }
}

fn long_key_of_protocol_3_2_cancels(shards: usize) {
    let doorman = doorman(shards);
    let mut client = doorman.login().protocol(0x0003_0002).connect();
    assert_eq!(client.key.len(), 4 + 32);
    cancel_a_statement(&doorman, &mut client);
    let mark = crate::common::unique("cancel_mark");
    client.send(&query(&format!(
        "select 'slept' as {mark} from pg_sleep(0.5)"
    )));
    wait_until_running(&mark);
    // The right place, and the right secret in part.
    cancel(doorman.port(), &client.key[..8]);
    let mut wrong = client.key.clone();
    wrong[35] ^= 1;
    cancel(doorman.port(), &wrong);
    assert_eq!(client.reply().value(), "slept");
}

fn full_pooler_can_still_cancel(shards: usize) {
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .general("max_connections", 2)
        .start();
    // The first connection of the test's own may still be closing.
    eventually("a client gets in", || doorman.login().attempt().is_ok());
    let mut clients = Vec::new();
    eventually("two clients fill it", || {
        clients.extend(doorman.login().attempt().ok());
        clients.len() == 2
    });
    assert_eq!(doorman.login().refusal().sqlstate(), "53300");
    for client in &mut clients {
        cancel_a_statement(&doorman, client);
    }
    assert_eq!(doorman.login().refusal().sqlstate(), "53300");
}

/// How many statements that contain `mark` run.
fn running(mark: &str) -> usize {
    let sql = format!(
        "select count(*) from pg_stat_activity where state = 'active' \
         and query like '%{mark}%' and pid <> pg_backend_pid()"
    );
    Postgres::shared().superuser().value(&sql).parse().unwrap()
}

fn statement_of_a_client_who_has_gone_is_cancelled(shards: usize) {
    let doorman = doorman(shards);
    for is_reset in [false, true] {
        let mark = crate::common::unique("cancel_mark");
        let mut client = doorman.connect();
        client.send(&query(&format!("select pg_sleep(60) as {mark}")));
        wait_until_running(&mark);
        if is_reset {
            client.abort();
        } else {
            drop(client);
        }
        eventually("nothing runs for nobody", || running(&mark) == 0);
        doorman.assert_serves();
    }
}

fn statement_before_a_good_bye_runs_to_its_end(shards: usize) {
    let doorman = doorman(shards);
    let table = crate::common::unique("good_bye");
    let mut owner = doorman.connect();
    owner.execute(&format!("create table {table} (n int)"));
    let mut client = doorman.connect();
    let insert = format!("insert into {table} select 1 from pg_sleep(0.3)");
    client.send_all(&[query(&insert), message::terminate()]);
    drop(client);
    let count = format!("select count(*) from {table}");
    eventually("the row is there", || owner.value(&count) == "1");
    owner.execute(&format!("drop table {table}"));
}

/// Whatever shard the request arrives at: the kernel spreads connections.
fn every_shard_finds_every_client(shards: usize) {
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(8 * shards)
        .general("query_wait_timeout", "20s")
        .start();
    let mut clients: Vec<_> = (0..4 * shards).map(|_| doorman.connect()).collect();
    let homes: std::collections::BTreeSet<_> = clients.iter().map(Client::origin).collect();
    assert!(homes.len() > 1, "all clients on one shard");
    for _ in 0..3 {
        for client in &mut clients {
            cancel_a_statement(&doorman, client);
        }
    }
}

#[test]
fn every_one_of_two_shards_finds_every_client() {
    every_shard_finds_every_client(2);
}

#[test]
fn every_one_of_four_shards_finds_every_client() {
    every_shard_finds_every_client(4);
}
