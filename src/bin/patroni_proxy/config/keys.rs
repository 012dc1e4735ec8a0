//! The names of all keys.
//!
//! **Owns:** the lists, finding keys that are in none of them.
//! **Does not own:** types and defaults (`config`), what keys are for (`docs/patroni_proxy.md`).

use toml::{Table, Value};

/// At the top.
pub(super) const TOP: &[&str] = &[
    "cluster_update_interval",
    "listen_address",
    "worker_threads",
    "log_level",
    "connect_timeout",
    "drain_timeout",
    "tcp_keepalives_idle",
    "tcp_keepalives_interval",
    "tcp_keepalives_count",
    "tcp_user_timeout",
    "clusters",
];
/// Of a cluster.
pub(super) const CLUSTER: &[&str] = &["hosts", "tls", "ports"];
/// Of the TLS of a cluster.
pub(super) const TLS: &[&str] = &["ca_cert", "client_cert", "client_key", "skip_verify"];
/// Of a port.
pub(super) const PORT: &[&str] = &[
    "listen",
    "roles",
    "host_port",
    "max_lag_in_bytes",
    "max_connections",
    "connect_timeout",
    "drain_timeout",
    "leader_weight",
];

/// The keys of `document` that are not known, with where they are.
pub(super) fn unknown(document: &Table) -> Vec<String> {
    let mut found = Vec::new();
    look("", document, TOP, &mut found);
    for (name, cluster) in tables(document.get("clusters")) {
        look(&format!("clusters.{name}."), cluster, CLUSTER, &mut found);
        if let Some(tls) = cluster.get("tls").and_then(Value::as_table) {
            look(&format!("clusters.{name}.tls."), tls, TLS, &mut found);
        }
        for (port, settings) in tables(cluster.get("ports")) {
            let place = format!("clusters.{name}.ports.{port}.");
            look(&place, settings, PORT, &mut found);
        }
    }
    found
}

fn look(place: &str, table: &Table, known: &[&str], found: &mut Vec<String>) {
    let unknown = table.keys().filter(|key| !known.contains(&key.as_str()));
    found.extend(unknown.map(|key| format!("{place}{key}")));
}

/// The tables in a table, by name.
fn tables(value: Option<&Value>) -> impl Iterator<Item = (&String, &Table)> {
    let entries = value.and_then(Value::as_table).into_iter().flatten();
    entries.filter_map(|(name, entry)| Some((name, entry.as_table()?)))
}
