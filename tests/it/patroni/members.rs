//! Which members clients of a port come to: roles, states, lag, tags, addresses, odd answers.
//!
//! Owns: eligibility as clients see it.
//! Does not own: the choice among eligible members (`choice`).

use serde_json::{Value, json};

use super::backend::Backend;
use super::rest::{Answer, Rest, member, with};
use super::{Guest, Proxy, Setup};
use crate::common::port;

/// A proxy with one port for these roles in front of `members`, and that port.
fn proxy(members: &[Value], roles: &[&str], host_port: u16) -> (Proxy, Rest, u16) {
    let rest = Rest::new(members);
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let listen = setup.port("p", roles, host_port);
    (setup.start(), rest, listen)
}

/// The hosts that a port of `proxy` has as backends, in their order.
fn eligible(proxy: &Proxy) -> Vec<String> {
    let backends = proxy.backends();
    let backends = backends["ports"][0]["backends"].as_array().unwrap().clone();
    let host = |one: &Value| one["host"].as_str().unwrap().to_owned();
    backends.iter().map(host).collect()
}

#[test]
fn each_role_leads_to_its_members() {
    let host_port = port::free();
    let [leader, sync, replica] = [(); 3].map(|()| Backend::new(host_port));
    let rest = Rest::new(&[
        member(replica.host(), "replica"),
        member(leader.host(), "leader"),
        member(sync.host(), "sync_standby"),
        member("127.0.0.99", "standby_leader"),
        member("127.0.0.99", "quorum_standby"),
    ]);
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let of_leader = setup.port("l", &["leader"], host_port);
    let of_sync = setup.port("s", &["SYNC"], host_port);
    let of_async = setup.port("a", &["async"], host_port);
    let of_any = setup.port("any", &["any"], host_port);
    let _proxy = setup.start();
    for (port, backend) in [(of_leader, &leader), (of_sync, &sync), (of_async, &replica)] {
        for _ in 0..3 {
            Guest::of(port, backend.host()).assert_alive();
        }
    }
    let guests = [(); 6].map(|()| Guest::connect(of_any));
    let hosts = guests.map(|(_guest, host)| host.unwrap());
    let order = [&replica, &leader, &sync].map(Backend::host);
    assert_eq!(hosts, [order, order].concat()[..]);
}

#[test]
fn only_members_that_run_are_used_whatever_the_version_calls_it() {
    let states = [
        "running",
        "streaming",
        "starting",
        "stopped",
        "in archive recovery",
        "crashed",
    ];
    let members: Vec<_> = states
        .iter()
        .enumerate()
        .map(|(number, state)| {
            let host = format!("127.1.1.{number}");
            with(member(&host, "replica"), "state", json!(state))
        })
        .collect();
    let (proxy, ..) = proxy(&members, &["async"], 1);
    assert_eq!(eligible(&proxy), ["127.1.1.0", "127.1.1.1"]);
}

#[test]
fn a_member_that_is_too_far_behind_or_does_not_say_is_left_out() {
    let lags = [
        json!(100),
        json!(101),
        json!("99"),
        json!("unknown"),
        Value::Null,
        json!(-1),
    ];
    let mut members: Vec<_> = lags
        .iter()
        .enumerate()
        .map(|(number, lag)| {
            with(
                member(&format!("127.1.1.{number}"), "replica"),
                "lag",
                lag.clone(),
            )
        })
        .collect();
    members.push(member("127.1.2.1", "replica"));
    members.push(with(member("127.1.2.2", "leader"), "lag", json!("unknown")));
    let rest = Rest::new(&members);
    let mut setup = Setup::new().hosts(&[rest.url()]);
    setup.port("p", &["any"], 1);
    let proxy = setup.port_key("p", "max_lag_in_bytes", 100).start();
    assert_eq!(eligible(&proxy), ["127.1.1.0", "127.1.1.2", "127.1.2.2"]);
    let backends = proxy.backends();
    assert_eq!(backends["clusters"]["c"][1]["lag"], json!(101));
    assert_eq!(backends["clusters"]["c"][3]["lag"], Value::Null);
}

#[test]
fn a_member_with_the_tag_noloadbalance_is_left_out() {
    let tag = |value: Value| json!({"noloadbalance": value, "nofailover": 3, "own": [1]});
    let members = [
        with(member("127.1.1.0", "replica"), "tags", tag(json!(true))),
        with(member("127.1.1.1", "replica"), "tags", tag(json!(false))),
        with(member("127.1.1.2", "replica"), "tags", json!("odd")),
    ];
    let (proxy, ..) = proxy(&members, &["async"], 1);
    assert_eq!(eligible(&proxy), ["127.1.1.1", "127.1.1.2"]);
}

#[test]
fn odd_members_do_not_spoil_the_answer() {
    let host_port = port::free();
    let backend = Backend::new(host_port);
    let members = [
        json!({"name": "starts", "role": "replica", "state": "creating replica"}),
        json!({"name": 7, "host": "", "role": "replica", "state": "running"}),
        json!(null),
        json!("member"),
        json!({"host": ["h"], "role": "replica", "state": "running"}),
        json!({"host": backend.host(), "role": "leader", "state": "running", "port": "odd"}),
    ];
    let (proxy, _rest, listen) = proxy(&members, &["any"], host_port);
    assert_eq!(eligible(&proxy), [backend.host()]);
    Guest::of(listen, backend.host()).assert_alive();
}

#[test]
fn an_answer_that_tells_nothing_changes_nothing() {
    let host_port = port::free();
    let backend = Backend::new(host_port);
    let (proxy, rest, listen) = proxy(&[member(backend.host(), "leader")], &["leader"], host_port);
    let mut guest = Guest::of(listen, backend.host());
    let deep = "[".repeat(100_000);
    let bodies = [
        "",
        "<html>",
        "{}",
        "[]",
        r#"{"members": {}}"#,
        "null",
        "\u{0}",
        &deep,
    ];
    for (number, body) in bodies.iter().enumerate() {
        rest.answer(Answer::Body(200, (*body).to_owned()));
        proxy.update();
        let lines = proxy.count("failed to fetch members: All hosts unavailable");
        assert_eq!(lines, number + 1, "{body:?}");
        guest.assert_alive();
        Guest::of(listen, backend.host());
    }
    // A list without members is an answer.
    rest.tell(&[]);
    proxy.update();
    guest.assert_cut();
    assert_eq!(Guest::connect(listen).1, None);
}

#[test]
fn the_status_of_an_answer_is_not_looked_at() {
    let members = [member("127.1.1.1", "leader")];
    let rest = Rest::new(&members);
    rest.answer(Answer::Body(
        503,
        json!({"members": members, "scope": "x"}).to_string(),
    ));
    let mut setup = Setup::new().hosts(&[format!("{}/", rest.url())]);
    setup.port("p", &["leader"], 1);
    assert_eq!(eligible(&setup.start()), ["127.1.1.1"]);
}

#[test]
fn members_may_have_names_and_addresses_of_both_families() {
    let host_port = port::free();
    let _backend = Backend::at("127.0.0.1", host_port);
    let has_ipv6 = std::net::TcpListener::bind(("::1", 0)).is_ok();
    let (proxy, rest, listen) = proxy(&[member("localhost", "leader")], &["leader"], host_port);
    // `::1` may be the first address of the name: nobody listens there, so the next one is tried.
    Guest::of(listen, "127.0.0.1").assert_alive();
    rest.tell(&[member("name.that.is.not.there.invalid", "leader")]);
    proxy.update();
    assert_eq!(Guest::connect(listen).1, None);
    assert_eq!(proxy.metric("unreachable_total", "p"), 1);
    assert_eq!(
        proxy.count("cannot look up 'name.that.is.not.there.invalid'"),
        1
    );
    if !has_ipv6 {
        eprintln!("NOT TESTED: members with IPv6 addresses, which this machine does not have");
        return;
    }
    let _backend = Backend::at("::1", host_port);
    for host in ["::1", "[::1]"] {
        rest.tell(&[member(host, "leader")]);
        proxy.update();
        Guest::of(listen, "::1").assert_alive();
    }
}
