//! A short show for somebody who has just built the program.
//!
//! Owns: which measurements the demo makes, what it says, staying up for psql.
//! Does not own: how they are made (`run.rs`).
//! Invariants: PgBouncer is shown beside the pooler when it is installed, and is not needed.

use std::thread;

use anyhow::Result;

use crate::child::POLL;
use crate::interrupt;
use crate::load::{LoadSettings, Script};
use crate::metric::Metric;
use crate::pooler::Pooler;
use crate::postgres::Postgres;
use crate::run::Plan;
use crate::scenario;
use crate::target::{Catalogue, Target};

const POOL_SIZE: u32 = 40;
/// What fits a terminal.
pub(crate) const COLUMNS: [Metric; 5] = [
    Metric::Throughput,
    Metric::LatencyP50Ms,
    Metric::LatencyP99Ms,
    Metric::PoolerCpuUs,
    Metric::ServerCpuUs,
];

/// What the demo needs from the command line.
#[derive(Debug)]
pub(crate) struct Demo {
    pub(crate) plan: Plan,
    pooler: Target,
}

impl Demo {
    /// Finds the programs.
    ///
    /// # Errors
    /// The pooler to show is not there.
    pub(crate) fn new(
        catalogue: &Catalogue,
        pooler: &str,
        shards: u16,
        load: LoadSettings,
    ) -> Result<Self> {
        let pooler = catalogue.target(pooler, shards)?;
        let mut targets = vec![catalogue.target("direct", shards)?, pooler.clone()];
        if pooler.name != "pgbouncer" {
            match catalogue.target("pgbouncer", shards) {
                Ok(target) => targets.push(target),
                Err(reason) => eprintln!("PgBouncer is left out: {reason:#}"),
            }
        }
        let scenarios = scenario::select(&["simple-40".into(), "extended-40".into()])?;
        let plan = Plan {
            targets,
            scenarios,
            rounds: 1,
            pool_size: POOL_SIZE,
            load,
        };
        Ok(Self { plan, pooler })
    }

    /// Keeps the pooler up for psql until Ctrl-C.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn stay(&self, server: &Postgres) -> Result<()> {
        let pooler = Pooler::start(&self.pooler, server, POOL_SIZE)?;
        let (ip, port) = (pooler.address.ip(), pooler.address.port());
        println!(
            "{} is up in front of a throw-away {}.",
            self.pooler.name, server.version
        );
        println!("Talk to PostgreSQL through it:\n");
        println!("    psql -h {ip} -p {port} -U postgres postgres\n");
        println!("Ctrl-C ends both and removes their files.");
        while !interrupt::is_requested() {
            thread::sleep(POLL * 10);
        }
        Ok(())
    }
}

/// The demo's load: one row of a table by its key.
pub(crate) fn load_settings(seconds: u32, jobs: u32) -> LoadSettings {
    LoadSettings {
        seconds,
        script: Script::SelectOnly,
        jobs,
    }
}
