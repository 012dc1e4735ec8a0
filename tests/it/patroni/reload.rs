//! Changes of the configuration while clients are connected.
//!
//! Owns: what SIGHUP changes and what it leaves alone.
//! Does not own: options of TLS (`secure`).

use serde_json::json;

use super::{Backend, Guest, Rest, Setup, member};
use crate::common::{eventually, port};

/// A backend that leads a cluster.
fn cluster(host_port: u16) -> (Backend, Rest) {
    let backend = Backend::new(host_port);
    let rest = Rest::new(&[member(backend.host(), "leader")]);
    (backend, rest)
}

#[test]
fn hosts_of_a_cluster_can_be_changed() {
    let host_port = port::free();
    let [(one, old), (two, new)] = [(); 2].map(|()| cluster(host_port));
    let mut setup = Setup::new().hosts(&[old.url()]);
    let listen = setup.port("p", &["leader"], host_port);
    let mut proxy = setup.start();
    let mut guest = Guest::of(listen, one.host());
    let asked = old.asked();
    proxy.reload(&setup.hosts(&[new.url()]));
    assert_eq!(proxy.count("Cluster 'c' hosts changed"), 1);
    // What is known counts until the new host has told something else.
    guest.assert_cut();
    Guest::of(listen, two.host()).assert_alive();
    proxy.update();
    assert_eq!(old.asked(), asked);
}

#[test]
fn what_has_not_changed_is_not_touched() {
    let host_port = port::free();
    let (backend, rest) = cluster(host_port);
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let stays = setup.port("stays", &["leader"], host_port);
    let goes = setup.port("goes", &["leader"], host_port);
    let mut proxy = setup.start();
    let mut of_stays = Guest::of(stays, backend.host());
    let mut of_goes = Guest::of(goes, backend.host());
    let mut setup = setup.without_port("goes").key("tcp_keepalives_idle", "10s");
    let new = setup.port("new", &["leader"], host_port);
    proxy.reload(&setup);
    of_goes.assert_cut();
    Guest::of(new, backend.host()).assert_alive();
    of_stays.assert_alive();
    eventually("nobody listens at the port that is gone", || {
        std::net::TcpStream::connect(("127.0.0.1", goes)).is_err()
    });
    // Other roles that the backend has as well: the port goes on, with its connections.
    proxy.reload(&setup.port_key("stays", "roles", json!(["any", "sync"])));
    of_stays.assert_alive();
    proxy.signal("-HUP");
    eventually("a reload of the same file says so", || {
        proxy.count("Configuration unchanged") == 1
    });
    of_stays.assert_alive();
}

#[test]
fn a_port_may_go_on_at_the_same_address_with_other_settings() {
    let (first_port, second_port) = (port::free(), port::free());
    let backend = Backend::new(first_port);
    let _other = Backend::at(backend.host(), second_port);
    let rest = Rest::new(&[member(backend.host(), "leader")]);
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let listen = setup.port("p", &["leader"], first_port);
    let mut proxy = setup.start();
    for round in 0..10 {
        let mut guest = Guest::of(listen, backend.host());
        let host_port = [second_port, first_port][round % 2];
        setup = setup.port_key("p", "host_port", host_port);
        proxy.reload(&setup);
        guest.assert_cut();
        Guest::of(listen, backend.host()).assert_alive();
    }
    // Addresses that cannot be bound at the same time.
    for address in ["0.0.0.0", "127.0.0.1"] {
        setup = setup.port_key("p", "listen", format!("{address}:{listen}"));
        proxy.reload(&setup);
        Guest::of(listen, backend.host()).assert_alive();
    }
    assert_eq!(proxy.count("Failed to bind"), 0);
}

#[test]
fn an_address_that_is_taken_is_used_once_it_is_free() {
    let host_port = port::free();
    let (backend, rest) = cluster(host_port);
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let listen = setup.port("p", &["leader"], host_port);
    let taken = std::net::TcpListener::bind(("127.0.0.1", listen)).unwrap();
    let proxy = setup.start_unready();
    eventually("the log tells", || {
        proxy.count("Port 'c:p' error: Failed to bind: ") == 1
    });
    eventually("what is missing is told", || {
        let (status, text) = proxy.get("/health/ready");
        status == 503 && text.starts_with("Port 'c:p': Failed to bind: ")
    });
    drop(taken);
    eventually("the proxy is ready", || proxy.get("/health/ready").0 == 200);
    Guest::of(listen, backend.host()).assert_alive();
    assert_eq!(proxy.count("Failed to bind: "), 1);
}

#[test]
fn clusters_come_and_go() {
    let host_port = port::free();
    let [(one, first), (two, second)] = [(); 2].map(|()| cluster(host_port));
    let mut setup = Setup::new().hosts(&[first.url()]);
    let of_first = setup.port("p", &["leader"], host_port);
    let mut proxy = setup.start();
    let mut stays = Guest::of(of_first, one.host());
    let of_second = port::free();
    let mut both = setup.clone();
    both.0["clusters"]["d"] = json!({
        "hosts": [second.url()],
        "ports": {"p": {
            "listen": format!("127.0.0.1:{of_second}"), "roles": ["leader"], "host_port": host_port,
        }},
    });
    proxy.reload(&both);
    assert_eq!(proxy.count("Cluster 'd' added"), 1);
    eventually("the new cluster has answered", || {
        proxy.get("/health/ready").0 == 200
    });
    let mut goes = Guest::of(of_second, two.host());
    proxy.reload(&setup);
    assert_eq!(proxy.count("Cluster 'd' removed"), 1);
    goes.assert_cut();
    stays.assert_alive();
    let asked = second.asked();
    assert_eq!(proxy.get("/update_clusters").1, "Updated 1 cluster(s)\n");
    assert_eq!(second.asked(), asked);
}

#[test]
fn a_file_with_a_fault_changes_nothing() {
    let host_port = port::free();
    let (backend, rest) = cluster(host_port);
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let listen = setup.port("p", &["leader"], host_port);
    let proxy = setup.start();
    let mut guest = Guest::of(listen, backend.host());
    let wrong = setup.tls(json!({"ca_cert": "/not/there"}));
    let wrong = wrong.hosts(&["https://127.0.0.1:1".to_owned()]);
    for (number, text) in ["clusters: [", "{}", &wrong.0.to_string()]
        .iter()
        .enumerate()
    {
        proxy.rewrite(text);
        proxy.signal("-HUP");
        eventually("the fault is told", || {
            proxy.count("Keeping previous configuration") == number + 1
        });
    }
    assert_eq!(proxy.count("Failed to reload configuration: "), 3);
    guest.assert_alive();
    Guest::of(listen, backend.host()).assert_alive();
}

#[test]
fn the_level_of_the_log_can_be_changed() {
    let host_port = port::free();
    let (backend, rest) = cluster(host_port);
    let mut setup = Setup::new().hosts(&[rest.url()]).key("log_level", "error");
    let listen = setup.port("p", &["leader"], host_port);
    let mut proxy = setup.start();
    Guest::of(listen, backend.host());
    assert_eq!(proxy.log(), "");
    proxy.reload(&setup.key("log_level", "info"));
    assert_eq!(proxy.count("log_level changed to INFO"), 1);
}
