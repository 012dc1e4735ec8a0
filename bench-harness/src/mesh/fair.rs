//! Whether a pool that is too small for its clients is shared fairly.
//!
//! Owns: the checks `fair-one` and `fair-many`.
//! Does not own: the load (`closed_loop.rs`).
//! Invariants: what is compared is measured in turns, each time with a fresh pooler.

use std::net::SocketAddr;

use anyhow::Result;

use super::Bench;
use super::closed_loop::{self, Counted};
use super::errors::Errors;
use super::observer::{Sampler, Samples};
use crate::child::renice;
use crate::cpu;
use crate::interrupt;
use crate::metric::Metric;
use crate::probe::Probe;
use crate::statistics::{Summary, percentile};
use crate::verdict::{Bound, Finding};

/// A load, and all that was seen of it in all rounds.
struct Variant {
    title: &'static str,
    /// None: a single PgBouncer, whose one queue has no order but that of arrival.
    shards: Option<u16>,
    clients: usize,
    rounds: Vec<Round>,
    /// The driver had the processor before the others.
    is_driver_first: bool,
    /// Why rounds are missing.
    failures: Vec<String>,
}

/// What was seen of it in one round.
struct Round {
    counted: Counted,
    samples: Samples,
    /// CPU used by nobody in the measurement, per cent of the machine.
    foreign_percent: f64,
}

impl Variant {
    fn new(title: &'static str, shards: Option<u16>, clients: usize) -> Self {
        Self {
            title,
            shards,
            clients,
            rounds: Vec::new(),
            is_driver_first: false,
            failures: Vec::new(),
        }
    }

    fn measure(&mut self, bench: &Bench<'_>, pool_size: u32, seconds: u32) -> Result<()> {
        let Some(shards) = self.shards else {
            let pooler = bench.start_pgbouncer(pool_size)?;
            return self.load(bench, (pooler.address, &pooler.probe), seconds);
        };
        let doorman = bench.start(shards, pool_size)?;
        self.load(bench, (doorman.address(), doorman.probe()), seconds)?;
        bench.keep_waits_beside_idle(&doorman);
        Ok(())
    }

    fn load(
        &mut self,
        bench: &Bench<'_>,
        (address, probe): (SocketAddr, &Probe),
        seconds: u32,
    ) -> Result<()> {
        let sampler = Sampler::start(bench.server.address())?;
        let mut random = bench.random(self.rounds.len() as u64);
        let (begin, driver_ns) = (probe.begin()?, cpu::own_ns());
        // What the driver does not get to in time looks like a wait of the pooler.
        self.is_driver_first = renice("-10");
        let counted = closed_loop::run(address, self.clients, seconds, &mut random);
        if self.is_driver_first {
            renice("0");
        }
        let counted = counted?;
        let driver_us = cpu::own_ns().saturating_sub(driver_ns) as f64 / 1e3;
        let end = probe.end()?;
        let samples = sampler.finish()?;
        let costs = probe.costs(&begin, &end, driver_us, 1.0);
        let foreign_percent = costs.get(&Metric::ForeignCpuPercent).copied();
        eprintln!(
            "  {}: {:.0} tx/s, slowest/fastest {:.2}, p99/p50 {:.2}, most connections {}, errors {}, \
             foreign CPU {:.0} %",
            self.title,
            counted.tps(),
            counted.fairness(),
            spread(&counted).unwrap_or(0.0),
            samples.max,
            counted.errors.total(),
            foreign_percent.unwrap_or_default(),
        );
        self.rounds.push(Round {
            counted,
            samples,
            foreign_percent: foreign_percent.unwrap_or_default(),
        });
        Ok(())
    }

    fn median(&self, figure: impl Fn(&Counted) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = self
            .rounds
            .iter()
            .filter_map(|round| figure(&round.counted))
            .collect();
        (values.len() == self.rounds.len())
            .then(|| Summary::of(&values))
            .flatten()
            .map(|summary| summary.median)
    }

    fn tps(&self) -> Option<f64> {
        self.median(|counted| Some(counted.tps()))
    }

    /// The worst round.
    fn fairness(&self) -> Option<f64> {
        let values = self.rounds.iter().map(|round| round.counted.fairness());
        values.min_by(f64::total_cmp)
    }

    fn connections_max(&self) -> Option<f64> {
        let values = self.rounds.iter().map(|round| round.samples.max);
        values.max().map(|most| most as f64)
    }

    fn samples(&self) -> f64 {
        self.rounds.iter().map(|r| r.samples.count).sum::<u64>() as f64
    }

    fn foreign_percent(&self) -> f64 {
        let values = self.rounds.iter().map(|round| round.foreign_percent);
        values.fold(0.0, f64::max)
    }

    fn errors(&self) -> Errors {
        let mut sum = Errors::default();
        for round in &self.rounds {
            sum.merge(&round.counted.errors);
        }
        sum
    }
}

/// p99 of the latency divided by p50.
fn spread(counted: &Counted) -> Option<f64> {
    let p99 = percentile(&counted.latencies, 990)?;
    let p50 = percentile(&counted.latencies, 500)?;
    Some(f64::from(p99) / f64::from(p50.max(1)))
}

fn ratio(part: Option<f64>, whole: Option<f64>) -> Option<f64> {
    whole.filter(|&whole| whole > 0.0).and(Some(part? / whole?))
}

/// The larger of two; `None` when one is missing.
fn larger(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    Some(one?.max(other?))
}

fn run_rounds(
    bench: &Bench<'_>,
    rounds: u32,
    pool_size: u32,
    seconds: u32,
    variants: &mut [Variant],
) -> Result<()> {
    for round in 1..=rounds {
        for variant in &mut *variants {
            // What else can be measured is worth knowing all the same.
            if let Err(error) = variant.measure(bench, pool_size, seconds) {
                interrupt::check()?;
                let text = format!("{error:#}");
                let reason = text.lines().next().unwrap_or_default();
                variant.failures.push(format!("round {round}: {reason}"));
                eprintln!("  {}: failed: {reason}", variant.title);
            }
        }
    }
    Ok(())
}

/// 40 clients share one server connection, over four shards and over one.
///
/// # Errors
/// Something could not be started or asked, or the user interrupts.
pub(crate) fn one(bench: &Bench<'_>, finding: &mut Finding) -> Result<()> {
    let mut variants = [
        Variant::new("1 shard", Some(1), 40),
        Variant::new("4 shards", Some(4), 40),
    ];
    run_rounds(bench, 2, 1, bench.seconds(30), &mut variants)?;
    let [single, four] = variants;
    finding.judge(
        "transactions of the slowest client / the fastest",
        four.fairness(),
        Bound::AtLeast(0.5),
    );
    finding.tell("the same with 1 shard", single.fairness());
    finding.judge(
        "most server connections at once",
        larger(four.connections_max(), single.connections_max()),
        Bound::AtMost(1.0),
    );
    finding.tell("samples of that", four.samples() + single.samples());
    finding.judge(
        "tx/s with 4 shards / with 1",
        ratio(four.tps(), single.tps()),
        Bound::AtLeast(0.75),
    );
    finding.tell("tx/s with 4 shards", four.tps());
    finding.tell("tx/s with 1 shard", single.tps());
    judge_errors(finding, &[&four, &single]);
    Ok(())
}

/// 500 clients share 10 server connections over two shards.
///
/// # Errors
/// Something could not be started or asked, or the user interrupts.
pub(crate) fn many(bench: &Bench<'_>, finding: &mut Finding) -> Result<()> {
    let mut variants = [
        Variant::new("2 shards, 40 clients", Some(2), 40),
        Variant::new("2 shards, 500 clients", Some(2), 500),
        Variant::new("1 shard, 500 clients", Some(1), 500),
        Variant::new("1 PgBouncer, 500 clients", None, 500),
    ];
    run_rounds(bench, 3, 10, bench.seconds(10), &mut variants)?;
    let [few, crowd, single, bouncer] = variants;
    finding.judge(
        "p99 / p50 of the latency, 500 clients",
        crowd.median(spread),
        Bound::AtMost(1.5),
    );
    let spread_of_one = single.median(spread);
    finding.tell("the same with 1 shard", spread_of_one);
    finding.tell("the same with 1 PgBouncer", bouncer.median(spread));
    for (name, per_mille) in [("p50", 500), ("p99", 990)] {
        let latency = crowd.median(|c| percentile(&c.latencies, per_mille).map(f64::from));
        let milliseconds = latency.map(|us| us / 1e3);
        finding.tell(&format!("{name} in ms, 500 clients"), milliseconds);
    }
    finding.judge(
        "tx/s with 500 clients / with 40",
        ratio(crowd.tps(), few.tps()),
        Bound::AtLeast(0.95),
    );
    finding.tell("tx/s with 500 clients", crowd.tps());
    finding.tell("tx/s with 40 clients", few.tps());
    let tps_of_one = single.tps();
    finding.tell("tx/s with 500 clients, 1 shard", tps_of_one);
    finding.tell("tx/s with 500 clients, 1 PgBouncer", bouncer.tps());
    finding.tell(
        "driver's priority raised (1: yes)",
        f64::from(u8::from(crowd.is_driver_first)),
    );
    let fairness = crowd.fairness();
    finding.tell("transactions, slowest / fastest client", fairness);
    finding.judge(
        "most server connections at once",
        larger(crowd.connections_max(), few.connections_max()),
        Bound::AtMost(10.0),
    );
    judge_errors(finding, &[&few, &crowd, &single]);
    Ok(())
}

fn judge_errors(finding: &mut Finding, variants: &[&Variant]) {
    let mut all = Errors::default();
    for variant in variants {
        let errors = variant.errors();
        if let Some(text) = errors.describe() {
            finding.note(format!("{}: {text}", variant.title));
        }
        all.merge(&errors);
        for failure in &variant.failures {
            finding.note(format!("{}, {failure}", variant.title));
        }
    }
    let failures: usize = variants.iter().map(|v| v.failures.len()).sum();
    finding.judge(
        "rounds that could not be measured",
        Some(failures as f64),
        Bound::AtMost(0.0),
    );
    let foreign = variants.iter().map(|variant| variant.foreign_percent());
    finding.tell("foreign CPU %, the most", foreign.fold(0.0, f64::max));
    finding.judge("errors", Some(all.total() as f64), Bound::AtMost(0.0));
}
