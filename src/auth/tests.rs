//! The host-based decision, row by row.
//!
//! **Owns:** tables of rules and verdicts, networks.
//! **Does not own:** the methods themselves; they are tested in their files.

use std::net::IpAddr;

use proptest::prelude::*;

use super::hba::{
    Challenge, Decision, HbaClient, HbaConnType, HbaMethod, HbaName, HbaRule, IpNet, LoginMethod,
    WantedMethod, combine, decide, decide_by_network, denied_message, is_permitted,
    not_permitted_message,
};
use super::verifier::StoredPassword;
use Decision::{Allow, Deny, NotMatched, Trust};

const SCRAM: &str = "SCRAM-SHA-256$4096:ql5yHK9m4GoQsKuKdUKR7Q==$\
    2B4RQVJjF9JDqaEJ8ARwpfFq95f+8qAvfVN1alCEjL4=:jjPCIQ4UDZqT0m5pfmop7rT6RPJB7acLnyugxHY9r+Q=";
const MD5: &str = "md58bbf3f45673bf67d02e4214911f3417f";
const DECISIONS: [Decision; 4] = [Allow, Deny, NotMatched, Trust];

/// A rule from its fields; `-` is no address.
fn rule(line: &str) -> HbaRule {
    let fields: Vec<&str> = line.split(' ').collect();
    let names = |field: &str| {
        let name = |text: &str| match text {
            "all" => HbaName::All,
            text => HbaName::Literal(text.to_owned()),
        };
        field.split(',').map(name).collect()
    };
    HbaRule {
        conn_type: match fields[0] {
            "local" => HbaConnType::Local,
            "hostssl" => HbaConnType::HostSsl,
            "hostnossl" => HbaConnType::HostNoSsl,
            _ => HbaConnType::Host,
        },
        database: names(fields[1]),
        user: names(fields[2]),
        address: fields[3].parse().ok(),
        method: match fields[4] {
            "trust" => HbaMethod::Trust,
            "md5" => HbaMethod::Md5,
            "scram" => HbaMethod::ScramSha256,
            "reject" => HbaMethod::Reject,
            other => HbaMethod::Other(other.to_owned()),
        },
    }
}

/// Both verdicts for user `u`, database `d`: md5, then SCRAM.
fn verdicts(rules: &str, ip: &str, tls: bool) -> [Decision; 2] {
    let rules: Vec<HbaRule> = rules.lines().map(rule).collect();
    let client = HbaClient {
        ip: ip.parse().ok(),
        tls,
        user: "u",
        database: "d",
    };
    [WantedMethod::Md5, WantedMethod::ScramSha256].map(|wanted| decide(&rules, &client, wanted))
}

#[test]
fn each_walk_passes_over_the_other_method() {
    let rules = "host all all - md5\nhost all all - reject";
    assert_eq!(verdicts(rules, "10.0.0.1", false), [Allow, Deny]);
    let rules = "host all all - scram\nhost all all - trust";
    assert_eq!(verdicts(rules, "10.0.0.1", false), [Trust, Allow]);
    let rules = "host all all - peer\nhost all all - md5";
    assert_eq!(verdicts(rules, "10.0.0.1", false), [Allow, NotMatched]);
    assert_eq!(verdicts("", "10.0.0.1", false), [NotMatched; 2]);
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
        ("hostssl d u - trust", NotMatched),
        ("hostnossl d u - trust", Trust),
        ("local d u - trust", NotMatched),
    ] {
        assert_eq!(verdicts(rules, "10.1.2.3", false), [expected; 2], "{rules}");
    }
    assert_eq!(
        verdicts("hostssl d u - trust", "10.1.2.3", true),
        [Trust; 2]
    );
    assert_eq!(
        verdicts("hostnossl d u - trust", "10.1.2.3", true),
        [NotMatched; 2]
    );
}

#[test]
fn a_unix_socket_matches_local_rules_only() {
    assert_eq!(verdicts("local all all - trust", "none", false), [Trust; 2]);
    assert_eq!(
        verdicts("host all all - trust", "none", false),
        [NotMatched; 2]
    );
}

#[test]
fn a_network_list_allows_its_members_and_an_empty_one_everybody() {
    let networks = ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    let decide = |ip: &str| decide_by_network(&networks, Some(ip.parse().unwrap()));
    assert_eq!(decide("10.9.9.9"), Allow);
    assert_eq!(decide("::1"), Allow);
    assert_eq!(decide("::2"), NotMatched);
    assert_eq!(decide_by_network(&[], Some("::2".parse().unwrap())), Allow);
}

#[test]
fn networks_are_read_strictly() {
    for bad in [
        "10.0.0.0",
        "10.0.0.0/33",
        "::/129",
        "10.0.0.0/+8",
        "10.0.0.0/",
        "x/8",
        "/",
        "",
    ] {
        assert!(bad.parse::<IpNet>().is_err(), "{bad}");
    }
    let network: IpNet = "10.1.2.3/8".parse().unwrap();
    assert!(network.contains("10.200.0.1".parse().unwrap()));
    assert!(
        network.contains("::ffff:10.200.0.1".parse().unwrap()),
        "IPv4 through IPv6"
    );
    assert!(
        "0.0.0.0/0"
            .parse::<IpNet>()
            .unwrap()
            .contains("1.2.3.4".parse().unwrap())
    );
    assert_eq!(network.to_string(), "10.1.2.3/8");
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
        user: "u",
        database: "d",
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

proptest! {
    #[test]
    fn a_network_contains_exactly_the_addresses_with_its_prefix(
        a: u128,
        bits in 0..=128_u8,
        b: u128,
        v4: bool,
    ) {
        let (a, bits, b, width) = if v4 {
            (a & u128::from(u32::MAX), bits % 33, b & u128::from(u32::MAX), 32)
        } else {
            // A mapped address would be looked at a second time, as IPv4.
            (a | 1 << 127, bits, b | 1 << 127, 128)
        };
        let ip = |n: u128| if v4 {
            IpAddr::from(u32::try_from(n).unwrap().to_be_bytes())
        } else {
            IpAddr::from(n.to_be_bytes())
        };
        let network = IpNet::new(ip(a), bits).unwrap();
        prop_assert_eq!(network.to_string().parse(), Ok(network));
        let shift = |n: u128| n.checked_shr(width - u32::from(bits)).unwrap_or(0);
        prop_assert_eq!(network.contains(ip(b)), shift(a) == shift(b));
        prop_assert!(network.contains(ip(a)));
    }

    #[test]
    fn any_network_text_parses_or_not(text in "[0-9a-f.:/]{0,20}|.*") {
        let _ = text.parse::<IpNet>();
    }
}
