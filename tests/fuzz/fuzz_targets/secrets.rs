//! Arbitrary bytes as stored passwords, as answers about users, and as what clients send to prove them.
//!
//! **Owns:** no panic; a stored form that is understood is written the same; nobody gets in by chance.
//! **Does not own:** SCRAM messages, which have their own target.
//!
//! Run: `cargo +nightly fuzz run --fuzz-dir tests/fuzz secrets`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_doorman::auth::lookup::judge;
use pg_doorman::auth::{Md5Secret, StoredPassword};
use pg_doorman::protocol::frontend::{PasswordMessage, SaslInitialResponse};

fuzz_target!(|data: &[u8]| {
    let _ = PasswordMessage::decode(data);
    let _ = SaslInitialResponse::decode(data);
    let known = Md5Secret::from_password("password", "user");
    if known.verify([1, 2, 3, 4], data) {
        assert_eq!(data, known.response([1, 2, 3, 4]).as_bytes());
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match StoredPassword::parse(text) {
        StoredPassword::Md5(secret) => {
            let written = secret.to_secret_text();
            assert_eq!(Md5Secret::parse(&written), Some(secret));
        }
        StoredPassword::Scram(verifier) => {
            let written = verifier.to_secret_text();
            assert_eq!(
                StoredPassword::parse(&written),
                StoredPassword::Scram(verifier)
            );
        }
        _ => {}
    }
    let mut lines = text.split('\n');
    let columns: Vec<_> = lines.next().map_or_else(Vec::new, |line| {
        line.split('|').map(ToOwned::to_owned).collect()
    });
    let cell = |cell: &str| (cell != "NULL").then(|| cell.to_owned());
    let rows: Vec<_> = lines
        .map(|line| line.split('|').map(cell).collect())
        .collect();
    let _ = judge("user", &columns, &rows, 1_700_000_000);
});
