//! Tests of tokens.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::sign;
use proptest::prelude::*;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};

use super::*;

/// A private and a public key, PEM.
type Pair = (String, String);

fn pems(pair: &KeyPair) -> Pair {
    (pair.serialize_pem(), pair.public_key_pem())
}

static RSA: LazyLock<Pair> = LazyLock::new(|| {
    pems(&KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap())
});
static EC: LazyLock<Pair> =
    LazyLock::new(|| pems(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()));

/// The public key that [`token_with`] is checked with.
pub(crate) static RSA_PUBLIC: LazyLock<String> = LazyLock::new(|| RSA.1.clone());

const NOW: u64 = 1_700_000_000;

/// A token with these parts, signed with the key of RSA.
pub(crate) fn token_with(header: &str, claims: &str) -> String {
    let key = EncodingKey::from_rsa_pem(RSA.0.as_bytes()).unwrap();
    signed(header, claims, &key, Algorithm::RS256)
}

fn signed(header: &str, claims: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn rs256(claims: &str) -> String {
    token_with(r#"{"alg":"RS256","typ":"JWT"}"#, claims)
}

fn rules() -> TokenRules<'static> {
    TokenRules {
        now: NOW,
        ..TokenRules::default()
    }
}

fn check(token: &str) -> Result<(), TokenError> {
    let keys = TokenKeys::parse(&RSA_PUBLIC).unwrap();
    keys.check_user(token, "app", &rules())
}

fn claims(more: &str) -> String {
    format!(r#"{{"preferred_username":"app","exp":{}{more}}}"#, NOW + 10)
}

#[test]
fn a_token_signed_with_the_key_is_accepted() {
    assert_eq!(check(&rs256(&claims(""))), Ok(()));
    let own = SigningKey::parse(&RSA.0).unwrap().sign("app", NOW).unwrap();
    assert_eq!(check(&own), Ok(()));
    let own = SigningKey::parse(&EC.0).unwrap().sign("app", NOW).unwrap();
    let keys = TokenKeys::parse(&EC.1).unwrap();
    assert_eq!(keys.check_user(&own, "app", &rules()), Ok(()));
}

#[test]
fn the_key_decides_the_algorithm() {
    let hs = EncodingKey::from_secret(RSA_PUBLIC.as_bytes());
    for (algorithm, header) in [
        (Algorithm::HS256, r#"{"alg":"HS256"}"#),
        (Algorithm::HS512, r#"{"alg":"HS512"}"#),
    ] {
        let forged = signed(header, &claims(""), &hs, algorithm);
        assert_eq!(check(&forged), Err(TokenError::Algorithm), "{header}");
    }
    // The signature is one of HS256 with the public key; the header lies.
    let forged = signed(r#"{"alg":"RS256"}"#, &claims(""), &hs, Algorithm::HS256);
    assert_eq!(check(&forged), Err(TokenError::Signature));
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    for name in ["none", "None", "NONE", ""] {
        let header = encode(&format!(r#"{{"alg":"{name}"}}"#));
        let forged = format!("{header}.{}.", encode(&claims("")));
        assert_eq!(check(&forged), Err(TokenError::Algorithm), "{name}");
    }
    let ec = EncodingKey::from_ec_pem(EC.0.as_bytes()).unwrap();
    let other = signed(r#"{"alg":"ES256"}"#, &claims(""), &ec, Algorithm::ES256);
    assert_eq!(check(&other), Err(TokenError::Algorithm));
    let rsa = EncodingKey::from_rsa_pem(RSA.0.as_bytes()).unwrap();
    let other = signed(r#"{"alg":"RS512"}"#, &claims(""), &rsa, Algorithm::RS512);
    assert_eq!(check(&other), Err(TokenError::Algorithm));
}

#[test]
fn a_token_of_another_key_is_refused() {
    let other = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let key = SigningKey::parse(&other.serialize_pem()).unwrap();
    assert_eq!(
        check(&key.sign("app", NOW).unwrap()),
        Err(TokenError::Signature)
    );
    let mut changed = rs256(&claims("")).into_bytes();
    let at = changed.len() / 2;
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    assert!(check(&String::from_utf8(changed).unwrap()).is_err());
}

#[test]
fn times_and_names_are_checked() {
    let at = |exp: &str| format!(r#"{{"preferred_username":"app","exp":{exp}}}"#);
    for (claims, expected) in [
        (at(&NOW.to_string()), Ok(())),
        (at(&format!("{NOW}.5")), Ok(())),
        (at(&(NOW - 1).to_string()), Err(TokenError::Expired)),
        (at("-1"), Err(TokenError::Expired)),
        (at("null"), Err(TokenError::Claim("exp"))),
        (claims(&format!(r#","nbf":{NOW}"#)), Ok(())),
        (
            claims(&format!(r#","nbf":{}"#, NOW + 1)),
            Err(TokenError::NotYetValid),
        ),
        (
            format!(r#"{{"exp":{}}}"#, NOW + 9),
            Err(TokenError::Claim("preferred_username")),
        ),
        (
            format!(r#"{{"preferred_username":"App","exp":{}}}"#, NOW + 9),
            Err(TokenError::User {
                named: "App".to_owned(),
            }),
        ),
    ] {
        assert_eq!(check(&rs256(&claims)), expected, "{claims}");
    }
    for claims in [at("\"soon\""), at("[]"), "[]".to_owned(), String::new()] {
        assert!(check(&rs256(&claims)).is_err(), "{claims}");
    }
}

#[test]
fn audience_and_issuer_are_checked_if_configured() {
    let keys = TokenKeys::parse(&RSA_PUBLIC).unwrap();
    let strict = TokenRules {
        audience: Some("pooler"),
        issuer: Some("sso"),
        now: NOW,
    };
    for (more, expected) in [
        (r#","aud":"pooler","iss":"sso""#, Ok(())),
        (r#","aud":["x","pooler"],"iss":"sso""#, Ok(())),
        (r#","aud":"x","iss":"sso""#, Err(TokenError::Audience)),
        (r#","aud":[],"iss":"sso""#, Err(TokenError::Audience)),
        (r#","iss":"sso""#, Err(TokenError::Audience)),
        (r#","aud":"pooler","iss":"x""#, Err(TokenError::Issuer)),
        (r#","aud":"pooler""#, Err(TokenError::Issuer)),
    ] {
        let token = rs256(&claims(more));
        assert_eq!(keys.check_user(&token, "app", &strict), expected, "{more}");
        assert_eq!(keys.check_user(&token, "app", &rules()), Ok(()), "{more}");
    }
}

#[test]
fn a_set_of_keys_is_searched_by_id() {
    let rsa = EncodingKey::from_rsa_pem(RSA.0.as_bytes()).unwrap();
    let ec = EncodingKey::from_ec_pem(EC.0.as_bytes()).unwrap();
    let jwk = |key: &EncodingKey, algorithm, id: &str| {
        let mut jwk = Jwk::from_encoding_key(key, algorithm).unwrap();
        jwk.common.key_id = Some(id.to_owned());
        jwk
    };
    let set = JwkSet {
        keys: vec![
            jwk(&rsa, Algorithm::RS256, "one"),
            jwk(&ec, Algorithm::ES256, "two"),
        ],
    };
    let keys = TokenKeys::parse(&serde_json::to_string(&set).unwrap()).unwrap();
    let check = |header: &str, key, algorithm| {
        let token = signed(header, &claims(""), key, algorithm);
        keys.check_user(&token, "app", &rules())
    };
    let (rs, es) = (Algorithm::RS256, Algorithm::ES256);
    assert_eq!(check(r#"{"alg":"RS256","kid":"one"}"#, &rsa, rs), Ok(()));
    assert_eq!(check(r#"{"alg":"ES256","kid":"two"}"#, &ec, es), Ok(()));
    assert_eq!(check(r#"{"alg":"ES256"}"#, &ec, es), Ok(()));
    let unknown = Err(TokenError::UnknownKey);
    assert_eq!(check(r#"{"alg":"RS256","kid":"two"}"#, &rsa, rs), unknown);
    assert_eq!(check(r#"{"alg":"RS256","kid":"three"}"#, &rsa, rs), unknown);
}

#[test]
fn useless_keys_are_refused() {
    for text in [
        "",
        "{}",
        "{\"keys\":[]}",
        r#"{"keys":[{"kty":"oct","k":"c2VjcmV0","alg":"HS256"}]}"#,
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    ] {
        assert!(TokenKeys::parse(text).is_err(), "{text}");
        assert!(SigningKey::parse(text).is_err(), "{text}");
    }
    assert!(SigningKey::parse(&RSA.1).is_err());
    assert_eq!(
        format!("{:?}", SigningKey::parse(&RSA.0).unwrap()),
        "SigningKey(..)"
    );
}

#[test]
fn the_client_is_told_little() {
    assert_eq!(
        TokenError::Signature.client_message("a"),
        TokenError::Expired.client_message("a")
    );
    let named = "b".to_owned();
    assert_eq!(
        TokenError::User { named }.client_message("a"),
        "JWT token username mismatch. Token contains username 'b' but you're trying to connect as 'a'."
    );
}

proptest! {
    #[test]
    fn any_text_is_refused(token in ".{0,80}|[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,20}") {
        prop_assert!(check(&token).is_err());
    }

    #[test]
    fn any_header_and_claims_without_a_signature_are_refused(header: String, claims: String) {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let token = format!("{}.{}.AAAA", encode(&header), encode(&claims));
        prop_assert!(check(&token).is_err());
    }
}
