//! Several pgbench at the same time, with everything they log.
//!
//! Owns: starting them, their logs, what failed, how long each transaction took.
//! Does not own: what they run against.
//! Invariants: every transaction is logged; pgbench never reconnects, so a client that loses its
//! connection is one that failed; a pgbench that does not end well has failed at least once; each client
//! has a thread of its own, because pgbench waits for `PQprepare` without reading what others of that
//! thread are answered, who may have all servers in transactions that then never end.
//! Source: pgbench.html.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::child::{Launch, Supervised};
use crate::postgres::Postgres;

/// One pgbench.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group<'a> {
    /// Also the name of its log.
    pub(crate) name: &'a str,
    pub(crate) database: &'a str,
    /// `simple`, `extended` or `prepared`.
    pub(crate) protocol: &'a str,
    pub(crate) clients: u32,
    /// The clients use TLS.
    pub(crate) is_encrypted: bool,
}

/// What all of them run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scripts<'a> {
    /// Scripts of pgbench's own, with weights.
    BuiltIn(&'a [&'a str]),
    /// Texts of scripts, of the same weight.
    Own(&'a [&'a str]),
}

/// All that run at the same time; dropping it ends them.
#[derive(Debug)]
pub(crate) struct Crowd {
    // Dropped in this order: the programs end before their directory goes.
    members: Vec<(String, u32, Supervised)>,
    dir: TempDir,
}

/// One transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ended {
    /// Which pgbench and which of its clients.
    client: (usize, u32),
    /// Microseconds since 1970.
    at_us: u64,
    latency_us: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    ended: Vec<Ended>,
    clients: usize,
    /// Transactions that failed, and clients that gave up.
    pub(crate) failed: u64,
    /// The first complaints.
    pub(crate) complaints: Vec<String>,
}

/// Microseconds since 1970.
pub(crate) fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_micros() as u64
}

impl Crowd {
    /// Starts all of `groups` for `seconds`.
    ///
    /// # Errors
    /// One cannot be started.
    pub(crate) fn start(
        server: &Postgres,
        address: SocketAddr,
        groups: &[Group<'_>],
        scripts: Scripts<'_>,
        seconds: u32,
    ) -> Result<Self> {
        let dir = server.create_dir("crowd-")?;
        let arguments = script_arguments(scripts, dir.path())?;
        let mut members = Vec::new();
        for group in groups {
            let mut command = vec![server.pgbench(), "-n".into(), "--log".into()];
            let mut option = |name: &str, value: String| command.extend([name.to_owned(), value]);
            option("--log-prefix", group.name.to_owned());
            option("-h", address.ip().to_string());
            option("-p", address.port().to_string());
            option("-U", "postgres".into());
            option("-M", group.protocol.to_owned());
            option("-c", group.clients.to_string());
            option("-j", group.clients.to_string());
            option("-T", seconds.to_string());
            command.extend(arguments.iter().cloned());
            command.push(group.database.to_owned());
            let encryption = if group.is_encrypted {
                "require"
            } else {
                "disable"
            };
            let environment = [("PGSSLMODE", encryption), ("PGGSSENCMODE", "disable")];
            let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let environment = BTreeMap::from(environment);
            let program = Supervised::start(&Launch {
                name: &format!("{}-report", group.name),
                command,
                user: None,
                dir: dir.path(),
                environment: &environment,
                stop: Signal::SIGTERM,
            })?;
            members.push((group.name.to_owned(), group.clients, program));
        }
        Ok(Self { members, dir })
    }

    /// Fails unless all of them still run.
    ///
    /// # Errors
    /// One has ended.
    pub(crate) fn check_running(&mut self) -> Result<()> {
        for (name, _, program) in &mut self.members {
            if !program.is_running()? {
                bail!("pgbench {name} has ended too early\n{}", program.log_tail());
            }
        }
        Ok(())
    }

    /// Waits for the end of all of them.
    ///
    /// # Errors
    /// The user interrupts, or a log cannot be read.
    pub(crate) fn finish(mut self) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for (number, (name, clients, program)) in self.members.iter_mut().enumerate() {
            let status = program.wait()?;
            outcome.clients += *clients as usize;
            let before = outcome.failed;
            outcome.read_report(name, &program.log_text());
            for entry in fs::read_dir(self.dir.path())
                .context("cannot list pgbench's logs")?
                .flatten()
            {
                if is_log_of(name, &entry.file_name().to_string_lossy()) {
                    let text = fs::read_to_string(entry.path()).context("cannot read a log")?;
                    outcome.read_log(number, &text);
                }
            }
            if !status.success() && outcome.failed == before {
                outcome.failed += 1;
                outcome.complain(format!("{name}: pgbench ended with {status}"));
            }
        }
        Ok(outcome)
    }
}

/// `NAME.PID`, and `NAME.PID.THREAD`.
fn is_log_of(name: &str, file: &str) -> bool {
    file.strip_prefix(name)
        .and_then(|rest| rest.strip_prefix('.'))
        .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

fn script_arguments(scripts: Scripts<'_>, dir: &Path) -> Result<Vec<String>> {
    let mut arguments = Vec::new();
    match scripts {
        Scripts::BuiltIn(names) => {
            for name in names {
                arguments.extend(["-b".to_owned(), (*name).to_owned()]);
            }
        }
        Scripts::Own(texts) => {
            for (number, text) in texts.iter().enumerate() {
                let path = dir.join(format!("script-{number}.sql"));
                fs::write(&path, text)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                arguments.extend(["-f".to_owned(), path.display().to_string()]);
            }
        }
    }
    Ok(arguments)
}

impl Outcome {
    fn complain(&mut self, text: String) {
        if self.complaints.len() < 5 {
            self.complaints.push(text);
        }
    }

    /// pgbench's messages: each client that gives up has a line with the word.
    fn read_report(&mut self, name: &str, text: &str) {
        for line in text.lines().filter(|line| line.contains(" aborted")) {
            self.failed += 1;
            self.complain(format!("{name}: {line}"));
        }
    }

    /// `client transaction latency_us script epoch_s epoch_us …`; the latency of a transaction that
    /// failed is a word.
    fn read_log(&mut self, group: usize, text: &str) {
        for line in text.lines() {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
            let read = (number(0), number(2), number(4), number(5));
            if let (Some(client), Some(latency_us), Some(seconds), Some(us)) = read {
                self.ended.push(Ended {
                    client: (group, client as u32),
                    at_us: seconds * 1_000_000 + us,
                    latency_us,
                });
            } else {
                self.failed += 1;
                self.complain(line.to_owned());
            }
        }
    }

    /// How many transactions there were.
    pub(crate) fn transactions(&self) -> usize {
        self.ended.len()
    }

    /// Transactions a second that ended in a span of time.
    pub(crate) fn tps(&self, span: &Range<u64>) -> f64 {
        let seconds = span.end.saturating_sub(span.start) as f64 / 1e6;
        self.latencies_us(span).len() as f64 / seconds.max(1e-6)
    }

    /// Latencies of transactions that ended in a span of time, sorted.
    pub(crate) fn latencies_us(&self, span: &Range<u64>) -> Vec<u64> {
        let within = self.ended.iter().filter(|one| span.contains(&one.at_us));
        let mut latencies: Vec<u64> = within.map(|one| one.latency_us).collect();
        latencies.sort_unstable();
        latencies
    }

    /// The longest latency in a span of time, in milliseconds.
    pub(crate) fn stall_ms(&self, span: &Range<u64>) -> f64 {
        let latencies = self.latencies_us(span);
        latencies.last().copied().unwrap_or(0) as f64 / 1e3
    }

    /// Clients that ended no transaction after this moment.
    pub(crate) fn silent_since(&self, at_us: u64) -> usize {
        let later = self.ended.iter().filter(|one| one.at_us > at_us);
        let heard: BTreeSet<_> = later.map(|one| one.client).collect();
        self.clients.saturating_sub(heard.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_is_counted_and_words_in_place_of_a_latency_are_failures() {
        let mut outcome = Outcome {
            clients: 3,
            ..Outcome::default()
        };
        outcome.read_log(0, "0 1 2000 0 5 10\n0 2 9000 1 7 0\n1 1 failed 0 6 0\n");
        outcome.read_log(1, "0 1 100 0 6 0\n");
        assert_eq!((outcome.transactions(), outcome.failed), (3, 1));
        let all = 0..8_000_000;
        assert_eq!(outcome.latencies_us(&all), [100, 2000, 9000]);
        assert!((outcome.stall_ms(&all) - 9.0).abs() < 1e-9);
        assert!((outcome.stall_ms(&(0..6_500_000)) - 2.0).abs() < 1e-9);
        assert_eq!(outcome.silent_since(5_500_000), 1);
        assert_eq!(outcome.silent_since(6_500_000), 2);
        assert!((outcome.tps(&(5_000_000..7_000_000)) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn clients_that_give_up_are_failures() {
        let mut outcome = Outcome::default();
        outcome.read_report(
            "x",
            "pgbench: error: client 3 aborted in command 1\nnumber of failed transactions: 0\n",
        );
        assert_eq!(outcome.failed, 1);
        assert!(outcome.complaints[0].contains("client 3"));
    }

    #[test]
    fn logs_belong_to_the_group_of_their_whole_name() {
        assert!(is_log_of("kept", "kept.12") && is_log_of("kept", "kept.12.1"));
        assert!(!is_log_of("kept", "kept-prepared.12") && !is_log_of("kept", "kept.sql"));
    }
}
