//! Both SCRAM machines against the published vector, against secrets PostgreSQL made, against each
//! other, and against noise.
//!
//! **Owns:** whole exchanges.
//! **Does not own:** anything outside of SCRAM.
//!
//! Source of the vector: RFC 7677, section 3.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::auth::error::{ScramError, ScramMessage, VerifierError};

const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const SALT: &[u8] = b"\x5b\x6d\x99\x68\x9d\x12\x35\x8e\xec\xa0\x4b\x14\x12\x36\xfa\x81";
const CLIENT_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_FIRST: &[u8] = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
    s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_FINAL: &[u8] = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &[u8] = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

/// The keys of the vector's password, derived once: the derivation is slow without optimisation.
fn keys() -> ScramKeys {
    static KEYS: LazyLock<ScramKeys> = LazyLock::new(|| derive_keys("pencil", SALT, 4096).unwrap());
    KEYS.clone()
}

fn verifier() -> ScramVerifier {
    ScramVerifier::from_keys(&keys(), SALT, 4096).unwrap()
}

fn await_final() -> ScramServerAwaitFinal {
    let server = ScramServer::new(verifier());
    server
        .handle_first(b"SCRAM-SHA-256", CLIENT_FIRST, SERVER_NONCE)
        .unwrap()
        .0
}

/// Runs both machines against each other; the client derives its keys from `password`.
fn exchange(server: ScramServer, password: &str) -> Result<(), ScramError> {
    let (client, first) = ScramClient::new("na=me,", CLIENT_NONCE, &Gs2::None)?;
    let (server, answer) = server.handle_first(MECHANISM.as_bytes(), &first, SERVER_NONCE)?;
    let need = client.handle_server_first(&answer)?;
    let keys = derive_keys(password, &need.salt, need.iterations)?;
    let (client, proof) = need.provide(keys.clone());
    let accepted = server.handle_final(&proof)?;
    assert_eq!(accepted.keys, keys, "the proof reveals the client's keys");
    client.handle_server_final(&accepted.server_final)
}

#[test]
fn the_server_follows_the_published_vector() {
    let server = ScramServer::new(verifier());
    let (server, answer) = server
        .handle_first(b"SCRAM-SHA-256", CLIENT_FIRST, SERVER_NONCE)
        .unwrap();
    assert_eq!(answer, SERVER_FIRST);
    assert_eq!(
        server.handle_final(CLIENT_FINAL).unwrap().server_final,
        SERVER_FINAL
    );
}

#[test]
fn the_client_follows_the_published_vector() {
    let (client, first) = ScramClient::new("user", CLIENT_NONCE, &Gs2::None).unwrap();
    assert_eq!(first, CLIENT_FIRST);
    let need = client.handle_server_first(SERVER_FIRST).unwrap();
    assert_eq!((need.salt.as_slice(), need.iterations), (SALT, 4096));
    let (client, proof) = need.provide(keys());
    assert_eq!(proof, CLIENT_FINAL);
    client.handle_server_final(SERVER_FINAL).unwrap();
}

/// Secrets written by PostgreSQL 15. The second password needs normalisation, the third is one
/// that normalisation refuses (a control character), so it counts as it is.
#[test]
fn secrets_made_by_postgresql_accept_their_passwords() {
    let pairs = [
        (
            "pencil",
            "SCRAM-SHA-256$4096:ql5yHK9m4GoQsKuKdUKR7Q==$\
             2B4RQVJjF9JDqaEJ8ARwpfFq95f+8qAvfVN1alCEjL4=:\
             jjPCIQ4UDZqT0m5pfmop7rT6RPJB7acLnyugxHY9r+Q=",
        ),
        (
            "p\u{e4}ss\u{a0}w\u{f6}rd\u{2168}",
            "SCRAM-SHA-256$4096:6flT3uOG5xt/gokG+VvRtQ==$\
             MnG526vXZrq/m3XDMF0TNJOEgY90HnFR4z3lcrFyM78=:\
             gZKZuwtr6lA+RVot21MPL1a+ZohDkGyn+zBoyhn8+nQ=",
        ),
        (
            "b\u{e9}ll\u{7}",
            "SCRAM-SHA-256$4096:JlZzgJG/ipfH7qxNt/HYeg==$\
             wIk0d5RJzs2uE2kIQKsZlbEzPHuITjJHOPMSM7ALKZw=:\
             fT4a5rwoU6bHZTBUIAE1RFPoQMCFaJciS3vDXGrDcAg=",
        ),
    ];
    for (password, text) in pairs {
        let verifier = ScramVerifier::parse(text).unwrap();
        assert_eq!(verifier.to_secret_text(), text);
        let keys = derive_keys(password, verifier.salt(), verifier.iterations()).unwrap();
        assert!(verifier.is_made_from(&keys), "{password}");
        assert_eq!(
            exchange(ScramServer::new(verifier.clone()), password),
            Ok(()),
            "{password}"
        );
        let refused = exchange(ScramServer::new(verifier), "wrong");
        assert_eq!(refused, Err(ScramError::WrongProof), "{password}");
    }
}

#[test]
fn an_unknown_user_gets_the_same_salt_each_time_and_is_refused() {
    let first_answer = |user, secret: &[u8]| {
        let server = ScramServer::mock(user, secret);
        server
            .handle_first(b"SCRAM-SHA-256", CLIENT_FIRST, SERVER_NONCE)
            .unwrap()
            .1
    };
    assert_eq!(first_answer("a", b"secret"), first_answer("a", b"secret"));
    assert_ne!(first_answer("a", b"secret"), first_answer("b", b"secret"));
    assert_ne!(first_answer("a", b"secret"), first_answer("a", b"other"));
    let shape = |message: Vec<u8>| (message.len(), message[message.len() - 7..].to_vec());
    assert_eq!(
        shape(first_answer("a", b"secret")),
        shape(SERVER_FIRST.to_vec())
    );
    let refused = exchange(ScramServer::mock("a", b"secret"), "pencil");
    assert_eq!(refused, Err(ScramError::WrongProof));
}

#[test]
fn first_messages_are_judged_by_the_grammar() {
    let first = |message: &[u8]| {
        let server = ScramServer::new(verifier());
        server
            .handle_first(b"SCRAM-SHA-256", message, SERVER_NONCE)
            .map(|_| ())
    };
    for good in [
        "n,,n=,r=x",
        "y,,n=u,r=x",
        "n,a=me,n=*,r=x",
        "n,,n=u,r=x,z=ext,q=",
    ] {
        assert_eq!(first(good.as_bytes()), Ok(()), "{good}");
    }
    let malformed = Err(ScramError::Malformed {
        message: ScramMessage::ClientFirst,
    });
    for bad in [
        "",
        "n",
        "n,",
        "n,,",
        "n,,n=u",
        "n,,n=u,",
        "n,,n=u,r",
        "n,,n=u,r=",
        "n,,r=x",
        "z,,n=u,r=x",
        "n,b,n=u,r=x",
        "n,,n=u,r=x y",
        "n,,n=u,r=x,",
        "n,,n=u,r=x,zz",
        "n,,n=u,r=\u{e9}",
        "n=u,r=x",
        "n,,n=u,r=x\0",
    ] {
        assert_eq!(first(bad.as_bytes()), malformed, "{bad}");
    }
    assert_eq!(first(b"n,,n=u,r=\xff"), malformed);
    let bound = first(b"p=tls-server-end-point,,n=u,r=x");
    assert_eq!(bound, Err(ScramError::ChannelBindingRequested));
    let extension = Err(ScramError::MandatoryExtension {
        message: ScramMessage::ClientFirst,
    });
    assert_eq!(first(b"n,,m=x,n=u,r=x"), extension);
    assert_eq!(first(b"n,,n=u,r=x,m=x"), extension);
    let server = ScramServer::new(verifier());
    let refused = server.handle_first(b"SCRAM-SHA-256-PLUS", CLIENT_FIRST, SERVER_NONCE);
    assert_eq!(refused.unwrap_err(), ScramError::UnknownMechanism);
    let server = ScramServer::new(verifier());
    let refused = server.handle_first(b"SCRAM-SHA-256", CLIENT_FIRST, "a,b");
    assert_eq!(refused.unwrap_err(), ScramError::UnusableNonce);
}

#[test]
fn an_exchange_is_bound_to_the_certificate_and_a_hidden_offer_is_noticed() {
    let exchange = |client_sees: &Gs2, server_has: Option<Vec<u8>>, mechanism: &str| {
        let server = ScramServer::new(verifier()).bound_to(server_has);
        let (client, first) = ScramClient::new("user", CLIENT_NONCE, client_sees)?;
        let (server, answer) = server.handle_first(mechanism.as_bytes(), &first, SERVER_NONCE)?;
        let needs = client.handle_server_first(&answer)?;
        let keys = derive_keys("pencil", &needs.salt, needs.iterations).unwrap();
        let (client, proof) = needs.provide(keys);
        client.handle_server_final(&server.handle_final(&proof)?.server_final)
    };
    let hash = || Some(vec![1; 32]);
    let bound = Gs2::EndPoint(vec![1; 32]);
    assert_eq!(exchange(&bound, hash(), MECHANISM_PLUS), Ok(()));
    assert_eq!(exchange(&Gs2::None, hash(), MECHANISM), Ok(()));
    assert_eq!(exchange(&Gs2::NotOffered, None, MECHANISM), Ok(()));
    let other = Gs2::EndPoint(vec![2; 32]);
    let mismatch = Err(ScramError::ChannelBindingMismatch);
    assert_eq!(exchange(&other, hash(), MECHANISM_PLUS), mismatch);
    let hidden = Err(ScramError::ChannelBindingHidden);
    assert_eq!(exchange(&Gs2::NotOffered, hash(), MECHANISM), hidden);
    let requested = Err(ScramError::ChannelBindingRequested);
    assert_eq!(exchange(&bound, hash(), MECHANISM), requested);
    let unknown = Err(ScramError::UnknownMechanism);
    assert_eq!(exchange(&bound, None, MECHANISM_PLUS), unknown);
    assert!(exchange(&Gs2::None, hash(), MECHANISM_PLUS).is_err());
}

#[test]
fn final_messages_are_judged_by_grammar_nonce_header_and_proof() {
    let text = str::from_utf8(CLIENT_FINAL).unwrap();
    let outcome = |message: &str| await_final().handle_final(message.as_bytes()).unwrap_err();
    assert_eq!(
        outcome(&text.replace("biws", "eSws")),
        ScramError::ChannelBindingMismatch
    );
    assert_eq!(
        outcome(&text.replace("k0,", "k1,")),
        ScramError::NonceMismatch
    );
    assert_eq!(
        outcome(&text.replace("$k0,", ",")),
        ScramError::NonceMismatch
    );
    assert_eq!(
        outcome(&text.replace("dHzb", "dHzc")),
        ScramError::WrongProof
    );
    assert_eq!(
        outcome(&text.replace("k0,", "k0,x=y,")),
        ScramError::WrongProof
    );
    for cut in 0..text.len() {
        let malformed = ScramError::Malformed {
            message: ScramMessage::ClientFinal,
        };
        assert_eq!(outcome(&text[..cut]), malformed, "cut at {cut}");
    }
    let told = ScramError::WrongProof.client_message();
    assert_eq!(
        told,
        "Authentication failed. Invalid credentials or authentication protocol error."
    );
}

#[test]
fn the_client_refuses_a_server_that_cheats() {
    let client = || {
        ScramClient::new("user", CLIENT_NONCE, &Gs2::None)
            .unwrap()
            .0
    };
    let first = |text: &str| client().handle_server_first(text.as_bytes()).unwrap_err();
    assert_eq!(first("r=other,s=W22Z,i=4096"), ScramError::NonceMismatch);
    let own = format!("r={CLIENT_NONCE},s=W22Z,i=4096");
    assert_eq!(
        first(&own),
        ScramError::NonceMismatch,
        "no server nonce at all"
    );
    let with = |tail: &str| first(&format!("r={CLIENT_NONCE}x,{tail}"));
    let malformed = ScramError::Malformed {
        message: ScramMessage::ServerFirst,
    };
    for tail in [
        "",
        "s=W22Z",
        "s=,i=1",
        "s=W22Z,i=",
        "s=W22Z,i=-1",
        "s=W22Z,i=01",
        "s=!,i=1",
    ] {
        assert_eq!(with(tail), malformed, "{tail}");
    }
    let out_of_range = |iterations| ScramError::IterationsOutOfRange { iterations };
    assert_eq!(with("s=W22Z,i=10000001"), out_of_range(10_000_001));
    assert_eq!(
        with("s=W22Z,i=99999999999999999999"),
        out_of_range(u32::MAX)
    );

    let last = |message: &[u8]| {
        let need = client().handle_server_first(SERVER_FIRST).unwrap();
        let (client, _) = need.provide(keys());
        client.handle_server_final(message).unwrap_err()
    };
    let reason = "invalid-proof".to_owned();
    assert_eq!(
        last(b"e=invalid-proof"),
        ScramError::ServerRefused { reason }
    );
    let other = b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
    assert_eq!(last(other), ScramError::ServerSignatureMismatch);
    let malformed = ScramError::Malformed {
        message: ScramMessage::ServerFinal,
    };
    assert_eq!(last(b"v="), malformed);
    assert_eq!(last(b""), malformed);
}

#[test]
fn secrets_are_read_strictly() {
    let good = verifier().to_secret_text();
    assert!(ScramVerifier::parse(&good).is_ok());
    for cut in 0..good.len() {
        assert!(ScramVerifier::parse(&good[..cut]).is_err(), "cut at {cut}");
    }
    let zero = good.replace("$4096:", "$0:");
    assert_eq!(ScramVerifier::parse(&zero), Err(VerifierError::Malformed));
    let huge = good.replace("$4096:", "$4294967296:");
    assert_eq!(
        ScramVerifier::parse(&huge),
        Err(VerifierError::IterationsOutOfRange)
    );
    assert!(ScramVerifier::parse(&format!("{good}A")).is_err());
    assert!(derive_keys("pencil", SALT, 0).is_err());
    assert!(derive_keys("pencil", SALT, 10_000_001).is_err());
}

proptest! {
    #[test]
    fn a_secret_reads_back(
        salt in proptest::collection::vec(any::<u8>(), 1..40),
        client_key in any::<[u8; 32]>(),
        server_key in any::<[u8; 32]>(),
        iterations in ITERATIONS,
    ) {
        let keys = ScramKeys { client_key, server_key };
        let verifier = ScramVerifier::from_keys(&keys, &salt, iterations).unwrap();
        prop_assert_eq!(ScramVerifier::parse(&verifier.to_secret_text()), Ok(verifier));
    }

    #[test]
    fn the_right_password_is_accepted_and_another_refused(password: String, other: String) {
        let salt = b"salt";
        let keys = derive_keys(&password, salt, 3).unwrap();
        let verifier = ScramVerifier::from_keys(&keys, salt, 3).unwrap();
        prop_assert_eq!(exchange(ScramServer::new(verifier.clone()), &password), Ok(()));
        let same = derive_keys(&other, salt, 3).unwrap() == keys;
        prop_assert_eq!(exchange(ScramServer::new(verifier), &other).is_ok(), same);
    }

    #[test]
    fn any_message_gives_a_value_or_an_error(
        noise in proptest::collection::vec(any::<u8>(), 0..80),
        likely in "([nycrsipvem]=[a-zA-Z0-9+/=]{0,6}|n|y|),?([a-z]=[A-Za-z0-9=]{0,5},?){0,4}",
    ) {
        for message in [noise.as_slice(), likely.as_bytes()] {
            let server = ScramServer::mock("u", b"s");
            let _ = server.handle_first(b"SCRAM-SHA-256", message, SERVER_NONCE);
            let server = ScramServer::mock("u", b"s");
            let first = server.handle_first(b"SCRAM-SHA-256", CLIENT_FIRST, SERVER_NONCE);
            prop_assert!(first.unwrap().0.handle_final(message).is_err());
            let client = ScramClient::new("user", CLIENT_NONCE, &Gs2::None).unwrap().0;
            let _ = client.handle_server_first(message);
            let need = ScramClient::new("user", CLIENT_NONCE, &Gs2::None)
                .and_then(|(client, _)| client.handle_server_first(SERVER_FIRST))
                .unwrap();
            let keys = ScramKeys { client_key: [1; 32], server_key: [2; 32] };
            prop_assert!(need.provide(keys).0.handle_server_final(message).is_err());
        }
        let _ = ScramVerifier::parse(&likely);
    }
}
