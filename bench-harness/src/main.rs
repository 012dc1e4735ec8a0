//! Measures PostgreSQL connection poolers side by side.
//!
//! ```text
//!  main ── cli            what is wanted
//!    │
//!    ├── postgres         a throw-away server ─┐
//!    ├── target           what can be measured ├── child (processes that never stay behind)
//!    ├── run ── pooler    a target while it runs
//!    │     ├── load       pgbench              ┐
//!    │     ├── bulk       large answers, logins├── probe ── cpu, memory, proc_tree
//!    │     ├── storm      logins all at once   │
//!    │     └── idle       idle clients         ┘
//!    ├── mesh             checks that shards are one pool, with clients of its own ┐
//!    ├── operate          checks of reloads, moves, upgrades under pgbench         ┴── verdict
//!    └── report, plot     JSON, Markdown, SVG
//! ```
//!
//! Owns: turning the command line into a plan and the results into files.
//! Does not own: everything above.
//! Invariants: threads other than this one start no process (see `child.rs`).

mod bulk;
mod child;
mod cli;
mod client;
mod cpu;
mod demo;
mod idle;
mod interrupt;
mod knock;
mod load;
mod machine;
mod memory;
mod mesh;
mod metric;
mod operate;
mod plot;
mod pooler;
mod postgres;
mod probe;
mod proc_tree;
mod report;
mod run;
mod scenario;
mod statistics;
mod storm;
mod target;
mod verdict;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};

use crate::cli::{Arguments, Command, DemoOptions, RunOptions, TargetOptions};
use crate::demo::Demo;
use crate::load::{LoadSettings, Script};
use crate::machine::Machine;
use crate::postgres::Postgres;
use crate::report::{Results, ScenarioResult, Settings, TargetFacts};
use crate::run::Plan;
use crate::target::{Catalogue, Target};

/// Connections PostgreSQL accepts: a pool, or the clients of `direct`, and some to spare.
const SERVER_CONNECTIONS_MAX: u32 = 300;
/// Size of pgbench's tables: a million rows, 150 MB.
const SCALE: u32 = 10;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = interrupt::catch()
        .and_then(|()| idle::raise_file_limit())
        .and_then(|()| match arguments.command {
            Command::Run(options) => run(&options),
            Command::Mesh(options) => mesh::run(&options),
            Command::Operate(options) => operate::run(&options),
            Command::Demo(options) => demo(&options),
            Command::List(options) => list(&options),
        });
    match outcome {
        Ok(()) if interrupt::is_requested() => ExitCode::from(130),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-harness: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &RunOptions) -> Result<()> {
    let catalogue = catalogue(&options.target)?;
    let targets = options
        .targets
        .iter()
        .map(|word| catalogue.target(word, options.target.shards))
        .collect::<Result<Vec<Target>>>()?;
    let load = LoadSettings {
        seconds: options.seconds,
        script: options.script,
        jobs: options.jobs.unwrap_or_else(default_jobs),
    };
    let plan = Plan {
        targets,
        scenarios: scenario::select(&options.scenarios)?,
        rounds: options.rounds,
        pool_size: options.pool_size,
        load,
    };
    let machine = Machine::read();
    machine.warn();
    let directory = options.out.join(machine.date.replace(':', ""));
    let server = start_server(&options.target, load.script)?;
    eprintln!(
        "Measuring takes about {}.",
        humantime::format_duration(plan.duration())
    );
    let scenarios = plan.execute(&server);
    let results = results(&plan, machine, &server, &options.baseline, scenarios);
    drop(server);
    let markdown = results.markdown();
    println!("{markdown}");
    write_report(&results, &markdown, &directory)?;
    eprintln!("Report: {}", directory.join("results.md").display());
    Ok(())
}

fn demo(options: &DemoOptions) -> Result<()> {
    let catalogue = catalogue(&options.target)?;
    let load = demo::load_settings(options.seconds, default_jobs());
    let demo = Demo::new(&catalogue, &options.pooler, options.target.shards, load)?;
    let machine = Machine::read();
    machine.warn();
    let server = start_server(&options.target, load.script)?;
    let scenarios = demo.plan.execute(&server);
    let results = results(&demo.plan, machine, &server, "pgbouncer", scenarios);
    for scenario in &results.scenarios {
        let table = results.scenario_table(scenario, &demo::COLUMNS);
        println!("\n{}\n\n{table}", scenario.description);
    }
    if options.stay && !interrupt::is_requested() {
        demo.stay(&server)?;
    }
    Ok(())
}

fn list(options: &TargetOptions) -> Result<()> {
    println!("targets:   {}", catalogue(options)?.names().join(", "));
    println!("scenarios:");
    for scenario in scenario::all() {
        println!("  {:<18} {}", scenario.name, scenario.description);
    }
    println!("checks of mesh:");
    for (name, description) in mesh::checks() {
        println!("  {name:<18} {description}");
    }
    println!("checks of operate:");
    for (name, description) in operate::checks() {
        println!("  {name:<18} {description}");
    }
    Ok(())
}

fn catalogue(options: &TargetOptions) -> Result<Catalogue> {
    let mut catalogue = Catalogue::load(&options.target_file)?;
    for (name, path) in &options.build {
        catalogue.add_build(name, "pg_doorman", &with_directory(path))?;
    }
    catalogue.set_binary("pg_doorman", &with_directory(&options.pg_doorman));
    Ok(catalogue)
}

/// A path given by the user is never searched in `PATH`.
fn with_directory(path: &Path) -> PathBuf {
    Path::new(".").join(path)
}

fn start_server(options: &TargetOptions, script: Script) -> Result<Postgres> {
    eprintln!("Starting a throw-away PostgreSQL.");
    let server = Postgres::start(options.pg_bin.as_deref(), SERVER_CONNECTIONS_MAX)?;
    if script == Script::SelectOnly {
        eprintln!("Filling pgbench's tables at scale {SCALE}.");
        server.fill(SCALE)?;
    }
    Ok(server)
}

fn default_jobs() -> u32 {
    thread::available_parallelism().map_or(1, |cpus| cpus.get().min(4) as u32)
}

fn results(
    plan: &Plan,
    machine: Machine,
    server: &Postgres,
    baseline: &str,
    scenarios: Vec<ScenarioResult>,
) -> Results {
    let script = plan.load.script.to_possible_value();
    Results {
        machine,
        postgres: server.version.clone(),
        settings: Settings {
            rounds: plan.rounds,
            seconds: plan.load.seconds,
            pool_size: plan.pool_size,
            script: script.map_or_else(String::new, |value| value.get_name().to_owned()),
            pgbench_jobs: plan.load.jobs,
            baseline: baseline.to_owned(),
        },
        targets: plan.targets.iter().map(TargetFacts::new).collect(),
        scenarios,
    }
}

fn write_report(results: &Results, markdown: &str, directory: &Path) -> Result<()> {
    if results
        .scenarios
        .iter()
        .all(|scenario| scenario.metrics().is_empty())
    {
        bail!("nothing was measured");
    }
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let json = serde_json::to_string_pretty(results).context("cannot write JSON")?;
    for (name, text) in [("results.json", json.as_str()), ("results.md", markdown)] {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    plot::draw_all(results, directory)
}
