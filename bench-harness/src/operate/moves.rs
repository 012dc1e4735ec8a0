//! Whether a server can be moved while clients work.
//!
//! ```text
//!   PAUSE asked   PAUSE done   address changed, RELOAD   RESUME done       PAUSE asked
//!   ────┬─────────────┬──────────────────────────────────────┬─────────────────┬────
//!   old │ old         │ nobody                               │ new             │
//! ```
//!
//! Owns: the check `moves`.
//! Does not own: the load (`crowd.rs`).
//! Invariants: each transaction writes a row with the time, so each server tells when it was used,
//! and both together have a row for each transaction that a client was told of.

use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::Bench;
use super::console::Oracle;
use super::crowd::{Crowd, Group, Outcome, Scripts, now_us};
use super::doorman::{Doorman, Way, wait_for_load};
use super::edition::KEPT;
use crate::SCALE;
use crate::interrupt;
use crate::postgres::Postgres;
use crate::verdict::{Bound, Finding};

/// Server connections of the pool.
const POOL_SIZE: usize = 20;
const GROUPS: [Group<'_>; 2] = [
    Group {
        name: "simple",
        database: KEPT.0,
        protocol: "simple",
        clients: 100,
        is_encrypted: false,
    },
    Group {
        name: "prepared",
        database: KEPT.0,
        protocol: "prepared",
        clients: 100,
        is_encrypted: false,
    },
];
const VISIT: &str = "insert into visits values (clock_timestamp());\n";
const LONG_VISIT: &str = "\\set aid random(1, 100000)\nbegin;\n\
    insert into visits values (clock_timestamp());\n\
    select abalance from pgbench_accounts where aid = :aid;\nend;\n";
/// Time to log in, and load after the last move.
const MARGIN_S: u32 = 6;

/// When something happened, in microseconds since 1970.
struct Move {
    /// `PAUSE` was done: nobody has a server.
    paused: u64,
    /// `RESUME` was done.
    resumed: u64,
    /// The command that begins it was given.
    asked: u64,
}

/// What one round has shown.
struct Round {
    moves: usize,
    outcome: Outcome,
    /// Rows at a server while it was not in use.
    strays: u64,
    /// Transactions that no server has, or both.
    miscounted: u64,
    /// Sessions at the old server after `PAUSE`.
    left_behind: usize,
    reconnects: usize,
    silent: usize,
    stall_ms: f64,
    pause_ms: f64,
}

/// 10 moves, three times.
///
/// # Errors
/// Something could not be started or asked, or the user interrupts.
pub(crate) fn run(bench: &Bench<'_>, finding: &mut Finding) -> Result<()> {
    eprintln!("  Starting and filling a second PostgreSQL.");
    let second = Postgres::start(bench.programs, crate::SERVER_CONNECTIONS_MAX)?;
    second.fill(SCALE)?;
    let servers = [bench.server, &second];
    let oracles = servers.map(|server| Oracle::new(server, server.address()));
    super::create_roles(&oracles[1])?;
    for oracle in &oracles {
        oracle.superuser("create table visits (at timestamptz)")?;
    }
    let mut rounds = Vec::new();
    for number in 1..=bench.rounds {
        let round = round(bench, servers, &oracles)?;
        let text = format!(
            "round {number}: {} moves, {} failed transactions of {}, {} reconnects, {} after RESUME at the old server, \
             {} lost or double; longest pause {:.0} ms, longest stall {:.0} ms",
            round.moves,
            round.outcome.failed,
            round.outcome.transactions(),
            round.reconnects,
            round.strays,
            round.miscounted,
            round.pause_ms,
            round.stall_ms,
        );
        eprintln!("  {text}");
        finding.note(text);
        for complaint in &round.outcome.complaints {
            finding.note(complaint.clone());
        }
        rounds.push(round);
    }
    judge(&rounds, bench.steps(10) as usize, finding);
    Ok(())
}

fn judge(rounds: &[Round], wanted: usize, finding: &mut Finding) {
    let sum = |figure: &dyn Fn(&Round) -> u64| rounds.iter().map(figure).sum::<u64>() as f64;
    let least = rounds.iter().map(|round| round.moves).min();
    finding.judge(
        "moves done, each round",
        least.map(|least| least as f64),
        Bound::AtLeast(wanted as f64),
    );
    finding.tell(
        "transactions",
        sum(&|round| round.outcome.transactions() as u64),
    );
    let mut nobody = |name: &str, value: f64| {
        finding.judge(name, Some(value), Bound::AtMost(0.0));
    };
    nobody("failed transactions", sum(&|round| round.outcome.failed));
    nobody(
        "transactions at the old server after RESUME",
        sum(&|round| round.strays),
    );
    nobody(
        "transactions at no server or at both",
        sum(&|round| round.miscounted),
    );
    nobody(
        "sessions at the old server after PAUSE",
        sum(&|round| round.left_behind as u64),
    );
    nobody("reconnects", sum(&|round| round.reconnects as u64));
    nobody(
        "clients that were not served after the last move",
        sum(&|round| round.silent as u64),
    );
    let most = |figure: &dyn Fn(&Round) -> f64| rounds.iter().map(figure).fold(0.0, f64::max);
    finding.tell("longest pause in ms", most(&|round| round.pause_ms));
    finding.tell("longest stall in ms", most(&|round| round.stall_ms));
}

/// Where the pool goes with each move: always to the other server, under all its names.
fn destination(servers: [&Postgres; 2], step: usize) -> (String, u16) {
    let server = servers[(step + 1) % 2];
    let host = match step % 6 {
        2 | 3 => "localhost".to_owned(),
        4 | 5 => server.socket_dir().display().to_string(),
        _ => "127.0.0.1".to_owned(),
    };
    (host, server.address().port())
}

fn round(bench: &Bench<'_>, servers: [&Postgres; 2], oracles: &[Oracle; 2]) -> Result<Round> {
    for oracle in oracles {
        oracle.superuser("truncate visits")?;
    }
    let mut doorman = Doorman::start(bench)?;
    let seconds = bench.seconds(40);
    let scripts = Scripts::Own(&[VISIT, LONG_VISIT]);
    let address = doorman.pooler.address;
    let mut crowd = Crowd::start(bench.server, address, &GROUPS, scripts, seconds)?;
    let end = Instant::now() + Duration::from_secs(u64::from(seconds - MARGIN_S.min(seconds)));
    let clients = GROUPS.iter().map(|group| group.clients as usize).sum();
    wait_for_load(&doorman, &oracles[0], clients, POOL_SIZE)?;
    let clients = doorman.clients()?;
    let from = now_us();
    let steps = bench.steps(10);
    let mut moves = Vec::new();
    let mut left_behind = 0;
    for step in 0..steps {
        interrupt::check()?;
        let pause = end.saturating_duration_since(Instant::now()) / (steps - step);
        thread::sleep(pause);
        crowd.check_running()?;
        let (one, sessions) = relocate(&mut doorman, servers, oracles, step as usize)?;
        moves.push(one);
        left_behind += sessions;
    }
    thread::sleep(Duration::from_secs(1));
    crowd.check_running()?;
    let gone = clients.difference(&doorman.clients()?).count();
    let outcome = crowd.finish()?;
    let over = now_us();
    let mut strays = 0;
    for (step, span) in absences(&moves, over).into_iter().enumerate() {
        strays += visits(&oracles[step % 2], &span)?;
    }
    // The second server is not in use before the first move.
    strays += visits(
        &oracles[1],
        &(0..moves.first().map_or(over, |one| one.asked)),
    )?;
    let everywhere = 0..over;
    let rows = visits(&oracles[0], &everywhere)? + visits(&oracles[1], &everywhere)?;
    let pauses = moves.iter().map(|one| one.resumed - one.asked);
    Ok(Round {
        moves: moves.len(),
        strays,
        miscounted: rows.abs_diff(outcome.transactions() as u64),
        left_behind,
        reconnects: gone,
        silent: outcome.silent_since(moves.last().map_or(from, |one| one.resumed)),
        stall_ms: outcome.stall_ms(&(from..over)),
        pause_ms: pauses.max().unwrap_or(0) as f64 / 1e3,
        outcome,
    })
}

/// When the server that move `n` leaves is out of use: until the next move begins.
fn absences(moves: &[Move], over: u64) -> Vec<Range<u64>> {
    let ends = moves.iter().skip(1).map(|next| next.asked).chain([over]);
    moves
        .iter()
        .zip(ends)
        .map(|(one, end)| one.paused..end)
        .collect()
}

fn visits(oracle: &Oracle, span: &Range<u64>) -> Result<u64> {
    let time = |us: u64| format!("timestamptz 'epoch' + {us} * interval '1 microsecond'");
    oracle.number(&format!(
        "select count(*) from visits where at > {} and at < {}",
        time(span.start),
        time(span.end)
    ))
}

/// Moves the pool, and counts its sessions at the old server once it is paused.
fn relocate(
    doorman: &mut Doorman,
    servers: [&Postgres; 2],
    oracles: &[Oracle; 2],
    step: usize,
) -> Result<(Move, usize)> {
    let asked = now_us();
    let database = KEPT.0;
    doorman.console.command(&format!("PAUSE {database}"))?;
    let paused = now_us();
    let left_behind = oracles[step % 2].sessions_of(KEPT.1)?.len();
    let (host, port) = destination(servers, step);
    doorman.edition.move_kept(&host, port)?;
    doorman.reload(Way::Console)?;
    doorman.console.command(&format!("RESUME {database}"))?;
    let resumed = now_us();
    if paused <= asked || resumed <= paused {
        bail!("the clock of the machine was set back");
    }
    let one = Move {
        paused,
        resumed,
        asked,
    };
    Ok((one, left_behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_absent_from_its_pause_to_the_next_one() {
        let one = |asked| Move {
            asked,
            paused: asked + 1,
            resumed: asked + 5,
        };
        let spans = absences(&[one(10), one(30)], 50);
        assert_eq!(spans, [11..30, 31..50]);
    }
}
