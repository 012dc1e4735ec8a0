//! Arbitrary bytes as each SCRAM message and as a stored secret.
//!
//! **Owns:** no panic, and nobody gets in without the keys.
//! **Does not own:** the slow key derivation.
//!
//! Run: `cargo +nightly fuzz run --fuzz-dir tests/fuzz scram`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_doorman::auth::scram::{Gs2, ScramClient, ScramKeys, ScramServer, ScramVerifier};

const MECHANISM: &[u8] = b"SCRAM-SHA-256";
const CLIENT_FIRST: &[u8] = b"n,,n=,r=client";

fuzz_target!(|input: &[u8]| {
    let keys = ScramKeys {
        client_key: [1; 32],
        server_key: [2; 32],
    };
    let Ok(verifier) = ScramVerifier::from_keys(&keys, b"salt", 4096) else {
        unreachable!("salt and iteration count are usable");
    };

    let server = ScramServer::new(verifier.clone());
    let _ = server.handle_first(MECHANISM, input, "server");
    let server = ScramServer::new(verifier);
    if let Ok((server, _)) = server.handle_first(MECHANISM, CLIENT_FIRST, "server") {
        assert!(
            server.handle_final(input).is_err(),
            "accepted without the keys"
        );
    }

    if let Ok((client, _)) = ScramClient::new("", "client", &Gs2::None)
        && let Ok(need) = client.handle_server_first(input)
    {
        let (client, _) = need.provide(keys);
        assert!(
            client.handle_server_final(input).is_err(),
            "trusted without the keys"
        );
    }

    if let Ok(text) = str::from_utf8(input)
        && let Ok(verifier) = ScramVerifier::parse(text)
    {
        assert_eq!(
            ScramVerifier::parse(&verifier.to_secret_text()),
            Ok(verifier)
        );
    }
});
