//! What a pooler says about its shards.
//!
//! Owns: asking the admin console (`SHOW SHARDS`) or, when that has no answer, the metrics, and the
//! table that both give.
//! Does not own: what the numbers should be.
//! Invariants: a pooler that says nothing gives an error, never zeroes; columns go by name, so that
//! further ones do no harm.
//! Source: app-psql.html; the Prometheus text format.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::child;

/// What the names of all metrics of a shard begin with.
const METRIC_PREFIX: &str = "pg_doorman_shard_";
/// How long the metrics may take.
const METRICS_LIMIT: Duration = Duration::from_secs(3);

/// Where to ask.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// psql's path.
    pub(crate) psql: String,
    pub(crate) console: SocketAddr,
    pub(crate) metrics_port: u16,
}

/// Numbers of every shard, by column.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ShardTable {
    columns: BTreeMap<String, Vec<f64>>,
}

impl Source {
    /// Asks the console, else the metrics.
    ///
    /// # Errors
    /// Neither answers with a table of shards.
    pub(crate) fn read(&self) -> Result<ShardTable> {
        let console = match self.ask_console() {
            Ok(table) => return Ok(table),
            Err(error) => error,
        };
        self.ask_metrics()
            .map_err(|metrics| anyhow::anyhow!("console: {console:#}; metrics: {metrics:#}"))
    }

    fn ask_console(&self) -> Result<ShardTable> {
        let url = format!(
            "postgresql://admin:admin@{}/pgdoorman?sslmode=disable&gssencmode=disable&connect_timeout=3",
            self.console
        );
        let words = [
            &self.psql,
            "-X",
            "-A",
            "-F",
            "|",
            "-P",
            "footer=off",
            "-c",
            "SHOW SHARDS",
            &url,
        ]
        .map(str::to_owned);
        // Its command line holds the password of a throw-away console; nobody else wants to see it.
        let text = child::output(&words, None, Path::new("/"))
            .map_err(|error| anyhow::anyhow!("{}", last_line(&format!("{error:#}"))))?;
        parse_console(&text).context("SHOW SHARDS is not understood")
    }

    fn ask_metrics(&self) -> Result<ShardTable> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.metrics_port));
        let mut stream =
            TcpStream::connect_timeout(&address, METRICS_LIMIT).context("cannot connect")?;
        stream
            .set_read_timeout(Some(METRICS_LIMIT))
            .context("cannot set a timeout")?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .context("cannot ask")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).context("no answer")?;
        parse_metrics(&text).context("no numbers of shards in it")
    }
}

fn last_line(text: &str) -> &str {
    text.trim_end().lines().last().unwrap_or_default()
}

/// psql's unaligned output: a line of names, a line for each shard.
fn parse_console(text: &str) -> Option<ShardTable> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next()?.split('|').collect();
    let mut table = ShardTable::default();
    for line in lines.filter(|line| !line.is_empty()) {
        for (name, value) in names.iter().zip(line.split('|')) {
            // Columns that hold no numbers are of no use here.
            if let Ok(value) = value.trim().parse() {
                let column = table.columns.entry(column_name(name)).or_default();
                column.push(value);
            }
        }
    }
    table.column("clients").is_some().then_some(table)
}

/// Lines such as `pg_doorman_shard_clients{shard="0"} 12`, in the order of the shards.
fn parse_metrics(text: &str) -> Option<ShardTable> {
    let mut values: BTreeMap<String, BTreeMap<u32, f64>> = BTreeMap::new();
    for line in text.lines() {
        let Some((name, rest)) = line
            .strip_prefix(METRIC_PREFIX)
            .and_then(|rest| rest.split_once("{shard=\""))
        else {
            continue;
        };
        let Some((shard, value)) = rest.split_once("\"} ") else {
            continue;
        };
        if let (Ok(shard), Ok(value)) = (shard.parse(), value.trim().parse()) {
            let name = name.strip_suffix("_total").unwrap_or(name);
            values
                .entry(column_name(name))
                .or_default()
                .insert(shard, value);
        }
    }
    let columns = values
        .into_iter()
        .map(|(name, shards)| (name, shards.into_values().collect()))
        .collect();
    let table = ShardTable { columns };
    table.column("clients").is_some().then_some(table)
}

fn column_name(name: &str) -> String {
    name.trim().to_lowercase().replace([' ', '-'], "_")
}

impl ShardTable {
    /// One column, a value for each shard.
    pub(crate) fn column(&self, name: &str) -> Option<&[f64]> {
        self.columns.get(name).map(Vec::as_slice)
    }

    /// The sum over all shards.
    pub(crate) fn sum(&self, name: &str) -> Option<f64> {
        Some(self.column(name)?.iter().sum())
    }

    /// The largest value of a column divided by the mean.
    ///
    /// # Errors
    /// There is no such column, or it holds only zeroes.
    pub(crate) fn imbalance(&self, name: &str) -> Result<f64> {
        let values = self.column(name).context("no such column")?;
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        if mean <= 0.0 {
            bail!("no {name} on any shard");
        }
        Ok(values.iter().copied().fold(0.0, f64::max) / mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_and_metrics_give_the_same_table() {
        let console = "shard|cpu|clients|waits_beside_idle\n0|none|30|4\n1|none|10|0\n";
        let metrics = "HTTP/1.1 200 OK\r\n\r\n# TYPE pg_doorman_shard_clients gauge\n\
            pg_doorman_shard_clients{shard=\"1\"} 10\npg_doorman_shard_clients{shard=\"0\"} 30\n\
            pg_doorman_shard_waits_beside_idle_total{shard=\"0\"} 4\n\
            pg_doorman_shard_waits_beside_idle_total{shard=\"1\"} 0\nother 5\n";
        let console = parse_console(console).expect("a table");
        let metrics = parse_metrics(metrics).expect("a table");
        for table in [console, metrics] {
            assert_eq!(table.column("clients"), Some([30.0, 10.0].as_slice()));
            assert_eq!(table.sum("waits_beside_idle"), Some(4.0));
            let imbalance = table.imbalance("clients").expect("clients");
            assert!((imbalance - 1.5).abs() < 1e-9);
        }
    }

    #[test]
    fn a_pooler_that_says_nothing_gives_no_table() {
        assert_eq!(parse_console(""), None);
        assert_eq!(parse_console("a|b\n1|2\n"), None);
        assert_eq!(parse_metrics("HTTP/1.1 404 Not Found\r\n\r\n"), None);
        assert!(ShardTable::default().imbalance("clients").is_err());
    }
}
