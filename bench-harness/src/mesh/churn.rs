//! Whether shards stay evenly loaded while clients come and go.
//!
//! ```text
//!   arrive ──► logged in ──► think ──► query ──► answered ─┐
//!                              ▲                           │ own token? not yet time to leave?
//!                              └───────────────────────────┘
//! ```
//!
//! Owns: the check `churn`.
//! Does not own: how the pooler says where its clients are (`shards.rs`).
//! Invariants: arrivals, lifetimes and pauses depend on the seed only; a client leaves only when
//! nothing is owed to it; every answer is compared with what was asked for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::errors::Errors;
use super::fleet::{Event, Fleet, Outcome};
use super::random::Random;
use super::shards::Source;
use super::{Bench, Doorman};
use crate::client::query;
use crate::statistics::percentile;
use crate::verdict::{Bound, Finding};

const SHARDS: u16 = 4;
const POOL_SIZE: u32 = 20;
/// Clients there are on average.
const POPULATION: f64 = 400.0;
const SLOTS: usize = 2000;
/// One client of so many stays long.
const LONG_ONE_OF: u64 = 3;
/// Pause of a client between two queries, on average.
const THINK: Duration = Duration::from_millis(200);
/// How often shards are looked at while clients come and go.
const LOOKS: u32 = 20;
/// Looks of the begin that do not count: nothing has happened yet.
const LOOKS_SKIPPED: u32 = 4;
/// How long the last answers may take.
const LAST_ANSWERS_LIMIT: Duration = Duration::from_secs(10);
/// The time after which shards are looked at once more, when nobody comes or goes.
const CALM: Duration = Duration::from_secs(5);

/// Arrivals that are overdue for longer are given up.
const BACKLOG: Duration = Duration::from_millis(100);

/// What a client does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Ask,
    Leave,
}

/// A client as long as it is there.
#[derive(Debug, Clone, Default)]
struct Guest {
    /// Counts the guests of a slot, so that plans of the last one are not carried out.
    generation: u64,
    is_present: bool,
    is_leaving: bool,
    /// What the answer to the query on its way must be.
    token: String,
}

struct Churn {
    fleet: Fleet,
    random: Random,
    guests: Vec<Guest>,
    free: Vec<usize>,
    plans: BinaryHeap<Reverse<(Instant, usize, u64, Step)>>,
    next_arrival: Instant,
    long: Duration,
    short: Duration,
    arrivals: u64,
    departures: u64,
    queries: u64,
    latencies: Vec<u32>,
    errors: Errors,
}

/// The largest shard relative to the mean, over the looks of a run.
#[derive(Debug, Default)]
struct Looks {
    worst: Option<f64>,
    last: Option<f64>,
    failure: Option<String>,
}

/// Lets clients come and go.
///
/// # Errors
/// The pooler does not start, or the user interrupts.
pub(crate) fn run(bench: &Bench<'_>, finding: &mut Finding) -> Result<()> {
    let doorman = bench.start(SHARDS, POOL_SIZE)?;
    let seconds = bench.seconds(600);
    let mut churn = Churn::new(&doorman, bench.random(0), seconds)?;
    let mut looks = Looks::default();
    let begin = Instant::now();
    let look_period = Duration::from_secs(u64::from(seconds)) / LOOKS;
    for look in 1..=LOOKS {
        churn.drive_until(begin + look_period * look, true)?;
        looks.look(&doorman.source, look > LOOKS_SKIPPED);
    }
    let at_end = looks.last;
    churn.drive_until(Instant::now() + CALM, false)?;
    looks.look(&doorman.source, false);
    bench.keep_waits_beside_idle(&doorman);
    let present = churn.fleet.logged_in();
    churn.finish()?;
    finding.tell("seconds", f64::from(seconds));
    finding.tell("clients that came", churn.arrivals as f64);
    finding.tell("clients that left", churn.departures as f64);
    finding.tell("clients at the end", present as f64);
    finding.judge(
        "clients of a shard at the end, max / mean",
        at_end,
        Bound::AtMost(1.1),
    );
    if let (Some(worst), Some(calm)) = (looks.worst, looks.last) {
        finding.tell("the worst while they came and went", worst);
        finding.tell("5 s after the last came or went", calm);
    }
    if let Some(failure) = looks.failure {
        finding.note(format!("the pooler says nothing of its shards: {failure}"));
    }
    churn.report(finding);
    Ok(())
}

impl Looks {
    fn look(&mut self, source: &Source, counts: bool) {
        match source.read().and_then(|t| Ok((t.imbalance("clients")?, t))) {
            Ok((imbalance, table)) => {
                eprintln!("  clients per shard {:?}", table.column("clients"));
                self.last = Some(imbalance);
                if counts {
                    self.worst = Some(self.worst.unwrap_or(0.0).max(imbalance));
                }
            }
            Err(error) => {
                self.last = None;
                self.failure = Some(format!("{error:#}"));
            }
        }
    }
}

impl Churn {
    fn new(doorman: &Doorman, random: Random, seconds: u32) -> Result<Self> {
        let long = Duration::from_secs(u64::from((seconds / 10).clamp(5, 60)));
        let mut churn = Self {
            fleet: Fleet::new(doorman.address(), SLOTS)?,
            random,
            guests: vec![Guest::default(); SLOTS],
            free: (0..SLOTS).rev().collect(),
            plans: BinaryHeap::new(),
            next_arrival: Instant::now(),
            long,
            short: long / 30,
            arrivals: 0,
            departures: 0,
            queries: 0,
            latencies: Vec::new(),
            errors: Errors::default(),
        };
        // Among those who are there at some moment nearly all stay long.
        for _ in 0..POPULATION as usize {
            churn.arrive(churn.long);
        }
        Ok(churn)
    }

    /// Time between two arrivals, on average, that keeps the population.
    fn arrival_period(&self) -> Duration {
        let one_of = LONG_ONE_OF as u32;
        let mean_stay = self.long / one_of + self.short * (one_of - 1) / one_of;
        mean_stay.div_f64(POPULATION)
    }

    fn arrive(&mut self, mean_stay: Duration) {
        let Some(slot) = self.free.pop() else {
            return;
        };
        let leave_at = Instant::now() + self.random.time(mean_stay);
        let guest = &mut self.guests[slot];
        guest.generation += 1;
        guest.is_present = true;
        guest.is_leaving = false;
        let plan = (leave_at, slot, guest.generation, Step::Leave);
        self.plans.push(Reverse(plan));
        self.arrivals += 1;
        self.fleet.open(slot);
    }

    fn leave(&mut self, slot: usize) {
        self.fleet.close(slot);
        self.gone(slot);
        self.departures += 1;
    }

    fn gone(&mut self, slot: usize) {
        self.guests[slot].is_present = false;
        self.free.push(slot);
    }

    /// Goes on until `end`. Nobody comes or goes unless `is_moving`.
    fn drive_until(&mut self, end: Instant, is_moving: bool) -> Result<()> {
        let mut events = Vec::new();
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            let mut next = end;
            if is_moving {
                self.receive(now);
                next = next.min(self.next_arrival);
            }
            self.carry_out(now, is_moving);
            if let Some(Reverse((at, ..))) = self.plans.peek() {
                next = next.min(*at);
            }
            self.fleet.wait(next.duration_since(now), &mut events)?;
            for event in &events {
                self.react(event, is_moving);
            }
        }
    }

    fn receive(&mut self, now: Instant) {
        // After a rest there is no crowd that made up for it.
        if now.duration_since(self.next_arrival) > BACKLOG {
            self.next_arrival = now;
        }
        while self.next_arrival <= now {
            let is_long = self.random.below(LONG_ONE_OF) == 0;
            let stay = if is_long { self.long } else { self.short };
            self.arrive(stay);
            let period = self.arrival_period();
            self.next_arrival += self.random.time(period);
        }
    }

    fn carry_out(&mut self, now: Instant, is_moving: bool) {
        while let Some(Reverse((at, slot, generation, step))) = self.plans.peek().copied() {
            if at > now {
                return;
            }
            self.plans.pop();
            let guest = &mut self.guests[slot];
            if !guest.is_present || guest.generation != generation {
                continue;
            }
            match step {
                Step::Ask => self.ask(slot),
                Step::Leave if is_moving && self.fleet.is_idle(slot) => self.leave(slot),
                Step::Leave => guest.is_leaving = true,
            }
        }
    }

    fn ask(&mut self, slot: usize) {
        self.queries += 1;
        let guest = &mut self.guests[slot];
        guest.token = format!("{slot}.{}.{}", guest.generation, self.queries);
        let sql = format!("select '{}'", guest.token);
        self.fleet.send(slot, &query(&sql));
    }

    fn react(&mut self, event: &Event, is_moving: bool) {
        let slot = event.slot;
        match &event.outcome {
            Outcome::LoggedIn => {}
            Outcome::Answered(latency) => {
                self.latencies.push(latency.as_micros() as u32);
                if self.fleet.first_column(slot).as_ref() != Some(&self.guests[slot].token) {
                    self.errors.add("an answer to another question");
                }
            }
            Outcome::Refused(code) => self.errors.add(code),
            Outcome::Lost(reason) => {
                self.errors.add(reason);
                self.gone(slot);
                return;
            }
        }
        if self.guests[slot].is_leaving && is_moving {
            self.leave(slot);
            return;
        }
        let at = Instant::now() + self.random.time(THINK);
        let generation = self.guests[slot].generation;
        self.plans.push(Reverse((at, slot, generation, Step::Ask)));
    }

    /// Asks nothing more and waits for the last answers.
    fn finish(&mut self) -> Result<()> {
        self.plans.clear();
        let deadline = Instant::now() + LAST_ANSWERS_LIMIT;
        let mut events = Vec::new();
        while self.fleet.unanswered() > 0 && Instant::now() < deadline {
            self.fleet.wait(Duration::from_millis(10), &mut events)?;
            for event in &events {
                self.react(event, false);
            }
        }
        Ok(())
    }

    fn report(mut self, finding: &mut Finding) {
        self.latencies.sort_unstable();
        finding.tell("queries", self.queries as f64);
        for (name, per_mille) in [("p50", 500), ("p99", 990), ("slowest", 1000)] {
            if let Some(latency) = percentile(&self.latencies, per_mille) {
                finding.tell(&format!("{name} in ms"), f64::from(latency) / 1e3);
            }
        }
        let errors = self.errors.total() as f64;
        finding.judge("errors", Some(errors), Bound::AtMost(0.0));
        let unanswered = self.fleet.unanswered() as f64;
        finding.judge(
            "clients without an answer in the end",
            Some(unanswered),
            Bound::AtMost(0.0),
        );
        if let Some(text) = self.errors.describe() {
            finding.note(text);
        }
    }
}
