//! Loads that pgbench drives.
//!
//! Owns: pgbench's command line, its progress and final output, its transaction log.
//! Does not own: the processes measured (`probe.rs`), the scenarios (`scenario.rs`).
//! Invariants: every figure is of the same window, which begins with pgbench's first progress
//! report: logging in, opening server connections and filling caches happen before it.
//! Source: pgbench.html.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::child;
use crate::cpu;
use crate::interrupt;
use crate::metric::{Figures, Metric};
use crate::pooler::Pooler;
use crate::postgres::Postgres;
use crate::probe::Snapshot;
use crate::scenario::Load;
use crate::statistics::percentile;

/// The seconds before the window, which is also the period of pgbench's progress reports.
const WARM_UP_S: u32 = 1;

/// The transaction pgbench runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Script {
    /// pgbench's own: one row of a table by its key.
    SelectOnly,
    /// `select :aid`: one row, no table.
    SelectLiteral,
}

/// What all loads of a run have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadSettings {
    /// Length of the window.
    pub(crate) seconds: u32,
    pub(crate) script: Script,
    /// pgbench's threads, unless there are fewer clients.
    pub(crate) jobs: u32,
}

/// Runs one load against a running target.
///
/// # Errors
/// pgbench cannot be started, fails, or the user interrupts.
pub(crate) fn run(
    load: Load,
    settings: LoadSettings,
    pooler: &Pooler,
    server: &Postgres,
) -> Result<Figures> {
    let dir = server.create_dir("pgbench-")?;
    let words = arguments(load, settings, pooler, server, dir.path())?;
    let children_before = children_cpu_us()?;
    let mut child = child::command(&words, None)?
        .env(
            "PGSSLMODE",
            if pooler.manner.tls {
                "require"
            } else {
                "disable"
            },
        )
        .env(
            "PGPASSWORD",
            pooler.manner.password.as_deref().unwrap_or_default(),
        )
        .env("PGGSSENCMODE", "disable")
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start pgbench")?;
    let window = watch(&mut child, pooler);
    if window.is_err() {
        let _ = child.kill();
    }
    let status = child::wait(&mut child)?;
    let (window, messages) = window?;
    let end = pooler.probe.end()?;
    let mut report = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout
            .read_to_string(&mut report)
            .context("cannot read pgbench's report")?;
    }
    let Some(window) = window.filter(|_| status.success()) else {
        // Every client complains; the first one tells what is wrong.
        let first: String = messages.chars().take(300).collect();
        bail!("pgbench failed ({status}): {first}");
    };
    let total = parse_report(&report).with_context(|| format!("pgbench reported\n{report}"))?;
    if total.failed > 0 {
        bail!("{} transactions failed", total.failed);
    }
    let seconds = total.transactions as f64 / total.tps - window.progress.seconds;
    let units = total.transactions as f64 - window.progress.tps * window.progress.seconds;
    let driver_us = children_cpu_us()? - children_before - window.driver_us;
    let mut figures = pooler.probe.costs(&window.begin, &end, driver_us, units);
    figures.insert(Metric::Throughput, units / seconds);
    figures.extend(latencies(dir.path(), window.epoch_us)?);
    Ok(figures)
}

/// pgbench's command line.
fn arguments(
    load: Load,
    settings: LoadSettings,
    pooler: &Pooler,
    server: &Postgres,
    dir: &Path,
) -> Result<Vec<String>> {
    let jobs = settings.jobs.min(load.clients);
    let mut words = vec![server.pgbench(), "-n".into()];
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    option("-h", pooler.address.ip().to_string());
    option("-p", pooler.address.port().to_string());
    option("-U", "postgres".into());
    option("-M", load.protocol.name().into());
    option("-c", load.clients.to_string());
    option("-j", jobs.to_string());
    option("-T", (settings.seconds + WARM_UP_S).to_string());
    option("-P", WARM_UP_S.to_string());
    option(
        "--log-prefix",
        dir.join("transactions").display().to_string(),
    );
    if let Some(rate) = load.rate {
        option("-R", rate.to_string());
    }
    match settings.script {
        Script::SelectOnly => option("-b", "select-only".into()),
        Script::SelectLiteral => {
            let path = dir.join("select.sql");
            fs::write(&path, "\\set aid random(1, 100000)\nselect :aid;\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
            option("-f", path.display().to_string());
        }
    }
    words.push("--log".into());
    if load.sampling < 1.0 {
        words.push(format!("--sampling-rate={}", load.sampling));
    }
    if load.reconnect {
        words.push("-C".into());
    }
    words.push("postgres".into());
    Ok(words)
}

/// The begin of the window.
#[derive(Debug)]
struct Window {
    progress: Progress,
    begin: Snapshot,
    epoch_us: u64,
    /// CPU pgbench had used before.
    driver_us: f64,
}

/// Reads pgbench's messages until it closes them, and marks the window at the first progress
/// report. Returns what was no progress report as well.
fn watch(child: &mut Child, pooler: &Pooler) -> Result<(Option<Window>, String)> {
    let stderr = child.stderr.take().context("pgbench has no stderr")?;
    let lines = read_lines(stderr);
    let mut window = None;
    let mut messages = String::new();
    loop {
        let line = match lines.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                interrupt::check()?;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok((window, messages)),
        };
        match parse_progress(&line) {
            Some(progress) if window.is_none() => {
                let begin = pooler.probe.begin()?;
                let now = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                window = Some(Window {
                    progress,
                    begin,
                    epoch_us: now.as_micros() as u64,
                    driver_us: cpu::process_ns(child.id()).unwrap_or(0) as f64 / 1e3,
                });
            }
            None if messages.len() < 2000 => messages = messages + &line + "\n",
            Some(_) | None => {}
        }
    }
}

fn read_lines(stderr: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// CPU of all children that ended, in microseconds.
fn children_cpu_us() -> Result<f64> {
    let usage =
        getrusage(UsageWho::RUSAGE_CHILDREN).context("cannot read the children's CPU time")?;
    Ok((usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64)
}

/// `progress: 1.0 s, 23456.7 tps, lat …`
#[derive(Debug, Clone, Copy, PartialEq)]
struct Progress {
    seconds: f64,
    tps: f64,
}

fn parse_progress(line: &str) -> Option<Progress> {
    let mut parts = line.strip_prefix("progress: ")?.split(", ");
    let seconds = parts.next()?.strip_suffix(" s")?.parse().ok()?;
    let tps = parts.next()?.strip_suffix(" tps")?.parse().ok()?;
    Some(Progress { seconds, tps })
}

/// pgbench's final report.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Total {
    transactions: u64,
    failed: u64,
    tps: f64,
}

fn parse_report(report: &str) -> Option<Total> {
    let value = |prefix: &str| {
        let line = report.lines().find_map(|line| line.strip_prefix(prefix))?;
        line.split([' ', '/']).next()
    };
    let tps: f64 = value("tps = ")?.parse().ok()?;
    Some(Total {
        transactions: value("number of transactions actually processed: ")?
            .parse()
            .ok()?,
        failed: value("number of failed transactions: ")
            .unwrap_or("0")
            .parse()
            .ok()?,
        tps: if tps > 0.0 { tps } else { return None },
    })
}

/// Percentiles of the transactions that ended after `epoch_us`, from all log files of `dir`.
fn latencies(dir: &Path, epoch_us: u64) -> Result<Figures> {
    let mut sorted = Vec::new();
    for entry in fs::read_dir(dir)
        .context("cannot list pgbench's logs")?
        .flatten()
    {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with("transactions.")
        {
            let text = fs::read_to_string(entry.path()).context("cannot read pgbench's log")?;
            sorted.extend(
                text.lines()
                    .filter_map(parse_log_line)
                    .filter_map(|(ended_us, latency_us)| {
                        (ended_us >= epoch_us).then_some(latency_us)
                    }),
            );
        }
    }
    sorted.sort_unstable();
    let ranks = [
        (Metric::LatencyP50Ms, 500),
        (Metric::LatencyP99Ms, 990),
        (Metric::LatencyP999Ms, 999),
    ];
    Ok(ranks
        .into_iter()
        .filter_map(|(metric, per_mille)| {
            Some((metric, percentile(&sorted, per_mille)? as f64 / 1e3))
        })
        .collect())
}

/// `client transaction latency_us script epoch_s epoch_us …` → end and latency in microseconds.
/// Skipped and failed transactions have a word in place of the latency.
fn parse_log_line(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_ascii_whitespace().skip(2);
    let latency_us = fields.next()?.parse().ok()?;
    let seconds: u64 = fields.nth(1)?.parse().ok()?;
    let microseconds: u64 = fields.next()?.parse().ok()?;
    Some((seconds * 1_000_000 + microseconds, latency_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_line_is_parsed_and_other_lines_are_not() {
        let line = "progress: 1.0 s, 23456.7 tps, lat 1.702 ms stddev 0.701, 0 failed";
        assert_eq!(
            parse_progress(line),
            Some(Progress {
                seconds: 1.0,
                tps: 23456.7
            })
        );
        assert_eq!(
            parse_progress("pgbench (15.18 (Debian 15.18-0+deb12u1))"),
            None
        );
        assert_eq!(parse_progress("progress: soon"), None);
    }

    #[test]
    fn final_report_is_parsed() {
        let report = "transaction type: <builtin: select only>\nduration: 2 s\n\
                      number of transactions actually processed: 41234\n\
                      number of failed transactions: 3 (0.007%)\nlatency average = 1.9 ms\n\
                      tps = 20612.119853 (without initial connection time)\n";
        let total = Total {
            transactions: 41_234,
            failed: 3,
            tps: 20_612.119_853,
        };
        assert_eq!(parse_report(report), Some(total));
    }

    #[test]
    fn report_without_transactions_is_refused() {
        assert_eq!(
            parse_report("number of transactions actually processed: 0\ntps = 0.0 (w)\n"),
            None
        );
        assert_eq!(parse_report(""), None);
    }

    #[test]
    fn transaction_count_of_a_fixed_number_run_is_parsed() {
        let report = "number of transactions actually processed: 50/50\ntps = 10.5 (x)\n";
        assert_eq!(
            parse_report(report).map(|total| total.transactions),
            Some(50)
        );
    }

    #[test]
    fn log_line_yields_end_and_latency() {
        assert_eq!(
            parse_log_line("0 199 2241 0 1175850568 995598"),
            Some((1_175_850_568_995_598, 2241))
        );
        assert_eq!(
            parse_log_line("0 199 2241 0 1175850568 995598 77"),
            Some((1_175_850_568_995_598, 2241))
        );
        assert_eq!(parse_log_line("0 200 skipped 0 1175850568 995598"), None);
        assert_eq!(parse_log_line("0 2"), None);
    }

    #[test]
    fn latencies_leave_out_what_ended_before_the_window() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let text = "0 1 900000 0 1 0\n0 2 1000 0 2 500000\n0 3 3000 0 2 600000\n";
        fs::write(dir.path().join("transactions.77"), text).expect("write a log");
        let figures = latencies(dir.path(), 2_000_000).expect("readable");
        let expected = [(Metric::LatencyP50Ms, 1.0), (Metric::LatencyP99Ms, 3.0)];
        assert_eq!(
            figures,
            Figures::from([expected[0], expected[1], (Metric::LatencyP999Ms, 3.0)])
        );
    }
}
