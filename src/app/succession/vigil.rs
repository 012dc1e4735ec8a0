//! What the old process looks at until nobody is left.
//!
//! **Owns:** what it still has, telling the new process of that, when those are told that it is over who stay,
//! the end of this process.
//! **Does not own:** what an upgrade is before that (`steps`).
//!
//! **Invariant:** nobody is left without a word: who is here when the time is over is told, and so is who is on
//! the way and was refused.

use std::time::{Duration, Instant};

use crate::metrics::pool::read_rights;

use super::super::control::Control;
use super::departure::Departure;
use super::steps::{Event, Phase};
use super::word::{Remains, kind};

/// Time between two looks at what remains.
const LOOK: Duration = Duration::from_millis(5);
/// The same when nothing but relays remains.
const LOOK_LATER: Duration = Duration::from_millis(100);
/// How long the new process has to say of each session that it has it, then.
const ANSWERS_MAX: Duration = Duration::from_secs(10);
/// How long those have to take it who are told that it is over.
const FAREWELL_MAX: Duration = Duration::from_millis(500);

impl Control {
    /// What this process has of each pool and of connections.
    pub(super) fn remains(&self) -> Remains {
        let rights = read_rights(&self.fleet).into_iter();
        let rights = rights.filter(|(_, count)| *count > 0);
        let servers = rights.map(|((database, user), count)| (database.into(), user.into(), count));
        let in_transit = self.succession.transit.count();
        let connections = self.succession.connections.count();
        Remains {
            connections: connections.saturating_sub(in_transit),
            servers: servers.collect(),
        }
    }

    pub(super) fn look_after(&self, pause: Duration) {
        let events = self.succession.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            // Nobody is interested when the process ends.
            let _ = events.send(Event::Look);
        });
    }

    /// Consoles and relays of all shards.
    fn stragglers(&self) -> (u64, u64) {
        let shards = self.fleet.shards().iter();
        shards.fold((0, 0), |(consoles, relays), shard| {
            (consoles + shard.consoles.get(), relays + shard.relays.get())
        })
    }

    /// Tells what was counted, before it is said that nobody remains. Those who relay count nothing.
    fn account_for(&mut self, now: &Remains) {
        if let Phase::Departing {
            told_at, remains, ..
        } = &self.succession.phase
        {
            let is_last = *now == Remains::default() && remains != now;
            if is_last || told_at.is_none() {
                self.account(is_last);
            }
        }
    }

    /// Tells the heir what remains, and ends when nothing does.
    pub(super) async fn look(&mut self) {
        let now = self.remains();
        self.account_for(&now);
        let (consoles, relays) = self.stragglers();
        let transit = &mut self.succession.transit;
        let in_transit = transit.count();
        let (donor, (deadline, trial), told_at, remains) = match &mut self.succession.phase {
            Phase::Departing {
                donor,
                deadline,
                told_at,
                remains,
                trial,
            } => (donor, (*deadline, *trial), told_at, remains),
            Phase::Relaying => {
                self.is_over |= relays == 0;
                self.look_after(LOOK_LATER);
                return;
            }
            Phase::Serving | Phase::Checking | Phase::Starting(_) => return,
        };
        if now != *remains {
            donor.send(kind::REMAINS, now.encode(), Vec::new());
            *remains = now;
        }
        let at = Instant::now();
        let servers = remains.servers.len();
        if let Some(told_at) = *told_at {
            // Who has not been answered for may still be refused.
            transit.give_up();
            let is_empty = remains.connections + in_transit + servers as u64 == 0;
            let limit = if transit.count() > 0 {
                ANSWERS_MAX
            } else {
                FAREWELL_MAX
            };
            let is_over = is_empty || at >= told_at + limit;
            self.is_over |= relays == 0 && is_over;
            self.look_after(if is_over { LOOK_LATER } else { LOOK });
            return;
        }
        transit.retry(donor, at);
        // Consoles are not waited for.
        let clients = remains.connections.saturating_sub(consoles) + in_transit;
        if at < trial {
            self.look_after(LOOK);
            return;
        }
        if clients + servers as u64 > 0 {
            if at < deadline {
                self.look_after(LOOK);
                return;
            }
            tracing::warn!(
                clients,
                "shutdown_timeout is over: who is still here is cut off"
            );
        }
        *told_at = Some(at);
        // From now on nothing leads back, and who connects is not to wait in a queue of this process.
        self.succession.listeners.clear();
        self.tell_shards(|| Departure::End).await;
        self.look_after(LOOK);
    }
}
