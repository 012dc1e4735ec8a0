//! Odd ends of sessions and of what they sent: the server must neither be kept nor be given half a
//! message, and nobody else may notice.
//!
//! Source: protocol-flow.html (termination, COPY operations).

use std::io;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use crate::common::message::{copy_data, flush, message, query, sync, terminate, unnamed};
use crate::common::scripted::{Peer, ScriptedServer, answer, error};
use crate::common::{Config, DEADLINE, Doorman, Postgres};

/// One shard, one server.
fn doorman() -> Doorman {
    Config::new(Postgres::shared()).pool_size(1).start()
}

fn scripted(
    script: impl Fn(&mut Peer) -> io::Result<()> + Send + Sync + 'static,
) -> (Doorman, ScriptedServer) {
    let server = ScriptedServer::start(script);
    let config = Config::to_port(server.port()).pool_size(1);
    (config.start(), server)
}

/// A client that says good-bye right behind its last query, and is gone before the answer.
fn good_bye_behind(doorman: &Doorman, sql: &str) {
    let mut client = doorman.connect();
    client.send_all(&[query(sql), terminate()]);
}

#[test]
fn good_bye_behind_an_open_transaction_frees_the_server() {
    let doorman = doorman();
    doorman.assert_serves();
    for _ in 0..3 {
        good_bye_behind(&doorman, "begin; select pg_sleep(0.2)");
        doorman.assert_serves();
    }
}

#[test]
fn good_bye_behind_a_query_frees_the_server_of_a_session() {
    let doorman = Config::new(Postgres::shared())
        .pool_size(1)
        .session_mode()
        .start();
    doorman.assert_serves();
    for _ in 0..3 {
        good_bye_behind(&doorman, "select pg_sleep(0.2)");
        doorman.assert_serves();
    }
}

#[test]
fn good_bye_behind_a_query_waits_for_its_answer() {
    let doorman = doorman();
    let mut client = doorman.connect();
    client.send_all(&[query("begin"), query("select 'answered'"), terminate()]);
    assert_eq!(client.reply().status, 'T');
    assert_eq!(client.reply().value(), "answered");
    assert!(client.is_closed());
}

#[test]
fn good_bye_behind_an_unfinished_batch_or_copy_frees_the_server() {
    let doorman = doorman();
    doorman.assert_serves();
    let beginnings = [
        unnamed("select 1", &[]),
        [unnamed("select 1", &[]), flush()].concat(),
        [query("begin"), unnamed("select 1/0", &[])].concat(),
        query("create temp table t (n int); copy t from stdin"),
        [
            query("begin; create temp table t (n int)"),
            unnamed("copy t from stdin", &[]),
            sync(),
        ]
        .concat(),
    ];
    for beginning in beginnings {
        let mut client = doorman.connect();
        client.send_all(&[beginning, terminate()]);
        while client.try_receive().is_ok() {}
        doorman.assert_serves();
    }
}

#[test]
fn copy_data_that_nobody_waits_for_keeps_no_server() {
    let doorman = doorman();
    let pid = doorman.connect().backend_pid();
    let mut client = doorman.connect();
    for size in [10, 60_000, 100_000, 1_000_000] {
        let bytes = copy_data(&vec![b'x'; size]);
        let (first, second) = bytes.split_at(bytes.len() / 2);
        client.send(first);
        if size < 60_000 {
            doorman.assert_serves();
        }
        client.send(second);
        assert_eq!(doorman.connect().backend_pid(), pid);
    }
    assert_eq!(client.backend_pid(), pid);
}

/// The server must not take the pooler's good-bye for the rest of the client's message.
#[test]
fn message_cut_by_the_end_of_its_client_is_not_completed() {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let (doorman, _server) = scripted(move |peer| {
        peer.accept_login()?;
        let received = peer.receive();
        let _ = tell.lock().unwrap().send(received.is_ok());
        Ok(())
    });
    let mut client = doorman.connect();
    let bytes = query(&"x".repeat(100_000));
    client.send(&bytes[..bytes.len() - 5]);
    client.finish_sending();
    let was_completed = told.recv_timeout(DEADLINE).unwrap();
    assert!(!was_completed);
}

#[test]
fn unknown_message_costs_no_server() {
    let doorman = doorman();
    let pid = doorman.connect().backend_pid();
    for begins in [false, true] {
        for tag in [b'z', b'p', 0] {
            let mut client = doorman.connect();
            if begins {
                client.execute("begin");
            }
            client.send(&message(tag, b"body"));
            assert_eq!(client.expect('E').error_fields().sqlstate, "08P01");
            assert!(client.is_closed());
            assert_eq!(doorman.connect().backend_pid(), pid);
        }
    }
}

#[test]
fn server_that_says_farewell_behind_its_answer_is_not_lent_again() {
    let (go, wait) = channel::<()>();
    let (tell, told) = channel();
    let once = Mutex::new(Some((wait, tell)));
    let (doorman, _server) = scripted(move |peer| {
        peer.accept_login()?;
        let Some((wait, tell)) = once.lock().unwrap().take() else {
            return peer.echo();
        };
        let message = peer.receive_until(b'Q')?;
        tell.send(()).map_err(io::Error::other)?;
        wait.recv().map_err(io::Error::other)?;
        let farewell = error("FATAL", "57P01", "terminating connection");
        peer.send(&[answer(&message), farewell].concat())
    });
    let mut first = doorman.connect();
    first.send(&query("select 1"));
    told.recv_timeout(DEADLINE).unwrap();
    let mut waiter = doorman.connect();
    waiter.send(&query("select 2"));
    // Its login shows that the shard has read what was sent before.
    drop(doorman.connect());
    go.send(()).unwrap();
    assert_eq!(first.reply().value(), "select 1");
    let reply = waiter.reply();
    assert!(reply.errors.is_empty(), "{reply:?}");
    assert_eq!(reply.value(), "select 2");
    // Nothing of the first client was lost either.
    first.send(&query("select 3"));
    assert_eq!(first.reply().value(), "select 3");
}
