//! Every number that is shown, once: its name, kind, unit and meaning, and where it is found.
//!
//! **Owns:** the table that `/metrics` and `SHOW SHARDS` are made of.
//! **Does not own:** the numbers (`ShardMetrics`), the form in which they are shown (`exposition`, the
//! console).
//!
//! **Invariants**
//! 1. Each field of [`ShardMetrics`] is in the table exactly once (a test compares).
//! 2. Names follow the habits of the field: `_total` for counters, seconds for times, ratios from 0 to
//!    1 (a test looks at each name).
//!
//! Source: Prometheus documentation, "Metric and label naming".

use super::snapshot::ProcessSnapshot;
use super::{Droppable, ShardMetrics};

/// Whether a number can go down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, from 0 at the start of the process, or of the first one of those that have taken over from
    /// each other.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Kind {
    /// As in a `TYPE` line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things.
    Count,
    /// Microseconds; `/metrics` has seconds.
    Micros,
    /// Parts per thousand; `/metrics` has ratios, the console per cent.
    Permille,
}

/// Where a number is found.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// Once in the process.
    Process(fn(&ProcessSnapshot) -> u64),
    /// The version, as a label of the number 1.
    Version,
    /// Once on each shard.
    Shard {
        /// Name of the field of [`ShardMetrics`].
        field: &'static str,
        /// Reads it.
        read: fn(&ShardMetrics) -> u64,
    },
    /// On each shard once for each kind of lost messages.
    ShardByKind {
        /// Name of the field of [`ShardMetrics`].
        field: &'static str,
        /// Reads it.
        read: fn(&ShardMetrics, Droppable) -> u64,
    },
}

impl Source {
    /// The field of [`ShardMetrics`], if it is one.
    pub const fn field(&self) -> Option<&'static str> {
        match self {
            Self::Shard { field, .. } | Self::ShardByKind { field, .. } => Some(field),
            Self::Process(_) | Self::Version => None,
        }
    }
}

/// All that is known of one number.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Name at `/metrics`.
    pub name: &'static str,
    /// Whether it can go down.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
    /// One sentence, without its full stop.
    pub help: &'static str,
    /// Where it is found.
    pub source: Source,
}

/// A row of the table that is a field of [`ShardMetrics`].
macro_rules! shard {
    ($name:literal, $kind:ident, $unit:ident, $field:ident, $help:literal) => {
        Descriptor {
            name: $name,
            kind: Kind::$kind,
            unit: Unit::$unit,
            help: $help,
            source: Source::Shard {
                field: stringify!($field),
                read: |metrics| metrics.$field.get(),
            },
        }
    };
}

/// A row of the table that is a number of the process.
macro_rules! process {
    ($name:literal, $kind:ident, $unit:ident, $field:ident, $help:literal) => {
        Descriptor {
            name: $name,
            kind: Kind::$kind,
            unit: Unit::$unit,
            help: $help,
            source: Source::Process(|process| process.$field),
        }
    };
}

/// The numbers in the order in which they are shown.
#[rustfmt::skip]
pub static DESCRIPTORS: &[Descriptor] = &[
    Descriptor {
        name: "pg_doorman_build_info",
        kind: Kind::Gauge,
        unit: Unit::Count,
        help: "The version that runs, as a label; the value is always 1",
        source: Source::Version,
    },
    process!("pg_doorman_clients", Gauge, Count, clients,
        "Open client connections of the process, those that are logging in and consoles included"),
    process!("pg_doorman_message_memory_bytes", Gauge, Bytes, message_memory_bytes,
        "Memory claimed by client messages that do not arrive in one piece"),
    shard!("pg_doorman_shard_clients", Gauge, Count, clients,
        "Clients on the shard, those that are logging in included"),
    shard!("pg_doorman_shard_busy_ratio", Gauge, Permille, busy_permille,
        "Share of one core that the thread of the shard used in the last second"),
    shard!("pg_doorman_shard_busy_seconds_total", Counter, Micros, busy_us,
        "CPU time of the thread of the shard, written once a second"),
    shard!("pg_doorman_shard_servers", Gauge, Count, servers,
        "Server connections of the shard"),
    shard!("pg_doorman_shard_servers_moved_in_total", Counter, Count, servers_moved_in,
        "Server connections that came from another shard"),
    shard!("pg_doorman_shard_servers_moved_out_total", Counter, Count, servers_moved_out,
        "Server connections that left for another shard"),
    shard!("pg_doorman_shard_wants_total", Counter, Count, wants,
        "Times that the shard asked the others for a permit, because a client could not be served"),
    shard!("pg_doorman_shard_wants_granted_total", Counter, Count, wants_granted,
        "Times that such a want was granted"),
    shard!("pg_doorman_shard_wants_wait_seconds_total", Counter, Micros, wants_wait_us,
        "Time from wants to their grants, added up"),
    shard!("pg_doorman_shard_waits_beside_idle_total", Counter, Count, waits_beside_idle,
        "Waits that were ended by an idle server of another shard"),
    shard!("pg_doorman_shard_cancels_received_total", Counter, Count, cancels_received,
        "Cancel requests that arrived on the shard"),
    shard!("pg_doorman_shard_cancels_unknown_total", Counter, Count, cancels_unknown,
        "Cancel requests whose key fitted no session"),
    shard!("pg_doorman_shard_cancels_sent_total", Counter, Count, cancels_sent,
        "Cancel requests that were passed on to a server"),
    shard!("pg_doorman_shard_statements", Gauge, Count, statements,
        "Prepared statements that clients of the shard have, each text once"),
    shard!("pg_doorman_shard_statement_texts_bytes", Gauge, Bytes, statement_texts,
        "Memory of their texts"),
    shard!("pg_doorman_shard_parses_saved_total", Counter, Count, parses_saved,
        "Parse messages of clients that were answered without the server, which had the statement"),
    shard!("pg_doorman_shard_parses_sent_total", Counter, Count, parses_sent,
        "Parse messages of clients that were sent to a server"),
    shard!("pg_doorman_shard_parses_repeated_total", Counter, Count, parses_repeated,
        "Parse messages of the pooler, because a client used a statement that its server lacked"),
    shard!("pg_doorman_shard_statements_evicted_total", Counter, Count, statements_evicted,
        "Statements that servers were told to close because they had too many"),
    shard!("pg_doorman_shard_messages_delayed_total", Counter, Count, messages_delayed,
        "Messages to other shards that had to wait because a lane was full"),
    Descriptor {
        name: "pg_doorman_shard_messages_dropped_total",
        kind: Kind::Counter,
        unit: Unit::Count,
        help: "Messages between shards that were lost, by kind",
        source: Source::ShardByKind {
            field: "messages_dropped",
            read: |metrics, kind| metrics.messages_dropped[kind as usize].get(),
        },
    },
    shard!("pg_doorman_shard_clients_accepted_total", Counter, Count, clients_accepted,
        "Connections that the shard accepted"),
    shard!("pg_doorman_shard_clients_passed_on_total", Counter, Count, clients_passed_on,
        "Fresh connections that were passed to a shard with fewer clients"),
    shard!("pg_doorman_shard_consoles", Gauge, Count, consoles,
        "Connections to the console on the shard"),
    shard!("pg_doorman_shard_relays", Gauge, Count, relays,
        "Encrypted clients of the shard whose sessions another process has, after a binary upgrade"),
    shard!("pg_doorman_shard_logins_plain_total", Counter, Count, logins_plain,
        "Logins without encryption that have succeeded, those of consoles included"),
    shard!("pg_doorman_shard_logins_tls_total", Counter, Count, logins_tls,
        "Logins over TLS that have succeeded, those of consoles included"),
    shard!("pg_doorman_shard_tls_handshakes_total", Counter, Count, tls_handshakes,
        "TLS handshakes with clients that have succeeded"),
    shard!("pg_doorman_shard_tls_handshakes_resumed_total", Counter, Count, tls_handshakes_resumed,
        "TLS handshakes with clients that took up an earlier session"),
    shard!("pg_doorman_shard_tls_handshakes_failed_total", Counter, Count, tls_handshakes_failed,
        "TLS handshakes with clients that have failed"),
    shard!("pg_doorman_shard_server_tls_handshakes_total", Counter, Count, server_tls_handshakes,
        "TLS handshakes with servers that have succeeded"),
    shard!("pg_doorman_shard_server_tls_handshakes_failed_total", Counter, Count,
        server_tls_handshakes_failed, "Connections to servers that have failed in the negotiation of TLS"),
    shard!("pg_doorman_shard_logins_failed_total", Counter, Count, logins_failed,
        "Connections that have ended without a login and were no cancel requests"),
    shard!("pg_doorman_shard_clients_moved_in_total", Counter, Count, clients_moved_in,
        "Sessions that came from another shard"),
    shard!("pg_doorman_shard_clients_moved_out_total", Counter, Count, clients_moved_out,
        "Sessions that left for another shard"),
    shard!("pg_doorman_shard_timeouts_login_total", Counter, Count, timeouts_login,
        "Logins that took longer than client_login_timeout"),
    shard!("pg_doorman_shard_timeouts_idle_total", Counter, Count, timeouts_idle,
        "Clients that client_idle_timeout has closed"),
    shard!("pg_doorman_shard_timeouts_idle_transaction_total", Counter, Count, timeouts_idle_transaction,
        "Clients that idle_transaction_timeout has closed"),
    shard!("pg_doorman_shard_timeouts_query_total", Counter, Count, timeouts_query,
        "Clients that query_timeout has closed"),
    shard!("pg_doorman_shard_timeouts_transaction_total", Counter, Count, timeouts_transaction,
        "Clients that transaction_timeout has closed"),
    shard!("pg_doorman_shard_timeouts_row_total", Counter, Count, timeouts_row,
        "Clients that proxy_copy_data_timeout has closed"),
    shard!("pg_doorman_shard_clients_over_limit_total", Counter, Count, clients_over_limit,
        "Clients refused because their database or user had as many as it may"),
    shard!("pg_doorman_shard_servers_gave_way_total", Counter, Count, servers_gave_way,
        "Idle servers closed because another pool of their database needed one"),
    shard!("pg_doorman_shard_reserves_used_total", Counter, Count, reserves_used,
        "Server connections of reserves that were allowed, counted at the home shards of their pools"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the fields, as `Debug` prints them.
    fn fields() -> Vec<String> {
        let text = format!("{:#?}", ShardMetrics::default());
        let lines = text.lines().filter_map(|line| line.strip_prefix("    "));
        lines
            .filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase()))
            .filter_map(|line| line.split_once(':'))
            .map(|(field, _)| field.to_owned())
            .collect()
    }

    #[test]
    fn each_field_of_a_shard_is_in_the_table_once() {
        let mut expected = fields();
        assert!(expected.len() > 15, "{expected:?}");
        let mut found: Vec<_> = DESCRIPTORS
            .iter()
            .filter_map(|d| d.source.field())
            .collect();
        expected.sort();
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn each_row_reads_the_field_that_it_names() {
        let metrics = ShardMetrics::default();
        metrics.clients.set(3);
        metrics.wants_granted.add(5);
        metrics.dropped(Droppable::Session);
        for row in DESCRIPTORS {
            match row.source {
                Source::Shard { field, read } => {
                    let expected = match field {
                        "clients" => 3,
                        "wants_granted" => 5,
                        _ => 0,
                    };
                    assert_eq!(read(&metrics), expected, "{field}");
                }
                Source::ShardByKind { read, .. } => {
                    let values = Droppable::ALL.map(|kind| read(&metrics, kind));
                    assert_eq!(values, [0, 0, 1]);
                }
                Source::Process(_) | Source::Version => {}
            }
        }
    }

    /// The row of `docs/metrics.md`.
    fn row_of_page(descriptor: &Descriptor) -> String {
        let labels = match descriptor.source {
            Source::Process(_) => "",
            Source::Version => "`version` ",
            Source::Shard { .. } => "`shard` ",
            Source::ShardByKind { .. } => "`shard`, `kind` ",
        };
        let (name, kind, help) = (descriptor.name, descriptor.kind.name(), descriptor.help);
        format!("| `{name}` | {kind} | {labels}| {help} |")
    }

    #[test]
    fn the_page_has_all_metrics_and_no_others() {
        let page = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md"));
        let (_, rest) = page.split_once("<!-- metrics -->").expect("a start");
        let (part, _) = rest.split_once("<!-- end -->").expect("an end");
        let found: Vec<_> = part
            .lines()
            .filter(|line| line.starts_with("| `"))
            .collect();
        let expected: Vec<_> = DESCRIPTORS.iter().map(row_of_page).collect();
        assert!(
            found == expected,
            "docs/metrics.md:\n{}",
            expected.join("\n")
        );
        for kind in Droppable::ALL {
            assert!(page.contains(&format!("| `{}` |", kind.name())), "{kind:?}");
        }
    }

    #[test]
    fn names_follow_the_habits() {
        let mut names: Vec<_> = DESCRIPTORS.iter().map(|row| row.name).collect();
        for row in DESCRIPTORS {
            let is_plain = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(row.name.chars().all(is_plain), "{}", row.name);
            let is_counter = row.kind == Kind::Counter;
            assert_eq!(row.name.ends_with("_total"), is_counter, "{}", row.name);
            let stem = row.name.trim_end_matches("_total");
            let ending = match row.unit {
                Unit::Bytes => "_bytes",
                Unit::Count => "",
                Unit::Micros => "_seconds",
                Unit::Permille => "_ratio",
            };
            assert!(stem.ends_with(ending), "{}", row.name);
            assert!(!row.help.ends_with('.'), "{}", row.help);
            if let Some(field) = row.source.field() {
                let field = field.trim_end_matches("_us").trim_end_matches("_permille");
                let expected = format!("pg_doorman_shard_{field}{ending}");
                assert_eq!(stem, expected);
            }
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DESCRIPTORS.len(), "a name is there twice");
    }
}
