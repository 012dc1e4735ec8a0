//! The numbers as text for Prometheus.
//!
//! **Owns:** the text format.
//! **Does not own:** which numbers there are (`descriptors`), serving the text (`app::scrape`).
//!
//! Source: Prometheus documentation, "Exposition formats", text format 0.0.4.

use std::fmt::Write as _;

use super::descriptors::{DESCRIPTORS, Descriptor, Source, Unit};
use super::histogram::{BOUNDS, Histogram};
use super::pool_descriptors::{Found, SERIES, Series};
use super::snapshot::{ProcessSnapshot, ShardSnapshot};
use super::window::PoolView;

/// The `Content-Type` of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All numbers, with their `HELP` and `TYPE` lines.
pub fn render(process: &ProcessSnapshot, shards: &[ShardSnapshot], pools: &[PoolView]) -> String {
    let mut out = String::new();
    for descriptor in DESCRIPTORS {
        let Descriptor { name, help, .. } = descriptor;
        // Writing to a `String` cannot fail.
        let _ = writeln!(out, "# HELP {name} {}", escaped(help, false));
        let _ = writeln!(out, "# TYPE {name} {}", descriptor.kind.name());
        match descriptor.source {
            Source::Process(read) => sample(&mut out, descriptor, &[], read(process)),
            Source::Version => sample(&mut out, descriptor, &[("version", process.version)], 1),
            Source::Shard { .. } | Source::ShardByKind { .. } => {
                for shard in shards {
                    shard_samples(&mut out, descriptor, shard);
                }
            }
        }
    }
    for series in SERIES {
        render_series(&mut out, series, process, pools);
    }
    out
}

/// All lines of one metric of pools.
fn render_series(out: &mut String, series: &Series, process: &ProcessSnapshot, pools: &[PoolView]) {
    let Series { name, help, .. } = series;
    // Writing to a `String` cannot fail.
    let _ = writeln!(out, "# HELP {name} {}", escaped(help, false));
    let _ = writeln!(out, "# TYPE {name} {}", series.kind.name());
    match series.found {
        Found::Process(read) => {
            for (own, value) in read(process) {
                line(out, name, &labels(series.label, own, None), &value);
            }
        }
        Found::Pool(read) => {
            for pool in pools {
                for (own, value) in read(pool) {
                    line(out, name, &labels(series.label, own, Some(pool)), &value);
                }
            }
        }
        Found::Server(read) => {
            for pool in pools {
                for server in &pool.now.by_server {
                    let pid = server.pid.to_string();
                    let mut labels = labels("", "", Some(pool));
                    labels.push(("backend_pid", &pid));
                    line(out, name, &labels, &read(server).to_string());
                }
            }
        }
        Found::Histogram(read) => {
            for pool in pools {
                histogram(out, name, pool, read(pool));
            }
        }
    }
}

/// The labels of a sample, those with a name.
fn labels<'a>(label: &'a str, own: &'a str, pool: Option<&'a PoolView>) -> Vec<(&'a str, &'a str)> {
    let own = Some((label, own)).filter(|_| !label.is_empty());
    let pool = pool.map(|pool| [("user", &*pool.user), ("database", &*pool.database)]);
    own.into_iter().chain(pool.into_iter().flatten()).collect()
}

fn histogram(out: &mut String, name: &str, pool: &PoolView, histogram: &Histogram) {
    let bucket = format!("{name}_bucket");
    for bits in BOUNDS {
        let bound = seconds(1 << bits);
        let below = histogram.below(bits).to_string();
        line(out, &bucket, &labels("le", &bound, Some(pool)), &below);
    }
    let count = histogram.count().to_string();
    line(out, &bucket, &labels("le", "+Inf", Some(pool)), &count);
    let of_pool = labels("", "", Some(pool));
    line(
        out,
        &format!("{name}_sum"),
        &of_pool,
        &seconds(histogram.sum_us),
    );
    line(out, &format!("{name}_count"), &of_pool, &count);
}

fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

/// The lines of one number of one shard.
fn shard_samples(out: &mut String, descriptor: &Descriptor, shard: &ShardSnapshot) {
    let number = shard.shard.to_string();
    let readings = shard.readings.iter();
    for reading in readings.filter(|reading| reading.descriptor.name == descriptor.name) {
        match reading.kind {
            None => sample(out, descriptor, &[("shard", &number)], reading.value),
            Some(kind) => {
                let labels = [("shard", &*number), ("kind", kind.name())];
                sample(out, descriptor, &labels, reading.value);
            }
        }
    }
}

/// One sample of a number that is no pool's.
fn sample(out: &mut String, descriptor: &Descriptor, labels: &[(&str, &str)], value: u64) {
    let value = match descriptor.unit {
        Unit::Bytes | Unit::Count => value.to_string(),
        Unit::Micros => seconds(value),
        Unit::Permille => format!("{}.{:03}", value / 1000, value % 1000),
    };
    line(out, descriptor.name, labels, &value);
}

/// One line.
fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: &str) {
    out.push_str(name);
    for (index, (label, text)) in labels.iter().enumerate() {
        let before = if index == 0 { '{' } else { ',' };
        // Writing to a `String` cannot fail.
        let _ = write!(out, "{before}{label}=\"{}\"", escaped(text, true));
    }
    if !labels.is_empty() {
        out.push('}');
    }
    let _ = writeln!(out, " {value}");
}

/// `text` as it may stand in a `HELP` line, or between the quotes of a label.
fn escaped(text: &str, is_label: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if is_label => out.push_str("\\\""),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::window::views;
    use crate::metrics::{Droppable, Enrolled, Fleet};

    #[test]
    fn the_text_has_all_numbers_in_their_units() {
        let fleet = Fleet::new(2);
        fleet.shard(0).clients.set(12);
        fleet.shard(1).busy_us.add(3_000_042);
        fleet.shard(1).busy_permille.set(45);
        fleet.shard(1).dropped(Droppable::Session);
        let process = ProcessSnapshot {
            version: "1.2",
            clients: 12,
            message_memory_bytes: 65_536,
            connection_counts: [1, 2, 3, 4],
            ..ProcessSnapshot::default()
        };
        let pool = Enrolled::new(&fleet, 1, "d\"b", "u");
        pool.clients.add(3);
        pool.clients_waiting.add(1);
        pool.transactions.record(1_000_500);
        let text = render(&process, &ShardSnapshot::take_all(&fleet), &views(&fleet));
        for line in [
            "# TYPE pg_doorman_build_info gauge",
            "pg_doorman_build_info{version=\"1.2\"} 1",
            "pg_doorman_clients 12",
            "pg_doorman_message_memory_bytes 65536",
            "# TYPE pg_doorman_shard_clients gauge",
            "pg_doorman_shard_clients{shard=\"0\"} 12",
            "pg_doorman_shard_clients{shard=\"1\"} 0",
            "# TYPE pg_doorman_shard_busy_seconds_total counter",
            "pg_doorman_shard_busy_seconds_total{shard=\"1\"} 3.000042",
            "pg_doorman_shard_busy_ratio{shard=\"1\"} 0.045",
            "pg_doorman_shard_messages_dropped_total{shard=\"1\",kind=\"session\"} 1",
            "pg_doorman_shard_messages_dropped_total{shard=\"1\",kind=\"cancel\"} 0",
            "# TYPE pg_doorman_connection_count gauge",
            "pg_doorman_connection_count{type=\"tls\"} 2",
            "pg_doorman_pools_clients{status=\"idle\",user=\"u\",database=\"d\\\"b\"} 2",
            "pg_doorman_pools_transactions_total_time{user=\"u\",database=\"d\\\"b\"} 1000.500",
            "# TYPE pg_doorman_pools_transaction_duration_seconds histogram",
            "pg_doorman_pools_transaction_duration_seconds_bucket{le=\"0.524288\",user=\"u\",database=\"d\\\"b\"} 0",
            "pg_doorman_pools_transaction_duration_seconds_bucket{le=\"1.048576\",user=\"u\",database=\"d\\\"b\"} 1",
            "pg_doorman_pools_transaction_duration_seconds_bucket{le=\"+Inf\",user=\"u\",database=\"d\\\"b\"} 1",
            "pg_doorman_pools_transaction_duration_seconds_sum{user=\"u\",database=\"d\\\"b\"} 1.000500",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        let names = DESCRIPTORS.iter().map(|descriptor| descriptor.name);
        for name in names.chain(SERIES.iter().map(|series| series.name)) {
            let help = format!("# HELP {name} ");
            assert_eq!(text.matches(&help).count(), 1, "{help}");
        }
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn what_would_end_a_label_or_a_line_is_escaped() {
        assert_eq!(escaped("a\\b\n\"c\"", true), r#"a\\b\n\"c\""#);
        assert_eq!(escaped("a\\b\n\"c\"", false), r#"a\\b\n"c""#);
        let process = ProcessSnapshot {
            version: "\"} 2\n",
            ..ProcessSnapshot::default()
        };
        let text = render(&process, &[], &[]);
        assert!(text.contains(r#"pg_doorman_build_info{version="\"} 2\n"} 1"#));
    }
}
