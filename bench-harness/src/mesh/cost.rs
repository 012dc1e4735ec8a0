//! What more shards cost.
//!
//! Owns: the check `costs-nothing`.
//! Does not own: the measurement (`../run.rs`, `../load.rs`).
//! Invariants: all four targets are measured in every round, so that a ratio never spans two runs.

use anyhow::{Context, Result, ensure};

use super::Bench;
use crate::load::{LoadSettings, Script};
use crate::metric::Metric;
use crate::report::ScenarioResult;
use crate::run::Plan;
use crate::scenario;
use crate::verdict::{Bound, Finding};

const SCENARIO: &str = "simple-40";
const POOL_SIZE: u32 = 40;
const ROUNDS: u32 = 5;
/// One and two of each kind.
const TARGETS: [&str; 4] = ["pg_doorman@1", "pg_doorman@2", "pgbouncer", "pgbouncer-x2"];

/// Compares the CPU per transaction of two shards to one with that of two `PgBouncers` to one.
///
/// # Errors
/// PgBouncer is not installed, or a measurement fails.
pub(crate) fn run(bench: &Bench<'_>, finding: &mut Finding) -> Result<()> {
    let targets = TARGETS
        .iter()
        .map(|name| bench.catalogue.target(name, 1))
        .collect::<Result<_>>()?;
    let plan = Plan {
        targets,
        scenarios: scenario::select(&[SCENARIO.to_owned()])?,
        rounds: ROUNDS,
        pool_size: POOL_SIZE,
        load: LoadSettings {
            seconds: bench.seconds(10),
            script: Script::SelectOnly,
            jobs: crate::default_jobs(),
        },
    };
    let results = plan.execute(bench.server);
    let scenario = results.first().context("nothing was measured")?;
    for cell in &scenario.cells {
        for note in &cell.notes {
            finding.note(format!("{}: {note}", cell.target));
        }
    }
    let mut medians = Vec::new();
    for name in TARGETS {
        let median = median(scenario, name, Metric::PoolerCpuUs)?;
        finding.tell(&format!("µs/tx, {name}"), median);
        medians.push(median);
    }
    let shards = medians[1] / medians[0];
    let processes = medians[3] / medians[2];
    finding.tell("2 PgBouncers / 1", processes);
    finding.tell("2 shards / 1", shards);
    finding.judge(
        "growth with shards / growth with PgBouncers",
        Some(shards / processes),
        Bound::AtMost(1.0),
    );
    for name in TARGETS {
        let foreign = median(scenario, name, Metric::ForeignCpuPercent)?;
        finding.tell(&format!("foreign CPU %, {name}"), foreign);
    }
    Ok(())
}

fn median(scenario: &ScenarioResult, target: &str, metric: Metric) -> Result<f64> {
    let summary = scenario
        .summary(target, metric)
        .with_context(|| format!("{target} was not measured"))?;
    ensure!(
        summary.rounds.len() == ROUNDS as usize,
        "{target} was not measured in every round"
    );
    Ok(summary.median)
}
