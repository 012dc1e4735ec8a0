//! The host-based decision, row by row.
//!
//! **Owns:** tables of rules and verdicts.
//! **Does not own:** the methods themselves, the syntax of rules; they are tested in their files.

use std::net::IpAddr;

use super::hba::{
    Challenge, Decision, HbaClient, LoginMethod, WantedMethod, combine, console_method, decide,
    decide_by_network, denied_message, is_permitted, named, not_permitted_message,
};
use super::verifier::StoredPassword;
use crate::config::hba::{HbaMethod, IpNet, parse_rules};
use crate::config::ident::IdentMaps;
use Decision::{Allow, Deny, NotMatched, Trust};

const SCRAM: &str = "SCRAM-SHA-256$4096:ql5yHK9m4GoQsKuKdUKR7Q==$\
    2B4RQVJjF9JDqaEJ8ARwpfFq95f+8qAvfVN1alCEjL4=:jjPCIQ4UDZqT0m5pfmop7rT6RPJB7acLnyugxHY9r+Q=";
const MD5: &str = "md58bbf3f45673bf67d02e4214911f3417f";
const DECISIONS: [Decision; 4] = [Allow, Deny, NotMatched, Trust];

const CLIENT: HbaClient<'_> = HbaClient {
    ip: None,
    local_ip: None,
    tls: false,
    certificate: None,
    user: "u",
    database: "d",
};

fn maps() -> IdentMaps {
    IdentMaps::parse("m /^(.*)@example$ \\1").unwrap()
}

/// Both verdicts: md5, then SCRAM.
fn verdicts_for(rules: &str, client: &HbaClient<'_>) -> [Decision; 2] {
    let (rules, notes) = parse_rules(rules).unwrap();
    // Methods that nobody can use are remarked.
    assert!(notes.iter().all(|note| note.reason.starts_with("method ")));
    [WantedMethod::Md5, WantedMethod::ScramSha256]
        .map(|wanted| decide(&rules, client, &maps(), wanted))
}

/// Both verdicts for user `u`, database `d`; an `ip` that is none is a Unix socket.
fn verdicts(rules: &str, ip: &str, tls: bool) -> [Decision; 2] {
    let ip = ip.parse().ok();
    verdicts_for(rules, &HbaClient { ip, tls, ..CLIENT })
}

#[test]
fn each_walk_passes_over_the_other_method() {
    let rules = "host all all all md5\nhost all all all reject";
    assert_eq!(verdicts(rules, "10.0.0.1", false), [Allow, Deny]);
    let rules = "host all all all scram-sha-256\nhost all all all trust";
    assert_eq!(verdicts(rules, "10.0.0.1", false), [Trust, Allow]);
    let rules = "host all all all peer\nhost all all all md5";
    assert_eq!(verdicts(rules, "10.0.0.1", false), [Allow, NotMatched]);
    assert_eq!(verdicts("", "10.0.0.1", false), [NotMatched; 2]);
}

#[test]
fn a_method_that_no_walk_looks_for_decides_if_its_rule_is_the_first() {
    let decided = |rules: &str| {
        let (rules, _) = parse_rules(rules).unwrap();
        named(&rules, &CLIENT).map(|rule| rule.method.clone())
    };
    for (rules, method) in [
        ("local all all peer", Some(HbaMethod::Peer)),
        (
            "local all all pam\nlocal all all trust",
            Some(HbaMethod::Pam),
        ),
        (
            "local x all peer\nlocal all all password",
            Some(HbaMethod::Password),
        ),
        (
            "local all all ldap\nlocal all all jwt",
            Some(HbaMethod::Jwt),
        ),
        ("local all all md5\nlocal all all pam", None),
        ("local all all reject\nlocal all all pam", None),
        ("local all all trust\nlocal all all pam", None),
        ("hostssl all all all cert", None),
        ("", None),
    ] {
        assert_eq!(decided(rules), method, "{rules}");
    }
}

#[test]
fn a_rule_with_clientcert_refuses_who_has_none() {
    let verdict = |options: &str, certificate| {
        let client = HbaClient {
            ip: "10.0.0.1".parse().ok(),
            tls: true,
            certificate,
            ..CLIENT
        };
        let rules = format!("hostssl all all all scram-sha-256 {options}\nhost all all all trust");
        verdicts_for(&rules, &client)[1]
    };
    assert_eq!(verdict("", None), Allow);
    for (options, certificate, expected) in [
        ("clientcert=verify-ca", None, Deny),
        ("clientcert=verify-ca", Some("x"), Allow),
        ("clientcert=verify-full", None, Deny),
        ("clientcert=verify-full", Some("x"), Deny),
        ("clientcert=verify-full", Some(""), Deny),
        ("clientcert=verify-full", Some("u"), Allow),
        ("clientcert=verify-full map=m", Some("u"), Deny),
        ("clientcert=verify-full map=m", Some("u@example"), Allow),
        ("clientcert=verify-full map=n", Some("u@example"), Deny),
    ] {
        assert_eq!(
            verdict(options, certificate),
            expected,
            "{options} {certificate:?}"
        );
    }
}

#[test]
fn a_rule_must_match_in_every_field() {
    for (rules, expected) in [
        ("host d u 10.0.0.0/8 trust", Trust),
        ("host x,d x,u 10.0.0.0/8 trust", Trust),
        ("host D u 10.0.0.0/8 trust", NotMatched),
        ("host d x 10.0.0.0/8 trust", NotMatched),
        ("host d u 11.0.0.0/8 trust", NotMatched),
        ("host d u ::/0 trust", NotMatched),
        ("hostssl d u all trust", NotMatched),
        ("hostnossl d u all trust", Trust),
        ("local d u trust", NotMatched),
    ] {
        assert_eq!(verdicts(rules, "10.1.2.3", false), [expected; 2], "{rules}");
    }
    assert_eq!(
        verdicts("hostssl d u all trust", "10.1.2.3", true),
        [Trust; 2]
    );
    assert_eq!(
        verdicts("hostnossl d u all trust", "10.1.2.3", true),
        [NotMatched; 2]
    );
}

#[test]
fn a_unix_socket_matches_local_rules_only() {
    assert_eq!(verdicts("local all all trust", "none", false), [Trust; 2]);
    assert_eq!(
        verdicts("host all all all trust", "none", false),
        [NotMatched; 2]
    );
}

#[test]
fn a_network_list_allows_its_members_and_an_empty_one_everybody() {
    let networks = ["10.0.0.0/8", "::1/128"].map(|text| IpNet::parse(text).unwrap());
    let decide = |ip: &str| decide_by_network(&networks, Some(ip.parse().unwrap()));
    assert_eq!(decide("10.9.9.9"), Allow);
    assert_eq!(decide("::1"), Allow);
    assert_eq!(decide("::2"), NotMatched);
    assert_eq!(decide_by_network(&[], Some("::2".parse().unwrap())), Allow);
    assert_eq!(decide_by_network(&networks, None), Allow);
}

#[test]
fn the_database_of_the_same_name_is_the_users_own() {
    let verdict = |user, database| {
        let client = HbaClient {
            user,
            database,
            ..CLIENT
        };
        verdicts_for("local x,sameuser all trust", &client)[0]
    };
    assert_eq!(verdict("u", "u"), Trust);
    assert_eq!(verdict("u", "x"), Trust);
    assert_eq!(verdict("u", "U"), NotMatched);
    assert_eq!(verdict("u", "sameuser"), NotMatched);
}

#[test]
fn the_same_host_is_the_address_connected_to_and_the_same_net_adds_loopback() {
    for (ip, local, same_host, same_net) in [
        ("10.0.0.1", "10.0.0.1", Trust, Trust),
        ("10.0.0.1", "::ffff:10.0.0.1", Trust, Trust),
        ("::ffff:10.0.0.1", "10.0.0.1", Trust, Trust),
        ("10.0.0.2", "10.0.0.1", NotMatched, NotMatched),
        ("10.0.0.1", "unknown", NotMatched, NotMatched),
        ("127.0.0.1", "127.0.0.1", Trust, Trust),
        ("127.0.0.1", "127.0.0.2", NotMatched, Trust),
        ("::ffff:127.0.0.1", "unknown", NotMatched, Trust),
        ("::1", "::1", Trust, Trust),
        ("::1", "fe80::1", NotMatched, Trust),
        ("none", "10.0.0.1", NotMatched, NotMatched),
        ("none", "none", NotMatched, NotMatched),
    ] {
        let client = HbaClient {
            ip: ip.parse().ok(),
            local_ip: local.parse().ok(),
            ..CLIENT
        };
        let verdict = |address| verdicts_for(&format!("host all all {address} trust"), &client);
        assert_eq!(verdict("samehost"), [same_host; 2], "{ip} {local}");
        assert_eq!(verdict("samenet"), [same_net; 2], "{ip} {local}");
    }
}

#[test]
fn the_login_method_follows_the_table() {
    use LoginMethod::{Ask, NotPermitted, Trust as LoginTrust};
    for md5 in DECISIONS {
        for scram in DECISIONS {
            let method = |text| combine(md5, scram, &StoredPassword::parse(text));
            let permitted = [md5, scram].iter().any(|d| matches!(d, Allow | Trust));
            assert_eq!(is_permitted(md5, scram), permitted);
            let or_not = |method| if permitted { method } else { NotPermitted };

            let expected = match (scram, md5) {
                (Trust, _) | (NotMatched, Trust) => LoginTrust,
                (Deny, _) | (NotMatched, Deny | NotMatched) => LoginMethod::Deny {
                    challenge: Challenge::Scram,
                },
                _ => Ask(Challenge::Scram),
            };
            assert_eq!(method(SCRAM), or_not(expected), "{md5:?} {scram:?}");
            assert_eq!(
                method("SCRAM-SHA-256$x"),
                or_not(expected),
                "{md5:?} {scram:?}"
            );

            let expected = match md5 {
                Trust => LoginTrust,
                NotMatched | Deny => LoginMethod::Deny {
                    challenge: Challenge::Md5,
                },
                Allow => Ask(Challenge::Md5),
            };
            assert_eq!(method(MD5), or_not(expected), "{md5:?} {scram:?}");

            let trusted = md5 == Trust || scram == Trust;
            let expected = if trusted {
                LoginTrust
            } else {
                Ask(Challenge::Unsupported)
            };
            assert_eq!(method(""), or_not(expected), "{md5:?} {scram:?}");
            assert_eq!(method("plain"), or_not(Ask(Challenge::Unsupported)));
            assert_eq!(
                method("jwt-pkey-fpath:/k"),
                or_not(Ask(Challenge::Cleartext))
            );
        }
    }
}

#[test]
fn refusals_name_the_client() {
    let ip: IpAddr = "10.1.2.3".parse().unwrap();
    let client = HbaClient {
        ip: Some(ip),
        tls: true,
        ..CLIENT
    };
    assert_eq!(
        not_permitted_message(&client),
        "Connection from IP address 10.1.2.3 to u@d (TLS: true) is not permitted by HBA \
         configuration. Please contact your database administrator."
    );
    assert_eq!(
        denied_message(&client, "10.1.2.3:5000"),
        "Connection with scram password from IP address 10.1.2.3:5000 to u@d is not permitted by \
         HBA configuration. Please contact your database administrator."
    );
}

#[test]
fn the_console_asks_for_md5_whichever_method_a_rule_names() {
    let challenge = Challenge::Md5;
    for (md5, scram, expected) in [
        (Allow, NotMatched, LoginMethod::Ask(challenge)),
        (NotMatched, Allow, LoginMethod::Ask(challenge)),
        (Allow, Allow, LoginMethod::Ask(challenge)),
        (Trust, Trust, LoginMethod::Trust),
        (Trust, Allow, LoginMethod::Trust),
        (Allow, Deny, LoginMethod::Deny { challenge }),
        (Deny, Allow, LoginMethod::Deny { challenge }),
        (Deny, Deny, LoginMethod::NotPermitted),
        (NotMatched, NotMatched, LoginMethod::NotPermitted),
    ] {
        assert_eq!(console_method(md5, scram), expected, "{md5:?} {scram:?}");
    }
}
