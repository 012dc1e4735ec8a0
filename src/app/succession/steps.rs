//! The control thread's part of an upgrade, on both sides.
//!
//! ```text
//!   Serving ── asked ──▶ Checking ── fine ──▶ Starting ── ready ──▶ Departing ──▶ Relaying ──▶ the
//!      ▲                    │ refused            │ gone, late           │    nobody is      process
//!      ├────────────────────┘◀───────────────────┘                      │    left but       ends
//!      └───────────────────────── heir gone ────────────────────────────┘    relays
//! ```
//!
//! **Owns:** the state of the upgrade, what is done at each event; what comes from the old process is in
//! `arrivals`, what is looked at until it ends in `vigil`.
//! **Does not own:** shards (`departure`), the conversation (`donor`, `heir`).
//!
//! **Invariant:** the shards are told nothing before the heir is ready.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shards::{ShardId, Socket};
use tokio::sync::mpsc::UnboundedSender;

use crate::config::Config;
use crate::metrics::pool::read_paused;
use crate::protocol::cancel_key::GENERATION_MAX;
use crate::session::passport::Clock;
use crate::session::shard::Connections;
use crate::upgrade::frame::DESCRIPTORS_MAX;

use super::super::control::{Answerer, Control};
use super::super::mailbox::{ShardMessage, WorkResult};
use super::account::Told;
use super::arrivals::Newcomer;
use super::departure::Departure;
use super::donor::Donor;
use super::heir::Predecessor;
use super::notify;
use super::program::Program;
use super::transit::Transit;
use super::word::{Cancel, Guest, Hello, Remains, encode_guests, encode_places, kind};

/// Names the socket for metrics among places.
pub const METRICS: &str = "metrics";
/// How long the new process may take until clients can connect.
const START_MAX: Duration = Duration::from_secs(60);
/// How long this process stays at least, to serve again should the new one end.
const TRIAL: Duration = Duration::from_millis(100);
/// What happens in an upgrade.
#[derive(Debug)]
pub enum Event {
    /// The new program has looked at the configuration.
    Checked(Result<(), String>),
    /// The new process accepts clients.
    HeirReady {
        /// It takes what was counted.
        takes_totals: bool,
    },
    /// The new process has ended, or does not keep to the rules.
    HeirGone {
        /// Its process.
        pid: u32,
        /// Why, as far as known.
        reason: String,
        /// It was told to end: nothing is wrong with it.
        was_told: bool,
    },
    /// The new process has not become ready in time.
    HeirLate(u32),
    /// A cancel request has come to the new process.
    CancelHere(Cancel),
    /// The new process has the session that was sent first.
    SessionTaken,
    /// It cannot take that session at the moment.
    SessionRefused,
    /// Time to look at what remains.
    Look,
    /// The old process sends a session; without its socket if this process had no descriptor for that.
    Session(Vec<u8>, Option<OwnedFd>),
    /// The same with its server.
    Pair(Vec<u8>, Vec<OwnedFd>),
    /// The old process sends a server; without its socket as there.
    Server(Vec<u8>, Option<OwnedFd>),
    /// Objects of databases have changed, as the old process has seen.
    Changed,
    /// The old process has counted this.
    Totals(Vec<u8>),
    /// The old process still has this.
    Remains(Remains),
    /// The old process knows these users.
    Guests(Vec<Guest>),
    /// A cancel request is over in the old process.
    CancelDone {
        /// The shard that has asked.
        shard: u16,
        /// Names the request there.
        ticket: u32,
    },
    /// The old process has ended.
    PredecessorGone,
}

/// Where an upgrade stands.
#[derive(Debug)]
pub(super) enum Phase {
    Serving,
    Checking,
    Starting(Donor),
    Departing {
        donor: Donor,
        /// When those are told that it is over who are still here.
        deadline: Instant,
        /// When they were told.
        told_at: Option<Instant>,
        /// What the heir has been told last.
        remains: Remains,
        /// Before this it may still turn out that the heir cannot serve.
        trial: Instant,
    },
    /// The heir has everybody, and may have gone over to another one.
    Relaying,
}

/// All that the control thread knows of upgrades.
#[derive(Debug)]
pub struct Succession {
    /// How the program is started; or why that is not known.
    pub program: io::Result<Program>,
    /// The number of this process.
    pub generation: u8,
    /// The listening sockets, each with its place.
    pub listeners: Vec<(String, Socket)>,
    /// Locked as long as this process, or the one after it, runs.
    pub pid_file: Option<File>,
    /// Client connections.
    pub connections: Connections,
    /// The process before this one, as long as it has something.
    pub predecessor: Option<Predecessor>,
    /// What that still has.
    pub remains: Remains,
    /// Where events go.
    pub events: UnboundedSender<Event>,
    /// Servers of that process that no shard has been given yet.
    pub(super) newcomers: Vec<Newcomer>,
    /// The shards are to be told of other sizes.
    pub(super) is_stale: bool,
    /// The changes in databases that the heir knows of.
    pub(super) changes_told: u64,
    /// What the heir knows of what was counted, if it takes that.
    pub(super) told: Option<Told>,
    /// The processes that clients have logged in to which have come here, a bit each.
    pub(super) generations: u64,
    /// When it was said last that there are no descriptors left.
    pub(super) crowded_at: Option<Instant>,
    /// Sessions that were sent and not confirmed.
    pub(super) transit: Transit,
    /// Gets sessions next.
    pub(super) next_shard: usize,
    pub(super) phase: Phase,
    /// An upgrade is to begin when the one before it is over.
    pub(super) is_wanted: bool,
    /// Who has asked for the upgrade and is told of it.
    waiting: Vec<Answerer>,
}

impl Succession {
    /// Nothing has been asked for.
    pub fn new(
        (generation, connections, remains): (u8, Connections, Remains),
        listeners: Vec<(String, Socket)>,
        pid_file: Option<File>,
        predecessor: Option<Predecessor>,
        events: UnboundedSender<Event>,
    ) -> Self {
        Self {
            program: Program::of_this_process(),
            generation,
            listeners,
            pid_file,
            connections,
            predecessor,
            remains,
            events,
            newcomers: Vec::new(),
            is_stale: false,
            changes_told: 0,
            told: None,
            generations: 0,
            crowded_at: None,
            transit: Transit::default(),
            next_shard: 0,
            phase: Phase::Serving,
            is_wanted: false,
            waiting: Vec::new(),
        }
    }

    /// True while clients go to another process.
    pub const fn is_departing(&self) -> bool {
        matches!(self.phase, Phase::Departing { .. } | Phase::Relaying)
    }

    /// The configuration with the sizes that pools may have now.
    pub fn over(&self, config: &Arc<Config>) -> Arc<Config> {
        if self.is_departing() {
            return Arc::new(resized(config, |_, _, _| 0));
        }
        if self.remains.servers.is_empty() {
            return Arc::clone(config);
        }
        Arc::new(reduced(config, &self.remains))
    }

    /// The process of the heir, as long as that matters.
    fn heir(&self) -> Option<u32> {
        match &self.phase {
            Phase::Starting(donor) | Phase::Departing { donor, .. } => Some(donor.pid),
            Phase::Serving | Phase::Checking | Phase::Relaying => None,
        }
    }

    /// Tells the heir what it needs for its start.
    fn introduce(&self, donor: &Donor, hello: &Hello) -> io::Result<()> {
        let mut with = Vec::new();
        if let Some(file) = &self.pid_file {
            with.push(file.try_clone()?.into());
        }
        donor.send(kind::HELLO, hello.encode(), with);
        for part in self.listeners.chunks(DESCRIPTORS_MAX) {
            let places: Vec<&str> = part.iter().map(|(place, _)| &**place).collect();
            let mut sockets = Vec::new();
            for (_, socket) in part {
                sockets.push(socket.try_clone()?.into());
            }
            donor.send(kind::LISTENERS, encode_places(&places), sockets);
        }
        donor.send(kind::BEGIN, Vec::new(), Vec::new());
        Ok(())
    }

    /// The socket of each listening socket again, to be accepted on.
    fn sockets(&self, shards: usize) -> io::Result<Vec<Vec<Socket>>> {
        let mut of_shards: Vec<Vec<Socket>> = (0..shards).map(|_| Vec::new()).collect();
        let for_clients = self.listeners.iter().filter(|(place, _)| place != METRICS);
        for (number, (_, socket)) in for_clients.enumerate() {
            of_shards[number % shards].push(socket.try_clone()?);
        }
        Ok(of_shards)
    }
}

/// The configuration with the sizes that are left beside those of another process.
pub fn reduced(config: &Config, remains: &Remains) -> Config {
    resized(config, |database, user, size| {
        let taken = remains.of(database, user);
        size.saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX))
    })
}

fn resized(config: &Config, size: impl Fn(&str, &str, u32) -> u32) -> Config {
    let mut config = config.clone();
    for pool in &mut config.pools {
        for user in &mut pool.users {
            user.pool_size = size(&pool.name, &user.username, user.pool_size);
            user.min_pool_size = user.min_pool_size.min(user.pool_size);
        }
    }
    config
}

/// The number of the process after this one: one that no cancel key of a client has that has come here (`taken`,
/// a bit each), as long as there is one.
fn next_generation(own: u8, taken: u64) -> u8 {
    let after = |steps: u8| (u16::from(own) + u16::from(steps)) % (u16::from(GENERATION_MAX) + 1);
    let mut following = (1..=GENERATION_MAX).map(after);
    let free = following.find(|number| taken.checked_shr(u32::from(*number)).unwrap_or(0) & 1 == 0);
    free.unwrap_or(after(1)) as u8
}

impl Control {
    /// Begins an upgrade, unless there is one.
    pub(in crate::app) fn upgrade(&mut self, answer: Option<Answerer>) {
        let succession = &mut self.succession;
        if succession.predecessor.is_some() && succession.remains != Remains::default() {
            tracing::info!("a binary upgrade begins when the one before it is over");
            succession.is_wanted = true;
            succession.waiting.extend(answer);
            return;
        }
        let refusal = match (&succession.phase, &succession.program) {
            _ if self.fleet.is_closing() => Some("the process is about to end".to_owned()),
            (Phase::Departing { .. }, _) => Some("the upgrade is under way".to_owned()),
            (Phase::Relaying, _) => Some("another process has taken over".to_owned()),
            (_, Err(error)) => Some(format!("the program cannot be found: {error}")),
            _ => None,
        };
        if let Some(reason) = refusal {
            tracing::warn!(%reason, "no binary upgrade");
            if let Some(answer) = answer {
                answer.give(WorkResult::Upgraded(Err(reason)));
            }
            return;
        }
        succession.waiting.extend(answer);
        if let (Phase::Serving, Ok(program)) = (&succession.phase, &succession.program) {
            tracing::info!(program = %program.path().display(), "binary upgrade begins");
            let (program, events) = (program.clone(), succession.events.clone());
            tokio::spawn(async move {
                let checked = program.check().await;
                let _ = events.send(Event::Checked(checked));
            });
            succession.phase = Phase::Checking;
        }
    }

    /// The upgrade has come to nothing; this process serves as before.
    fn abandon(&mut self, reason: &str) {
        tracing::error!(%reason, "BINARY UPGRADE ABORTED, this process goes on");
        self.succession.phase = Phase::Serving;
        self.answer_upgrade(&Err(reason.to_owned()));
    }

    fn answer_upgrade(&mut self, result: &Result<(), String>) {
        for answer in self.succession.waiting.drain(..) {
            answer.give(WorkResult::Upgraded(result.clone()));
        }
    }

    /// Does what an event asks for.
    pub(in crate::app) async fn succeed(&mut self, event: Event) {
        match event {
            Event::Checked(Err(reason)) => self.abandon(&reason),
            Event::Checked(Ok(())) => {
                if let Err(error) = self.start_heir() {
                    self.abandon(&error.to_string());
                }
            }
            Event::HeirReady { takes_totals } => self.depart(takes_totals).await,
            Event::HeirGone {
                pid,
                reason,
                was_told,
            } => {
                // One that was given up before is not the present one.
                if self.succession.heir() == Some(pid) {
                    self.heir_gone(&reason, was_told).await;
                }
            }
            Event::HeirLate(pid) => {
                if let Phase::Starting(donor) = &self.succession.phase
                    && donor.pid == pid
                {
                    tracing::error!("the new process is not ready in time");
                    donor.end();
                }
            }
            Event::CancelHere(cancel) => self.cancel_here(cancel).await,
            Event::Look => self.look().await,
            Event::Session(bytes, socket) => self.session_came(&bytes, socket).await,
            Event::SessionTaken => self.succession.transit.taken(),
            Event::SessionRefused => self.succession.transit.refused(),
            Event::Pair(bytes, sockets) => self.pair_came(&bytes, sockets),
            Event::Server(bytes, socket) => self.server_came(&bytes, socket),
            Event::Changed => self.fleet.changes().raise_all(),
            Event::Remains(remains) => self.remains_changed(remains),
            Event::Totals(bytes) => self.totals_came(&bytes),
            Event::Guests(guests) => {
                // Totals have come before, if they come at all.
                self.serve_metrics();
                self.guests_came(guests).await;
            }
            Event::CancelDone { shard, ticket } => {
                self.send(ShardId::new(shard), ShardMessage::CancelDone { ticket })
                    .await;
            }
            Event::PredecessorGone => {
                tracing::info!("the process before this one has ended");
                self.succession.predecessor = None;
                self.serve_metrics();
                self.remains_changed(Remains::default());
            }
        }
    }

    fn start_heir(&mut self) -> io::Result<()> {
        let remains = self.remains();
        let paused = read_paused(&self.fleet);
        let succession = &mut self.succession;
        let Ok(program) = &succession.program else {
            return Ok(());
        };
        let donor = Donor::start(program, succession.events.clone())?;
        let hello = Hello {
            generation: next_generation(succession.generation, succession.generations),
            has_pid_file: succession.pid_file.is_some(),
            remains,
            paused,
        };
        if let Err(error) = succession.introduce(&donor, &hello) {
            donor.end();
            return Err(error);
        }
        tracing::info!(pid = donor.pid, "the new process starts");
        let (events, pid) = (succession.events.clone(), donor.pid);
        tokio::spawn(async move {
            tokio::time::sleep(START_MAX).await;
            let _ = events.send(Event::HeirLate(pid));
        });
        succession.phase = Phase::Starting(donor);
        Ok(())
    }

    /// The heir accepts clients: this process does not any more, and sends its own there.
    async fn depart(&mut self, takes_totals: bool) {
        let succession = &mut self.succession;
        let donor = match std::mem::replace(&mut succession.phase, Phase::Serving) {
            Phase::Starting(donor) => donor,
            other => {
                succession.phase = other;
                return;
            }
        };
        tracing::info!(pid = donor.pid, "the new process serves, clients go there");
        notify::handed_to(donor.pid);
        succession.changes_told = self.fleet.changes().total();
        if let Some(task) = self.scrape.take() {
            task.abort();
        }
        succession.told = takes_totals.then(Told::default);
        if let Some(told) = &mut succession.told {
            told.tell(&self.fleet, &donor);
        }
        donor.send(kind::GUESTS, encode_guests(&self.guests.list()), Vec::new());
        // Before anything goes: what is said later may count what has gone meanwhile.
        let remains = self.remains();
        donor.send(kind::REMAINS, remains.encode(), Vec::new());
        let now = Instant::now();
        self.succession.phase = Phase::Departing {
            donor,
            deadline: now + self.config.general.shutdown_timeout,
            told_at: None,
            remains,
            trial: now + TRIAL,
        };
        self.look_after(Duration::ZERO);
        self.tell_shards(|| Departure::Begin).await;
        self.spread(Arc::clone(&self.config)).await;
        self.answer_upgrade(&Ok(()));
    }

    pub(super) async fn tell_shards(&self, departure: impl Fn() -> Departure) {
        for shard in 0..self.seat.shard_count() {
            let message = ShardMessage::Depart(Box::new(departure()));
            self.send(ShardId::new(shard as u16), message).await;
        }
    }

    pub(super) fn clock(&self) -> Clock {
        Clock {
            fleet: self.fleet.clone(),
            now: Instant::now(),
        }
    }

    async fn heir_gone(&mut self, reason: &str, was_told: bool) {
        match std::mem::replace(&mut self.succession.phase, Phase::Serving) {
            Phase::Starting(_) | Phase::Checking => self.abandon(reason),
            Phase::Departing {
                told_at: Some(_), ..
            }
            | Phase::Relaying => {
                self.succession.transit.end();
                self.succession.phase = Phase::Relaying;
            }
            Phase::Departing { .. } if was_told => {
                tracing::info!(%reason, "the new process was told to end, and so does this one");
                self.succession.transit.end();
                self.succession.phase = Phase::Relaying;
                self.is_over = true;
            }
            Phase::Departing { .. } => {
                let (back, lost) = self.succession.transit.take_back();
                let back_count = back.len();
                tracing::error!(
                    %reason, clients_lost = lost, clients_back = back_count,
                    "the new process has ended, this one serves again"
                );
                notify::ready();
                let sockets = self.succession.sockets(self.seat.shard_count());
                let mut sockets = sockets.unwrap_or_else(|error| {
                    tracing::error!(%error, "the listening sockets cannot be used again");
                    Vec::new()
                });
                for shard in (0..self.seat.shard_count()).rev() {
                    let departure = Departure::Back(sockets.pop().unwrap_or_default());
                    let message = ShardMessage::Depart(Box::new(departure));
                    self.send(ShardId::new(shard as u16), message).await;
                }
                // Servers that come back before the sizes that make room for them.
                self.take_back(back).await;
                self.spread(Arc::clone(&self.config)).await;
            }
            Phase::Serving => {}
        }
    }

    /// The process ends: what the heir is to be told leaves before.
    pub(in crate::app) fn finish_succession(&mut self) {
        self.account(true);
        let phase = std::mem::replace(&mut self.succession.phase, Phase::Serving);
        match phase {
            Phase::Departing { donor, .. } => donor.finish(),
            Phase::Starting(donor) => donor.end(),
            Phase::Serving | Phase::Checking | Phase::Relaying => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_number_that_no_client_has() {
        assert_eq!(next_generation(0, 1), 1);
        assert_eq!(next_generation(GENERATION_MAX, 0), 0);
        assert_eq!(next_generation(GENERATION_MAX, 0b11), 2);
        assert_eq!(next_generation(1, u64::MAX), 2);
    }
}
