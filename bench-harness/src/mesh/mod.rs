//! Checks that the shards of a pooler are one pool.
//!
//! ```text
//!   fair ── closed_loop ─┐
//!   churn ───────────────┼── fleet      clients, all in one thread
//!   cancel_storm ────────┘
//!   cost ── ../run
//!   each of them ── observer            what PostgreSQL sees
//!                └─ shards              what the pooler says
//!                └─ ../verdict          figures, targets, the report
//! ```
//!
//! Owns: the list of checks, starting what they need, writing the report.
//! Does not own: what each one does.
//! Invariants: all checks of a run use one PostgreSQL and nobody else does; every measurement has a
//! fresh pooler; a check that cannot be made is a failed check and the others go on.

mod cancel_storm;
mod churn;
mod closed_loop;
mod cost;
mod errors;
mod fair;
mod fleet;
mod observer;
mod random;
mod shards;

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

use crate::cli::MeshOptions;
use crate::interrupt;
use crate::load::Script;
use crate::machine::Machine;
use crate::pooler::{Pooler, free_port};
use crate::postgres::Postgres;
use crate::probe::Probe;
use crate::target::Catalogue;
use crate::verdict::{Finding, Verdict};

use observer::Observer;
use random::Random;
use shards::Source;

/// The target that is checked.
const TARGET: &str = "pg_doorman";
/// Its configuration file.
const CONFIGURATION: &str = "pg_doorman.toml";

/// One check.
struct Check {
    name: &'static str,
    description: &'static str,
    run: fn(&Bench<'_>, &mut Finding) -> Result<()>,
}

const CHECKS: [Check; 5] = [
    Check {
        name: "fair-one",
        description: "One server connection for 40 clients on 4 shards: everybody gets a fair \
                      part of it, there is never a second one, and it is as busy as with 1 shard.",
        run: fair::one,
    },
    Check {
        name: "fair-many",
        description: "10 server connections for 500 clients on 2 shards: all wait about equally \
                      long, and the crowd costs no throughput.",
        run: fair::many,
    },
    Check {
        name: "churn",
        description: "Clients come and go at random on 4 shards: the shards stay evenly loaded, \
                      and every client gets its own answers.",
        run: churn::run,
    },
    Check {
        name: "cancel-storm",
        description: "1000 cancel requests on 2 shards, each over a connection that may reach \
                      either: every one hits its query, none hits another.",
        run: cancel_storm::run,
    },
    Check {
        name: "costs-nothing",
        description: "CPU per transaction, 40 clients and 40 server connections: a second shard \
                      costs no more than a second PgBouncer.",
        run: cost::run,
    },
];

/// What the checks have in common.
pub(crate) struct Bench<'a> {
    pub(crate) server: &'a Postgres,
    pub(crate) catalogue: &'a Catalogue,
    seconds: Option<u32>,
    seed: u64,
    /// Clients of the running check that waited beside an idle server; `None` when nobody says.
    waits_beside_idle: Cell<Option<f64>>,
}

/// A running pooler.
pub(crate) struct Doorman {
    pooler: Pooler,
    pub(crate) source: Source,
}

impl Doorman {
    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.pooler.address
    }

    /// The clocks of the pooler, PostgreSQL and the machine.
    pub(crate) fn probe(&self) -> &Probe {
        &self.pooler.probe
    }
}

impl Bench<'_> {
    /// The length of a measurement: the user's, or the check's own.
    pub(crate) fn seconds(&self, default: u32) -> u32 {
        self.seconds.unwrap_or(default)
    }

    /// Random numbers, the same for the same stream of the same run.
    pub(crate) fn random(&self, stream: u64) -> Random {
        Random::new(self.seed ^ stream.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    /// Starts a pooler when nothing of the last one is left.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start(&self, shards: u16, pool_size: u32) -> Result<Doorman> {
        Observer::connect(self.server.address())?.wait_until_alone()?;
        let mut target = self.catalogue.target(TARGET, shards)?;
        let metrics_port = free_port()?;
        let configuration = target.files.get_mut(CONFIGURATION);
        configuration
            .context("pg_doorman has no configuration file")?
            .push_str(&metrics(metrics_port));
        let pooler = Pooler::start(&target, self.server, pool_size)?;
        let source = Source {
            psql: self.server.psql(),
            console: pooler.address,
            metrics_port,
        };
        Ok(Doorman { pooler, source })
    }

    /// Starts a single PgBouncer when nothing of the last pooler is left.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub(crate) fn start_pgbouncer(&self, pool_size: u32) -> Result<Pooler> {
        Observer::connect(self.server.address())?.wait_until_alone()?;
        Pooler::start(
            &self.catalogue.target("pgbouncer", 1)?,
            self.server,
            pool_size,
        )
    }

    /// Adds what a pooler that was started for this check says about clients that waited although
    /// an idle server was there.
    pub(crate) fn keep_waits_beside_idle(&self, doorman: &Doorman) {
        let said = doorman.source.read().ok();
        if let Some(waits) = said.and_then(|table| table.sum("waits_beside_idle")) {
            let sum = self.waits_beside_idle.get().unwrap_or(0.0) + waits;
            self.waits_beside_idle.set(Some(sum));
        }
    }

    fn make(&self, check: &Check) -> Finding {
        eprintln!("{}: {}", check.name, check.description);
        let mut finding = Finding::new(check.name, check.description);
        self.waits_beside_idle.set(None);
        if let Err(error) = (check.run)(self, &mut finding) {
            let reason = format!("{error:#}");
            eprintln!("  {reason}");
            // The rest is the end of some log.
            finding.fail(reason.lines().next().unwrap_or_default());
        }
        if let Some(waits) = self.waits_beside_idle.get() {
            finding.tell("waits beside an idle server", waits);
        }
        finding
    }
}

/// Names and descriptions of all checks.
pub(crate) fn checks() -> [(&'static str, &'static str); 5] {
    CHECKS.map(|check| (check.name, check.description))
}

/// Makes the checks and writes the report.
///
/// # Errors
/// A check fails, or nothing can be started or written.
pub(crate) fn run(options: &MeshOptions) -> Result<()> {
    let checks = select(&options.only)?;
    let catalogue = crate::catalogue(&options.target)?;
    let pooler = catalogue.target(TARGET, 1)?.version_text;
    let machine = Machine::read();
    machine.warn();
    let directory = options.out.join(machine.date.replace(':', ""));
    let seed = options.seed.unwrap_or_else(new_seed);
    let server = crate::start_server(&options.target, Script::SelectOnly)?;
    eprintln!("Seed {seed}.");
    let bench = Bench {
        server: &server,
        catalogue: &catalogue,
        seconds: options.seconds,
        seed,
        waits_beside_idle: Cell::new(None),
    };
    let mut findings = Vec::new();
    for check in checks {
        let finding = bench.make(check);
        println!("{}", finding.markdown());
        findings.push(finding);
        if interrupt::is_requested() {
            break;
        }
    }
    let verdict = Verdict {
        title: "One pool over all shards",
        machine,
        postgres: server.version.clone(),
        pooler,
        seed: Some(seed),
        checks: findings,
    };
    drop(server);
    verdict.write(&directory, "mesh")?;
    verdict.conclude()
}

/// What the configuration needs besides, so that the pooler serves its metrics.
fn metrics(port: u16) -> String {
    format!("\n[prometheus]\nenabled = true\nhost = \"127.0.0.1\"\nport = {port}\n")
}

fn select(only: &[String]) -> Result<Vec<&'static Check>> {
    for name in only {
        if !CHECKS.iter().any(|check| check.name == name) {
            let names = CHECKS.map(|check| check.name);
            bail!(
                "no check is called {name:?}; there are {}",
                names.join(", ")
            );
        }
    }
    let wanted = |check: &&Check| only.is_empty() || only.iter().any(|n| n == check.name);
    Ok(CHECKS.iter().filter(wanted).collect())
}

fn new_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default().as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_selected_by_name_in_their_own_order() {
        let only = ["churn".to_owned(), "fair-one".to_owned()];
        let names: Vec<_> = select(&only)
            .expect("known names")
            .iter()
            .map(|check| check.name)
            .collect();
        assert_eq!(names, ["fair-one", "churn"]);
        assert_eq!(select(&[]).expect("all").len(), CHECKS.len());
        assert!(select(&["fair".to_owned()]).is_err());
    }
}
