//! PostgreSQL's own view of the pool, over a direct connection.
//!
//! Owns: counting server connections, once or all the time.
//! Does not own: who opened them; nobody else may use this PostgreSQL.
//! Invariants: no observer counts itself or another one.
//! Source: monitoring-stats.html (`pg_stat_activity`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::client::Client;
use crate::interrupt;

/// Time between two samples.
const PERIOD: Duration = Duration::from_millis(50);
/// How long the connections of the last pooler may take to end.
const QUIET_LIMIT: Duration = Duration::from_secs(10);

/// How observers know each other.
const NAME: &str = "set application_name to 'bench-harness-observer'";
const OTHERS: &str =
    "backend_type = 'client backend' and application_name <> 'bench-harness-observer'";

/// A direct connection.
#[derive(Debug)]
pub(crate) struct Observer {
    client: Client,
    buffer: Vec<u8>,
}

impl Observer {
    /// Connects to PostgreSQL.
    ///
    /// # Errors
    /// It does not accept the connection.
    pub(crate) fn connect(server: SocketAddr) -> Result<Self> {
        let mut buffer = vec![0; 4096];
        let mut client = Client::connect(server, &mut buffer).context("direct connection")?;
        client.simple(NAME, &mut buffer)?;
        Ok(Self { client, buffer })
    }

    /// Connections of others.
    ///
    /// # Errors
    /// The connection is lost.
    pub(crate) fn connections(&mut self) -> Result<u64> {
        self.count("true")
    }

    /// Connections that are in `pg_sleep` now.
    ///
    /// # Errors
    /// The connection is lost.
    pub(crate) fn sleeping(&mut self) -> Result<u64> {
        self.count("state = 'active' and wait_event = 'PgSleep'")
    }

    fn count(&mut self, condition: &str) -> Result<u64> {
        let sql = format!("select count(*) from pg_stat_activity where {OTHERS} and ({condition})");
        let value = self.client.value(&sql, &mut self.buffer)?;
        value.parse().context("count is no number")
    }

    /// Waits until nobody else is connected.
    ///
    /// # Errors
    /// Somebody stays, the connection is lost, or the user interrupts.
    pub(crate) fn wait_until_alone(&mut self) -> Result<()> {
        let deadline = Instant::now() + QUIET_LIMIT;
        while self.connections()? > 0 {
            interrupt::check()?;
            if Instant::now() > deadline {
                bail!("server connections of the last measurement do not end");
            }
            thread::sleep(PERIOD);
        }
        Ok(())
    }
}

/// What a [`Sampler`] saw.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Samples {
    /// The most connections of others at once.
    pub(crate) max: u64,
    pub(crate) count: u64,
}

/// Counts connections all the time, in a thread of its own.
#[derive(Debug)]
pub(crate) struct Sampler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Samples>>>,
}

impl Sampler {
    /// Starts counting.
    ///
    /// # Errors
    /// PostgreSQL does not accept the connection.
    pub(crate) fn start(server: SocketAddr) -> Result<Self> {
        let mut observer = Observer::connect(server)?;
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut samples = Samples::default();
            while !is_over.load(Ordering::Relaxed) {
                samples.max = samples.max.max(observer.connections()?);
                samples.count += 1;
                thread::sleep(PERIOD);
            }
            Ok(samples)
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Stops counting.
    ///
    /// # Errors
    /// The connection was lost meanwhile.
    pub(crate) fn finish(mut self) -> Result<Samples> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("finished before")?;
        thread
            .join()
            .map_err(|_| anyhow!("the sampling thread panicked"))?
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
