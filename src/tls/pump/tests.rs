//! Two sides of a connection without a wire between them.
//!
//! Owns: what arrives, however it is cut; bytes that no peer should send.
//! Does not own: sockets (`tests/it/tls.rs`).

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use rustls::pki_types::PrivateKeyDer;
use rustls::version;

use super::super::suites;
use super::super::verify::ServerCheck;
use super::*;

fn configs(
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["db.example".to_owned()]).unwrap();
    let provider = Arc::new(suites::provider());
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let check = ServerCheck::none(&provider);
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(check))
        .with_no_client_auth();
    (Arc::new(client), Arc::new(server))
}

/// One side, and what has reached it but was not used.
struct End {
    pump: Pump,
    held: Vec<u8>,
    plain: Vec<u8>,
}

impl End {
    fn new(pump: Pump) -> Self {
        Self {
            pump,
            held: Vec::new(),
            plain: Vec::new(),
        }
    }

    fn send(&mut self, text: &[u8], wire: &mut Vec<u8>) -> Result<(), Error> {
        let send = |part: Vec<u8>| wire.extend_from_slice(&part);
        self.pump.encrypt(text, &mut self.held, send)
    }

    /// Takes bytes of the wire; returns what it has to say to them.
    fn take(&mut self, bytes: &[u8]) -> Result<Vec<u8>, (Error, Vec<u8>)> {
        self.held.extend_from_slice(bytes);
        let mut out = Vec::new();
        match self.pump.receive(&mut self.held, &mut out) {
            Ok(progress) => {
                self.plain.extend_from_slice(&self.held[..progress.plain]);
                self.held.drain(..progress.used);
                Ok(out)
            }
            Err(error) => Err((error, out)),
        }
    }
}

fn pair(configs: &(Arc<ClientConfig>, Arc<ServerConfig>)) -> (End, End) {
    let name = ServerName::try_from("db.example").unwrap();
    let mut client = End::new(Pump::connect(Arc::clone(&configs.0), name).unwrap());
    let mut server = End::new(Pump::accept(Arc::clone(&configs.1)).unwrap());
    let mut to_server = client.take(&[]).unwrap();
    while !to_server.is_empty() {
        let to_client = server.take(&to_server).unwrap();
        to_server = client.take(&to_client).unwrap();
    }
    assert!(!client.pump.is_handshaking() && !server.pump.is_handshaking());
    (client, server)
}

#[test]
fn what_is_sent_arrives_however_the_wire_cuts_it() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for versions in [&[&version::TLS12][..], &[&version::TLS13]] {
        let configs = configs(versions);
        let (mut from, mut to) = pair(&configs);
        let mut sent = Vec::new();
        for _ in 0..30 {
            let mut text = vec![0; rng.random_range(1..200_000)];
            rng.fill_bytes(&mut text);
            let mut wire = Vec::new();
            from.send(&text, &mut wire).unwrap();
            let overhead = text.len().div_ceil(RECORD_BYTES) * OVERHEAD_BYTES;
            assert!(wire.len() <= text.len() + overhead, "records are full");
            sent.extend_from_slice(&text);
            let mut rest = &wire[..];
            while !rest.is_empty() {
                let count = rng.random_range(1..=rest.len().min(40_000));
                let answer = to.take(&rest[..count]).unwrap();
                from.take(&answer).unwrap();
                rest = &rest[count..];
            }
        }
        assert!(to.held.is_empty() && to.plain == sent);
        let word = from.pump.close_notify(&mut from.held).unwrap();
        to.take(&word).unwrap();
        assert!(to.pump.has_ended());
        assert!(to.send(b"last words", &mut Vec::new()).is_ok());
    }
}

#[test]
fn changed_records_and_plain_text_are_refused_and_the_peer_is_told() {
    let configs = configs(rustls::ALL_VERSIONS);
    let (mut client, mut server) = pair(&configs);
    let mut wire = Vec::new();
    client.send(b"select 1", &mut wire).unwrap();
    let last = wire.len() - 1;
    wire[last] ^= 1;
    let (error, alert) = server.take(&wire).unwrap_err();
    assert!(!error.to_string().is_empty() && !alert.is_empty());
    assert!(client.take(&alert).is_err());

    let mut server = End::new(Pump::accept(Arc::clone(&configs.1)).unwrap());
    let (_, alert) = server
        .take(b"\0\0\0\x08\x04\xd2\x16\x2fuser\0me\0")
        .unwrap_err();
    assert_eq!(alert.first(), Some(&21), "an alert");
    assert!(server.send(b"x", &mut Vec::new()).is_err());
    assert!(server.pump.close_notify(&mut server.held).is_none());
}

#[test]
fn a_handshake_message_in_pieces_keeps_nobody_from_sending() {
    let configs = configs(&[&version::TLS12]);
    let (mut client, mut server) = pair(&configs);
    // The first part of a message of 100 bytes, in a record of its own, encrypted as a client would.
    let mut wire = Vec::new();
    client.send(b"x", &mut wire).unwrap();
    server.take(&wire).unwrap();
    for part in [&wire[..3], b"\x16"] {
        let _ = server.take(part);
        let mut out = Vec::new();
        let _ = server.send(b"answer", &mut out);
    }

    let mut server = End::new(Pump::accept(Arc::clone(&configs.1)).unwrap());
    // A hello of which only the beginning has come, in two records.
    assert!(
        server
            .take(b"\x16\x03\x01\0\x04\x01\0\x01\0")
            .unwrap()
            .is_empty()
    );
    assert!(
        server
            .take(b"\x16\x03\x01\0\x02\x03\x03")
            .unwrap()
            .is_empty()
    );
    assert!(server.send(b"too early", &mut Vec::new()).is_err());
    assert!(server.pump.close_notify(&mut server.held).is_none());
    assert!(server.take(b"GET / HTTP/1.1").is_err());
}

#[test]
fn random_bytes_give_an_error_or_nothing() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let configs = configs(rustls::ALL_VERSIONS);
    for _ in 0..500 {
        let mut server = End::new(Pump::accept(Arc::clone(&configs.1)).unwrap());
        let name = ServerName::try_from("db.example").unwrap();
        let mut client = End::new(Pump::connect(Arc::clone(&configs.0), name).unwrap());
        let mut hello = client.take(&[]).unwrap();
        let place = rng.random_range(0..hello.len());
        hello[place] ^= 1 << rng.random_range(0..8);
        // Records with a part of the message each, or nonsense between them.
        let _ = hello
            .chunks(rng.random_range(1..300))
            .try_for_each(|part| server.take(part).map(drop));
        if let Ok(out) = server.take(&[]) {
            let _ = client.take(&out);
        }
        let mut server = End::new(Pump::accept(Arc::clone(&configs.1)).unwrap());
        let mut bytes = vec![0; rng.random_range(3..2000)];
        rng.fill_bytes(&mut bytes);
        bytes[..3].copy_from_slice(&[22, 3, 1]);
        let _ = server.take(&bytes);
        assert!(server.plain.is_empty() && server.pump.is_handshaking());
    }
}
