//! Tests of the rule syntax.

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

fn rules(text: &str) -> Vec<HbaRule> {
    let (rules, notes) = parse_rules(text).unwrap();
    assert_eq!(notes, [], "{text}");
    rules
}

fn rule(text: &str) -> HbaRule {
    rules(text).pop().unwrap()
}

fn name(text: &str) -> HbaName {
    HbaName::Name(text.to_owned())
}

fn net(text: &str) -> HbaAddress {
    HbaAddress::Net(IpNet::parse(text).unwrap())
}

#[test]
fn a_file_gives_its_rules_with_their_lines() {
    let text = "# heading\n\nlocal all all trust\r\n\thost\tdb\tbob 10.0.0.0/8 md5 # why\n\
                HOSTSSL all all ::1/128 SCRAM-SHA-256 clientcert=1\n\
                hostnossl all all all reject";
    let expected = [
        HbaRule {
            line: 3,
            kind: HbaKind::Local,
            databases: vec![HbaName::All],
            users: vec![HbaName::All],
            address: HbaAddress::None,
            method: HbaMethod::Trust,
            options: HbaOptions::default(),
        },
        HbaRule {
            line: 4,
            kind: HbaKind::Host,
            databases: vec![name("db")],
            users: vec![name("bob")],
            address: net("10.0.0.0/8"),
            method: HbaMethod::Md5,
            options: HbaOptions::default(),
        },
        HbaRule {
            line: 5,
            kind: HbaKind::HostSsl,
            databases: vec![HbaName::All],
            users: vec![HbaName::All],
            address: net("::1/128"),
            method: HbaMethod::ScramSha256,
            options: HbaOptions {
                client_cert: Some(ClientCert::Authority),
                ..HbaOptions::default()
            },
        },
        HbaRule {
            line: 6,
            kind: HbaKind::HostNoSsl,
            databases: vec![HbaName::All],
            users: vec![HbaName::All],
            address: HbaAddress::Any,
            method: HbaMethod::Reject,
            options: HbaOptions::default(),
        },
    ];
    assert_eq!(rules(text), expected);
}

#[test]
fn name_lists_quotes_and_keywords_are_understood() {
    let parsed = rule(r#"host a,"b c", sameuser,"sameuser" ALL,"all","q""r#s,t" all trust"#);
    let databases = [name("a"), name("b c"), HbaName::SameUser, name("sameuser")];
    assert_eq!(parsed.databases, databases);
    assert_eq!(parsed.users, [HbaName::All, HbaName::All, name("q\"r#s,t")]);
    assert_eq!(parsed.address, HbaAddress::Any);
    assert_eq!(
        rule("host all sameuser all trust").users,
        [name("sameuser")]
    );
}

#[test]
fn every_spelling_of_an_address_is_understood() {
    for (text, address) in [
        ("10.1.2.3/8", net("10.0.0.0/8")),
        ("0.0.0.0/0", net("0.0.0.0/0")),
        ("10.1.2.3", net("10.1.2.3/32")),
        ("::1", net("::1/128")),
        ("10.1.2.3 255.255.0.0", net("10.1.0.0/16")),
        ("fe80::1 ffff::", net("fe80::/16")),
        ("10.1.2.3 0.0.0.0", net("0.0.0.0/0")),
        ("all", HbaAddress::Any),
        ("ALL", HbaAddress::Any),
        ("samehost", HbaAddress::SameHost),
        ("samenet", HbaAddress::SameNet),
    ] {
        let rule = rule(&format!("host all all {text} md5"));
        assert_eq!(
            (rule.address, rule.method),
            (address, HbaMethod::Md5),
            "{text}"
        );
    }
}

#[test]
fn an_address_that_cannot_be_understood_is_an_error_with_its_line() {
    for address in [
        "localhost",
        ".example.com",
        "10.0.0.0/33",
        "10.0.0/8",
        "10.0.0.0/+8",
        "10.0.0.0/",
        "::1/129",
        "10.0.0.0 255.0.255.0",
        "10.0.0.0 ffff::",
        "10.0.0.0/8 255.0.0.0",
        "10.0.0.0/8,11.0.0.0/8",
        "trust",
    ] {
        let text = format!("host all all all reject\n\nhost all all {address} trust");
        assert_eq!(parse_rules(&text).unwrap_err().line, 3, "{address}");
    }
    let error = parse_rules("host all all 10.0.0.0 255.0.0.0").unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 1: no method after address and mask"
    );
}

#[test]
fn every_spelling_of_a_method_is_understood() {
    for (text, method) in [
        ("trust", HbaMethod::Trust),
        ("MD5", HbaMethod::Md5),
        ("scram-sha-256", HbaMethod::ScramSha256),
        ("scram_sha_256", HbaMethod::ScramSha256),
        ("ScramSha256", HbaMethod::ScramSha256),
        ("reject", HbaMethod::Reject),
        ("Peer", HbaMethod::Peer),
        ("ident", HbaMethod::Peer),
        ("password", HbaMethod::Password),
        ("pam", HbaMethod::Pam),
        ("JWT", HbaMethod::Jwt),
        ("cert", HbaMethod::Other("cert".to_owned())),
        ("Ldap", HbaMethod::Other("Ldap".to_owned())),
    ] {
        let (rules, _) = parse_rules(&format!("local all all {text}")).unwrap();
        assert_eq!(rules[0].method, method, "{text}");
    }
}

#[test]
fn a_line_that_cannot_be_read_is_an_error_with_its_number() {
    for (text, expected) in [
        (
            "\nhostgss all all all trust",
            "line 2: unknown connection type 'hostgss'",
        ),
        ("host all all md5", "line 1: 5 fields expected, 4 found"),
        ("local all all", "line 1: 4 fields expected, 3 found"),
        (
            "host \"all all all md5",
            "line 1: a double quote is not closed",
        ),
        (
            "host all /^a all md5",
            "line 1: '/^a': regular expressions are not supported",
        ),
        (
            "# x \\\n y\nhost all +admins all reject",
            "line 3: '+admins' is taken as that user alone: the pooler knows no memberships of roles",
        ),
        (
            "include_dir x",
            "line 1: include_dir is not supported; use include",
        ),
        ("include a b", "line 1: include takes one file name"),
    ] {
        assert_eq!(
            parse_rules(text).unwrap_err().to_string(),
            expected,
            "{text}"
        );
    }
}

#[test]
fn what_has_another_meaning_than_at_the_server_is_remarked() {
    let (rules, notes) = parse_rules("host samerole +admins all md5").unwrap();
    assert_eq!(rules[0].databases, [HbaName::SameUser]);
    assert_eq!(rules[0].users, [name("admins")]);
    assert_eq!(notes.len(), 2);
    let (rules, notes) = parse_rules("local all all gss").unwrap();
    assert_eq!(rules.len(), 1);
    assert_eq!(
        notes[0].to_string(),
        "line 1: method 'gss' is not supported: the rule lets nobody in"
    );
    let (rules, notes) = parse_rules("hostgssenc all all all trust").unwrap();
    assert_eq!((rules.len(), notes.len()), (0, 1));
    assert_eq!(rule("hostnogssenc all all all trust").kind, HbaKind::Host);
    let parsed = rule("host replication,\"replication\" \"+a\",\"/b\" all trust");
    assert_eq!(
        parsed.databases,
        [HbaName::Replication, name("replication")]
    );
    assert_eq!(parsed.users, [name("+a"), name("/b")]);
}

#[test]
fn only_quotes_at_the_beginning_take_the_meaning_of_a_word_away() {
    for text in [
        "host all +\"bad guys\" all reject",
        "host all +\"bad\"guys all reject",
        "host same\"role\" all all reject",
    ] {
        let error = parse_rules(text).unwrap_err();
        assert!(error.reason.contains("memberships"), "{text}: {error}");
    }
    let parsed = rule("host a\"l\"l,+db a\"l\"l all reject");
    assert_eq!(parsed.databases, [HbaName::All, name("+db")]);
    assert_eq!(parsed.users, [HbaName::All]);
    let (rules, _) = parse_rules("host all ++x all md5").unwrap();
    assert_eq!(rules[0].users, [name("+x")]);
    let read = |path: &Path| match path.to_str() {
        Some("etc/ban list") => Ok(b"mallory".to_vec()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let text = "host all @\"ban list\",\"@ban list\" all reject";
    let (rules, _) = read_rules(text, Path::new("etc"), &read).unwrap();
    assert_eq!(rules[0].users, [name("mallory"), name("@ban list")]);
}

#[test]
fn names_that_are_taken_for_fewer_are_refused_if_the_others_need_no_password() {
    for (text, is_fine) in [
        ("host all +staff all md5\nhost all all all md5", true),
        ("host all +staff all trust\nhost all all all trust", true),
        ("host all +staff all md5\nhost all all all trust", false),
        ("host all +staff all ldap\nhost all all all trust", false),
        ("host samerole all all md5\nhost a all all trust", false),
        (
            "host all +staff 10.0.0.0/8 md5\nhost all all 127.0.0.1 trust",
            true,
        ),
        (
            "host all +staff 10.0.0.0/8 md5\nhost all all 10.0.0.0/8 md5\nhost all all all trust",
            true,
        ),
        ("host all +staff all md5\n\ninclude open", false),
    ] {
        let read = |_: &Path| Ok(b"host all all all trust".to_vec());
        let outcome = read_rules(text, Path::new(""), &read);
        assert_eq!(outcome.is_ok(), is_fine, "{text}: {outcome:?}");
        if let Err(note) = outcome {
            assert_eq!(note.line, 1, "{note}");
            assert!(note.reason.contains("without a password"), "{note}");
        }
    }
}

#[test]
fn a_line_goes_on_after_a_backslash() {
    let parsed = rules("host all \\\n all all md5\nlocal all all trust");
    assert_eq!((parsed[0].line, parsed[1].line), (1, 3));
    assert_eq!(parsed[0].method, HbaMethod::Md5);
}

#[test]
fn names_and_rules_may_come_from_other_files() {
    let read = |path: &Path| match path.to_str() {
        Some("etc/admins") => Ok(b"bob, carol # the boss\n\"d e\"".to_vec()),
        Some("etc/sub/more") => Ok(b"\nlocal all @names gss\ninclude_if_exists nothing".to_vec()),
        Some("etc/sub/names") => Ok(b"x".to_vec()),
        Some("etc/banned") => Ok(b"eve\n@sub/list".to_vec()),
        Some("etc/sub/list") => Ok(b"mallory,@names \"@odd\"".to_vec()),
        Some("etc/ring") => Ok(b"@ring".to_vec()),
        Some("etc/loop") => Ok(b"include loop".to_vec()),
        Some("etc/bad") => Ok(b"\n\nhost".to_vec()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let read = |text: &str| read_rules(text, Path::new("etc"), &read);
    let (rules, notes) = read("host all a,@admins all md5\ninclude sub/more").unwrap();
    let users = ["a", "bob", "carol", "d e"].map(name);
    assert_eq!(rules[0].users, users);
    assert_eq!(rules[1].users, [name("x")]);
    assert!(
        notes[0]
            .to_string()
            .starts_with("line 2: etc/sub/more: line 2: method 'gss'"),
        "{notes:?}"
    );
    for (text, expected) in [
        (
            "\ninclude bad",
            "line 2: etc/bad: line 3: 5 fields expected, 1 found",
        ),
        (
            "include nothing",
            "line 1: cannot read etc/nothing: entity not found",
        ),
        (
            "host all @nothing all md5",
            "line 1: cannot read etc/nothing: entity not found",
        ),
    ] {
        assert_eq!(read(text).unwrap_err().to_string(), expected);
    }
    let (rules, _) = read("host all @banned all reject").unwrap();
    let banned = ["eve", "mallory", "x", "@odd"].map(name);
    assert_eq!(rules[0].users, banned);
    for text in ["include loop", "host all @ring all reject"] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.ends_with("too deep"), "{error}");
    }
}

#[test]
fn networks_contain_exactly_the_addresses_with_their_prefix() {
    let seed: u64 = rand::random();
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..5000 {
        let prefix: u8 = rng.random_range(0..=32);
        let bits: u32 = rng.random();
        let net = IpNet::new(IpAddr::V4(bits.into()), prefix).unwrap();
        let other = bits
            ^ rng
                .random::<u32>()
                .checked_shr(rng.random_range(0..=32))
                .unwrap_or(0);
        let expected = (bits ^ other).leading_zeros() >= u32::from(prefix);
        let other = IpAddr::V4(other.into());
        assert_eq!(net.contains(other), expected, "{net} {other} seed={seed}");
        let reparsed = IpNet::parse(&net.to_string());
        assert_eq!(reparsed, Some(net), "seed={seed}");
    }
    let net = IpNet::parse("10.0.0.0/8").unwrap();
    assert!(net.contains("::ffff:10.1.1.1".parse().unwrap()));
    assert!(!net.contains("::1".parse().unwrap()));
    assert!(
        !IpNet::parse("::/0")
            .unwrap()
            .contains("10.0.0.1".parse().unwrap())
    );
    assert!(
        IpNet::parse("::/0")
            .unwrap()
            .contains("fe80::1".parse().unwrap())
    );
    for (net, expected) in [
        ("::/0", false),
        ("::/80", false),
        ("::ffff:0:0/96", true),
        ("::ffff:10.0.0.0/104", true),
        ("::ffff:11.0.0.0/104", false),
    ] {
        for ip in ["10.0.0.1", "::ffff:10.0.0.1"] {
            let ip = ip.parse().unwrap();
            assert_eq!(
                IpNet::parse(net).unwrap().contains(ip),
                expected,
                "{net} {ip}"
            );
        }
    }
}

#[test]
fn networks_are_read_strictly() {
    for bad in [
        "10.0.0.0/33",
        "::/129",
        "10.0.0.0/+8",
        "10.0.0.0/",
        "x/8",
        "/",
        "",
    ] {
        assert_eq!(IpNet::parse(bad), None, "{bad}");
    }
    let network = IpNet::parse("10.1.2.3/8").unwrap();
    assert!(network.contains("10.200.0.1".parse().unwrap()));
    assert!(
        network.contains("::ffff:10.200.0.1".parse().unwrap()),
        "IPv4 through IPv6"
    );
    let everything = IpNet::parse("0.0.0.0/0").unwrap();
    assert!(everything.contains("1.2.3.4".parse().unwrap()));
    assert_eq!(network.to_string(), "10.0.0.0/8");
}

#[test]
fn arbitrary_text_never_panics() {
    let seed: u64 = rand::random();
    let mut rng = StdRng::seed_from_u64(seed);
    let words = [
        "host",
        "local",
        "all",
        "\"",
        ",",
        "#",
        " ",
        "\n",
        "10.0.0.0/8",
        "::",
        "md5",
        "é",
    ];
    for _ in 0..20_000 {
        let length = rng.random_range(0..14);
        let text: Vec<&str> = (0..length)
            .map(|_| words[rng.random_range(0..words.len())])
            .collect();
        let _ = parse_rules(&text.concat());
    }
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
        prop_assert_eq!(IpNet::parse(&network.to_string()), Some(network));
        let shift = |n: u128| n.checked_shr(width - u32::from(bits)).unwrap_or(0);
        prop_assert_eq!(network.contains(ip(b)), shift(a) == shift(b));
        prop_assert!(network.contains(ip(a)));
    }

    #[test]
    fn any_network_text_parses_or_not(text in "[0-9a-f.:/]{0,20}|.*") {
        let _ = IpNet::parse(&text);
    }
}
