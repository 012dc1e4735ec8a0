//! The same bytes to PostgreSQL and through the pooler: both must answer the same.
//!
//! Owns: running seeds in threads, and showing what was different.
//! Does not own: what is said (`generator`), how it is compared (`pair`, `compare`), what is known to be
//! different (`gaps`).
//! Invariants: what is said depends on the seed and on PostgreSQL's answers only. When other clients do
//! what is left to chance, so a seed that has shown a difference need not show it again.
//!
//! ```text
//!             ┌──▶ PostgreSQL, database `twin` ───────────────┐
//!   script ───┤                                               ├──▶ equal?
//!             └──▶ pooler, 2 shards ──▶ PostgreSQL, `it` ─────┘
//!                      ▲
//!   others ────────────┘  more clients than servers
//! ```
//!
//! `cargo test --test differential` says 2,000 scripts, or as many as 30 s allow. Environment:
//! `DIFFERENTIAL_SEEDS` (how many, however long), `DIFFERENTIAL_SECONDS` (for how long at most),
//! `DIFFERENTIAL_FIRST` (the first of them; random without it), `DIFFERENTIAL_THREADS`,
//! `DIFFERENTIAL_SHOW` (known differences to be shown, see `gaps`), `DIFFERENTIAL_FAULTS` (kinds of
//! difference after which it stops). Many:
//! `DIFFERENTIAL_SEEDS=100000 cargo test --release --test differential -- --nocapture`.
//!
//! Source: protocol-flow.html.

#![allow(
    clippy::unwrap_used,
    reason = "the whole crate is a test: a failed unwrap is a failed test"
)]

#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "shared with the integration tests, which use more of it"
)]
#[path = "../it/common/mod.rs"]
mod common;
mod compare;
#[allow(
    dead_code,
    reason = "shared with the simulation, which uses more of it"
)]
#[path = "../sim/dice.rs"]
mod dice;
mod gaps;
mod generator;
mod others;
mod pair;
mod progress;
mod script;
mod shrink;
mod texts;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Config, Doorman, Postgres};
use gaps::Gaps;
use pair::{Difference, Pair, Ports};
use script::Script;

/// How many scripts are said, and for how long, if nothing else is asked for.
const COUNT: u64 = 2000;
const SECONDS: u64 = 30;
/// Clients that disturb.
const OTHERS: usize = 3;

/// What all threads share.
struct Run {
    ports: Ports,
    gaps: Gaps,
    first: u64,
    count: u64,
    next: AtomicU64,
    said: AtomicU64,
    faults_max: usize,
    end: Instant,
    /// How often each kind of difference was seen.
    faults: Mutex<BTreeMap<String, usize>>,
}

/// Tells which seed a thread was at when it panicked.
struct ShownOnPanic(u64, Script);

impl Drop for ShownOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("at DIFFERENTIAL_FIRST={}\n{}", self.0, show(&self.1));
        }
    }
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
    )
}

fn prepare_databases() -> Doorman {
    let postgres = Postgres::shared();
    let mut superuser = postgres.superuser();
    superuser.execute(
        "create table shared (id int primary key, v text);
         insert into shared select id, 'value ' || id from generate_series(1, 5) id;
         alter table shared owner to app",
    );
    drop(superuser);
    let mut superuser = common::Login::new(postgres.port())
        .user("postgres")
        .database("postgres")
        .connect();
    let database = common::postgres::DATABASE;
    let copy = format!("create database {} template {database}", pair::TWIN);
    // The connection that was just closed may not be gone yet.
    common::eventually("the database is copied", || {
        superuser.query(&copy).errors.is_empty()
    });
    Config::new(postgres)
        .shards(2)
        .pool_size(3)
        .general("query_wait_timeout", "30s")
        .log_level("warn")
        .pool_key("application_name", pair::APPLICATION)
        .pool_key("prepared_statements_cache_size", 12)
        .start()
}

/// The script as it is said, a line a step.
fn show(script: &Script) -> String {
    let lines: Vec<_> = script.iter().map(|step| format!("    {step}\n")).collect();
    lines.concat()
}

impl Run {
    /// Says scripts until none is left.
    fn work(&self, thread: usize) {
        let mut pair = Pair::new(thread, self.ports, &self.gaps);
        loop {
            let has_enough = self.faults.lock().unwrap().len() >= self.faults_max;
            if has_enough || Instant::now() > self.end {
                return;
            }
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            if turn >= self.count {
                return;
            }
            let seed = self.first + turn;
            let shown = ShownOnPanic(seed, generator::script(seed));
            let outcome = pair.run(&shown.1);
            self.said.fetch_add(1, Ordering::Relaxed);
            if let Err(difference) = outcome {
                self.report(&mut pair, seed, &shown.1, &difference);
            }
        }
    }

    fn report(&self, pair: &mut Pair<'_>, seed: u64, script: &Script, difference: &Difference) {
        let kind = difference.kind.clone();
        let is_known = {
            let mut faults = self.faults.lock().unwrap();
            let count = faults.entry(kind.clone()).or_insert(0);
            *count += 1;
            *count > 1
        };
        if is_known {
            return;
        }
        let small = shrink::shrink(pair, script, &kind);
        let script_text = if small.shown == 0 {
            show(script)
        } else {
            show(&small.script)
        };
        let text = if small.last.is_empty() {
            difference.to_string()
        } else {
            small.last
        };
        println!(
            "\nDIFFERENTIAL_FIRST={seed} DIFFERENTIAL_SEEDS=1, shown again {} times of {}:\n\
             {script_text}  {text}\n",
            small.shown, small.runs
        );
    }
}

#[test]
fn the_pooler_answers_as_postgresql_does() {
    let doorman = prepare_databases();
    let count = number("DIFFERENTIAL_SEEDS");
    let seconds = count.map_or(SECONDS, |_| u64::from(u32::MAX));
    let run = Run {
        ports: Ports {
            postgres: Postgres::shared().port(),
            pooler: doorman.port(),
        },
        gaps: Gaps::from_environment(),
        first: number("DIFFERENTIAL_FIRST").unwrap_or_else(|| u64::from(rand::random::<u32>())),
        count: count.unwrap_or(COUNT),
        next: AtomicU64::new(0),
        said: AtomicU64::new(0),
        faults_max: number("DIFFERENTIAL_FAULTS").unwrap_or(5) as usize,
        end: Instant::now()
            + Duration::from_secs(number("DIFFERENTIAL_SECONDS").unwrap_or(seconds)),
        faults: Mutex::new(BTreeMap::new()),
    };
    println!(
        "DIFFERENTIAL_FIRST={} DIFFERENTIAL_SEEDS={}",
        run.first, run.count
    );
    let threads = number("DIFFERENTIAL_THREADS").unwrap_or(8) as usize;
    let is_over = AtomicBool::new(false);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for other in 0..OTHERS {
            let is_over = &is_over;
            let port = run.ports.pooler;
            scope.spawn(move || others::disturb(port, other, is_over));
        }
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let run = &run;
                scope.spawn(move || run.work(thread))
            })
            .collect();
        let outcomes: Vec<_> = workers
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect();
        is_over.store(true, Ordering::Relaxed);
        for outcome in outcomes {
            if let Err(panic) = outcome {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let said = run.said.load(Ordering::Relaxed);
    let seconds = start.elapsed().as_secs_f64();
    let faults = run.faults.into_inner().unwrap();
    println!(
        "{said} scripts in {seconds:.1} s, {:.0} a second; differences: {faults:?}",
        said as f64 / seconds
    );
    assert!(faults.is_empty(), "differences, see above");
}
