//! What is measured.
//!
//! Owns: the list of scenarios, their names and what a target must be able to do for them.
//! Does not own: how they are driven (`load.rs`, `bulk.rs`, `idle.rs`).
//! Invariants: names are unique and stable, results of different runs are compared by them.

use anyhow::{Result, bail};
use serde::Serialize;

/// How pgbench sends its queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Simple,
    Extended,
    Prepared,
}

impl Protocol {
    /// pgbench's name of it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
        }
    }
}

/// A pgbench load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    pub(crate) protocol: Protocol,
    pub(crate) clients: u32,
    /// Whether every transaction connects anew.
    pub(crate) reconnect: bool,
    /// Transactions per second offered; `None` for as many as possible.
    pub(crate) rate: Option<u32>,
    /// The fraction of transactions whose latency is logged, so that logging does not load the
    /// machine that is measured.
    pub(crate) sampling: f64,
}

/// A large answer read by the harness itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bulk {
    /// 100 rows of 1 MB a query.
    Rows,
    /// One row of 40 MB a query.
    LargeRow,
    /// `COPY … TO STDOUT` of 200 000 rows of about 110 bytes.
    Copy,
}

/// How a scenario is driven.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Pgbench(Load),
    Bulk(Bulk),
    /// Log in and leave, without a query.
    Login {
        clients: u32,
    },
    /// Log in all at once, again and again, while others ask.
    LoginStorm {
        clients: u32,
    },
    /// Memory of clients that are logged in and do nothing.
    IdleMemory,
    /// CPU of a pooler without load.
    IdleCpu,
}

/// What a unit cost is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    #[serde(rename = "transaction")]
    Transaction,
    #[serde(rename = "login")]
    Login,
    #[serde(rename = "MB")]
    Megabyte,
    #[serde(rename = "second")]
    Second,
}

impl Unit {
    /// The short name in column titles.
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Self::Transaction => "tx",
            Self::Login => "login",
            Self::Megabyte => "MB",
            Self::Second => "s",
        }
    }
}

/// One thing to measure.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) kind: Kind,
}

impl Scenario {
    /// What its costs are divided by.
    pub(crate) fn unit(&self) -> Unit {
        match self.kind {
            Kind::Pgbench(_) => Unit::Transaction,
            Kind::Bulk(_) => Unit::Megabyte,
            Kind::Login { .. } | Kind::LoginStorm { .. } => Unit::Login,
            Kind::IdleMemory | Kind::IdleCpu => Unit::Second,
        }
    }

    /// The most clients connected at once.
    pub(crate) fn clients(&self) -> u32 {
        match self.kind {
            Kind::Pgbench(load) => load.clients,
            Kind::Login { clients } | Kind::LoginStorm { clients } => clients,
            Kind::IdleMemory => *crate::idle::STEPS.last().unwrap_or(&0),
            Kind::Bulk(_) | Kind::IdleCpu => 1,
        }
    }
}

impl Load {
    /// As many transactions as possible over kept connections.
    fn closed(protocol: Protocol, clients: u32) -> Self {
        Self {
            protocol,
            clients,
            reconnect: false,
            rate: None,
            sampling: 0.1,
        }
    }
}

/// Every scenario, in the order of the report.
pub(crate) fn all() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    let mut add = |name: &str, description: String, kind| {
        scenarios.push(Scenario {
            name: name.to_owned(),
            description,
            kind,
        });
    };
    for protocol in [Protocol::Simple, Protocol::Extended, Protocol::Prepared] {
        for clients in [1, 40, 200, 1000] {
            let plural = if clients == 1 { "client" } else { "clients" };
            add(
                &format!("{}-{clients}", protocol.name()),
                format!("{clients} {plural}, {} protocol", protocol.name()),
                Kind::Pgbench(Load::closed(protocol, clients)),
            );
        }
    }
    for (name, protocol) in [
        ("rate-5000-simple", Protocol::Simple),
        ("rate-5000", Protocol::Prepared),
    ] {
        let description = format!(
            "5000 tx/s offered, 40 clients, {} protocol",
            protocol.name()
        );
        let load = Load {
            rate: Some(5000),
            sampling: 1.0,
            ..Load::closed(protocol, 40)
        };
        add(name, description, Kind::Pgbench(load));
    }
    let load = Load {
        reconnect: true,
        sampling: 1.0,
        ..Load::closed(Protocol::Simple, 10)
    };
    let reconnecting = Kind::Pgbench(load);
    for (name, description, kind) in others(reconnecting) {
        add(name, description.to_owned(), kind);
    }
    scenarios
}

/// Those that are not one kind of load in several sizes.
fn others(reconnecting: Kind) -> [(&'static str, &'static str, Kind); 8] {
    [
        (
            "reconnect-10",
            "10 clients, a new connection per transaction",
            reconnecting,
        ),
        (
            "login-10",
            "10 clients log in and leave, no query",
            Kind::Login { clients: 10 },
        ),
        (
            "rows-1mb",
            "rows of 1 MB, one client",
            Kind::Bulk(Bulk::Rows),
        ),
        (
            "row-40mb",
            "one row of 40 MB, one client",
            Kind::Bulk(Bulk::LargeRow),
        ),
        (
            "copy-out",
            "COPY out of rows of 110 bytes, one client",
            Kind::Bulk(Bulk::Copy),
        ),
        (
            "login-storm",
            "2000 clients log in at once, again and again; latency of eight others",
            Kind::LoginStorm { clients: 2000 },
        ),
        (
            "idle-memory",
            "private memory of up to 5000 idle clients",
            Kind::IdleMemory,
        ),
        ("idle-cpu", "CPU of the pooler without load", Kind::IdleCpu),
    ]
}

const QUICK: [&str; 5] = [
    "simple-1",
    "simple-40",
    "prepared-40",
    "rate-5000",
    "idle-cpu",
];

/// Picks scenarios by name; `all`, `quick`, and `*` at either end of a name are understood.
///
/// # Errors
/// A word that picks nothing.
pub(crate) fn select(words: &[String]) -> Result<Vec<Scenario>> {
    let scenarios = all();
    if let Some(word) = words
        .iter()
        .find(|word| !scenarios.iter().any(|s| picks(word, &s.name)))
    {
        let names: Vec<&str> = scenarios.iter().map(|s| s.name.as_str()).collect();
        bail!(
            "no scenario is called {word:?}; there are all, quick, {}",
            names.join(", ")
        );
    }
    Ok(scenarios
        .into_iter()
        .filter(|s| words.iter().any(|word| picks(word, &s.name)))
        .collect())
}

fn picks(word: &str, name: &str) -> bool {
    match word {
        "all" => true,
        "quick" => QUICK.contains(&name),
        _ => match (word.strip_prefix('*'), word.strip_suffix('*')) {
            (Some(end), None) => name.ends_with(end),
            (None, Some(start)) => name.starts_with(start),
            (Some(_), Some(_)) => name.contains(word.trim_matches('*')),
            (None, None) => name == word,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &[&str]) -> Vec<String> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        select(&words)
            .expect("known names")
            .into_iter()
            .map(|s| s.name)
            .collect()
    }

    #[test]
    fn names_are_unique() {
        let mut all: Vec<String> = all().into_iter().map(|s| s.name).collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn scenarios_are_picked_by_name_and_by_pattern() {
        assert_eq!(
            names(&["*-1000"]),
            ["simple-1000", "extended-1000", "prepared-1000"]
        );
        assert_eq!(names(&["rate*"]), ["rate-5000-simple", "rate-5000"]);
        assert_eq!(names(&["copy-out", "simple-1"]), ["simple-1", "copy-out"]);
        assert_eq!(names(&["quick"]).len(), QUICK.len());
        assert!(select(&["simple-2".to_owned()]).is_err());
    }
}
