//! The host-based decision, row by row.
//!
//! **Owns:** tables of rules and verdicts.
//! **Does not own:** the methods themselves, the syntax of rules; they are tested in their files.

use std::net::IpAddr;

use super::hba::{HbaClient, Holder, LoginMethod, Verdict, choose, not_permitted_message};
use super::verifier::StoredPassword;
use crate::config::hba::{IpNet, parse_rules};
use crate::config::ident::IdentMaps;

const SCRAM: &str = "SCRAM-SHA-256$4096:ql5yHK9m4GoQsKuKdUKR7Q==$\
    2B4RQVJjF9JDqaEJ8ARwpfFq95f+8qAvfVN1alCEjL4=:jjPCIQ4UDZqT0m5pfmop7rT6RPJB7acLnyugxHY9r+Q=";
const MD5: &str = "md58bbf3f45673bf67d02e4214911f3417f";

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

/// The verdict in a word: the method that decides, or `refuse`.
fn verdict_for(rules: &str, client: &HbaClient<'_>) -> String {
    let (rules, notes) = parse_rules(rules).unwrap();
    // Methods that nobody can use are remarked.
    assert!(notes.iter().all(|note| note.reason.starts_with("method ")));
    match Verdict::by_rules(&rules, client, &maps()) {
        Verdict::Exchange { with_md5: true } => "md5".to_owned(),
        Verdict::Exchange { with_md5: false } => "scram".to_owned(),
        Verdict::Refuse => "refuse".to_owned(),
        Verdict::Rule(rule) => format!("{:?}", rule.method).to_lowercase(),
        Verdict::Trust => "trust".to_owned(),
    }
}

/// The verdict for user `u`, database `d`; an `ip` that is none is a Unix socket.
fn verdict(rules: &str, ip: &str, tls: bool) -> String {
    let ip = ip.parse().ok();
    verdict_for(rules, &HbaClient { ip, tls, ..CLIENT })
}

#[test]
fn the_first_rule_that_fits_decides_whatever_stands_behind_it() {
    let methods = [
        ("trust", "trust"),
        ("md5", "md5"),
        ("scram-sha-256", "scram"),
        ("reject", "refuse"),
        ("ldap", "refuse"),
        ("password", "password"),
        ("pam", "pam"),
        ("jwt", "jwt"),
        ("peer", "peer"),
        // Without TLS there is none.
        ("cert", "refuse"),
    ];
    for (first, expected) in methods {
        for (second, _) in methods {
            let rules = format!(
                "local x all trust\nlocal all x trust\nhost all all all trust\n\
                 local d u {first}\nlocal all all {second}"
            );
            assert_eq!(verdict_for(&rules, &CLIENT), expected, "{rules}");
        }
    }
    assert_eq!(verdict_for("", &CLIENT), "refuse");
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
        let verdict = |method: &str| {
            let rules = format!("hostssl all all all {method} {options}\nhost all all all trust");
            verdict_for(&rules, &client)
        };
        let found = verdict("trust");
        assert_eq!(found == "refuse", verdict("scram-sha-256") == "refuse");
        assert_eq!(found == "refuse", verdict("password") == "refuse");
        found
    };
    assert_eq!(verdict("", None), "trust");
    for (options, certificate, expected) in [
        ("clientcert=verify-ca", None, "refuse"),
        ("clientcert=verify-ca", Some("x"), "trust"),
        ("clientcert=verify-full", None, "refuse"),
        ("clientcert=verify-full", Some("x"), "refuse"),
        ("clientcert=verify-full", Some(""), "refuse"),
        ("clientcert=verify-full", Some("u"), "trust"),
        ("clientcert=verify-full map=m", Some("u"), "refuse"),
        ("clientcert=verify-full map=m", Some("u@example"), "trust"),
        ("clientcert=verify-full map=n", Some("u@example"), "refuse"),
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
        ("host d u 10.0.0.0/8 trust", "trust"),
        ("host x,d x,u 10.0.0.0/8 trust", "trust"),
        ("host D u 10.0.0.0/8 trust", "refuse"),
        ("host d x 10.0.0.0/8 trust", "refuse"),
        ("host d u 11.0.0.0/8 trust", "refuse"),
        ("host d u ::/0 trust", "refuse"),
        ("hostssl d u all trust", "refuse"),
        ("hostnossl d u all trust", "trust"),
        ("local d u trust", "refuse"),
    ] {
        assert_eq!(verdict(rules, "10.1.2.3", false), expected, "{rules}");
    }
    assert_eq!(verdict("hostssl d u all trust", "10.1.2.3", true), "trust");
    assert_eq!(
        verdict("hostnossl d u all trust", "10.1.2.3", true),
        "refuse"
    );
}

#[test]
fn a_unix_socket_matches_local_rules_only() {
    assert_eq!(verdict("local all all trust", "none", false), "trust");
    assert_eq!(verdict("host all all all trust", "none", false), "refuse");
}

#[test]
fn a_network_list_allows_its_members_and_an_empty_one_everybody() {
    let networks = ["10.0.0.0/8", "::1/128"].map(|text| IpNet::parse(text).unwrap());
    let decide = |ip: &str| Verdict::by_networks(&networks, Some(ip.parse().unwrap()));
    let exchange = Verdict::Exchange { with_md5: true };
    assert_eq!(decide("10.9.9.9"), exchange);
    assert_eq!(decide("::1"), exchange);
    assert_eq!(decide("::2"), Verdict::Refuse);
    assert_eq!(Verdict::by_networks(&[], "::2".parse().ok()), exchange);
    assert_eq!(Verdict::by_networks(&networks, None), exchange);
}

#[test]
fn the_database_of_the_same_name_is_the_users_own() {
    let verdict = |user, database| {
        let client = HbaClient {
            user,
            database,
            ..CLIENT
        };
        verdict_for("local x,sameuser all trust", &client)
    };
    assert_eq!(verdict("u", "u"), "trust");
    assert_eq!(verdict("u", "x"), "trust");
    assert_eq!(verdict("u", "U"), "refuse");
    assert_eq!(verdict("u", "sameuser"), "refuse");
}

#[test]
fn the_same_host_is_the_address_connected_to_and_the_same_net_adds_loopback() {
    for (ip, local, same_host, same_net) in [
        ("10.0.0.1", "10.0.0.1", "trust", "trust"),
        ("10.0.0.1", "::ffff:10.0.0.1", "trust", "trust"),
        ("::ffff:10.0.0.1", "10.0.0.1", "trust", "trust"),
        ("10.0.0.2", "10.0.0.1", "refuse", "refuse"),
        ("10.0.0.1", "unknown", "refuse", "refuse"),
        ("127.0.0.1", "127.0.0.1", "trust", "trust"),
        ("127.0.0.1", "127.0.0.2", "refuse", "trust"),
        ("::ffff:127.0.0.1", "unknown", "refuse", "trust"),
        ("::1", "::1", "trust", "trust"),
        ("::1", "fe80::1", "refuse", "trust"),
        ("none", "10.0.0.1", "refuse", "refuse"),
        ("none", "none", "refuse", "refuse"),
    ] {
        let client = HbaClient {
            ip: ip.parse().ok(),
            local_ip: local.parse().ok(),
            ..CLIENT
        };
        let verdict = |address| verdict_for(&format!("host all all {address} trust"), &client);
        assert_eq!(verdict("samehost"), same_host, "{ip} {local}");
        assert_eq!(verdict("samenet"), same_net, "{ip} {local}");
    }
}

/// What every rule means for everybody. A row is a method of a rule, a column what is known of the user;
/// behind the slash is what differs if the user is one of PAM's, and behind another one if this program has
/// no PAM then.
const METHODS: &str = "
    rule           nobody        empty           scram           bad-scram       md5             token      other
    reject         NotPermitted  NotPermitted    NotPermitted    NotPermitted    NotPermitted    NotPermitted NotPermitted
    ldap           NotPermitted  NotPermitted    NotPermitted    NotPermitted    NotPermitted    NotPermitted NotPermitted
    trust          Unknown       Trust/Trust/Pam Trust/Trust/Pam Trust/Trust/Pam Trust/Trust/Pam Token/Pam  Imitate/Pam
    md5            Imitate       Imitate/Pam     Scram/Pam       Imitate/Pam     Md5/Pam         Token/Pam  Imitate/Pam
    scram-sha-256  Imitate       Imitate/Pam     Scram/Pam       Imitate/Pam     Imitate/Pam     Token/Pam  Imitate/Pam
    password       Imitate       Imitate         Compare/Imitate Imitate         Compare/Imitate Token/Imitate Imitate
    jwt            Imitate       Imitate         Imitate         Imitate         Imitate         Token/Imitate Imitate
    pam            Pam           Pam             Pam             Pam             Pam             Pam        Pam
    cert           Imitate       Name/Imitate    Name/Imitate    Name/Imitate    Name/Imitate    Name/Imitate Name/Imitate
    peer           Imitate       Name/Imitate    Name/Imitate    Name/Imitate    Name/Imitate    Name/Imitate Name/Imitate
    none           NotPermitted  NotPermitted    NotPermitted    NotPermitted    NotPermitted    NotPermitted NotPermitted";

fn stored(column: &str) -> StoredPassword {
    StoredPassword::parse(match column {
        "empty" => "",
        "scram" => SCRAM,
        "bad-scram" => "SCRAM-SHA-256$x",
        "md5" => MD5,
        "token" => "jwt-pkey-fpath:/k",
        "other" => "plain",
        _ => panic!("{column}"),
    })
}

/// The rules of a row, and the client they are for.
fn rules_of(row: &str) -> (String, HbaClient<'static>) {
    let over_tls = HbaClient {
        ip: "10.0.0.1".parse().ok(),
        tls: true,
        certificate: Some("u"),
        ..CLIENT
    };
    match row {
        "none" => ("local d x trust".to_owned(), CLIENT),
        "peer" => ("local all all peer".to_owned(), CLIENT),
        _ => (format!("hostssl all all all {row}"), over_tls),
    }
}

#[test]
fn every_rule_means_for_every_user_what_the_table_says() {
    let mut lines = METHODS.lines().skip(1);
    let columns: Vec<&str> = lines.next().unwrap().split_whitespace().skip(1).collect();
    let mut rows = 0;
    for line in lines {
        let mut cells = line.split_whitespace();
        let row = cells.next().unwrap();
        let (text, client) = rules_of(row);
        let (rules, _) = parse_rules(&text).unwrap();
        let verdict = Verdict::by_rules(&rules, &client, &maps());
        for (column, cell) in columns.iter().zip(cells) {
            let mut cell = cell.split('/');
            let plain = cell.next().unwrap();
            let by_pam = cell.next().unwrap_or(plain);
            let without_pam = cell.next().unwrap_or(by_pam);
            let stored = (*column != "nobody").then(|| stored(column));
            for (is_of_pam, has_pam, expected) in [
                (false, true, plain),
                (false, false, plain),
                (true, true, by_pam),
                (true, false, without_pam),
            ] {
                let holder = stored.as_ref().map(|stored| Holder { stored, is_of_pam });
                let found = format!("{:?}", choose(verdict, holder, has_pam));
                assert_eq!(found, expected, "{row} {column} {is_of_pam} {has_pam}");
            }
            rows += 1;
        }
    }
    assert_eq!(rows, 11 * 7);
}

#[test]
fn only_a_rule_that_trusts_lets_anybody_in_unasked() {
    for method in [
        "reject",
        "ldap",
        "md5",
        "scram-sha-256",
        "password",
        "jwt",
        "pam",
        "cert",
    ] {
        let (text, client) = rules_of(method);
        let (rules, _) = parse_rules(&text).unwrap();
        let verdict = Verdict::by_rules(&rules, &client, &maps());
        for column in ["empty", "scram", "bad-scram", "md5", "token", "other"] {
            let stored = stored(column);
            for is_of_pam in [false, true] {
                let holder = Some(Holder {
                    stored: &stored,
                    is_of_pam,
                });
                let chosen = choose(verdict, holder, true);
                assert_ne!(chosen, LoginMethod::Trust, "{method} {column}");
                let is_asked = !is_of_pam
                    || matches!(
                        chosen,
                        LoginMethod::Pam | LoginMethod::Imitate | LoginMethod::NotPermitted
                    );
                assert!(is_asked, "{method} {column} {chosen:?}");
            }
        }
    }
}

#[test]
fn a_role_needs_a_rule_that_asks() {
    for (method, expected) in [
        ("md5", true),
        ("scram-sha-256", true),
        ("jwt", true),
        ("password", false),
        ("pam", false),
        ("cert", false),
        ("trust", false),
        ("reject", false),
    ] {
        let (text, client) = rules_of(method);
        let (rules, _) = parse_rules(&text).unwrap();
        let verdict = Verdict::by_rules(&rules, &client, &maps());
        assert_eq!(verdict.allows_roles(), expected, "{method}");
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
}
