//! A storm of logins while other clients work.
//!
//! Owns: the clients that ask at a fixed pace, the storm, the latencies before and in it.
//! Does not own: the steps of a login (`knock.rs`).
//! Invariants: a query's latency counts from the moment it was due, so that a stall counts for all that
//! were due meanwhile; all clients of a storm are at the same step of their logins before the first one goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::child::renice;
use crate::client::Client;
use crate::cpu;
use crate::interrupt;
use crate::knock::Knock;
use crate::metric::{Figures, Metric};
use crate::pooler::Pooler;
use crate::statistics::percentile;

/// Clients that ask.
const ASKERS: u32 = 8;
/// One asks so often.
const PACE: Duration = Duration::from_millis(5);

/// Latencies of queries, quiet first, in microseconds.
type Latencies = [Vec<u32>; 2];

/// Measures queries for `seconds` in quiet and for as long while `clients` log in again and again; the
/// unit is the login.
///
/// # Errors
/// A login or a query fails, or the user interrupts.
pub(crate) fn measure(clients: u32, seconds: u32, pooler: &Pooler) -> Result<Figures> {
    let (is_storm, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let askers = (0..ASKERS)
        .map(|_| pooler.connect(&mut [0; 4096]))
        .collect::<Result<Vec<Client>>>()?;
    let flags = (&is_storm, &is_over);
    thread::scope(|scope| {
        let threads: Vec<_> = askers
            .into_iter()
            .map(|client| scope.spawn(move || ask(client, flags)))
            .collect();
        let outcome = raise(clients, seconds, pooler, &is_storm);
        is_over.store(true, Ordering::Relaxed);
        let mut latencies = Latencies::default();
        for thread in threads {
            let own = thread.join().map_err(|_| anyhow!("a thread panicked"))??;
            for (all, own) in latencies.iter_mut().zip(own) {
                all.extend(own);
            }
        }
        let mut figures = outcome?;
        let [quiet, storm] = &mut latencies;
        quiet.sort_unstable();
        storm.sort_unstable();
        for (metric, latencies, per_mille) in [
            (Metric::QuietP99Ms, &*quiet, 990),
            (Metric::LatencyP50Ms, &*storm, 500),
            (Metric::LatencyP99Ms, &*storm, 990),
            (Metric::LatencyP999Ms, &*storm, 999),
        ] {
            let value = percentile(latencies, per_mille).context("no queries")?;
            figures.insert(metric, f64::from(value) / 1e3);
        }
        Ok(figures)
    })
}

/// Quiet, then storms. The figures are of the storms.
fn raise(clients: u32, seconds: u32, pooler: &Pooler, is_storm: &AtomicBool) -> Result<Figures> {
    let duration = Duration::from_secs(u64::from(seconds));
    let quiet_until = Instant::now() + duration;
    while Instant::now() < quiet_until {
        interrupt::check()?;
        thread::sleep(Duration::from_millis(20));
    }
    is_storm.store(true, Ordering::Relaxed);
    let (begin, driver_before) = (pooler.probe.begin()?, cpu::own_ns());
    let mut logins = 0;
    while begin.at.elapsed() < duration {
        storm(clients, pooler)?;
        logins += clients;
    }
    let elapsed = begin.at.elapsed().as_secs_f64();
    is_storm.store(false, Ordering::Relaxed);
    let driver_us = cpu::own_ns().saturating_sub(driver_before) as f64 / 1e3;
    let end = pooler.probe.end()?;
    let logins = f64::from(logins);
    let mut figures = pooler.probe.costs(&begin, &end, driver_us, logins);
    figures.insert(Metric::Throughput, logins / elapsed);
    Ok(figures)
}

/// Everybody at once: the first step of all, then the second of all, and so on.
fn storm(clients: u32, pooler: &Pooler) -> Result<()> {
    let mut knocking = Vec::new();
    for _ in 0..clients {
        interrupt::check()?;
        knocking.push(Knock::begin(pooler.address, &pooler.manner)?);
    }
    let mut proven = Vec::new();
    while !knocking.is_empty() {
        let mut next = Vec::new();
        for mut knock in knocking {
            interrupt::check()?;
            if knock.advance()? {
                proven.push(knock);
            } else {
                next.push(knock);
            }
        }
        knocking = next;
    }
    let mut buffer = [0; 4096];
    for knock in proven {
        interrupt::check()?;
        Client::let_in(knock, &mut buffer)?;
    }
    Ok(())
}

/// Asks at a fixed pace until it is over.
fn ask(mut client: Client, flags: (&AtomicBool, &AtomicBool)) -> Result<Latencies> {
    let (is_storm, is_over) = flags;
    // What is measured is the pooler, not how long this thread waits for a CPU. Without the right to it: both.
    let _ = renice("-10");
    let mut latencies = Latencies::default();
    let mut buffer = [0; 4096];
    let mut due = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let index = usize::from(is_storm.load(Ordering::Relaxed));
        client.simple("select 1", &mut buffer)?;
        let took = due.elapsed().as_micros();
        latencies[index].push(u32::try_from(took).unwrap_or(u32::MAX));
        due += PACE;
    }
    Ok(latencies)
}
