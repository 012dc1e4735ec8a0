//! Whether binary upgrades disturb anybody.
//!
//! ```text
//!   SIGUSR2 ──▶ the new process serves ──▶ the old one ends, or relays for clients with TLS ──▶ SIGUSR2 …
//! ```
//!
//! Owns: the checks `upgrades`, `upgrades-tls` and `upgrades-chain`.
//! Does not own: the load (`crowd.rs`).
//! Invariants: an upgrade begins when the one before it has been confirmed by the log; the load runs from
//! before the first until after the last; processes are told apart by their pids in the log.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::Bench;
use super::console::Oracle;
use super::crowd::{Crowd, Group, Outcome, Scripts, now_us};
use super::doorman::{Doorman, until, wait_for_load};
use super::edition::KEPT;
use crate::interrupt;
use crate::memory;
use crate::verdict::{Bound, Finding};

/// Server connections of the pool.
const POOL_SIZE: usize = 20;
/// How long an upgrade may take.
const UPGRADE_LIMIT: Duration = Duration::from_secs(20);
/// What the log says when the new process has taken over, before its pid.
const SERVES: &str = "the new process serves, clients go there pid=";
/// Load without upgrades, before the first one.
const CALM: Duration = Duration::from_secs(3);
/// Load after the last one, and time to log in.
const MARGIN_S: u32 = 9;
/// Time between two looks at a process that is to end.
const LOOK: Duration = Duration::from_millis(5);
/// One writing transaction of several statements for three reads.
const SCRIPTS: Scripts<'_> = Scripts::BuiltIn(&["select-only@3", "simple-update@1"]);
/// Descriptors by which the last process of a chain may differ from the second.
const DESCRIPTORS_MAX: f64 = 20.0;
/// KiB by which it may differ.
const GROWTH_KIB_MAX: f64 = 8192.0;

/// What a check asks for.
struct Plan {
    groups: &'static [Group<'static>],
    seconds: u32,
    steps: u32,
}

const fn group(
    name: &'static str,
    protocol: &'static str,
    clients: u32,
    is_encrypted: bool,
) -> Group<'static> {
    Group {
        name,
        database: KEPT.0,
        protocol,
        clients,
        is_encrypted,
    }
}

const PLAIN: Plan = Plan {
    groups: &[
        group("simple", "simple", 70, false),
        group("extended", "extended", 65, false),
        group("prepared", "prepared", 65, false),
    ],
    seconds: 60 + MARGIN_S,
    steps: 20,
};
const ENCRYPTED: Plan = Plan {
    groups: &[
        group("simple", "simple", 70, true),
        group("extended", "extended", 65, true),
        group("prepared", "prepared", 65, true),
    ],
    seconds: 60 + MARGIN_S,
    steps: 20,
};
const CHAIN: Plan = Plan {
    groups: &[
        group("plain", "prepared", 20, false),
        group("tls", "prepared", 20, true),
    ],
    seconds: 90 + MARGIN_S,
    steps: 50,
};

/// One process at one moment.
#[derive(Debug, Clone, Copy)]
struct Weight {
    private_kib: u64,
    descriptors: usize,
}

/// What one upgrade has shown.
struct Upgrade {
    /// From the signal until the new process serves.
    took: Duration,
    /// From then until the old one has ended.
    lingered: Option<Duration>,
    /// The old one before the next upgrade, if it was still there.
    old: Option<Weight>,
    /// The new one at the same moment.
    new: Option<Weight>,
    /// Servers that are the same afterwards.
    kept: usize,
}

/// What one round has shown.
struct Round {
    upgrades: Vec<Upgrade>,
    outcome: Outcome,
    reconnects: usize,
    silent: usize,
    calm_stall_ms: f64,
    stall_ms: f64,
    tps: [f64; 2],
    /// Processes before the last one that still run when all clients have gone.
    left_over: usize,
}

/// 200 clients, 20 upgrades.
///
/// # Errors
/// Something could not be started or asked, or the user interrupts.
pub(crate) fn run(bench: &Bench<'_>, finding: &mut Finding) -> Result<()> {
    check(bench, &PLAIN, finding)
}

/// The same with TLS.
///
/// # Errors
/// As for [`run`].
pub(crate) fn run_encrypted(bench: &Bench<'_>, finding: &mut Finding) -> Result<()> {
    check(bench, &ENCRYPTED, finding)
}

/// 50 upgrades one after the other.
///
/// # Errors
/// As for [`run`].
pub(crate) fn run_chain(bench: &Bench<'_>, finding: &mut Finding) -> Result<()> {
    check(bench, &CHAIN, finding)
}

fn check(bench: &Bench<'_>, plan: &Plan, finding: &mut Finding) -> Result<()> {
    let mut rounds = Vec::new();
    for number in 1..=bench.rounds {
        let round = round(bench, plan)?;
        let text = format!(
            "round {number}: {} upgrades, {} failed transactions of {}, {} reconnects; longest stall {:.0} ms (without \
             upgrades {:.0}), {:.0} tx/s ({:.0}); {}",
            round.upgrades.len(),
            round.outcome.failed,
            round.outcome.transactions(),
            round.reconnects,
            round.stall_ms,
            round.calm_stall_ms,
            round.tps[1],
            round.tps[0],
            processes(&round.upgrades),
        );
        eprintln!("  {text}");
        finding.note(text);
        for complaint in &round.outcome.complaints {
            finding.note(complaint.clone());
        }
        rounds.push(round);
    }
    judge(&rounds, bench.steps(plan.steps) as usize, finding);
    Ok(())
}

/// What became of the processes of a round, in words.
fn processes(upgrades: &[Upgrade]) -> String {
    let slowest = upgrades.iter().map(|one| one.took).max();
    let longest = upgrades.iter().filter_map(|one| one.lingered).max();
    let ended = upgrades.iter().filter(|one| one.lingered.is_some()).count();
    let heaviest = upgrades.iter().filter_map(|one| one.old);
    let heaviest = heaviest.max_by_key(|weight| weight.private_kib);
    let told = heaviest.map_or_else(String::new, |weight| {
        format!(
            "; the largest old process that stayed had {} KiB and {} descriptors",
            weight.private_kib, weight.descriptors
        )
    });
    let ms = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64() * 1e3;
    format!(
        "slowest start {:.0} ms, {ended} old processes ended before the next upgrade, within {:.0} ms{told}",
        ms(slowest),
        ms(longest)
    )
}

fn judge(rounds: &[Round], wanted: usize, finding: &mut Finding) {
    let sum = |figure: &dyn Fn(&Round) -> usize| rounds.iter().map(figure).sum::<usize>() as f64;
    let least = rounds.iter().map(|round| round.upgrades.len()).min();
    finding.judge(
        "upgrades done, each round",
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
        "clients that were not served after the last upgrade",
        sum(&|round| round.silent),
    );
    nobody(
        "old processes left when all clients had gone",
        sum(&|round| round.left_over),
    );
    let most = |figure: &dyn Fn(&Round) -> f64| rounds.iter().map(figure).fold(0.0, f64::max);
    finding.tell("longest stall in ms", most(&|round| round.stall_ms));
    finding.tell(
        "the same without upgrades",
        most(&|round| round.calm_stall_ms),
    );
    let all = || rounds.iter().flat_map(|round| &round.upgrades);
    let kept = all().map(|one| one.kept).sum::<usize>() as f64;
    let before = (all().count() * POOL_SIZE) as f64;
    finding.judge(
        "server connections that an upgrade keeps, percent",
        Some(100.0 * kept / before.max(1.0)),
        Bound::AtLeast(90.0),
    );
    let grown = |weigh: &dyn Fn(&Weight) -> f64| {
        let growths = rounds.iter().filter_map(|round| {
            let mut weights = round.upgrades.iter().filter_map(|one| one.new.as_ref());
            let first = weights.next()?;
            Some(weigh(weights.next_back()?) - weigh(first))
        });
        growths.reduce(f64::max)
    };
    finding.judge(
        "descriptors more in the last new process than in the first",
        grown(&|weight| weight.descriptors as f64),
        Bound::AtMost(DESCRIPTORS_MAX),
    );
    finding.judge(
        "KiB more in the last new process than in the first",
        grown(&|weight| weight.private_kib as f64),
        Bound::AtMost(GROWTH_KIB_MAX),
    );
}

fn round(bench: &Bench<'_>, plan: &Plan) -> Result<Round> {
    let server = Oracle::new(bench.server, bench.server.address());
    let doorman = Doorman::start(bench)?;
    let first = *doorman.pooler.probe.pooler.first().context("no process")?;
    let seconds = bench.seconds(plan.seconds);
    let address = doorman.pooler.address;
    let mut crowd = Crowd::start(bench.server, address, plan.groups, SCRIPTS, seconds)?;
    let end = Instant::now() + Duration::from_secs(u64::from(seconds - MARGIN_S.min(seconds)));
    let clients = plan.groups.iter().map(|group| group.clients as usize).sum();
    wait_for_load(&doorman, &server, clients, POOL_SIZE)?;
    let clients = doorman.clients()?;
    let calm_from = now_us();
    thread::sleep(CALM);
    let from = now_us();
    let steps = bench.steps(plan.steps);
    let mut line = vec![first];
    let mut upgrades = Vec::new();
    for step in 0..steps {
        interrupt::check()?;
        crowd.check_running()?;
        let pause = end.saturating_duration_since(Instant::now()) / (steps - step);
        upgrades.push(upgrade(&doorman, &server, &mut line, pause)?);
    }
    let last = now_us();
    thread::sleep(Duration::from_secs(1));
    crowd.check_running()?;
    let gone = clients.difference(&doorman.clients()?).count();
    let outcome = crowd.finish()?;
    let old = &line[..line.len() - 1];
    let left = || old.iter().filter(|process| runs(**process)).count();
    // What is left over is a figure, not an error.
    let _ = until("old processes to end", UPGRADE_LIMIT, || Ok(left() == 0));
    let (calm, busy) = (calm_from..from, from..now_us().min(last + 1_000_000));
    Ok(Round {
        upgrades,
        reconnects: gone,
        silent: outcome.silent_since(last),
        calm_stall_ms: outcome.stall_ms(&calm),
        stall_ms: outcome.stall_ms(&busy),
        tps: [outcome.tps(&calm), outcome.tps(&busy)],
        left_over: left(),
        outcome,
    })
}

/// One upgrade, and what comes of the old process until `pause` is over.
fn upgrade(
    doorman: &Doorman,
    server: &Oracle,
    line: &mut Vec<u32>,
    pause: Duration,
) -> Result<Upgrade> {
    let until_next = Instant::now() + pause;
    let old = *line.last().context("no process")?;
    let before = server.sessions_of(KEPT.1)?;
    let since = Instant::now();
    signal::kill(Pid::from_raw(old as i32), Signal::SIGUSR2).context("cannot signal")?;
    until("the new process", UPGRADE_LIMIT, || {
        Ok(heirs(&doorman.pooler.log_text()).len() >= line.len())
    })?;
    let took = since.elapsed();
    let new = heirs(&doorman.pooler.log_text()).pop();
    let new = new.context("no new process")?;
    line.push(new);
    let served = Instant::now();
    let mut lingered = None;
    while Instant::now() < until_next {
        if lingered.is_none() && !runs(old) {
            lingered = Some(served.elapsed());
        }
        thread::sleep(LOOK);
    }
    let kept = before.intersection(&server.sessions_of(KEPT.1)?).count();
    Ok(Upgrade {
        took,
        lingered,
        old: weigh(old).filter(|_| runs(old)),
        new: weigh(new),
        kept,
    })
}

/// A log without its colours.
fn plain(log: &str) -> String {
    let mut parts = log.split("\x1b[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // A sequence ends with a letter.
        let end = part.find(|c: char| c.is_ascii_alphabetic());
        plain.push_str(end.map_or("", |end| &part[end + 1..]));
    }
    plain
}

/// The processes that have taken over, in order.
fn heirs(log: &str) -> Vec<u32> {
    let log = plain(log);
    let behind = log.split(SERVES).skip(1);
    let pids = behind.filter_map(|text| text.split_ascii_whitespace().next()?.parse().ok());
    pids.collect()
}

fn weigh(process: u32) -> Option<Weight> {
    Some(Weight {
        private_kib: memory::private_kib_of(process)?,
        descriptors: fs::read_dir(format!("/proc/{process}/fd")).ok()?.count(),
    })
}

/// Whether a process runs; one that has ended and that nobody has asked about yet does not.
fn runs(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/stat"));
    status.is_ok_and(|text| !text.contains(") Z ") && !text.contains(") X "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_who_took_over() {
        let log = format!("x {SERVES}12\ny {SERVES}15 z\n");
        assert_eq!(heirs(&log), [12, 15]);
        assert!(heirs("nothing").is_empty());
        let clients = "the new process serves, clients go there";
        let colours =
            format!("\x1b[32m INFO\x1b[0m {clients} \x1b[3mpid\x1b[0m\x1b[2m=\x1b[0m17\n");
        assert_eq!(heirs(&colours), [17]);
        assert_eq!(plain("a\x1b[0"), "a");
    }

    #[test]
    fn this_process_runs_and_weighs_something() {
        let own = std::process::id();
        assert!(runs(own) && !runs(u32::MAX));
        assert!(weigh(own).is_some_and(|weight| weight.descriptors > 2));
    }
}
