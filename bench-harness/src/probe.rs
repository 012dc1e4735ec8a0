//! CPU used during a measurement, by whom.
//!
//! Owns: snapshots of pooler, PostgreSQL and machine, and their differences per unit of work.
//! Does not own: the clocks (`cpu.rs`), when a window begins and ends (the drivers).
//! Invariants: an end snapshot waits until no process of PostgreSQL is just ending, so that the
//! time of a backend that exits is neither lost nor counted twice.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cpu::{self, CpuReading};
use crate::metric::{Figures, Metric};
use crate::proc_tree;

/// How often an end snapshot is repeated while backends are ending.
const SETTLE_TRIES: u32 = 40;

/// The processes a measurement watches.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    /// First processes of the pooler; empty when clients connect to PostgreSQL directly.
    pub(crate) pooler: Vec<u32>,
    /// The postmaster.
    pub(crate) server: u32,
}

/// All clocks at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Snapshot {
    pub(crate) at: Instant,
    pooler: CpuReading,
    server: CpuReading,
    machine_ns: u64,
}

impl Probe {
    /// Reads the clocks at once, at the start of a window.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(crate) fn begin(&self) -> Result<Snapshot> {
        Ok(self.read()?.0)
    }

    /// Reads the clocks at the end of a window, when the load is over.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(crate) fn end(&self) -> Result<Snapshot> {
        let mut tries = 0;
        loop {
            let (snapshot, is_settled) = self.read()?;
            tries += 1;
            if is_settled || tries == SETTLE_TRIES {
                return Ok(snapshot);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn read(&self) -> Result<(Snapshot, bool)> {
        let at = Instant::now();
        let all = proc_tree::scan()?;
        let (pooler, _) = cpu::read(&proc_tree::descendants(&all, &self.pooler));
        let machine_ns = cpu::machine_busy_ns()?;
        let before = proc_tree::descendants(&all, &[self.server]);
        let (server, is_complete) = cpu::read(&before);
        let after = proc_tree::descendants(&proc_tree::scan()?, &[self.server]);
        let is_settled =
            is_complete && before.iter().map(|p| p.pid).eq(after.iter().map(|p| p.pid));
        Ok((
            Snapshot {
                at,
                pooler,
                server,
                machine_ns,
            },
            is_settled,
        ))
    }

    /// The costs of `units` of work between two snapshots. `driver_us` is the CPU time the load
    /// driver used.
    pub(crate) fn costs(
        &self,
        begin: &Snapshot,
        end: &Snapshot,
        driver_us: f64,
        units: f64,
    ) -> Figures {
        let mut figures = Figures::new();
        let units = units.max(1e-9);
        let pooler = end.pooler.used_since(&begin.pooler);
        let server = end.server.used_since(&begin.server);
        if !self.pooler.is_empty() {
            figures.insert(Metric::PoolerCpuUs, pooler.total / units);
            figures.insert(Metric::PoolerUserUs, pooler.user / units);
            figures.insert(Metric::PoolerSystemUs, pooler.system / units);
        }
        figures.insert(Metric::ServerCpuUs, server.total / units);
        figures.insert(Metric::DriverCpuUs, driver_us / units);
        let machine_us = end.machine_ns.saturating_sub(begin.machine_ns) as f64 / 1e3;
        let cpus = thread::available_parallelism().map_or(1, usize::from) as f64;
        let wall_us = end.at.duration_since(begin.at).as_secs_f64() * 1e6;
        let foreign_us = machine_us - pooler.total - server.total - driver_us;
        let percent = 100.0 * foreign_us.max(0.0) / (wall_us * cpus).max(1.0);
        figures.insert(Metric::ForeignCpuPercent, percent);
        figures
    }
}
