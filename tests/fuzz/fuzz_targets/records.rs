//! Arbitrary bytes as records of TLS, in two pieces, towards both sides.
//!
//! **Owns:** no panic; the progress told fits the bytes; nothing is plaintext before a handshake; an error is
//! final.
//! **Does not own:** what rustls makes of whole handshakes.
//!
//! Run: `cargo +nightly fuzz run --fuzz-dir tests/fuzz records`.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use pg_doorman::tls::Pump;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

static SERVER: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key);
    Arc::new(config.unwrap())
});
static CLIENT: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
    Arc::new(config.with_no_client_auth())
});

/// Gives a pump bytes as `transport` does: what was not used comes again, with more behind it.
fn feed(mut pump: Pump, pieces: [&[u8]; 2]) {
    let mut out = Vec::new();
    let mut held = Vec::new();
    for piece in pieces {
        held.extend_from_slice(piece);
        match pump.receive(&mut held, &mut out) {
            Ok(progress) => {
                assert!(progress.plain <= progress.used && progress.used <= held.len());
                assert!(progress.plain == 0 || !pump.is_handshaking());
                held.drain(..progress.used);
            }
            Err(_) => {
                assert!(pump.receive(&mut held, &mut out).is_err());
                return;
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&at, bytes)) = data.split_first() else {
        return;
    };
    let (one, two) = bytes.split_at(usize::from(at).min(bytes.len()));
    feed(Pump::accept(Arc::clone(&SERVER)).unwrap(), [one, two]);
    let name = ServerName::try_from("localhost").unwrap();
    feed(
        Pump::connect(Arc::clone(&CLIENT), name).unwrap(),
        [one, two],
    );
});
