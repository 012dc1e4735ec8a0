//! Whether cancel requests hit their query, and nothing else.
//!
//! ```text
//!   50 sleepers   pg_sleep ───────► all asleep ───────► 57014 ──┐ 20 rounds
//!   cancels                         10 at a time                │
//!   40 others     short queries all the time ───────────────────┘
//! ```
//!
//! Owns: the check `cancel-storm`.
//! Does not own: the form of a cancel request (`client.rs`).
//! Invariants: a round begins only when nobody sleeps any more, so that no request is left that
//! could hit in the next one by chance; cancels are sent only while PostgreSQL says that all sleep.
//! Source: protocol-flow.html ("Canceling Requests in Progress").

use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use super::errors::Errors;
use super::fleet::{Event, Fleet, Outcome};
use super::observer::Observer;
use super::{Bench, Doorman};
use crate::client::{CancelKey, query};
use crate::statistics::percentile;
use crate::verdict::{Bound, Finding};

const SHARDS: u16 = 2;
const POOL_SIZE: u32 = 100;
const SLEEPERS: usize = 50;
const OTHERS: usize = 40;
const ROUNDS: usize = 20;
/// How long a query sleeps that nobody cancels.
const SLEEP_S: u32 = 10;
/// A hit comes within this time after its request.
const HIT_LIMIT: Duration = Duration::from_secs(3);
/// Threads that send requests.
const SENDERS: usize = 10;
/// How long logging in, falling asleep, or ending may take.
const LIMIT: Duration = Duration::from_secs(15);
/// `query_canceled`
const CANCELED: &str = "57014";

/// The clients and what became of their queries.
struct Storm {
    fleet: Fleet,
    /// When each sleeper of the round was told that its query is canceled.
    canceled: Vec<Option<Instant>>,
    /// From a request to its hit, also of those that came too late, in microseconds.
    delays: Vec<u64>,
    hits: usize,
    /// Sleepers that slept to their end.
    missed: usize,
    sleeper_errors: Errors,
    answered: u64,
    other_errors: Errors,
}

/// A cancel request that was sent.
struct Request {
    slot: usize,
    sent: Instant,
    outcome: Result<()>,
}

/// Sends requests one after the other in a thread of its own.
fn send_requests(address: SocketAddr, keys: Vec<(usize, CancelKey)>) -> JoinHandle<Vec<Request>> {
    thread::spawn(move || {
        let send = |(slot, key): (usize, CancelKey)| Request {
            slot,
            sent: Instant::now(),
            outcome: key.cancel(address),
        };
        keys.into_iter().map(send).collect()
    })
}

/// Sends 1000 cancel requests.
///
/// # Errors
/// Clients cannot log in or fall asleep, or the user interrupts.
pub(crate) fn run(bench: &Bench<'_>, finding: &mut Finding) -> Result<()> {
    let doorman = bench.start(SHARDS, POOL_SIZE)?;
    let mut observer = Observer::connect(bench.server.address())?;
    let mut storm = Storm {
        fleet: Fleet::new(doorman.address(), SLEEPERS + OTHERS)?,
        canceled: vec![None; SLEEPERS],
        delays: Vec::new(),
        hits: 0,
        missed: 0,
        sleeper_errors: Errors::default(),
        answered: 0,
        other_errors: Errors::default(),
    };
    for slot in 0..SLEEPERS + OTHERS {
        storm.fleet.open(slot);
    }
    let mut sent = 0;
    let outcome = storm.rounds(&doorman, &mut observer, &mut sent);
    bench.keep_waits_beside_idle(&doorman);
    storm.report(sent, finding);
    outcome
}

impl Storm {
    fn rounds(
        &mut self,
        doorman: &Doorman,
        observer: &mut Observer,
        sent: &mut usize,
    ) -> Result<()> {
        for round in 1..=ROUNDS {
            if !self.drive(|storm| Ok(storm.sleepers(Fleet::is_idle) == SLEEPERS))? {
                bail!("round {round}: not all sleepers could log in");
            }
            let sleep = query(&format!("select pg_sleep({SLEEP_S})"));
            for slot in 0..SLEEPERS {
                self.fleet.send(slot, &sleep);
            }
            let mut most = 0;
            let all_sleep = self.drive(|_| {
                most = observer.sleeping()?.max(most);
                Ok(most == SLEEPERS as u64)
            })?;
            if !all_sleep {
                bail!("round {round}: only {most} queries of {SLEEPERS} run at once");
            }
            let keys: Vec<_> = (0..SLEEPERS)
                .filter_map(|slot| Some((slot, self.fleet.cancel_key(slot)?)))
                .collect();
            if keys.len() < SLEEPERS {
                bail!("not every client was given a cancel key");
            }
            *sent += keys.len();
            self.cancel_all(doorman.address(), &keys)?;
            eprintln!("  round {round}: {} of {sent} hit", self.hits);
        }
        Ok(())
    }

    /// Sends a cancel request for each key and waits until no sleeper waits for anything.
    fn cancel_all(&mut self, address: SocketAddr, keys: &[(usize, CancelKey)]) -> Result<()> {
        self.canceled.fill(None);
        let senders: Vec<_> = keys
            .chunks(SLEEPERS.div_ceil(SENDERS))
            .map(|part| send_requests(address, part.to_vec()))
            .collect();
        let has_ended = self.drive(|storm| {
            let are_sent = senders.iter().all(JoinHandle::is_finished);
            Ok(are_sent && storm.sleepers(Fleet::is_waiting) == 0)
        });
        for sender in senders {
            let requests = sender.join();
            let requests = requests.map_err(|_| anyhow!("a thread that cancels panicked"))?;
            for request in requests {
                self.judge(request);
            }
        }
        if !has_ended? {
            bail!("sleepers got no answer at all");
        }
        for slot in 0..SLEEPERS {
            if !self.fleet.is_idle(slot) {
                self.fleet.open(slot);
            }
        }
        Ok(())
    }

    fn judge(&mut self, request: Request) {
        if let Err(error) = request.outcome {
            self.sleeper_errors.add(&format!("request: {error:#}"));
        }
        if let Some(canceled) = self.canceled[request.slot] {
            let delay = canceled.saturating_duration_since(request.sent);
            self.delays.push(delay.as_micros() as u64);
            self.hits += usize::from(delay <= HIT_LIMIT);
        }
    }

    fn sleepers(&self, is: impl Fn(&Fleet, usize) -> bool) -> usize {
        (0..SLEEPERS).filter(|&slot| is(&self.fleet, slot)).count()
    }

    /// Keeps all clients going until `is_over`; false when that takes too long.
    fn drive(&mut self, mut is_over: impl FnMut(&Self) -> Result<bool>) -> Result<bool> {
        let deadline = Instant::now() + LIMIT;
        let mut next_look = Instant::now();
        let mut events = Vec::new();
        loop {
            // Looking may cost a query.
            if Instant::now() >= next_look {
                if is_over(self)? {
                    return Ok(true);
                }
                next_look = Instant::now() + Duration::from_millis(10);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            self.fleet.wait(Duration::from_millis(5), &mut events)?;
            for event in &events {
                if event.slot < SLEEPERS {
                    self.react_sleeper(event);
                } else {
                    self.react_other(event);
                }
            }
        }
    }

    fn react_sleeper(&mut self, event: &Event) {
        match &event.outcome {
            Outcome::LoggedIn => {}
            Outcome::Answered(_) => self.missed += 1,
            Outcome::Refused(code) if code == CANCELED => {
                self.canceled[event.slot] = Some(Instant::now());
            }
            Outcome::Refused(reason) | Outcome::Lost(reason) => self.sleeper_errors.add(reason),
        }
    }

    fn react_other(&mut self, event: &Event) {
        match &event.outcome {
            Outcome::LoggedIn => {}
            Outcome::Answered(_) => self.answered += 1,
            Outcome::Refused(code) => self.other_errors.add(code),
            Outcome::Lost(reason) => {
                self.other_errors.add(reason);
                self.fleet.open(event.slot);
                return;
            }
        }
        self.fleet.send(event.slot, &query("select 1"));
    }

    fn report(mut self, sent: usize, finding: &mut Finding) {
        let wanted = (ROUNDS * SLEEPERS) as f64;
        finding.tell("cancel requests", sent as f64);
        finding.judge(
            "hit in time",
            Some(self.hits as f64),
            Bound::AtLeast(wanted),
        );
        let late = self.delays.len() - self.hits;
        finding.tell("hit too late", late as f64);
        finding.tell("slept to their end", self.missed as f64);
        self.delays.sort_unstable();
        for (name, per_mille) in [("p50", 500), ("p99", 990), ("slowest", 1000)] {
            if let Some(delay) = percentile(&self.delays, per_mille) {
                let name = format!("from request to hit, {name}, ms");
                finding.tell(&name, delay as f64 / 1e3);
            }
        }
        finding.tell("queries of other clients", self.answered as f64);
        let strays = self.other_errors.of(CANCELED);
        finding.judge(
            "other clients' queries canceled",
            Some(strays as f64),
            Bound::AtMost(0.0),
        );
        let errors = self.other_errors.total() - strays + self.sleeper_errors.total();
        finding.judge("other errors", Some(errors as f64), Bound::AtMost(0.0));
        for (who, errors) in [
            ("sleepers", &self.sleeper_errors),
            ("others", &self.other_errors),
        ] {
            if let Some(text) = errors.describe() {
                finding.note(format!("{who}: {text}"));
            }
        }
    }
}
