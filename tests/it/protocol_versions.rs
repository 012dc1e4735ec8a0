//! Which version of the protocol is spoken, on both sides, and what goes before.
//!
//! Source: protocol-flow.html (start-up, SSL and GSSAPI session encryption), protocol-message-formats.html
//! (`NegotiateProtocolVersion`, `BackendKeyData`, `CancelRequest`).

use std::io;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use crate::common::login::PROTOCOL_3_0;
use crate::common::message::{self, message, query, text};
use crate::common::scripted::{Peer, ScriptedServer, error, login_reply, one_row};
use crate::common::{Client, Config, Doorman, Postgres, with_one_and_two_shards};

with_one_and_two_shards!(
    the_answer_to_an_unknown_version_is_exact,
    what_follows_a_refused_request_may_be_anything_legal,
    servers_are_asked_for_3_2_and_their_long_keys_are_used,
    a_server_that_speaks_3_0_only_says_so_and_is_used,
    a_server_that_knows_no_newer_version_is_asked_again,
    an_answer_about_versions_that_makes_no_sense_ends_the_login,
);

fn doorman(shards: usize) -> Doorman {
    Config::new(Postgres::shared()).shards(shards).start()
}

fn the_answer_to_an_unknown_version_is_exact(shards: usize) {
    let doorman = doorman(shards);
    let version_3_2 = [0, 3, 0, 2];
    for (minor, options, expected) in [
        (0, &[][..], None),
        (1, &[][..], None),
        (2, &[][..], None),
        (3, &[][..], Some(version_3_2)),
        (9999, &[][..], Some(version_3_2)),
        (0xffff, &["_pq_.b", "_pq_.a"][..], Some(version_3_2)),
        // What is asked for is older, and stays so.
        (0, &["_pq_.x"][..], Some([0, 3, 0, 0])),
        (1, &["_pq_.x"][..], Some([0, 3, 0, 1])),
        (2, &["_pq_.x"][..], Some(version_3_2)),
    ] {
        let mut login = doorman.login().protocol(PROTOCOL_3_0 + minor);
        for option in options {
            login = login.parameter(option, "1");
        }
        let (mut client, messages) = login.attempt_on(Client::dial(doorman.port())).unwrap();
        let answers: Vec<_> = messages.iter().filter(|one| one.tag == b'v').collect();
        let wanted = expected.map(|version| {
            let count = u32::try_from(options.len()).unwrap().to_be_bytes();
            let names: Vec<u8> = options.iter().flat_map(|name| text(name)).collect();
            [&version[..], &count, &names].concat()
        });
        let bodies: Vec<_> = answers.iter().map(|one| one.body.clone()).collect();
        assert_eq!(bodies, Vec::from_iter(wanted), "3.{minor} {options:?}");
        if !answers.is_empty() {
            assert_eq!(messages[0].tag, b'v', "it comes first");
        }
        let secret_bytes = if minor >= 2 { 32 } else { 4 };
        assert_eq!(client.key.len(), 4 + secret_bytes, "3.{minor}");
        assert_eq!(client.value("select 1"), "1");
    }
}

fn what_follows_a_refused_request_may_be_anything_legal(shards: usize) {
    let doorman = doorman(shards);
    let (ssl, gss) = (message::ssl_request(), message::gssenc_request());
    let both: [&[&Vec<u8>]; 4] = [&[&ssl], &[&gss], &[&ssl, &gss], &[&gss, &ssl]];
    for requests in both {
        let refused = || {
            let mut client = Client::dial(doorman.port());
            for request in requests {
                client.send(request);
                assert_eq!(client.receive_byte(), b'N');
            }
            client
        };
        let (mut client, _) = doorman.login().attempt_on(refused()).unwrap();
        assert_eq!(client.value("select 1"), "1");
        let mut canceller = refused();
        canceller.send(&cancel_request(&client.key));
        assert!(canceller.is_closed());
        let mut twice = refused();
        twice.send(requests[0]);
        let fields = twice.expect('E').error_fields();
        assert_eq!(fields.sqlstate, "08P01", "{fields:?}");
        assert!(twice.is_closed());
        let mut other = refused();
        other.send(&message::packet(&0x0002_0000_u32.to_be_bytes()));
        assert_eq!(other.expect('E').error_fields().sqlstate, "0A000");
        assert!(other.is_closed());
        assert_eq!(client.value("select 2"), "2");
    }
}

fn cancel_request(key: &[u8]) -> Vec<u8> {
    message::packet(&[&80_877_102_u32.to_be_bytes()[..], key].concat())
}

/// What a server has been sent before it has let anybody in.
#[derive(Debug)]
struct Heard {
    version: u32,
    body: Vec<u8>,
}

type Script = dyn Fn(&mut Peer, &Heard) -> io::Result<()> + Send + Sync;

/// A pooler with one server connection for `script`, and what the server has heard.
fn scripted(shards: usize, script: Arc<Script>) -> (Doorman, ScriptedServer, Receiver<Heard>) {
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    let server = ScriptedServer::start(move |peer| {
        let body = peer.receive_startup()?;
        let heard = |body: &[u8]| Heard {
            version: u32::from_be_bytes(body[..4].try_into().unwrap()),
            body: body[4..].to_vec(),
        };
        sender.lock().unwrap().send(heard(&body)).unwrap();
        script(peer, &heard(&body))
    });
    let config = Config::to_port(server.port()).shards(shards).pool_size(1);
    let config = config
        .general("connect_timeout", "5s")
        .general("query_wait_timeout", "5s");
    (config.start(), server, receiver)
}

/// The reply to a login with this secret.
fn reply_with_key(secret: &[u8]) -> Vec<u8> {
    let old = message(b'K', &[0, 0, 0, 7, 0, 0, 0, 9]);
    let new = message(b'K', &[&[0, 0, 0, 7], secret].concat());
    let reply = login_reply();
    let at = reply.windows(old.len()).position(|part| part == old);
    let at = at.unwrap();
    [&reply[..at], &new, &reply[at + old.len()..]].concat()
}

fn servers_are_asked_for_3_2_and_their_long_keys_are_used(shards: usize) {
    let secret: Vec<u8> = (100..132).collect();
    let reply = reply_with_key(&secret);
    let (doorman, _server, heard) = scripted(
        shards,
        Arc::new(move |peer, heard| {
            if heard.version != PROTOCOL_3_0 + 2 {
                // A cancel request: done when closed.
                return Ok(());
            }
            peer.send(&reply)?;
            peer.receive_until(b'Q')?;
            peer.receive_until(b'X').map(|_| ())
        }),
    );
    let mut client = doorman.connect();
    client.send(&query("select 'long'"));
    assert_eq!(heard.recv().unwrap().version, PROTOCOL_3_0 + 2);
    let cancel = || {
        let mut canceller = Client::dial(doorman.port());
        canceller.send(&cancel_request(&client.key));
        assert!(canceller.is_closed());
    };
    // Until the query is on its way there is nothing to cancel.
    let request = std::iter::repeat_with(|| {
        cancel();
        heard.try_recv()
    });
    let request = request.flatten().next().unwrap();
    assert_eq!(request.version, 80_877_102);
    assert_eq!(request.body, [&[0, 0, 0, 7], &secret[..]].concat());
}

fn echo(peer: &mut Peer, reply: &[u8]) -> io::Result<()> {
    peer.send(reply)?;
    peer.echo()
}

fn a_server_that_speaks_3_0_only_says_so_and_is_used(shards: usize) {
    let older = message(b'v', &[0, 3, 0, 0, 0, 0, 0, 0]);
    let reply = [older, login_reply()].concat();
    let (doorman, server, heard) = scripted(shards, Arc::new(move |peer, _| echo(peer, &reply)));
    assert_eq!(doorman.connect().value("select 'x'"), "select 'x'");
    assert_eq!(heard.recv().unwrap().version, PROTOCOL_3_0 + 2);
    assert_eq!(server.connections(), 1);
}

fn a_server_that_knows_no_newer_version_is_asked_again(shards: usize) {
    for answer in [
        error("FATAL", "0A000", "unsupported frontend protocol 3.2"),
        error("FATAL", "08P01", "bad packet"),
        Vec::new(),
    ] {
        let (doorman, _server, heard) = scripted(
            shards,
            Arc::new(move |peer, heard| {
                if heard.version > PROTOCOL_3_0 {
                    return peer.send(&answer);
                }
                peer.send(&login_reply())?;
                let query = peer.receive_until(b'Q')?;
                // The connection ends, so that the next query needs another one.
                peer.send(&one_row(&query.strings().concat()))
            }),
        );
        for number in ["1", "2", "3"] {
            let sql = format!("select {number}");
            // One that is just closed may be lent once more.
            crate::common::eventually("an answer", || {
                let reply = doorman.connect().try_query(&sql);
                reply.is_ok_and(|reply| reply.errors.is_empty() && reply.value() == sql)
            });
        }
        let asked: Vec<u32> = heard.try_iter().map(|one| one.version).collect();
        assert_eq!(asked[..2], [PROTOCOL_3_0 + 2, PROTOCOL_3_0]);
        // What has been learned is known to the shard that has learned it.
        let newer = asked.iter().filter(|&&version| version > PROTOCOL_3_0);
        assert!(newer.count() <= shards, "{asked:x?}");
    }
}

fn an_answer_about_versions_that_makes_no_sense_ends_the_login(shards: usize) {
    for body in [
        &[0, 3, 0, 2, 0, 0, 0, 0][..],
        &[0, 3, 0, 9, 0, 0, 0, 0],
        &[
            0, 3, 0, 0, 0, 0, 0, 1, b'_', b'p', b'q', b'_', b'.', b'x', 0,
        ],
        &[0, 3, 0, 0, 0xff, 0xff, 0xff, 0xff],
        &[],
    ] {
        let nonsense = [message(b'v', body), login_reply()].concat();
        let (doorman, _server, _heard) = scripted(
            shards,
            Arc::new(move |peer, _| match peer.number {
                0 => peer.send(&nonsense),
                _ => echo(peer, &login_reply()),
            }),
        );
        // Whoever waits is served by the next connection, or told that this one failed.
        let _ = doorman.login().attempt();
        crate::common::eventually("another server connection", || {
            doorman.login().attempt().is_ok()
        });
        assert_eq!(doorman.connect().value("select 1"), "select 1");
    }
}
