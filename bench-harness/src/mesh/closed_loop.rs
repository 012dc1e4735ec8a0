//! Clients that send the next query as soon as the last one is answered.
//!
//! Owns: logging in, the warm-up, the window, what is counted in it.
//! Does not own: the sockets (`fleet.rs`), what the counts must be (the checks).
//! Invariants: transactions count that end in the window, whoever began them before; a client that
//! loses its connection comes back, so that every client asks all the time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::errors::Errors;
use super::fleet::{Event, Fleet, Outcome};
use super::random::Random;
use crate::SCALE;
use crate::client::query;

/// How long all clients may take to log in before the warm-up begins without the rest.
const LOGIN_LIMIT: Duration = Duration::from_secs(10);
/// Time before the window in which connections are opened and caches filled.
const WARM_UP: Duration = Duration::from_secs(1);
/// Pause before a client whose connection was lost comes back.
const COME_BACK: Duration = Duration::from_millis(100);

/// What was counted.
#[derive(Debug)]
pub(crate) struct Counted {
    /// Transactions of each client.
    pub(crate) transactions: Vec<u64>,
    /// Latencies in microseconds, sorted.
    pub(crate) latencies: Vec<u32>,
    /// Errors from the first login to the end of the window.
    pub(crate) errors: Errors,
    /// Length of the window in seconds.
    pub(crate) seconds: f64,
}

impl Counted {
    /// Transactions a second.
    pub(crate) fn tps(&self) -> f64 {
        self.transactions.iter().sum::<u64>() as f64 / self.seconds
    }

    /// Transactions of the slowest client, divided by those of the fastest; 0 when there were none.
    pub(crate) fn fairness(&self) -> f64 {
        let slowest = self.transactions.iter().min().copied().unwrap_or(0);
        let fastest = self.transactions.iter().max().copied().unwrap_or(0);
        slowest as f64 / fastest.max(1) as f64
    }
}

/// The load while it runs.
struct Load<'a> {
    fleet: Fleet,
    random: &'a mut Random,
    counted: Counted,
    /// Clients that come back, and when.
    absent: Vec<(Instant, usize)>,
    is_counting: bool,
}

/// Runs `clients` clients that read one row of a table by its key for `seconds`.
///
/// # Errors
/// The user interrupts.
pub(crate) fn run(
    address: SocketAddr,
    clients: usize,
    seconds: u32,
    random: &mut Random,
) -> Result<Counted> {
    let mut load = Load {
        fleet: Fleet::new(address, clients)?,
        random,
        counted: Counted {
            transactions: vec![0; clients],
            latencies: Vec::new(),
            errors: Errors::default(),
            seconds: 0.0,
        },
        absent: Vec::new(),
        is_counting: false,
    };
    for slot in 0..clients {
        load.fleet.open(slot);
    }
    let login_end = Instant::now() + LOGIN_LIMIT;
    load.drive(|load| Instant::now() > login_end || load.fleet.logged_in() == clients)?;
    let warm_up_end = Instant::now() + WARM_UP;
    load.drive(|_| Instant::now() > warm_up_end)?;
    load.is_counting = true;
    let begin = Instant::now();
    let end = begin + Duration::from_secs(u64::from(seconds));
    load.drive(|_| Instant::now() > end)?;
    load.counted.seconds = begin.elapsed().as_secs_f64();
    load.counted.latencies.sort_unstable();
    for slot in 0..clients {
        load.fleet.close(slot);
    }
    Ok(load.counted)
}

impl Load<'_> {
    fn drive(&mut self, is_over: impl Fn(&Self) -> bool) -> Result<()> {
        let mut events = Vec::new();
        while !is_over(self) {
            self.fleet.wait(Duration::from_millis(10), &mut events)?;
            for event in &events {
                self.react(event);
            }
            self.come_back();
        }
        Ok(())
    }

    fn react(&mut self, event: &Event) {
        match &event.outcome {
            Outcome::LoggedIn => {}
            Outcome::Answered(latency) => {
                if self.is_counting {
                    self.counted.transactions[event.slot] += 1;
                    self.counted.latencies.push(latency.as_micros() as u32);
                }
            }
            Outcome::Refused(code) => self.counted.errors.add(code),
            Outcome::Lost(reason) => {
                self.counted.errors.add(reason);
                self.absent.push((Instant::now() + COME_BACK, event.slot));
                return;
            }
        }
        let key = self.random.below(u64::from(SCALE) * 100_000) + 1;
        let sql = format!("select abalance from pgbench_accounts where aid = {key}");
        self.fleet.send(event.slot, &query(&sql));
    }

    fn come_back(&mut self) {
        let now = Instant::now();
        let (due, later) = self.absent.drain(..).partition(|&(at, _)| at <= now);
        self.absent = later;
        let due: Vec<(Instant, usize)> = due;
        for (_, slot) in due {
            self.fleet.open(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fairness_is_the_slowest_client_over_the_fastest() {
        let mut counted = Counted {
            transactions: vec![50, 100, 80],
            latencies: Vec::new(),
            errors: Errors::default(),
            seconds: 2.0,
        };
        assert!((counted.fairness() - 0.5).abs() < 1e-9);
        assert!((counted.tps() - 115.0).abs() < 1e-9);
        counted.transactions = vec![0, 0];
        assert!(counted.fairness().abs() < 1e-9);
    }
}
