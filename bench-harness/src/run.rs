//! The order of a run: rounds, interleaved over the targets.
//!
//! Owns: the loop over scenarios, rounds and targets, the progress lines.
//! Does not own: how one measurement is made (`load.rs`, `bulk.rs`, `idle.rs`).
//! Invariants: within a round every target is measured once before any is measured again, so that
//! a slow change of the machine meets all alike; a failed measurement is noted and the run goes on.

use std::time::Duration;

use anyhow::Result;

use crate::bulk;
use crate::idle;
use crate::interrupt;
use crate::load::{self, LoadSettings};
use crate::metric::{Figures, Metric};
use crate::pooler::Pooler;
use crate::postgres::Postgres;
use crate::report::{Cell, ScenarioResult};
use crate::scenario::{Kind, Scenario};
use crate::storm;
use crate::target::Target;

/// What to measure.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) targets: Vec<Target>,
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) rounds: u32,
    pub(crate) pool_size: u32,
    pub(crate) load: LoadSettings,
}

impl Plan {
    /// How many measurements the plan has.
    fn measurement_count(&self) -> usize {
        self.rounds as usize * self.pairs().filter(|(s, t)| t.lacks(s).is_none()).count()
    }

    /// Roughly how long it takes.
    pub(crate) fn duration(&self) -> Duration {
        let seconds: u64 = self
            .pairs()
            .filter(|(scenario, target)| target.lacks(scenario).is_none())
            .map(|(scenario, _)| match scenario.kind {
                Kind::IdleMemory => 8,
                Kind::LoginStorm { .. } => 2 * u64::from(self.load.seconds) + 2,
                _ => u64::from(self.load.seconds) + 2,
            })
            .sum();
        Duration::from_secs(seconds * u64::from(self.rounds))
    }

    fn pairs(&self) -> impl Iterator<Item = (&Scenario, &Target)> {
        self.scenarios
            .iter()
            .flat_map(|scenario| self.targets.iter().map(move |t| (scenario, t)))
    }

    /// Measures everything. A measurement that fails is a note of its cell. When the user
    /// interrupts, what was measured until then is returned.
    pub(crate) fn execute(&self, server: &Postgres) -> Vec<ScenarioResult> {
        let mut progress = Progress {
            done: 0,
            count: self.measurement_count(),
        };
        let mut results = Vec::new();
        for scenario in &self.scenarios {
            let mut cells: Vec<Cell> = self
                .targets
                .iter()
                .map(|target| Cell::new(target, scenario))
                .collect();
            for round in 1..=self.rounds {
                self.measure_round(round, scenario, &mut cells, server, &mut progress);
            }
            results.push(ScenarioResult::new(scenario, cells));
            if interrupt::is_requested() {
                break;
            }
        }
        results
    }

    fn measure_round(
        &self,
        round: u32,
        scenario: &Scenario,
        cells: &mut [Cell],
        server: &Postgres,
        progress: &mut Progress,
    ) {
        for (target, cell) in self.targets.iter().zip(cells) {
            if target.lacks(scenario).is_some() || interrupt::is_requested() {
                continue;
            }
            progress.begin(round, scenario, target);
            let figures = self.measure(scenario, target, server);
            // A measurement that was cut short is no measurement.
            if interrupt::is_requested() {
                eprintln!("interrupted");
                return;
            }
            Progress::end(scenario, &figures);
            cell.add(round, figures);
        }
    }

    fn measure(&self, scenario: &Scenario, target: &Target, server: &Postgres) -> Result<Figures> {
        let start = || Pooler::start(target, server, self.pool_size);
        let seconds = self.load.seconds;
        match scenario.kind {
            Kind::Pgbench(load) => load::run(load, self.load, &start()?, server),
            Kind::Bulk(bulk) => bulk::read_large(bulk, seconds, &start()?),
            Kind::Login { clients } => bulk::log_in(clients, seconds, &start()?),
            Kind::LoginStorm { clients } => storm::measure(clients, seconds, &start()?),
            Kind::IdleMemory => {
                let statement = if target.has_prepared() { "one" } else { "" };
                idle::measure_memory(start, statement)
            }
            Kind::IdleCpu => idle::measure_cpu(seconds, &start()?),
        }
    }
}

/// The lines that say how far the run is.
struct Progress {
    done: usize,
    count: usize,
}

impl Progress {
    fn begin(&mut self, round: u32, scenario: &Scenario, target: &Target) {
        self.done += 1;
        let width = self.count.to_string().len();
        eprint!(
            "[{:>width$}/{}] round {round}  {:<16} {:<16} ",
            self.done, self.count, scenario.name, target.name
        );
    }

    fn end(scenario: &Scenario, figures: &Result<Figures>) {
        match figures {
            Ok(figures) => eprintln!("{}", line(scenario, figures)),
            Err(error) => eprintln!("failed: {error:#}"),
        }
    }
}

/// The figures of one measurement in one line.
fn line(scenario: &Scenario, figures: &Figures) -> String {
    let unit = scenario.unit();
    let shown = [
        Metric::Throughput,
        Metric::LatencyP50Ms,
        Metric::LatencyP99Ms,
        Metric::QuietP99Ms,
        Metric::PoolerCpuUs,
        Metric::ServerCpuUs,
        Metric::KibPerIdleClient,
        Metric::KibPerUsedClient,
        Metric::ForeignCpuPercent,
    ];
    shown
        .into_iter()
        .filter_map(|metric| {
            let value = metric.format(*figures.get(&metric)?);
            Some(format!("{} {value:<7}", metric.title(unit)))
        })
        .collect::<Vec<_>>()
        .join("  ")
}
