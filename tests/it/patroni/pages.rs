//! The examples and tables of `docs/patroni_proxy.md`.
//!
//! Owns: running the examples as they stand, but for addresses and files, which are those of the tests.
//! Does not own: the table of keys (unit tests of the program).

use super::{Backend, Guest, Proxy, Rest, Setup, member, secure};
use crate::common::tls::{Certificates, Wanted};
use crate::common::{eventually, port};

const PAGE: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/docs/patroni_proxy.md"
));

/// The code blocks of a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let start = format!("```{language}\n");
    let blocks = PAGE.split(&start).skip(1);
    blocks
        .map(|rest| rest.split("```").next().unwrap())
        .collect()
}

/// Replaces each of `pairs`, which must be there.
fn with(text: &str, pairs: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (old, new) in pairs {
        assert!(text.contains(old), "{old}");
        text = text.replace(old, new);
    }
    text
}

#[test]
fn the_first_example_works() {
    let host_port = port::free();
    let [leader, replica] = [(); 2].map(|()| Backend::new(host_port));
    let members = [
        member(leader.host(), "leader"),
        member(replica.host(), "sync_standby"),
    ];
    let endpoints = [(); 3].map(|()| Rest::new(&members).url());
    let [first, second, api] = [(); 3].map(|()| port::free());
    let [block] = blocks("yaml")[..] else {
        panic!("one example in YAML");
    };
    let text = with(
        block,
        &[
            ("http://10.0.0.11:8008", &endpoints[0]),
            ("http://10.0.0.12:8008", &endpoints[1]),
            ("http://10.0.0.13:8008", &endpoints[2]),
            ("0.0.0.0:6432", &format!("127.0.0.1:{first}")),
            ("0.0.0.0:6433", &format!("127.0.0.1:{second}")),
            (": 5432", &format!(": {host_port}")),
        ],
    );
    let text = format!("listen_address: \"127.0.0.1:{api}\"\n{text}");
    let proxy = Proxy::start("patroni_proxy.yaml", &text);
    eventually("the proxy is ready", || proxy.get("/health/ready").0 == 200);
    Guest::of(first, leader.host()).assert_alive();
    // Its lag is not told.
    assert_eq!(Guest::connect(second).1, None);
    assert_eq!(proxy.count("is not a known key"), 0);
}

#[test]
fn the_second_example_works() {
    let host_port = port::free();
    let [leader, replica] = [(); 2].map(|()| Backend::new(host_port));
    let certificates = Certificates::new();
    certificates.make("proxy", &Wanted::client());
    let rest = Rest::with(
        &[
            member(leader.host(), "leader"),
            super::rest::with(member(replica.host(), "replica"), "lag", 7.into()),
        ],
        Some(secure::server(&certificates, true)),
    );
    let [first, second, api] = [(); 3].map(|()| port::free());
    let [block] = blocks("toml")[..] else {
        panic!("one example in TOML");
    };
    let text = with(
        block,
        &[
            ("127.0.0.1:8009", &format!("127.0.0.1:{api}")),
            ("https://10.0.0.11:8008", &rest.url()),
            (
                "https://10.0.0.12:8008",
                &rest.url().replace("127.0.0.1", "localhost"),
            ),
            ("/etc/patroni/ca.crt", &certificates.file("ca.crt")),
            ("/etc/patroni/proxy.crt", &certificates.file("proxy.crt")),
            ("/etc/patroni/proxy.key", &certificates.file("proxy.key")),
            ("0.0.0.0:6432", &format!("127.0.0.1:{first}")),
            ("0.0.0.0:6433", &format!("127.0.0.1:{second}")),
            ("5432", &host_port.to_string()),
        ],
    );
    let proxy = Proxy::start("patroni_proxy.toml", &text);
    eventually("the proxy is ready", || proxy.get("/health/ready").0 == 200);
    Guest::of(first, leader.host()).assert_alive();
    let _guests = [(); 4].map(|()| Guest::of(second, replica.host()));
    assert_eq!(proxy.count("is not a known key"), 0);
}

#[test]
fn the_page_names_every_metric_and_no_other() {
    let rest = Rest::new(&[member("127.1.1.1", "leader")]);
    let mut setup = Setup::new().hosts(&[rest.url()]);
    setup.port("p", &["leader"], 1);
    let text = setup.start().get("/metrics").1;
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut known: Vec<&str> = types.map(|line| line.split(' ').next().unwrap()).collect();
    let rows = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("| `patroni_proxy_"));
    let mut told: Vec<String> = rows
        .map(|row| format!("patroni_proxy_{}", row.split('`').next().unwrap()))
        .collect();
    known.sort_unstable();
    told.sort_unstable();
    assert_eq!(told, known);
}
