//! What the API tells of the state.
//!
//! **Owns:** the text of `/metrics`, the JSON of `/backends`, whether the process is ready.
//! **Does not own:** HTTP (`api`).
//!
//! Source: Prometheus documentation, "Exposition formats".

use std::fmt::Write;

use pg_doorman::metrics::Counter;
use serde_json::{Value, json};

use crate::control::{Control, Door};
use crate::numbers::OfShard;

type Column = (&'static str, &'static str, fn(&OfShard) -> &Counter);

const COUNTERS: &[Column] = &[
    ("connections_total", "Connections accepted", |one| {
        &one.accepted
    }),
    (
        "refused_total",
        "Closed: max_connections were open",
        |one| &one.refused,
    ),
    (
        "no_backend_total",
        "Closed: no backend was eligible",
        |one| &one.without_backend,
    ),
    (
        "unreachable_total",
        "Closed: no backend could be reached",
        |one| &one.unreachable,
    ),
    (
        "connect_failures_total",
        "Failed tries to connect to a backend",
        |one| &one.connect_failures,
    ),
    (
        "cut_total",
        "Connections cut as their backend or port went",
        |one| &one.cut,
    ),
    ("client_bytes_total", "Bytes from clients", |one| {
        &one.from_clients
    }),
    ("backend_bytes_total", "Bytes from backends", |one| {
        &one.from_backends
    }),
];

/// The value of a label.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn labels(door: &Door) -> String {
    format!(
        "cluster=\"{}\",port=\"{}\"",
        escape(&door.cluster),
        escape(&door.name)
    )
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "# HELP patroni_proxy_{name} {help}\n# TYPE patroni_proxy_{name} {kind}"
    );
}

/// The text at `/metrics`.
pub(crate) fn metrics(control: &Control) -> String {
    let mut text = String::new();
    let doors = || control.doors.values().map(|door| (labels(door), door));
    for (name, help, counter) in COUNTERS {
        head(&mut text, name, "counter", help);
        for (labels, door) in doors() {
            let sum = door.plan.numbers.sum(counter);
            let _ = writeln!(text, "patroni_proxy_{name}{{{labels}}} {sum}");
        }
    }
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(&Door) -> u64| {
        head(&mut text, name, "gauge", help);
        for (labels, door) in doors() {
            let _ = writeln!(text, "patroni_proxy_{name}{{{labels}}} {}", value(door));
        }
    };
    gauge("connections", "Open connections", &|door| {
        door.plan.numbers.open.open()
    });
    gauge("backends", "Eligible backends", &|door| {
        door.plan.backends.len() as u64
    });
    gauge("listening", "Whether the port listens", &|door| {
        u64::from(door.refusal.is_none())
    });
    head(
        &mut text,
        "backend_connections",
        "gauge",
        "Open connections to a backend",
    );
    for (labels, door) in doors() {
        for backend in &door.plan.backends {
            let (key, open) = (escape(&backend.key), backend.load.open());
            let name = "patroni_proxy_backend_connections";
            let _ = writeln!(text, "{name}{{{labels},backend=\"{key}\"}} {open}");
        }
    }
    text
}

/// The JSON at `/backends`.
pub(crate) fn backends(control: &Control) -> String {
    let ports: Vec<Value> = control
        .doors
        .iter()
        .map(|(address, door)| {
            let backends: Vec<Value> = door
                .plan
                .backends
                .iter()
                .map(|one| {
                    let addresses: Vec<_> = one.addresses.iter().map(ToString::to_string).collect();
                    json!({
                        "backend": &*one.key, "host": &*one.host, "addresses": addresses,
                        "weight": one.weight, "connections": one.load.open(),
                    })
                })
                .collect();
            let resting: Vec<&str> = door.plan.resting.iter().map(AsRef::as_ref).collect();
            json!({
                "cluster": door.cluster, "port": door.name, "listen": address.to_string(),
                "error": door.refusal, "connections": door.plan.numbers.open.open(),
                "backends": backends, "resting": resting,
            })
        })
        .collect();
    let clusters: serde_json::Map<String, Value> = control
        .config
        .clusters
        .keys()
        .map(|name| {
            let members = control.views.get(name).map(|view| {
                let members = view.cluster.members.iter().map(|one| json!({
                "name": one.name, "host": one.host, "role": one.role.word(),
                "running": one.is_running, "noloadbalance": one.is_excluded, "lag": one.lag_bytes,
            }));
                members.collect::<Vec<_>>()
            });
            (name.clone(), json!(members))
        })
        .collect();
    format!("{}\n", json!({ "clusters": clusters, "ports": ports }))
}

/// What keeps the process from being ready: ports that do not listen, clusters never heard of.
pub(crate) fn missing(control: &Control) -> Vec<String> {
    let unheard = control
        .config
        .clusters
        .keys()
        .filter(|name| !control.views.contains_key(*name));
    let unheard = unheard.map(|name| format!("Cluster '{name}' has not answered yet"));
    let closed = control.doors.values().filter_map(|door| {
        let reason = door.refusal.as_ref()?;
        Some(format!("Port '{}:{}': {reason}", door.cluster, door.name))
    });
    unheard.chain(closed).collect()
}
