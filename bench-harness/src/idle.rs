//! What a pooler costs while its clients do nothing.
//!
//! Owns: memory over the number of idle clients, CPU without load.
//! Does not own: reading memory (`memory.rs`) and clocks (`probe.rs`).
//! Invariants: the cost of a client is a slope between two numbers of clients, so that neither
//! the program itself nor what it prepares for the first clients counts.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::client::Client;
use crate::interrupt;
use crate::memory;
use crate::metric::{Figures, Metric};
use crate::pooler::Pooler;

/// The numbers of clients at which memory is read.
pub(crate) const STEPS: [u32; 5] = [0, 500, 1000, 4500, 5000];
/// The slope is taken between these.
const SLOPE: (u32, u32) = (500, 4500);
/// How long a pooler may tidy up before its memory is read.
const SETTLE: Duration = Duration::from_millis(300);

/// Opens as many file descriptors as the system allows, for the harness and what it starts.
///
/// # Errors
/// The limit cannot be read or set.
pub(crate) fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the file limit")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the file limit")
}

/// Memory of idle clients. `start` starts the target anew: clients that have never run a query
/// and clients that have are measured on fresh processes. The latter have run a simple query and
/// `statement` of the extended protocol, which is named where the target can do that.
///
/// # Errors
/// The target does not take so many clients, or the user interrupts.
pub(crate) fn measure_memory(
    start: impl Fn() -> Result<Pooler>,
    statement: &str,
) -> Result<Figures> {
    let mut figures = Figures::new();
    for (metric, queried) in [
        (Metric::KibPerIdleClient, None),
        (Metric::KibPerUsedClient, Some(statement)),
    ] {
        let pooler = start()?;
        let readings = read_steps(&pooler, queried)?;
        let at = |step: u32| {
            let index = STEPS.iter().position(|&clients| clients == step);
            index
                .and_then(|index| readings.get(index))
                .copied()
                .unwrap_or_default()
        };
        let clients = f64::from(SLOPE.1 - SLOPE.0);
        figures.insert(metric, (at(SLOPE.1) - at(SLOPE.0)) / clients);
        if queried.is_none() {
            figures.insert(Metric::KibWithoutClients, at(0));
        }
    }
    Ok(figures)
}

/// Private memory of the pooler at each step, in KiB.
fn read_steps(pooler: &Pooler, queried: Option<&str>) -> Result<Vec<f64>> {
    let mut buffer = vec![0; 4096];
    let mut clients: Vec<Client> = Vec::new();
    let mut readings = Vec::new();
    for step in STEPS {
        while clients.len() < step as usize {
            interrupt::check()?;
            let number = clients.len() + 1;
            let mut client = pooler
                .connect(&mut buffer)
                .with_context(|| format!("idle client {number}"))?;
            if let Some(statement) = queried {
                client.simple("select 1", &mut buffer)?;
                client.extended(statement, "select 1", &mut buffer)?;
            }
            clients.push(client);
        }
        pause(SETTLE)?;
        readings.push(memory::private_kib(&pooler.probe.pooler)? as f64);
    }
    Ok(readings)
}

/// CPU of the pooler over `seconds` without load; the unit is the second.
///
/// # Errors
/// The user interrupts.
pub(crate) fn measure_cpu(seconds: u32, pooler: &Pooler) -> Result<Figures> {
    // Let the login that found it ready be forgotten.
    pause(SETTLE)?;
    let begin = pooler.probe.begin()?;
    pause(Duration::from_secs(u64::from(seconds)))?;
    let end = pooler.probe.end()?;
    let elapsed = end.at.duration_since(begin.at).as_secs_f64();
    let mut figures = pooler.probe.costs(&begin, &end, 0.0, elapsed);
    figures.remove(&Metric::DriverCpuUs);
    Ok(figures)
}

/// Waits, unless the user interrupts.
fn pause(duration: Duration) -> Result<()> {
    let deadline = Instant::now() + duration;
    loop {
        interrupt::check()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(100)));
    }
}
