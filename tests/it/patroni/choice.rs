//! Which of several eligible backends a client gets, and what happens when one cannot be reached.
//!
//! Owns: least connections, weights, the next backend after a failure, `max_connections`.

use super::backend::{Backend, Deaf, loopback};
use super::{Guest, Rest, Setup, member};
use crate::common::{eventually, port};

#[test]
fn the_backend_with_the_fewest_connections_is_next() {
    let host_port = port::free();
    let [first, second] = [(); 2].map(|()| Backend::new(host_port));
    let [one, two] = [first.host(), second.host()];
    let rest = Rest::new(&[member(one, "replica"), member(two, "replica")]);
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let listen = setup.port("p", &["async"], host_port);
    let other = setup.port("q", &["async"], host_port);
    let proxy = setup.start();
    let mut of_one = vec![Guest::of(listen, one)];
    let of_two = [Guest::of(listen, two)];
    of_one.push(Guest::of(listen, one));
    // Ports count for themselves.
    let _of_other = Guest::of(other, one);
    drop(of_two);
    eventually("the end of a client is counted", || {
        proxy.metric("connections", "p") == 2
    });
    let _again = [Guest::of(listen, two), Guest::of(listen, two)];
    drop(of_one);
    eventually("the ends of clients are counted", || {
        proxy.metric("connections", "p") == 2
    });
    let _last = Guest::of(listen, one);
}

#[test]
fn the_leader_of_a_port_for_any_role_can_have_less_weight() {
    let host_port = port::free();
    let [leader, replica] = [(); 2].map(|()| Backend::new(host_port));
    let rest = Rest::new(&[
        member(leader.host(), "leader"),
        member(replica.host(), "replica"),
    ]);
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let quarter = setup.port("quarter", &["any"], host_port);
    let none = setup.port("none", &["any"], host_port);
    let setup = setup.port_key("quarter", "leader_weight", 25);
    let proxy = setup.port_key("none", "leader_weight", 0).start();
    let _guests = [(); 10].map(|()| Guest::connect(quarter));
    assert_eq!((leader.accepted(), replica.accepted()), (2, 8));
    let _guests = [(); 5].map(|()| Guest::of(none, replica.host()));
    rest.tell(&[member(leader.host(), "leader")]);
    proxy.update();
    Guest::of(none, leader.host()).assert_alive();
}

#[test]
fn a_backend_that_cannot_be_reached_is_passed_over() {
    let host_port = port::free();
    let (refusing, deaf) = (loopback(), Deaf::new(host_port));
    let backend = Backend::new(host_port);
    let rest = Rest::new(&[
        member(&refusing, "replica"),
        member(deaf.host(), "replica"),
        member(backend.host(), "replica"),
    ]);
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let listen = setup.port("p", &["async"], host_port);
    let proxy = setup.port_key("p", "connect_timeout", "200ms").start();
    Guest::of(listen, backend.host()).assert_alive();
    assert_eq!(proxy.metric("connect_failures_total", "p"), 2);
    rest.tell(&[member(&refusing, "replica"), member(deaf.host(), "replica")]);
    proxy.update();
    assert_eq!(Guest::connect(listen).1, None);
    assert_eq!(proxy.metric("unreachable_total", "p"), 1);
    assert_eq!(proxy.metric("connect_failures_total", "p"), 4);
}

#[test]
fn a_client_whose_backend_goes_before_it_is_reached_gets_another() {
    let host_port = port::free();
    let deaf = Deaf::new(host_port);
    let backend = Backend::new(host_port);
    let rest = Rest::new(&[member(deaf.host(), "leader")]);
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let listen = setup.port("p", &["leader"], host_port);
    let proxy = setup.port_key("p", "connect_timeout", "1m").start();
    let mut guest = Guest::dial(listen);
    eventually("the client is accepted", || {
        proxy.metric("connections", "p") == 1
    });
    rest.tell(&[member(backend.host(), "leader")]);
    proxy.update();
    assert_eq!(guest.line().as_deref(), Some(backend.host()));
    guest.assert_alive();
}

#[test]
fn there_are_as_many_connections_as_there_may_be() {
    let host_port = port::free();
    let backend = Backend::new(host_port);
    let rest = Rest::new(&[member(backend.host(), "leader")]);
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let listen = setup.port("p", &["leader"], host_port);
    let proxy = setup.port_key("p", "max_connections", 2).start();
    let mut guests = [(); 2].map(|()| Guest::of(listen, backend.host()));
    assert_eq!(Guest::connect(listen).1, None);
    assert_eq!(proxy.metric("refused_total", "p"), 1);
    guests[0].assert_alive();
    drop(guests);
    eventually("the ends of clients are counted", || {
        proxy.metric("connections", "p") == 0
    });
    Guest::of(listen, backend.host()).assert_alive();
}
