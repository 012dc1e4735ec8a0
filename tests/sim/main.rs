//! A simulation of one pool on many shards, under a virtual clock, from a seed.
//!
//! Owns: running seeds, and showing how a run failed.
//! Does not own: what happens in a run (`world`, `clients`), what must hold (`check`).
//! Invariants: a run depends on its seed and its steps only, and takes no real time.
//!
//! `cargo test --test sim` runs 20 seeds. Environment: `SIM_SEEDS` (how many), `SIM_FIRST` (the
//! first of them), `SIM_STEPS` (steps each before everybody goes home), `SIM_SEED` (one seed, with
//! the last events before it fails). Many: `SIM_SEEDS=1000 cargo test --release --test sim --
//! --nocapture`.
//!
//! Source: none.

mod cancels;
mod check;
mod clients;
mod dice;
mod events;
mod plan;
mod room;
mod world;

use std::collections::VecDeque;
use std::time::Duration;

use world::World;

/// How many events are shown of a run that failed.
const SHOWN: usize = 50;
/// Steps in which everything has to come to rest after the last client has gone.
const REST_STEPS: u64 = 3_000_000;
/// Virtual time without any event but routine after which everything is at rest.
const REST_TIME: Duration = Duration::from_secs(4);

/// The last events of a run; shown if it fails, or panics.
struct Trace {
    seed: u64,
    steps: u64,
    lines: Option<VecDeque<String>>,
    has_failed: bool,
}

impl Drop for Trace {
    fn drop(&mut self) {
        if !self.has_failed && !std::thread::panicking() {
            return;
        }
        for line in self.lines.iter().flatten() {
            println!("{line}");
        }
        println!("step {} of SIM_SEED={}", self.steps, self.seed);
    }
}

/// Lets the next event happen; false if there is none.
fn step(world: &mut World, trace: &mut Trace) -> Result<bool, String> {
    let Some(event) = world.clock.next() else {
        return Ok(false);
    };
    trace.steps += 1;
    if let Some(lines) = &mut trace.lines {
        if lines.len() == SHOWN {
            lines.pop_front();
        }
        lines.push_back(format!("{:?} {event:?}", world.clock.now()));
    }
    world.step(event);
    world.check()?;
    Ok(true)
}

fn simulate(world: &mut World, steps: u64, trace: &mut Trace) -> Result<(), String> {
    while trace.steps < steps && step(world, trace)? {}
    world.is_ending = true;
    let mut rests_at = world.clock.now() + REST_TIME;
    while world.clock.now() < rests_at && step(world, trace)? {
        if world.clock.busy > 0 {
            rests_at = world.clock.now() + REST_TIME;
        }
        if trace.steps > steps + REST_STEPS {
            return Err(format!("nothing comes to rest: {}", world.clock.pending()));
        }
    }
    world.check_end()
}

/// Runs one seed: steps taken, waits compared and requests that cancelled, or what was wrong.
fn run(seed: u64, steps: u64, is_shown: bool) -> Result<[u64; 3], String> {
    let mut world = World::new(seed);
    let mut trace = Trace {
        seed,
        steps: 0,
        lines: is_shown.then(VecDeque::new),
        has_failed: false,
    };
    let outcome = simulate(&mut world, steps, &mut trace);
    trace.has_failed = is_shown && outcome.is_err();
    if trace.has_failed {
        println!("{:#?}", world.plan);
        for shard in &world.shards {
            println!("PART {:?}", shard.part);
        }
    }
    outcome.map(|()| [trace.steps, world.watch.compared, world.cancelled])
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn pools_keep_their_promises_whatever_happens() {
    let steps = number("SIM_STEPS").unwrap_or(10_000);
    let (first, count) = match number("SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (
            number("SIM_FIRST").unwrap_or(1),
            number("SIM_SEEDS").unwrap_or(20),
        ),
    };
    let mut totals = [0; 3];
    let mut faults = 0;
    for seed in first..first + count {
        match run(seed, steps, count == 1) {
            Ok(counts) => {
                for (total, count) in totals.iter_mut().zip(counts) {
                    *total += count;
                }
            }
            Err(fault) => {
                faults += 1;
                println!("SIM_SEED={seed} SIM_STEPS={steps}: {fault}");
                if count > 1 && faults == 1 {
                    let _ = run(seed, steps, true);
                }
            }
        }
    }
    let [steps, waits, cancels] = totals;
    println!(
        "{count} seeds, {steps} steps, {waits} waits compared, {cancels} cancelled, {faults} faults"
    );
    assert_eq!(faults, 0, "violations, see above");
}

#[test]
fn a_run_depends_on_its_seed_only() {
    assert_eq!(run(7, 3000, false), run(7, 3000, false));
}
