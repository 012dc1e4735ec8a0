//! The life of the process and of its connections: changes of the cluster, draining, signals, limits of
//! what a change may touch.
//!
//! Owns: who is cut and who is not.
//! Does not own: changes of the configuration (`reload`).

use std::os::unix::net::UnixDatagram;

use serde_json::json;

use super::rest::with;
use super::{Answer, Backend, Guest, Proxy, Rest, Setup, member, proxy};
use crate::common::{DEADLINE, eventually, port, unique};

/// Three backends on one port, the first is the leader.
fn trio() -> ([Backend; 3], u16, Rest) {
    let host_port = port::free();
    let backends = [(); 3].map(|()| Backend::new(host_port));
    let rest = Rest::new(&[]);
    lead(&rest, &backends, 0);
    (backends, host_port, rest)
}

/// Makes one of the backends the leader and the others replicas.
fn lead(rest: &Rest, backends: &[Backend], leader: usize) {
    let role = |number| {
        if number == leader {
            "leader"
        } else {
            "replica"
        }
    };
    let members = backends.iter().enumerate();
    let members: Vec<_> = members
        .map(|(number, backend)| member(backend.host(), role(number)))
        .collect();
    rest.tell(&members);
}

#[test]
fn a_switchover_cuts_only_connections_whose_member_has_another_role_now() {
    let (backends, host_port, rest) = trio();
    let [one, two, three] = [0, 1, 2].map(|number| backends[number].host());
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let leader = setup.port("leader", &["leader"], host_port);
    let replica = setup.port("replica", &["async"], host_port);
    let any = setup.port("any", &["any"], host_port);
    let proxy = setup.start();
    let mut of_leader = [(); 8].map(|()| Guest::of(leader, one));
    let mut of_two = Guest::of(replica, two);
    let mut of_three = Guest::of(replica, three);
    let mut of_any = [one, two, three].map(|host| Guest::of(any, host));
    lead(&rest, &backends, 1);
    proxy.update();
    for guest in &mut of_leader {
        guest.assert_cut();
    }
    of_two.assert_cut();
    of_three.assert_alive();
    for guest in &mut of_any {
        guest.assert_alive();
    }
    Guest::of(leader, two).assert_alive();
    Guest::of(replica, one).assert_alive();
    assert_eq!(proxy.metric("cut_total", "leader"), 8);
    assert_eq!(proxy.metric("cut_total", "replica"), 1);
    assert_eq!(proxy.metric("cut_total", "any"), 0);
    let line = format!("Port 'c:leader': backend '{one}' removed, disconnected 8 clients");
    assert_eq!(proxy.count(&line), 1);
    // The same answer again changes nothing.
    proxy.update();
    assert_eq!(proxy.count(&line), 1);
    of_three.assert_alive();
}

#[test]
fn a_replica_that_lags_may_finish_its_clients() {
    let (backends, host_port, rest) = trio();
    let members = |lag: u64, role: &str| {
        let lagging = with(member(backends[1].host(), role), "lag", json!(lag));
        let other = with(member(backends[2].host(), "replica"), "lag", json!(0));
        [member(backends[0].host(), "leader"), lagging, other]
    };
    rest.tell(&members(0, "replica"));
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let slow = setup.port("slow", &["async"], host_port);
    let fast = setup.port("fast", &["async"], host_port);
    let mut setup = setup.port_key("slow", "drain_timeout", "1m");
    for name in ["slow", "fast"] {
        setup = setup.port_key(name, "max_lag_in_bytes", "1K");
    }
    let proxy = setup.start();
    let mut may_stay = Guest::of(slow, backends[1].host());
    let mut must_go = Guest::of(fast, backends[1].host());
    rest.tell(&members(2048, "replica"));
    proxy.update();
    must_go.assert_cut();
    may_stay.assert_alive();
    assert_eq!(proxy.backends()["ports"].as_array().unwrap().len(), 2);
    for port in proxy.backends()["ports"].as_array().unwrap() {
        let resting = port["resting"].as_array().unwrap();
        assert_eq!(
            resting,
            &[json!(format!("{}:{host_port}", backends[1].host()))]
        );
    }
    // No new ones come to it.
    let _others = [(); 3].map(|()| Guest::of(slow, backends[2].host()));
    // One that does not run any more is another matter.
    rest.tell(&members(2048, "replica").map(|one| {
        let state = one["state"].clone();
        let is_it = one["host"] == backends[1].host();
        with(one, "state", if is_it { json!("stopped") } else { state })
    }));
    proxy.update();
    may_stay.assert_cut();
}

#[test]
fn clients_of_a_lagging_replica_are_cut_when_their_time_is_over() {
    let (backends, host_port, rest) = trio();
    let members = |lag: u64| {
        [with(
            member(backends[1].host(), "replica"),
            "lag",
            json!(lag),
        )]
    };
    rest.tell(&members(0));
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let listen = setup.port("p", &["async"], host_port);
    let setup = setup.port_key("p", "drain_timeout", "300ms");
    let proxy = setup.port_key("p", "max_lag_in_bytes", 0).start();
    let mut guest = Guest::of(listen, backends[1].host());
    rest.tell(&members(1));
    proxy.update();
    guest.assert_alive();
    guest.assert_cut();
    assert_eq!(proxy.metric("cut_total", "p"), 1);
}

#[test]
fn a_signal_ends_the_process_and_its_connections() {
    for signal in ["-TERM", "-INT"] {
        let (backends, host_port, rest) = trio();
        let mut setup = Setup::new().hosts(&[rest.url()]);
        let listen = setup.port("p", &["leader"], host_port);
        let mut proxy = setup.start();
        let mut guest = Guest::of(listen, backends[0].host());
        proxy.signal(signal);
        guest.assert_cut();
        assert_eq!(proxy.wait().code(), Some(0), "{signal}");
        assert_eq!(proxy.count("Shutting down patroni-proxy..."), 1);
    }
}

#[test]
fn at_the_end_connections_may_finish_and_new_ones_are_refused() {
    let (backends, host_port, rest) = trio();
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let patient = setup.port("patient", &["leader"], host_port);
    let hasty = setup.port("hasty", &["leader"], host_port);
    let mut proxy = setup.port_key("patient", "drain_timeout", "1m").start();
    let mut stays = Guest::of(patient, backends[0].host());
    let mut goes = Guest::of(hasty, backends[0].host());
    proxy.signal("-TERM");
    goes.assert_cut();
    eventually("nobody listens", || {
        std::net::TcpStream::connect(("127.0.0.1", patient)).is_err()
    });
    stays.assert_alive();
    assert!(proxy.is_running());
    drop(stays);
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let (backends, host_port, rest) = trio();
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let listen = setup.port("p", &["leader"], host_port);
    let mut proxy = setup.port_key("p", "drain_timeout", "1h").start();
    let mut guest = Guest::of(listen, backends[0].host());
    proxy.signal("-TERM");
    eventually("nobody listens", || {
        std::net::TcpStream::connect(("127.0.0.1", listen)).is_err()
    });
    guest.assert_alive();
    proxy.signal("-TERM");
    assert_eq!(proxy.wait().code(), Some(0));
    guest.assert_cut();
}

#[test]
fn a_host_that_is_silent_does_not_hold_up_the_others() {
    let (backends, host_port, rest) = trio();
    let silent = Rest::new(&[]);
    silent.answer(Answer::Silence);
    let mut setup = Setup::new().hosts(&[silent.url(), rest.url()]);
    let listen = setup.port("p", &["leader"], host_port);
    let proxy = setup.start();
    Guest::of(listen, backends[0].host()).assert_alive();
    assert_eq!((silent.asked(), rest.asked()), (1, 1));
    // It comes last for a while.
    lead(&rest, &backends, 1);
    proxy.update();
    assert_eq!((silent.asked(), rest.asked()), (1, 2));
    Guest::of(listen, backends[1].host()).assert_alive();
}

#[test]
fn a_service_manager_is_told_what_goes_on() {
    let (_backends, host_port, rest) = trio();
    let mut setup = Setup::new().hosts(&[rest.url()]);
    setup.port("p", &["leader"], host_port);
    let path =
        std::env::temp_dir().join(unique(&format!("proxy-it-{}-notify", std::process::id())));
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let told = || {
        let mut bytes = [0; 512];
        let count = manager.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    };
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap())];
    let mut proxy = Proxy::start_with("p.yaml", &setup.0.to_string(), &environment);
    assert_eq!(told(), "READY=1");
    proxy.signal("-HUP");
    assert!(told().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(told(), "READY=1");
    proxy.signal("-TERM");
    assert_eq!(told(), "STOPPING=1");
    proxy.wait();
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_configuration_that_cannot_be_used_ends_the_start() {
    let (_backends, host_port, rest) = trio();
    let mut setup = Setup::new().hosts(&[rest.url()]);
    setup.port("p", &["leader"], host_port);
    let good = setup.0.to_string();
    assert!(
        proxy::run("p.yaml", &good, &["-t", "p.yaml"])
            .status
            .success()
    );
    let bad = setup
        .port_key("p", "roles", json!(["master"]))
        .0
        .to_string();
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let api = taken.local_addr().unwrap().to_string();
    let busy = Setup::new().key("listen_address", api).0.to_string();
    for (text, arguments, reason) in [
        (&bad, &["p.yaml"][..], "Invalid role 'master'."),
        (&bad, &["-t", "p.yaml"], "Invalid role 'master'."),
        (&good, &["other.yaml"], "IO error: "),
        (&"clusters: [".to_owned(), &["p.yaml"], "Parse error: "),
        (&busy, &["p.yaml"], "Address already in use"),
    ] {
        let output = proxy::run("p.yaml", text, arguments);
        assert_eq!(output.status.code(), Some(1), "{reason}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(
            told.starts_with("Error: ") && told.contains(reason),
            "{told}"
        );
    }
    let version = proxy::command().arg("--version").output().unwrap();
    assert!(version.stdout.starts_with(b"patroni_proxy "));
}
