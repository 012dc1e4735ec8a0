//! What was counted goes on in the new process.
//!
//! **Owns:** when the old process tells what it has counted, and what the new one does with that.
//! **Does not own:** the totals (`metrics::totals`), their form (`ledger`).
//!
//! ```text
//!   old:  all up to now ─────▶ what is new, once a second ─────▶ what is new, at the end
//!   new:  history; metrics are served from here on
//! ```
//!
//! **Invariants**
//! 1. What is told is the difference to what was told before: each count is counted once.
//! 2. Nobody reads metrics of the new process before it has been told of the old one's, so no counter falls.
//! 3. It is told before the message that says that nobody remains.

use std::time::{Duration, Instant};

use crate::metrics::Fleet;
use crate::metrics::totals::Totals;

use super::super::control::Control;
use super::donor::Donor;
use super::ledger::{decode, encode};
use super::steps::Phase;
use super::word::kind;

/// Time between two reports.
const PERIOD: Duration = Duration::from_secs(1);

/// What the new process has been told.
#[derive(Debug, Default)]
pub(super) struct Told {
    totals: Totals,
    at: Option<Instant>,
}

impl Told {
    /// Tells what is new.
    pub(super) fn tell(&mut self, fleet: &Fleet, donor: &Donor) {
        let now = Totals::take(fleet);
        let news = now.since(&self.totals);
        if news == Totals::default() && self.at.is_some() {
            self.at = Some(Instant::now());
            return;
        }
        for part in encode(&news, self.at.is_none()) {
            donor.send(kind::TOTALS, part, Vec::new());
        }
        self.totals = now;
        self.at = Some(Instant::now());
    }
}

impl Control {
    /// Tells the heir what has been counted, if it is time or `is_end`.
    pub(super) fn account(&mut self, is_end: bool) {
        if let Phase::Departing { donor, .. } = &self.succession.phase
            && let Some(told) = &mut self.succession.told
            && (is_end || told.at.is_none_or(|at| at.elapsed() >= PERIOD))
        {
            told.tell(&self.fleet, donor);
        }
    }

    /// The old process has told what it has counted.
    pub(super) fn totals_came(&self, bytes: &[u8]) {
        match decode(bytes) {
            Ok((totals, is_history)) => self.fleet.inherit(&totals, is_history),
            Err(error) => tracing::warn!(%error, "what the old process has counted is lost"),
        }
    }

    /// Serves metrics from now on, if they waited.
    pub(in crate::app) fn serve_metrics(&mut self) {
        if let Some(scrape) = self.later_scrape.take() {
            self.answers = Some(scrape.answers());
            self.scrape = Some(tokio::spawn(scrape.serve()));
        }
    }
}
