//! A server is not lent while a cancel request for it may still arrive.
//!
//! A scripted server keeps the connection of the request open, as PostgreSQL does until it has acted
//! on it, for as long as the test likes.
//!
//! Source: protocol-flow.html (cancelling requests in progress).

use std::io;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::cancel::{cancel, send_cancel};
use crate::common::message::query;
use crate::common::scripted::{Peer, ScriptedServer, answer, error, login_reply, ready};
use crate::common::{Client, Config, Doorman, eventually};

/// Long enough to see what must not happen, short enough to be waited for.
const A_WHILE: Duration = Duration::from_millis(300);

/// A server whose statement `slow` ends with the next cancel request, and whose cancel connections
/// are closed when the test says so.
struct Slow {
    server: ScriptedServer,
    doorman: Doorman,
    /// Closes the next cancel connection.
    close: Sender<()>,
    /// A cancel request has arrived: its key.
    arrived: Receiver<Vec<u8>>,
    /// What was sent over session connections, with their numbers.
    queries: Receiver<(usize, String)>,
}

impl Slow {
    /// With one server connection.
    fn start() -> Self {
        let (close, closes) = channel();
        let (arrives, arrived) = channel();
        let (note, queries) = channel();
        let (end_slow, ends) = channel();
        let (closes, ends) = (Mutex::new(closes), Mutex::new(ends));
        let channels = Mutex::new((arrives, note, end_slow));
        let server = ScriptedServer::start(move |peer| {
            let (arrives, note, end_slow) = channels.lock().unwrap().clone();
            let startup = peer.receive_startup()?;
            if let Some(key) = startup.strip_prefix(&80_877_102_u32.to_be_bytes()[..]) {
                arrives.send(key.to_vec()).map_err(io::Error::other)?;
                end_slow.send(()).map_err(io::Error::other)?;
                return closes.lock().unwrap().recv().map_err(io::Error::other);
            }
            peer.send(&login_reply())?;
            serve(peer, &note, &ends)
        });
        let doorman = Config::to_port(server.port())
            .pool_size(1)
            .general("connect_timeout", "2s")
            .general("query_wait_timeout", "9s")
            .start();
        Self {
            server,
            doorman,
            close,
            arrived,
            queries,
        }
    }

    /// Runs `sql`, which begins with `slow`, and cancels it; returns client and canceller.
    fn cancelled(&self, sql: &str) -> (Client, Client) {
        let mut client = self.doorman.connect();
        client.send(&query(sql));
        self.wait_until_slow_runs();
        let canceller = send_cancel(self.doorman.port(), &client.key);
        let key = self.arrived.recv().unwrap();
        assert_eq!(key, [0, 0, 0, 7, 0, 0, 0, 9], "the server's own key");
        assert_eq!(client.reply().sqlstate(), "57014");
        (client, canceller)
    }

    fn wait_until_slow_runs(&self) {
        eventually("the statement runs", || {
            self.queries
                .try_iter()
                .any(|(_, sql)| sql.starts_with("slow"))
        });
    }
}

fn serve(
    peer: &mut Peer,
    note: &Sender<(usize, String)>,
    ends: &Mutex<Receiver<()>>,
) -> io::Result<()> {
    loop {
        let message = peer.receive()?;
        if message.tag != b'Q' {
            continue;
        }
        let sql = message.strings().concat();
        note.send((peer.number, sql.clone()))
            .map_err(io::Error::other)?;
        if sql.starts_with("slow") {
            ends.lock().unwrap().recv().map_err(io::Error::other)?;
            peer.send(&error("ERROR", "57014", "cancelled"))?;
            peer.send(&ready(b'I'))?;
        } else {
            peer.send(&answer(&message))?;
        }
    }
}

fn is_silent(client: &mut Client) -> bool {
    client.set_deadline(A_WHILE);
    let received = client.try_receive();
    client.set_deadline(crate::common::DEADLINE);
    received.is_err_and(|error| !crate::common::client::is_close(&error))
}

#[test]
fn server_is_lent_again_only_when_the_cancel_connection_has_closed() {
    let slow = Slow::start();
    let (_client, mut canceller) = slow.cancelled("slow");
    let mut next = slow.doorman.connect();
    next.send(&query("select 'next'"));
    assert!(is_silent(&mut next), "lent too early");
    assert!(is_silent(&mut canceller), "closed before the effect");
    assert_eq!(slow.queries.try_iter().count(), 0, "nobody may be hit");
    slow.close.send(()).unwrap();
    assert_eq!(next.reply().value(), "select 'next'");
    assert!(canceller.is_closed());
    assert_eq!(slow.server.connections(), 2, "the server, and the request");
}

#[test]
fn server_is_cleaned_only_when_the_cancel_connection_has_closed() {
    let slow = Slow::start();
    let (_client, mut canceller) = slow.cancelled("slow; create temp table t (n int)");
    assert!(is_silent(&mut canceller));
    assert_eq!(slow.queries.try_iter().count(), 0, "cleaned too early");
    slow.close.send(()).unwrap();
    assert!(canceller.is_closed());
    let (_, sql) = slow.queries.recv().unwrap();
    assert!(sql.to_lowercase().contains("temp"), "cleaned with {sql}");
}

#[test]
fn server_of_an_unanswered_cancel_is_replaced() {
    let slow = Slow::start();
    let (mut client, mut canceller) = slow.cancelled("slow");
    client.send(&query("select 'again'"));
    assert_eq!(client.reply().value(), "select 'again'");
    let (number, _) = slow.queries.recv().unwrap();
    assert_eq!(number, 2, "served by a third connection");
    assert!(canceller.is_closed());
}

#[test]
fn client_without_a_running_statement_costs_no_cancel_connection() {
    let slow = Slow::start();
    let mut client = slow.doorman.connect();
    cancel(slow.doorman.port(), &client.key);
    assert_eq!(client.value("select 1"), "select 1");
    cancel(slow.doorman.port(), &client.key);
    assert_eq!(client.value("select 2"), "select 2");
    assert_eq!(slow.server.connections(), 1);
}

#[test]
fn every_use_of_a_server_has_a_quarantine_of_its_own() {
    let slow = Slow::start();
    let (client, mut first) = slow.cancelled("slow");
    drop(client);
    let mut next = slow.doorman.connect();
    next.send(&query("slow"));
    assert!(is_silent(&mut next));
    slow.close.send(()).unwrap();
    assert!(first.is_closed());
    slow.wait_until_slow_runs();
    let mut second = send_cancel(slow.doorman.port(), &next.key);
    slow.arrived.recv().unwrap();
    assert_eq!(next.reply().sqlstate(), "57014");
    next.send(&query("select 'later'"));
    assert!(is_silent(&mut next));
    slow.close.send(()).unwrap();
    assert!(second.is_closed());
    assert_eq!(next.reply().value(), "select 'later'");
}
