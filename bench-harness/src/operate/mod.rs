//! Checks that a pooler can be operated while clients work.
//!
//! ```text
//!   reloads ──┬── crowd      pgbench, several at a time
//!   moves ────┤── doorman    the pooler and its files ── edition   what the files say
//!   upgrades ─┴── console    psql
//! ```
//!
//! Owns: the list of checks, starting what they need, writing the report.
//! Does not own: what each one does.
//! Invariants: all checks use one PostgreSQL and nobody else does; every round has a fresh pooler;
//! a check that cannot be made is a failed check and the others go on.

mod console;
mod crowd;
mod doorman;
mod edition;
mod moves;
mod reloads;
mod upgrades;

use std::path::Path;

use anyhow::{Result, bail};

use crate::cli::OperateOptions;
use crate::interrupt;
use crate::load::Script;
use crate::machine::Machine;
use crate::postgres::Postgres;
use crate::target::Catalogue;
use crate::verdict::{Finding, Verdict};

use console::Oracle;

/// The target that is checked.
const TARGET: &str = "pg_doorman";

/// One check.
struct Check {
    name: &'static str,
    description: &'static str,
    run: fn(&Bench<'_>, &mut Finding) -> Result<()>,
}

const CHECKS: [Check; 5] = [
    Check {
        name: "reloads",
        description: "200 clients of pgbench, simple and prepared, on a pool of 20 and 2 shards, 40 more on a pool \
                      that changes; meanwhile 100 reloads, by SIGHUP and RELOAD in turn, each with one setting changed: \
                      nobody notices.",
        run: reloads::run,
    },
    Check {
        name: "moves",
        description: "200 clients of pgbench, simple and prepared, on a pool of 20 and 2 shards; 10 times PAUSE, \
                      another address of the server, RELOAD, RESUME: no transaction fails, gets lost or goes to the \
                      old server.",
        run: moves::run,
    },
    Check {
        name: "upgrades",
        description: "200 clients of pgbench, simple, extended and prepared, on a pool of 20 and 2 shards; 20 binary \
                      upgrades in 60 s: nobody notices, and the servers stay.",
        run: upgrades::run,
    },
    Check {
        name: "upgrades-tls",
        description: "The same with TLS between the clients and the pooler.",
        run: upgrades::run_encrypted,
    },
    Check {
        name: "upgrades-chain",
        description: "40 clients, half of them with TLS; 50 binary upgrades one after the other: nothing piles up.",
        run: upgrades::run_chain,
    },
];

/// What the checks have in common.
pub(crate) struct Bench<'a> {
    server: &'a Postgres,
    /// Where a further PostgreSQL comes from.
    programs: Option<&'a Path>,
    catalogue: &'a Catalogue,
    rounds: u32,
    seconds: Option<u32>,
    steps: Option<u32>,
}

impl Bench<'_> {
    /// The length of a round: the user's, or the check's own.
    fn seconds(&self, default: u32) -> u32 {
        self.seconds.unwrap_or(default)
    }

    /// How often something is done in a round: as the user says, or the check.
    fn steps(&self, default: u32) -> u32 {
        self.steps.unwrap_or(default)
    }

    fn make(&self, check: &Check) -> Finding {
        eprintln!("{}: {}", check.name, check.description);
        let mut finding = Finding::new(check.name, check.description);
        if let Err(error) = (check.run)(self, &mut finding) {
            let reason = format!("{error:#}");
            eprintln!("  {reason}");
            // The rest is the end of some log.
            finding.fail(reason.lines().next().unwrap_or_default());
        }
        finding
    }
}

/// Names and descriptions of all checks.
pub(crate) fn checks() -> [(&'static str, &'static str); 5] {
    CHECKS.map(|check| (check.name, check.description))
}

/// Makes the checks and writes the report.
///
/// # Errors
/// A check fails, or nothing can be started or written.
pub(crate) fn run(options: &OperateOptions) -> Result<()> {
    let checks = select(&options.only)?;
    let catalogue = crate::catalogue(&options.target)?;
    let pooler = catalogue.target(TARGET, 1)?.version_text;
    let machine = Machine::read();
    machine.warn();
    let directory = options.out.join(machine.date.replace(':', ""));
    let server = crate::start_server(&options.target, Script::SelectOnly)?;
    create_roles(&Oracle::new(&server, server.address()))?;
    let bench = Bench {
        server: &server,
        programs: options.target.pg_bin.as_deref(),
        catalogue: &catalogue,
        rounds: options.rounds,
        seconds: options.seconds,
        steps: options.steps,
    };
    let mut findings = Vec::new();
    for check in checks {
        let finding = bench.make(check);
        println!("{}", finding.markdown());
        findings.push(finding);
        if interrupt::is_requested() {
            break;
        }
    }
    let verdict = Verdict {
        title: "Operated under load",
        machine,
        postgres: server.version.clone(),
        pooler,
        seed: None,
        checks: findings,
    };
    drop(server);
    verdict.write(&directory, "operate")?;
    verdict.conclude()
}

/// The users that pools log in as, by which their sessions are told apart.
fn create_roles(server: &Oracle) -> Result<()> {
    for (_, user) in [edition::KEPT, edition::CHANGED] {
        server.superuser(&format!("create role {user} superuser login"))?;
    }
    Ok(())
}

fn select(only: &[String]) -> Result<Vec<&'static Check>> {
    for name in only {
        if !CHECKS.iter().any(|check| check.name == name) {
            let names = CHECKS.map(|check| check.name);
            bail!(
                "no check is called {name:?}; there are {}",
                names.join(", ")
            );
        }
    }
    let wanted = |check: &&Check| only.is_empty() || only.iter().any(|n| n == check.name);
    Ok(CHECKS.iter().filter(wanted).collect())
}
