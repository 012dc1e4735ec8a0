//! What a reload changes, in words.
//!
//! **Owns:** the lines of the log.
//! **Does not own:** applying changes (`control`).

use crate::config::{Cluster, Config};

/// One line for each change.
pub(crate) fn changes(before: &Config, after: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, cluster) in &after.clusters {
        match before.clusters.get(name) {
            None => lines.push(format!("Cluster '{name}' added")),
            Some(old) => note(name, old, cluster, &mut lines),
        }
    }
    let is_gone = |name: &&String| !after.clusters.contains_key(*name);
    for name in before.clusters.keys().filter(is_gone) {
        lines.push(format!("Cluster '{name}' removed"));
    }
    if before.interval != after.interval {
        let seconds = after.interval.as_secs();
        lines.push(format!("cluster_update_interval changed to {seconds} s"));
    }
    if before.api != after.api {
        lines.push(format!("listen_address changed to {}", after.api));
    }
    if before.log_level != after.log_level {
        lines.push(format!("log_level changed to {}", after.log_level));
    }
    if before.sockets != after.sockets {
        lines.push("TCP options changed, for connections to come".to_owned());
    }
    if before.shards != after.shards {
        let note = "Full restart required for this change to take effect.";
        lines.push(format!("worker_threads changed. {note}"));
    }
    lines
}

fn note(name: &str, old: &Cluster, new: &Cluster, lines: &mut Vec<String>) {
    if old.hosts != new.hosts {
        let hosts = new.hosts.join(", ");
        lines.push(format!("Cluster '{name}' hosts changed: {hosts}"));
    }
    if old.tls != new.tls {
        lines.push(format!("Cluster '{name}' TLS configuration changed"));
    }
    if old.ports != new.ports {
        lines.push(format!("Cluster '{name}' ports configuration changed"));
    }
}
