//! Loads that the harness drives itself: large answers and bare logins.
//!
//! Owns: the queries of large answers, the threads that log in, their windows.
//! Does not own: the protocol (`client.rs`).
//! Invariants: rows are read with one large buffer and discarded, so that the reader costs as
//! little as a reader can.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::cpu;
use crate::interrupt;
use crate::metric::{Figures, Metric};
use crate::pooler::Pooler;
use crate::scenario::Bulk;

/// Size of the reader's buffer.
const READ_BYTES: usize = 256 * 1024;

impl Bulk {
    /// The query, about 100 MB, 40 MB and 23 MB of answer.
    fn sql(self) -> &'static str {
        match self {
            Self::Rows => "select repeat('x', 1000000) from generate_series(1, 100)",
            Self::LargeRow => "select repeat('x', 40000000)",
            Self::Copy => {
                "copy (select g, repeat('x', 100) from generate_series(1, 200000) g) to stdout"
            }
        }
    }
}

/// Reads large answers for `seconds`; the unit is the MB (10⁶ bytes).
///
/// # Errors
/// The query fails or the user interrupts.
pub(crate) fn read_large(bulk: Bulk, seconds: u32, pooler: &Pooler) -> Result<Figures> {
    let mut buffer = vec![0; READ_BYTES];
    let mut client = pooler.connect(&mut buffer)?;
    // The first answer opens the server connection and fills caches.
    client.simple(bulk.sql(), &mut buffer)?;
    let (begin, driver_before) = (pooler.probe.begin()?, cpu::own_ns());
    let duration = Duration::from_secs(u64::from(seconds));
    let mut bytes = 0;
    while begin.at.elapsed() < duration {
        interrupt::check()?;
        bytes += client.simple(bulk.sql(), &mut buffer)?;
    }
    let elapsed = begin.at.elapsed().as_secs_f64();
    let driver_us = cpu::own_ns().saturating_sub(driver_before) as f64 / 1e3;
    let end = pooler.probe.end()?;
    client.terminate()?;
    let megabytes = bytes as f64 / 1e6;
    let mut figures = pooler.probe.costs(&begin, &end, driver_us, megabytes);
    figures.insert(Metric::Throughput, megabytes / elapsed);
    Ok(figures)
}

/// Logs in and leaves for `seconds`, `clients` at a time; the unit is the login.
///
/// # Errors
/// A login fails or the user interrupts.
pub(crate) fn log_in(clients: u32, seconds: u32, pooler: &Pooler) -> Result<Figures> {
    let duration = Duration::from_secs(u64::from(seconds));
    let start = Barrier::new(clients as usize + 1);
    // The first login makes the pooler ask the server for its parameters.
    pooler.connect(&mut [0; 4096])?.terminate()?;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|_| scope.spawn(|| log_in_until(pooler, duration, &start)))
            .collect();
        let begin = pooler.probe.begin();
        let driver_before = cpu::own_ns();
        let started = Instant::now();
        start.wait();
        let mut logins = 0;
        for thread in threads {
            logins += thread
                .join()
                .map_err(|_| anyhow!("a client thread panicked"))??;
        }
        let elapsed = started.elapsed().as_secs_f64();
        let driver_us = cpu::own_ns().saturating_sub(driver_before) as f64 / 1e3;
        let end = pooler.probe.end()?;
        let mut figures = pooler.probe.costs(&begin?, &end, driver_us, logins as f64);
        figures.insert(Metric::Throughput, logins as f64 / elapsed);
        Ok(figures)
    })
}

fn log_in_until(pooler: &Pooler, duration: Duration, start: &Barrier) -> Result<u64> {
    let mut buffer = [0; 4096];
    start.wait();
    let started = Instant::now();
    let mut logins = 0;
    while started.elapsed() < duration {
        interrupt::check()?;
        pooler.connect(&mut buffer).context("login")?.terminate()?;
        logins += 1;
    }
    Ok(logins)
}
