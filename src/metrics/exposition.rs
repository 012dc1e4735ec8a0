//! The numbers as text for Prometheus.
//!
//! **Owns:** the text format.
//! **Does not own:** which numbers there are (`descriptors`), serving the text (`app::scrape`).
//!
//! Source: Prometheus documentation, "Exposition formats", text format 0.0.4.

use std::fmt::Write as _;

use super::descriptors::{DESCRIPTORS, Descriptor, Source, Unit};
use super::snapshot::{ProcessSnapshot, ShardSnapshot};

/// The `Content-Type` of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All numbers, with their `HELP` and `TYPE` lines.
pub fn render(process: &ProcessSnapshot, shards: &[ShardSnapshot]) -> String {
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
    out
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

/// One line.
fn sample(out: &mut String, descriptor: &Descriptor, labels: &[(&str, &str)], value: u64) {
    out.push_str(descriptor.name);
    for (index, (label, text)) in labels.iter().enumerate() {
        let before = if index == 0 { '{' } else { ',' };
        // Writing to a `String` cannot fail.
        let _ = write!(out, "{before}{label}=\"{}\"", escaped(text, true));
    }
    if !labels.is_empty() {
        out.push('}');
    }
    let _ = match descriptor.unit {
        Unit::Bytes | Unit::Count => writeln!(out, " {value}"),
        Unit::Micros => writeln!(out, " {}.{:06}", value / 1_000_000, value % 1_000_000),
        Unit::Permille => writeln!(out, " {}.{:03}", value / 1000, value % 1000),
    };
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
    use crate::metrics::{Droppable, Fleet};

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
        };
        let text = render(&process, &ShardSnapshot::take_all(&fleet));
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
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        for descriptor in DESCRIPTORS {
            let help = format!("# HELP {} ", descriptor.name);
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
        let text = render(&process, &[]);
        assert!(text.contains(r#"pg_doorman_build_info{version="\"} 2\n"} 1"#));
    }
}
