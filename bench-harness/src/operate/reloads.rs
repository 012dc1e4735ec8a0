//! Whether reloads disturb anybody.
//!
//! Owns: the check `reloads`.
//! Does not own: the load (`crowd.rs`), what changes (`edition.rs`).
//! Invariants: every reload is confirmed by the pooler before the next; the load runs from before
//! the first until after the last.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::Bench;
use super::console::Oracle;
use super::crowd::{Crowd, Group, Outcome, Scripts, now_us};
use super::doorman::{Doorman, Way, wait_for_load};
use super::edition::{CHANGED, CHANGES, Change, KEPT};
use crate::interrupt;
use crate::statistics::percentile;
use crate::verdict::{Bound, Finding};

/// Server connections of the pool that no reload is about.
const POOL_SIZE: usize = 20;
/// Its clients, and as many others as matter for the rest.
const GROUPS: [Group<'_>; 4] = [
    Group {
        name: "kept-simple",
        database: KEPT.0,
        protocol: "simple",
        clients: 100,
        is_encrypted: false,
    },
    Group {
        name: "kept-prepared",
        database: KEPT.0,
        protocol: "prepared",
        clients: 100,
        is_encrypted: false,
    },
    Group {
        name: "changed-simple",
        database: CHANGED.0,
        protocol: "simple",
        clients: 20,
        is_encrypted: false,
    },
    Group {
        name: "changed-prepared",
        database: CHANGED.0,
        protocol: "prepared",
        clients: 20,
        is_encrypted: false,
    },
];
/// One writing transaction of several statements for three reads.
const SCRIPTS: Scripts<'_> = Scripts::BuiltIn(&["select-only@3", "simple-update@1"]);
/// Load without reloads, before the first one.
const CALM: Duration = Duration::from_secs(3);
/// Load after the last one, and time to log in.
const MARGIN_S: u32 = 7;

/// What one round has shown.
struct Round {
    done: usize,
    outcome: Outcome,
    reconnects: usize,
    silent: usize,
    kept: usize,
    calm_stall_ms: f64,
    stall_ms: f64,
    p99_ms: [f64; 2],
    tps: [f64; 2],
    slowest_reload_ms: f64,
}

/// 100 reloads, three times.
///
/// # Errors
/// Something could not be started or asked, or the user interrupts.
pub(crate) fn run(bench: &Bench<'_>, finding: &mut Finding) -> Result<()> {
    let mut rounds = Vec::new();
    for number in 1..=bench.rounds {
        let round = round(bench)?;
        let text = format!(
            "round {number}: {} reloads, {} failed transactions of {}, {} reconnects, {} of {POOL_SIZE} servers kept; \
             longest stall {:.0} ms (without reloads {:.0}), p99 {:.1} ms ({:.1}), {:.0} tx/s ({:.0}), slowest reload {:.0} ms",
            round.done,
            round.outcome.failed,
            round.outcome.transactions(),
            round.reconnects,
            round.kept,
            round.stall_ms,
            round.calm_stall_ms,
            round.p99_ms[1],
            round.p99_ms[0],
            round.tps[1],
            round.tps[0],
            round.slowest_reload_ms,
        );
        eprintln!("  {text}");
        finding.note(text);
        for complaint in &round.outcome.complaints {
            finding.note(complaint.clone());
        }
        rounds.push(round);
    }
    judge(&rounds, bench.steps(100) as usize, finding);
    Ok(())
}

fn judge(rounds: &[Round], wanted: usize, finding: &mut Finding) {
    let sum = |figure: &dyn Fn(&Round) -> usize| rounds.iter().map(figure).sum::<usize>() as f64;
    let least = rounds.iter().map(|round| round.done).min();
    finding.judge(
        "reloads done, each round",
        least.map(|least| least as f64),
        Bound::AtLeast(wanted as f64),
    );
    finding.tell("transactions", sum(&|round| round.outcome.transactions()));
    let mut nobody = |name: &str, value: f64| {
        finding.judge(name, Some(value), Bound::AtMost(0.0));
    };
    nobody(
        "failed transactions",
        sum(&|round| round.outcome.failed as usize),
    );
    nobody("reconnects", sum(&|round| round.reconnects));
    nobody(
        "clients that were not served after the last reload",
        sum(&|round| round.silent),
    );
    let kept = rounds.iter().map(|round| round.kept).min();
    finding.judge(
        "servers kept of the pool that was not touched",
        kept.map(|kept| kept as f64),
        Bound::AtLeast(POOL_SIZE as f64),
    );
    let most = |figure: &dyn Fn(&Round) -> f64| rounds.iter().map(figure).fold(0.0, f64::max);
    finding.tell("longest stall in ms", most(&|round| round.stall_ms));
    finding.tell(
        "the same without reloads",
        most(&|round| round.calm_stall_ms),
    );
    finding.tell(
        "slowest reload in ms",
        most(&|round| round.slowest_reload_ms),
    );
}

fn round(bench: &Bench<'_>) -> Result<Round> {
    let server = Oracle::new(bench.server, bench.server.address());
    let mut doorman = Doorman::start(bench)?;
    let seconds = bench.seconds(50);
    let address = doorman.pooler.address;
    let mut crowd = Crowd::start(bench.server, address, &GROUPS, SCRIPTS, seconds)?;
    let end = Instant::now() + Duration::from_secs(u64::from(seconds - MARGIN_S.min(seconds)));
    let clients = GROUPS.iter().map(|group| group.clients as usize).sum();
    wait_for_load(&doorman, &server, clients, POOL_SIZE)?;
    let clients = doorman.clients()?;
    let servers = server.sessions_of(KEPT.1)?;
    let calm_from = now_us();
    thread::sleep(CALM);
    let from = now_us();
    let steps = bench.steps(100);
    let mut slowest_reload = Duration::ZERO;
    let mut done = 0;
    for step in 0..steps {
        interrupt::check()?;
        crowd.check_running()?;
        // Evenly over the time that is left.
        let pause = end.saturating_duration_since(Instant::now()) / (steps - step);
        let since = Instant::now();
        make(&mut doorman, step as usize)?;
        slowest_reload = slowest_reload.max(since.elapsed());
        done += 1;
        thread::sleep(pause.saturating_sub(since.elapsed()));
    }
    let last = now_us();
    thread::sleep(Duration::from_secs(1));
    crowd.check_running()?;
    let gone = clients.difference(&doorman.clients()?).count();
    let kept = servers.intersection(&server.sessions_of(KEPT.1)?).count();
    let outcome = crowd.finish()?;
    let (calm, busy) = (calm_from..from, from..now_us().min(last + 1_000_000));
    let p99 = |span| percentile(&outcome.latencies_us(span), 990).unwrap_or(0) as f64 / 1e3;
    Ok(Round {
        done,
        reconnects: gone,
        silent: outcome.silent_since(last),
        kept,
        calm_stall_ms: outcome.stall_ms(&calm),
        stall_ms: outcome.stall_ms(&busy),
        p99_ms: [p99(&calm), p99(&busy)],
        tps: [outcome.tps(&calm), outcome.tps(&busy)],
        slowest_reload_ms: slowest_reload.as_secs_f64() * 1e3,
        outcome,
    })
}

/// One change and the reload, by turns in either way.
fn make(doorman: &mut Doorman, step: usize) -> Result<()> {
    let change = &CHANGES[step % CHANGES.len()];
    // The number of changes is even: with each turn through them the ways change places.
    let is_signal = (step + step / CHANGES.len()).is_multiple_of(2);
    doorman.edition.toggle(change)?;
    if change.is_file() {
        doorman.swap_certificate()?;
    }
    doorman.reload(if is_signal { Way::Signal } else { Way::Console })?;
    check_admission(doorman, change)
}

/// Whether who may log in now can, and who may not cannot.
fn check_admission(doorman: &Doorman, change: &Change) -> Result<()> {
    let Some(who) = change.admits else {
        return Ok(());
    };
    let is_admitted = doorman.console.ask(who, "select 1").is_ok();
    if is_admitted != doorman.edition.has(change) {
        bail!("{}: {who:?} can log in: {is_admitted}", change.place);
    }
    Ok(())
}
