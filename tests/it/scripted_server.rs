//! Servers that cut, lie and vanish, which no real PostgreSQL can be made to do.
//!
//! Source: protocol-flow.html, protocol-message-formats.html.

use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::mpsc::channel;

use crate::common::client::is_close;
use crate::common::message::{message, query, text};
use crate::common::scripted::{
    Peer, ScriptedServer, answer, command, error, login_reply, one_row, ready,
};
use crate::common::{Config, Doorman, Login, with_one_and_two_shards};

with_one_and_two_shards!(
    login_reply_cut_anywhere_is_understood,
    query_reply_cut_anywhere_is_understood,
    server_that_closes_in_a_reply_is_replaced,
    server_that_sends_half_a_message_is_replaced,
    server_that_sends_nonsense_is_replaced,
    bytes_of_an_idle_server_are_never_shown,
    promoted_server_is_no_setting_of_a_client,
);

/// A pooler with one server a shard for `script`.
fn doorman(
    shards: usize,
    script: impl Fn(&mut Peer) -> io::Result<()> + Send + Sync + 'static,
) -> (Doorman, ScriptedServer) {
    let server = ScriptedServer::start(script);
    let config = Config::to_port(server.port())
        .shards(shards)
        .pool_size(shards);
    let config = config
        .general("connect_timeout", "2s")
        .general("query_wait_timeout", "5s");
    (config.start(), server)
}

#[test]
fn scripted_server_answers_directly() {
    let server = ScriptedServer::start(|peer| {
        peer.accept_login()?;
        peer.echo()
    });
    let mut client = Login::new(server.port()).connect();
    assert_eq!(client.value("select 1"), "select 1");
    assert_eq!(client.query("discard all").commands, ["DISCARD"]);
    assert_eq!(server.connections(), 1);
}

/// Sends `bytes` in pieces of `size` bytes.
fn send_in_pieces(peer: &mut Peer, bytes: &[u8], size: usize) -> io::Result<()> {
    for piece in bytes.chunks(size) {
        peer.send_cut(piece, piece.len())?;
    }
    Ok(())
}

fn login_reply_cut_anywhere_is_understood(shards: usize) {
    for size in [1, 2, 3, 5, 7] {
        let (doorman, _server) = doorman(shards, move |peer| {
            peer.receive_startup()?;
            send_in_pieces(peer, &login_reply(), size)?;
            peer.echo()
        });
        assert_eq!(doorman.connect().value("select 'x'"), "select 'x'");
    }
}

fn query_reply_cut_anywhere_is_understood(shards: usize) {
    let whole = one_row("select 'cut at every byte'");
    let length = whole.len();
    let (doorman, _server) = doorman(shards, move |peer| {
        peer.accept_login()?;
        let mut cut = 0;
        loop {
            let message = peer.receive()?;
            if message.tag != b'Q' {
                continue;
            }
            if message.body.starts_with(b"select") {
                peer.send_cut(&answer(&message), cut)?;
                cut = (cut + 1) % length;
            } else {
                peer.send(&answer(&message))?;
            }
        }
    });
    let mut clients = [doorman.connect(), doorman.connect()];
    for _ in 0..length {
        for client in &mut clients {
            let sql = "select 'cut at every byte'";
            let reply = client.query(sql);
            assert_eq!((reply.tags.as_str(), reply.value()), ("TDCZ", sql));
        }
    }
}

/// Every first connection misbehaves by `bad` after the first query; later ones are good.
fn is_replaced(shards: usize, bad: impl Fn(&mut Peer) -> io::Result<()> + Send + Sync + 'static) {
    let (doorman, server) = doorman(shards, move |peer| {
        peer.accept_login()?;
        if peer.number < shards {
            while !peer.receive_until(b'Q')?.body.starts_with(b"select") {
                peer.send(&[command("SET"), ready(b'I')].concat())?;
            }
            return bad(peer);
        }
        peer.echo()
    });
    let mut victims = 0;
    for _ in 0..2 * shards {
        let mut client = doorman.connect();
        match client.try_query("select 'x'") {
            Ok(reply) if reply.errors.is_empty() => assert_eq!(reply.value(), "select 'x'"),
            Ok(reply) => {
                assert!(!reply.sqlstate().is_empty());
                victims += 1;
            }
            Err(error) => {
                assert!(
                    is_close(&error) || error.to_string().contains("of length"),
                    "{error}"
                );
                victims += 1;
            }
        }
    }
    assert!(victims <= shards, "{victims} victims");
    for _ in 0..4 {
        assert_eq!(doorman.connect().value("select 'y'"), "select 'y'");
    }
    assert!(
        server.connections() <= 8 * shards,
        "{}",
        server.connections()
    );
}

fn server_that_closes_in_a_reply_is_replaced(shards: usize) {
    is_replaced(shards, |peer| peer.send(&[command("SELECT 1")].concat()));
}

fn server_that_sends_half_a_message_is_replaced(shards: usize) {
    is_replaced(shards, |peer| {
        let whole = one_row("never whole");
        peer.send(&whole[..whole.len() / 2])
    });
}

fn server_that_sends_nonsense_is_replaced(shards: usize) {
    is_replaced(shards, |peer| {
        peer.send(&[b'D', 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff])?;
        // Waits for the pooler to close.
        peer.receive().map(|_| ())
    });
}

fn bytes_of_an_idle_server_are_never_shown(shards: usize) {
    let (go, wait) = channel::<()>();
    let (tell, told) = channel();
    let once = Mutex::new(Some((wait, tell)));
    let (doorman, _server) = doorman(shards, move |peer| {
        peer.accept_login()?;
        let mut message = peer.receive_until(b'Q')?;
        while !message.body.starts_with(b"select") {
            peer.send(&answer(&message))?;
            message = peer.receive_until(b'Q')?;
        }
        peer.send(&answer(&message))?;
        if let Some((wait, tell)) = once.lock().unwrap().take() {
            let mut writer = peer.writer()?;
            std::thread::spawn(move || {
                // Errors mean that the test has ended early.
                let _ = wait.recv();
                let _ = writer.write_all(&one_row("row of somebody else"));
                let _ = tell.send(());
            });
        }
        peer.echo()
    });
    let mut first = doorman.connect();
    assert_eq!(first.value("select 'first'"), "select 'first'");
    go.send(()).unwrap();
    // From here on the row that nobody asked for lies in the pooler's socket.
    told.recv_timeout(crate::common::DEADLINE).unwrap();
    for n in 0..8 {
        let sql = format!("select 'own {n}'");
        assert_eq!(first.value(&sql), sql);
        assert_eq!(doorman.connect().value(&sql), sql);
    }
}

#[test]
fn server_that_refuses_the_login_is_an_error_and_not_a_hang() {
    let (doorman, _server) = doorman(1, |peer| {
        peer.receive_startup()?;
        peer.send(&error(
            "FATAL",
            "57P03",
            "the database system is starting up",
        ))
    });
    let sqlstate = match doorman.login().attempt() {
        Ok(mut client) => client.query("select 1").sqlstate().to_owned(),
        Err(refusal) => refusal.sqlstate().to_owned(),
    };
    assert!(
        ["3D000", "53300", "57P03"].contains(&sqlstate.as_str()),
        "{sqlstate}"
    );
}

#[test]
fn server_silent_at_login_is_given_up_after_connect_timeout() {
    let (doorman, _server) = doorman(1, |peer| {
        peer.receive_startup()?;
        peer.receive().map(|_| ())
    });
    let sqlstate = match doorman.login().attempt() {
        Ok(mut client) => client.query("select 1").sqlstate().to_owned(),
        Err(refusal) => refusal.sqlstate().to_owned(),
    };
    assert!(
        ["3D000", "53300"].contains(&sqlstate.as_str()),
        "{sqlstate}"
    );
}

#[test]
fn notice_in_the_login_of_a_server_is_no_obstacle() {
    let (doorman, _server) = doorman(1, |peer| {
        peer.receive_startup()?;
        let notice = error("WARNING", "01000", "collation version mismatch");
        peer.send(&[&b"N"[..], &notice[1..]].concat())?;
        peer.send(&login_reply())?;
        peer.echo()
    });
    assert_eq!(doorman.connect().value("select 'x'"), "select 'x'");
}

#[test]
fn server_that_asks_for_an_unknown_method_is_given_up() {
    let (doorman, _server) = doorman(1, |peer| {
        peer.receive_startup()?;
        peer.send(&message(b'R', &[0, 0, 0, 7]))?;
        peer.receive().map(|_| ())
    });
    let sqlstate = match doorman.login().attempt() {
        Ok(mut client) => client.query("select 1").sqlstate().to_owned(),
        Err(refusal) => refusal.sqlstate().to_owned(),
    };
    assert!(
        ["3D000", "53300"].contains(&sqlstate.as_str()),
        "{sqlstate}"
    );
}

#[test]
fn messages_of_unknown_type_are_passed_on() {
    let (doorman, _server) = doorman(1, |peer| {
        peer.accept_login()?;
        loop {
            let message_ = peer.receive_until(b'Q')?;
            if message_.body.starts_with(b"select") {
                let notice = error("NOTICE", "00000", "noted");
                let status = message(b'S', &[text("new_parameter"), text("on")].concat());
                let notice = [&b"N"[..], &notice[1..]].concat();
                peer.send(&[status, notice].concat())?;
            }
            peer.send(&answer(&message_))?;
        }
    });
    let mut client = doorman.connect();
    let reply = client.query("select 'x'");
    assert_eq!(reply.tags, "SNTDCZ");
    assert_eq!(client.parameters["new_parameter"], "on");
}

#[test]
fn fatal_error_of_the_server_reaches_the_client() {
    let (doorman, _server) = doorman(1, |peer| {
        peer.accept_login()?;
        while !peer.receive_until(b'Q')?.body.starts_with(b"select") {
            peer.send(&[command("SET"), ready(b'I')].concat())?;
        }
        peer.send(&error(
            "FATAL",
            "57P01",
            "terminating connection due to administrator command",
        ))
    });
    let mut client = doorman.connect();
    client.send(&query("select 'x'"));
    // An ErrorResponse of the server that has arrived is worth more than a bare close.
    assert_eq!(client.expect('E').error_fields().sqlstate, "57P01");
}

/// `in_hot_standby` and its like change by themselves and cannot be set: nobody may try.
fn promoted_server_is_no_setting_of_a_client(shards: usize) {
    let server = ScriptedServer::start(|peer| {
        peer.receive_startup()?;
        let report = |value: &str| message(b'S', &[text("in_hot_standby"), text(value)].concat());
        let login = login_reply();
        let at = login.len() - ready(b'I').len();
        peer.send(&[&login[..at], &report("on"), &login[at..]].concat())?;
        let mut is_promoted = false;
        loop {
            let question = peer.receive()?;
            let mut reply = answer(&question);
            if question.tag != b'Q'
                || question
                    .body
                    .windows(14)
                    .any(|word| word == b"in_hot_standby")
            {
                return Ok(());
            }
            if !std::mem::replace(&mut is_promoted, true) {
                let at = reply.len() - ready(b'I').len();
                reply.splice(at..at, report("off"));
            }
            peer.send(&reply)?;
        }
    });
    let config = Config::to_port(server.port()).shards(shards).pool_size(1);
    let doorman = config.start();
    let mut clients: Vec<_> = (0..3 * shards).map(|_| doorman.connect()).collect();
    assert_eq!(clients[0].parameters["in_hot_standby"], "on");
    for round in 0..3 {
        for client in &mut clients {
            let question = format!("select {round}");
            assert_eq!(client.value(&question), question);
        }
    }
    assert_eq!(server.connections(), 1);
    let is_told = || doorman.connect().parameters["in_hot_standby"] == "off";
    crate::common::eventually("a new client is told", is_told);
    // What a server said at its own login is not news when it comes from another shard.
    for client in &mut clients {
        assert_eq!(client.value("select 'moved'"), "select 'moved'");
        assert!(is_told());
    }
}

/// Derives keys for seconds; whoever stops the pooler meanwhile does not wait for that.
#[test]
fn work_that_takes_long_does_not_keep_the_process_from_its_end() {
    let (said, is_asked) = channel();
    let said = Mutex::new(said);
    let (mut doorman, _server) = doorman(1, move |peer| {
        peer.receive_startup()?;
        peer.send(&message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"))?;
        let first = String::from_utf8_lossy(&peer.receive()?.body).into_owned();
        let (_, nonce) = first.split_once("r=").unwrap();
        let challenge = format!("\0\0\0\x0br={nonce}x,s=c2FsdA==,i=10000000");
        peer.send(&message(b'R', challenge.as_bytes()))?;
        said.lock().unwrap().send(()).unwrap();
        peer.receive().map(|_| ())
    });
    let login = doorman.login();
    let client = std::thread::spawn(move || login.attempt().is_err());
    is_asked.recv().unwrap();
    // The login ends when the pooler gives the server up, and the work goes on.
    assert!(client.join().unwrap());
    let start = std::time::Instant::now();
    doorman.sigterm();
    assert!(doorman.wait().success());
    let took = start.elapsed();
    assert!(took < std::time::Duration::from_secs(1), "{took:?}");
}
