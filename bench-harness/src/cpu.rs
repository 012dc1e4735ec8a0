//! CPU time of a set of processes and of the machine.
//!
//! Owns: reading CPU clocks and turning two readings into microseconds, user and system apart.
//! Does not own: which processes are read (`proc_tree.rs`), what the time is divided by (`probe.rs`).
//! Invariants: totals come from the processes' CPU clocks (nanoseconds, all threads, also those
//! that ended); only the user/system split rests on the coarser tick counters.
//! Source: `clock_getcpuclockid(3)`, proc(5).

use std::fs;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::proc_tree::ProcStat;

/// A sum of CPU clocks at one moment. Only differences mean anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CpuReading {
    total_ns: u64,
    user_ticks: u64,
    system_ticks: u64,
}

/// CPU time used between two readings, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct CpuMicros {
    pub(crate) total: f64,
    pub(crate) user: f64,
    pub(crate) system: f64,
}

impl CpuReading {
    /// The time used since `earlier`. The precise total is split in the proportion of the ticks;
    /// a span too short for a tick counts as all system time, which is where an idle program
    /// spends its little.
    pub(crate) fn used_since(&self, earlier: &Self) -> CpuMicros {
        let total = self.total_ns.saturating_sub(earlier.total_ns) as f64 / 1e3;
        let user_ticks = self.user_ticks.saturating_sub(earlier.user_ticks) as f64;
        let system_ticks = self.system_ticks.saturating_sub(earlier.system_ticks) as f64;
        let ticks = user_ticks + system_ticks;
        let user = if ticks > 0.0 {
            total * user_ticks / ticks
        } else {
            0.0
        };
        CpuMicros {
            total,
            user,
            system: total - user,
        }
    }
}

/// Sums the clocks of `processes`, and of the ended children they waited for. The flag is false
/// when one of them vanished meanwhile, so that its time may be missing.
pub(crate) fn read(processes: &[ProcStat]) -> (CpuReading, bool) {
    let tick_ns = 1_000_000_000 / ticks_per_second();
    let mut sum = CpuReading::default();
    let mut is_complete = true;
    for process in processes {
        match process_ns(process.pid) {
            Some(ns) => sum.total_ns += ns,
            None => is_complete = false,
        }
        is_complete &= !process.is_zombie;
        sum.total_ns += (process.waited_user_ticks + process.waited_system_ticks) * tick_ns;
        sum.user_ticks += process.user_ticks + process.waited_user_ticks;
        sum.system_ticks += process.system_ticks + process.waited_system_ticks;
    }
    (sum, is_complete)
}

/// The CPU clock of one process in nanoseconds, `None` when it is gone.
pub(crate) fn process_ns(pid: u32) -> Option<u64> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid).ok()?)).ok()?;
    clock_ns(clock)
}

/// The CPU clock of this program in nanoseconds.
pub(crate) fn own_ns() -> u64 {
    clock_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap_or(0)
}

fn clock_ns(clock: ClockId) -> Option<u64> {
    let time = clock.now().ok()?;
    Some(u64::try_from(time.tv_sec()).ok()? * 1_000_000_000 + u64::try_from(time.tv_nsec()).ok()?)
}

/// Time all CPUs of the machine were busy since boot, in nanoseconds; time stolen by a hypervisor
/// counts as busy.
///
/// # Errors
/// `/proc/stat` cannot be read or is not understood.
pub(crate) fn machine_busy_ns() -> Result<u64> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let ticks = parse_machine_busy(&text).context("/proc/stat is not understood")?;
    Ok(ticks * (1_000_000_000 / ticks_per_second()))
}

fn parse_machine_busy(text: &str) -> Option<u64> {
    let fields = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = fields
        .split_ascii_whitespace()
        .take(8)
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let (idle, waiting_for_disk) = (ticks.get(3)?, ticks.get(4)?);
    Some(ticks.iter().sum::<u64>() - idle - waiting_for_disk)
}

fn ticks_per_second() -> u64 {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    ticks
        .and_then(|ticks| u64::try_from(ticks).ok())
        .filter(|&ticks| ticks > 0)
        .unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc_tree;

    #[test]
    fn total_is_split_in_the_proportion_of_the_ticks() {
        let earlier = CpuReading {
            total_ns: 1_000,
            user_ticks: 10,
            system_ticks: 10,
        };
        let later = CpuReading {
            total_ns: 4_001_000,
            user_ticks: 11,
            system_ticks: 13,
        };
        let used = later.used_since(&earlier);
        assert!((used.total - 4000.0).abs() < 1e-9);
        assert!((used.user - 1000.0).abs() < 1e-9);
        assert!((used.system - 3000.0).abs() < 1e-9);
    }

    #[test]
    fn machine_busy_time_leaves_out_idle_and_disk_wait() {
        let text = "cpu  10 1 20 1000 500 3 4 5 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(parse_machine_busy(text), Some(43));
        assert_eq!(parse_machine_busy("cpu 1 2"), None);
    }

    #[test]
    fn own_clock_advances_while_computing() {
        let all = proc_tree::scan().expect("list /proc");
        let own: Vec<_> = all
            .into_iter()
            .filter(|p| p.pid == std::process::id())
            .collect();
        let (before, is_complete) = read(&own);
        let spun: u64 = (0..3_000_000_u64).map(std::hint::black_box).sum();
        let (after, _) = read(&own);
        assert!(is_complete && spun > 0);
        assert!(after.used_since(&before).total > 0.0);
    }
}
