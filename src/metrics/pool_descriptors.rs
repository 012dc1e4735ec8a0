//! Every number of pools that `/metrics` shows, and those of the process that have labels.
//!
//! **Owns:** their names, types, labels and meaning, and where each is found.
//! **Does not own:** the numbers (`pool`, `window`), the text format (`exposition`).
//!
//! The first of them are named and typed as earlier versions have it, though some count up and are
//! called gauges, and some are in milliseconds. Those behind follow the habits of the field.

use super::pool::ServerReading;
use super::snapshot::ProcessSnapshot;
use super::window::PoolView;

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeriesKind {
    /// It only grows.
    Counter,
    /// It goes up and down, or was always called so.
    Gauge,
    /// Buckets, a sum and a count.
    Histogram,
}

impl SeriesKind {
    /// As in a `TYPE` line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One sample: the value of the label that tells it apart, and the number as text.
pub type Sample = (&'static str, String);

/// Where numbers are found.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// Once in the process.
    Process(fn(&ProcessSnapshot) -> Vec<Sample>),
    /// Once in each pool.
    Pool(fn(&PoolView) -> Vec<Sample>),
    /// Once in each server connection.
    Server(fn(&ServerReading) -> u64),
    /// A histogram in each pool.
    Histogram(fn(&PoolView) -> &super::histogram::Histogram),
}

/// All that is known of one metric.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    /// Name at `/metrics`.
    pub name: &'static str,
    /// Its type.
    pub kind: SeriesKind,
    /// The label that tells its samples apart, beside those of the pool; empty = none.
    pub label: &'static str,
    /// One sentence, without its full stop.
    pub help: &'static str,
    /// Where it is found.
    pub found: Found,
}

impl Series {
    /// The names of its labels.
    pub fn labels(&self) -> Vec<&'static str> {
        let pool: &[_] = match self.found {
            Found::Process(_) => &[],
            Found::Pool(_) | Found::Histogram(_) => &["user", "database"],
            Found::Server(_) => &["user", "database", "backend_pid"],
        };
        let own = Some(self.label).filter(|label| !label.is_empty());
        own.into_iter().chain(pool.iter().copied()).collect()
    }
}

const fn process(
    name: &'static str,
    label: &'static str,
    help: &'static str,
    found: fn(&ProcessSnapshot) -> Vec<Sample>,
) -> Series {
    Series {
        name,
        kind: SeriesKind::Gauge,
        label,
        help,
        found: Found::Process(found),
    }
}

const fn gauge(
    name: &'static str,
    label: &'static str,
    help: &'static str,
    found: fn(&PoolView) -> Vec<Sample>,
) -> Series {
    Series {
        name,
        kind: SeriesKind::Gauge,
        label,
        help,
        found: Found::Pool(found),
    }
}

const fn server(
    name: &'static str,
    help: &'static str,
    found: fn(&ServerReading) -> u64,
) -> Series {
    Series {
        name,
        kind: SeriesKind::Gauge,
        label: "",
        help,
        found: Found::Server(found),
    }
}

const fn histogram(
    name: &'static str,
    help: &'static str,
    found: fn(&PoolView) -> &super::histogram::Histogram,
) -> Series {
    Series {
        name,
        kind: SeriesKind::Histogram,
        label: "",
        help,
        found: Found::Histogram(found),
    }
}

fn one(value: u64) -> Vec<Sample> {
    vec![("", value.to_string())]
}

fn millis(micros: u64) -> String {
    format!("{}.{:03}", micros / 1000, micros % 1000)
}

fn percentiles(of: &super::histogram::Histogram) -> Vec<Sample> {
    [("99", 99), ("95", 95), ("90", 90), ("50", 50)]
        .map(|(name, percent)| (name, millis(of.percentile_us(percent))))
        .into()
}

fn named<const N: usize>(samples: [(&'static str, u64); N]) -> Vec<Sample> {
    samples
        .map(|(name, value)| (name, value.to_string()))
        .into()
}

/// The numbers in the order in which they are shown.
#[rustfmt::skip]
pub static SERIES: &[Series] = &[
    process("pg_doorman_total_memory", "",
        "Virtual memory of the process, in bytes",
        |process| one(process.virtual_memory_bytes)),
    process("pg_doorman_connection_count", "type",
        "Connections since the start, by what came of them",
        |process| {
            let [plain, tls, cancel, total] = process.connection_counts;
            named([("plain", plain), ("tls", tls), ("cancel", cancel), ("total", total)])
        }),
    process("pg_doorman_sockets", "type",
        "Open sockets of the process, by their kind; up to a second old",
        |process| {
            let [tcp, tcp6, unix, unknown] = process.socket_counts;
            named([("tcp", tcp), ("tcp6", tcp6), ("unix", unix), ("unknown", unknown)])
        }),
    gauge("pg_doorman_pools_clients", "status",
        "Clients, by what they do",
        |pool| named([
            ("idle", pool.now.clients_idle()),
            ("waiting", pool.now.clients_waiting),
            ("active", pool.now.clients_active),
        ])),
    gauge("pg_doorman_pools_servers", "status",
        "Server connections, by whether they are used",
        |pool| named([("active", pool.now.servers_active), ("idle", pool.now.servers_idle)])),
    gauge("pg_doorman_pools_bytes", "direction",
        "Bytes received from servers and sent to them, for clients",
        |pool| named([("received", pool.now.bytes_received), ("sent", pool.now.bytes_sent)])),
    gauge("pg_doorman_pools_queries_percentile", "percentile",
        "Time of queries in milliseconds that so many per cent did not exceed, of the last 15 to 30 seconds",
        |pool| percentiles(&pool.recent.queries)),
    gauge("pg_doorman_pools_transactions_percentile", "percentile",
        "Time of transactions in milliseconds that so many per cent did not exceed, of the last 15 to 30 seconds",
        |pool| percentiles(&pool.recent.transactions)),
    gauge("pg_doorman_pools_transactions_count", "",
        "Transactions since the start",
        |pool| one(pool.now.transactions.count())),
    gauge("pg_doorman_pools_transactions_total_time", "",
        "Time of all transactions added up, in milliseconds",
        |pool| vec![("", millis(pool.now.transactions.sum_us))]),
    gauge("pg_doorman_pools_queries_count", "",
        "Queries since the start",
        |pool| one(pool.now.queries.count())),
    gauge("pg_doorman_pools_queries_total_time", "",
        "Time of all queries added up, in milliseconds",
        |pool| vec![("", millis(pool.now.queries.sum_us))]),
    gauge("pg_doorman_pools_avg_wait_time", "",
        "Time that was waited for servers in milliseconds a transaction, of the last whole 15 seconds",
        |pool| vec![("", millis(pool.averages.wait_us))]),
    gauge("pg_doorman_pool_prepared_cache_entries", "",
        "Prepared statements that the pool remembers",
        |pool| one(pool.now.prepared_entries)),
    gauge("pg_doorman_pool_prepared_cache_bytes", "",
        "Memory of prepared statements that the pool remembers, about, in bytes",
        |pool| one(pool.now.prepared_bytes)),
    gauge("pg_doorman_clients_prepared_cache_entries", "",
        "Prepared statements of clients",
        |pool| one(pool.now.client_prepared_entries)),
    gauge("pg_doorman_clients_prepared_cache_bytes", "",
        "Memory of prepared statements of clients, about, in bytes",
        |pool| one(pool.now.client_prepared_bytes)),
    gauge("pg_doorman_async_clients_count", "",
        "Clients that have ever used Flush",
        |pool| one(pool.now.async_clients)),
    server("pg_doorman_servers_prepared_hits",
        "Prepared statements that clients wanted and the server connection had",
        |server| server.prepared_hits),
    server("pg_doorman_servers_prepared_misses",
        "Prepared statements that clients wanted and had to be made on the server connection",
        |server| server.prepared_misses),
    gauge("pg_doorman_pool_size", "",
        "Server connections that the pool may have",
        |pool| one(pool.now.size)),
    gauge("pg_doorman_pools_paused", "",
        "1 if the pool lends no servers at the moment",
        |pool| one(pool.now.is_paused.into())),
    gauge("pg_doorman_pools_maxwait_microseconds", "",
        "How long the client has waited that waits longest at the moment, in microseconds",
        |pool| one(pool.now.wait_us_max)),
    Series {
        kind: SeriesKind::Counter,
        ..gauge("pg_doorman_pools_errors_total", "",
            "Clients that got no server",
            |pool| one(pool.now.errors))
    },
    histogram("pg_doorman_pools_query_duration_seconds",
        "Time of a query, from its first message to the end of its answer",
        |pool| &pool.now.queries),
    histogram("pg_doorman_pools_transaction_duration_seconds",
        "Time of a transaction, from its first message to its end",
        |pool| &pool.now.transactions),
    histogram("pg_doorman_pools_wait_duration_seconds",
        "Time from asking for a server to getting it",
        |pool| &pool.now.waits),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The row of `docs/metrics.md`.
    fn row_of_page(series: &Series) -> String {
        let labels: Vec<_> = series
            .labels()
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{} ", labels.join(", "))
        };
        let (name, kind, help) = (series.name, series.kind.name(), series.help);
        format!("| `{name}` | {kind} | {labels}| {help} |")
    }

    #[test]
    fn the_page_has_all_metrics_of_pools_and_no_others() {
        let page = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md"));
        let (_, rest) = page
            .split_once("<!-- metrics of pools -->")
            .expect("a start");
        let (part, _) = rest.split_once("<!-- end -->").expect("an end");
        let found: Vec<_> = part
            .lines()
            .filter(|line| line.starts_with("| `"))
            .collect();
        let expected: Vec<_> = SERIES.iter().map(row_of_page).collect();
        assert!(
            found == expected,
            "docs/metrics.md:\n{}",
            expected.join("\n")
        );
    }
}
