//! The HTTP API.
//!
//! Owns: paths, statuses, the form of answers.

use serde_json::json;

use super::{Answer, Backend, Guest, Rest, Setup, member};
use crate::common::{eventually, port};

#[test]
fn the_process_is_ready_once_its_clusters_have_answered() {
    let rest = Rest::new(&[member("127.1.1.1", "leader")]);
    rest.answer(Answer::Body(200, "not yet".to_owned()));
    let mut setup = Setup::new().hosts(&[rest.url()]);
    setup.port("p", &["leader"], 1);
    let proxy = setup.start_unready();
    assert_eq!(proxy.get("/health/live"), (200, "OK".to_owned()));
    let missing = "Cluster 'c' has not answered yet\n".to_owned();
    assert_eq!(proxy.get("/health/ready"), (503, missing));
    assert_eq!(proxy.backends()["clusters"], json!({"c": null}));
    rest.tell(&[]);
    proxy.update();
    assert_eq!(proxy.get("/health/ready"), (200, "OK".to_owned()));
    // As it was in earlier versions.
    for path in [
        "/",
        "/anything",
        "/update_clusters/",
        "/update_clusters?x=1",
    ] {
        let asked = rest.asked();
        assert_eq!(proxy.get(path), (200, "OK".to_owned()), "{path}");
        assert_eq!(rest.asked(), asked);
    }
    assert_eq!(proxy.get("/update_clusters").1, "Updated 1 cluster(s)\n");
}

#[test]
fn backends_are_told_with_their_connections() {
    let host_port = port::free();
    let backend = Backend::new(host_port);
    let rest = Rest::new(&[member(backend.host(), "leader"), member("::5", "replica")]);
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let listen = setup.port("p", &["any"], host_port);
    let setup = setup.port_key("p", "leader_weight", 300);
    let proxy = setup.start();
    let _guest = Guest::of(listen, backend.host());
    let [first, second] = [
        format!("{}:{host_port}", backend.host()),
        format!("[::5]:{host_port}"),
    ];
    let expected = json!([{
        "cluster": "c", "port": "p", "listen": format!("127.0.0.1:{listen}"),
        "error": null, "connections": 1, "resting": [],
        "backends": [
            {"backend": first, "host": backend.host(), "addresses": [first], "weight": 300, "connections": 1},
            {"backend": second, "host": "::5", "addresses": [second], "weight": 100, "connections": 0},
        ],
    }]);
    assert_eq!(proxy.backends()["ports"], expected);
    let members = &proxy.backends()["clusters"]["c"];
    let name = format!("member {}", backend.host());
    let expected = json!({
        "name": name, "host": backend.host(), "role": "leader", "running": true,
        "noloadbalance": false, "lag": null,
    });
    assert_eq!(members[0], expected);
    let metrics = proxy.get("/metrics").1;
    let line = "patroni_proxy_backend_connections{cluster=\"c\",port=\"p\",backend=";
    assert!(
        metrics.contains(&format!("{line}\"{first}\"}} 1\n")),
        "{metrics}"
    );
}

#[test]
fn metrics_have_a_help_and_a_type_each() {
    let rest = Rest::new(&[]);
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let listen = setup.port("p", &["any"], 1);
    let proxy = setup.start();
    assert_eq!(Guest::connect(listen).1, None);
    assert_eq!(proxy.metric("connections_total", "p"), 1);
    assert_eq!(proxy.metric("no_backend_total", "p"), 1);
    assert_eq!(proxy.metric("listening", "p"), 1);
    assert_eq!(proxy.metric("backends", "p"), 0);
    let text = proxy.get("/metrics").1;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split('{').next().unwrap();
        for word in ["HELP", "TYPE"] {
            assert_eq!(
                text.matches(&format!("# {word} {name} ")).count(),
                1,
                "{line}"
            );
        }
    }
}

#[test]
fn the_api_moves_with_a_reload() {
    let rest = Rest::new(&[]);
    let mut setup = Setup::new().hosts(&[rest.url()]);
    setup.port("p", &["any"], 1);
    let mut proxy = setup.start();
    let setup = setup.key("listen_address", format!("127.0.0.1:{}", port::free()));
    proxy.reload(&setup);
    eventually("the API answers elsewhere", || {
        std::panic::catch_unwind(|| proxy.get("/health/ready").0 == 200).unwrap_or(false)
    });
}
