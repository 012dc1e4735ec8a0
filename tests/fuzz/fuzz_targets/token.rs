//! Tokens that clients send: no bytes may panic, and none may be accepted.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pg_doorman::auth::jwt::{TokenKeys, TokenRules};
use pg_doorman::auth::talos::Talos;

/// The public half of a key whose private half nobody has kept.
const KEY: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEnJDg5j0lry53aOdccgG3XDbPEcIp
Iw6/emHa+JoZiVgF/5ptffdXDq+KmCATXB8f7Uj7sBhQcQ7aOHbWZTuQhw==
-----END PUBLIC KEY-----
";

static KEYS: LazyLock<TokenKeys> = LazyLock::new(|| TokenKeys::parse(KEY).unwrap());
static TALOS: LazyLock<Talos> = LazyLock::new(|| {
    let keys = [("key".to_owned(), KEY)];
    Talos::new(keys.into_iter(), vec!["db".to_owned()]).unwrap()
});

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let rules = TokenRules {
        audience: Some("a"),
        issuer: Some("i"),
        now: 0,
    };
    assert!(KEYS.check_user(text, "user", &rules).is_err());
    assert!(TALOS.check(text, 0).is_err());
    // The same bytes as a file with keys.
    let _ = TokenKeys::parse(text);
});
