//! From arguments to a running process, and its end.
//!
//! **Owns:** the order of start-up, exit codes.
//! **Does not own:** what runs afterwards (`control`, `shard_main`).
//!
//! Source: sysexits.h for the exit codes.

use std::fs::File;
use std::io;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crossbeam_queue::SegQueue;
use shards::{
    Placement, Policy, Requested, ShardCount, Socket, Topology, launch, place, probe_host,
};
use tokio::sync::mpsc::UnboundedSender;

use crate::admin::Listening;
use crate::config::{self, Config, General};
use crate::metrics::Fleet;
use crate::server::quota::Quotas;
use crate::session::budget::Budget;
use crate::session::shard::Connections;
use crate::tls::{Keyring, Material};

use super::activation::activated;
use super::advice::{self, Facts};
use super::cli::{self, Cli, Command, EXIT_CONFIG};
use super::control::{control, prepare};
use super::daemon::{self, Foreground, Side};
use super::hand_over::OnTheirWay;
use super::listen::{Places, Unusable};
use super::logging::{Destination, Syslog};
use super::prover::Prover;
use super::scrape::{self, Scrape, Sources};
use super::shard_main::{Shared, shard_main};
use super::succession::heir::{self, Inheritance, Predecessor};
use super::succession::notify;
use super::succession::steps::{Event, METRICS, Succession, reduced};
use super::{generate, logging, migrate, say};

/// Exit code for something that the operating system refuses.
pub(super) const EXIT_OS: u8 = 71;
/// How long the shards may take to close everything at the end.
const STOP_MAX: Duration = Duration::from_millis(500);

/// Runs the program.
pub fn run(cli: &Cli) -> ExitCode {
    match &cli.command {
        Some(Command::Generate(args)) => return generate::run(args),
        Some(Command::Migrate(args)) => return migrate::run(args),
        None => {}
    }
    if cli.test_config {
        return cli::test_config(&cli.config_file);
    }
    let mut loaded = match config::load(&cli.config_file) {
        Ok(loaded) => loaded,
        Err(error) => return cli::refuse_config(&error),
    };
    let mut prover = Prover::new();
    if let Err(error) = prover.prepare(&mut loaded.config) {
        return cli::refuse_config(&error);
    }
    let mut foreground = None;
    let inheritance = match heir::inherit() {
        Ok(inheritance) => inheritance,
        Err(error) => {
            say::err(&format_args!(
                "pg_doorman: cannot take over from the old process: {error}"
            ));
            return ExitCode::from(EXIT_OS);
        }
    };
    // An heir is where the old process is: in the background already.
    if cli.daemon && inheritance.is_none() {
        match daemon::detach(&loaded.config.general.daemon_pid_file) {
            Ok(Side::Daemon(waiting)) => foreground = Some(waiting),
            Ok(Side::Foreground(code)) => return code,
            Err(reason) => {
                say::err(&format_args!("Error daemonize: {reason}"));
                return ExitCode::from(EXIT_OS);
            }
        }
    }
    let general = &mut loaded.config.general;
    let level = *general.log_level.get_or_insert(cli.log_level);
    match destination(cli, general) {
        Ok(destination) => logging::start(level, cli.log_format, destination),
        Err(refused) => return refused.end(foreground),
    }
    tracing::info!(
        "Welcome to PgDoorman! (Version {})",
        env!("CARGO_PKG_VERSION")
    );
    let facts = Facts {
        // The placement of shards tells more about that.
        cpus: None,
        ..Facts::gather(&cli.config_file)
    };
    let doubts = advice::warnings(&loaded.config, facts);
    for warning in loaded.warnings.iter().chain(&doubts) {
        tracing::warn!("configuration: {warning}");
    }
    let config = Arc::new(loaded.config);
    match serve(cli, &config, (prover, inheritance), &mut foreground) {
        Ok(()) => ExitCode::SUCCESS,
        Err(refused) => refused.end(foreground),
    }
}

/// Why the process cannot run.
struct Refused {
    code: u8,
    reason: String,
}

impl Refused {
    fn new(code: u8, what: &str, error: &impl std::fmt::Display) -> Self {
        Self {
            code,
            reason: format!("{what}: {error}"),
        }
    }

    /// Tells it to everybody who may read it.
    fn end(self, foreground: Option<Foreground>) -> ExitCode {
        let Self { code, reason } = self;
        tracing::error!("{reason}");
        let reason = format!("pg_doorman: {reason}");
        say::err(&reason);
        if let Some(waiting) = foreground {
            waiting.refused(code, &reason);
        }
        ExitCode::from(code)
    }
}

/// Where the log goes.
fn destination(cli: &Cli, general: &General) -> Result<Destination, Refused> {
    let Some(name) = &general.syslog_prog_name else {
        return Ok(Destination::Output {
            has_colours: !cli.no_color,
        });
    };
    let syslog = Syslog::connect(name);
    let refused = |error| Refused::new(EXIT_OS, "cannot log to syslog (syslog_prog_name)", &error);
    syslog.map(Destination::Syslog).map_err(refused)
}

impl From<Unusable> for Refused {
    fn from(Unusable { what, error }: Unusable) -> Self {
        Self::new(EXIT_CONFIG, &what, &error)
    }
}

/// Serves until a signal. `foreground` is told when clients can connect.
fn serve(
    cli: &Cli,
    config: &Arc<Config>,
    (prover, mut inheritance): (Prover, Option<Inheritance>),
    foreground: &mut Option<Foreground>,
) -> Result<(), Refused> {
    let general = &config.general;
    let os = |what: &'static str| move |error: io::Error| Refused::new(EXIT_OS, what, &error);
    let placement = placement(general)?;
    let prepared = prepare().map_err(os("cannot prepare the control thread"))?;
    let listeners = Arc::new(SegQueue::new());
    let places = Places::of(general)?;
    let mut inherited = match &mut inheritance {
        Some(inheritance) => std::mem::take(&mut inheritance.listeners),
        None => adopted(cli, &places)?,
    };
    places.check_free(&inherited)?;
    let hello = inheritance.as_ref().map(|inheritance| &inheritance.hello);
    let hello = hello.cloned().unwrap_or_default();
    let shared = Shared {
        config: Arc::new(reduced(config, &hello.remains)),
        connections: Connections::default(),
        budget: Budget::default(),
        fleet: Fleet::new(placement.plans.len()),
        quotas: Quotas::default(),
        keyring: keyring(config)?,
        on_their_way: OnTheirWay::new(placement.plans.len()),
        mock_secret: prover.secret(),
        generation: hello.generation,
        is_heir: inheritance.is_some(),
        paused: hello.paused.as_slice().into(),
        listening: places.told().into(),
    };
    shared.connections.set_elsewhere(hello.remains.connections);
    // Before the address for clients: who can connect there finds the rest in place.
    let scrape = listen_for_scrapes(config, &shared, &mut inherited)?;
    let mut opened = places.open(placement.plans.len(), general, inherited)?;
    let for_metrics = scrape.as_ref().map(Scrape::socket).transpose();
    let for_metrics = for_metrics.map_err(os("cannot keep the socket for metrics"))?;
    let for_metrics = for_metrics.map(|socket| (METRICS.to_owned(), socket.into()));
    opened.all.extend(for_metrics);
    for sockets in opened.of_shards {
        listeners.push(sockets);
    }
    let socket_file = opened.file;
    let connections = shared.connections.clone();
    let listening = Arc::clone(&shared.listening);
    let numbers = (shared.fleet.clone(), shared.keyring.clone(), prover);
    let (fleet, seat) = launch(&placement.plans, move |context| {
        shard_main(context, shared.clone(), listeners.pop().unwrap_or_default())
    })
    .map_err(os("cannot start the shards"))?;
    tell_places(&listening);
    tracing::info!(shards = placement.plans.len(), "Waiting for dear clients");
    let ready = foreground.take().map(Foreground::ready).transpose();
    let pid_file = ready.map_err(os("cannot write the pid file"))?;
    let told = (cli.config_file.clone(), Arc::clone(config), cli.log_level);
    let start = |events: UnboundedSender<Event>| {
        let (pid_file, predecessor) = take_over(pid_file, inheritance, &events)?;
        let known = (hello.generation, connections, hello.remains);
        let (all, events) = (opened.all, events);
        Ok(Succession::new(known, all, pid_file, predecessor, events))
    };
    let is_succeeded = control(prepared, seat, told, numbers, scrape, start)
        .map_err(os("the control thread has failed"))?;
    if is_succeeded && let Some(file) = socket_file {
        file.leave();
    }
    wait_for_end(fleet);
    Ok(())
}

/// Waits until the shards have closed everything, but not for long.
fn wait_for_end(fleet: shards::Fleet) {
    let (ended, ends) = mpsc::channel();
    std::thread::spawn(move || {
        // The receiver may have given up.
        let _ = ended.send(fleet.join().is_ok());
    });
    if ends.recv_timeout(STOP_MAX) != Ok(true) {
        tracing::warn!("not every shard has ended in time");
    }
}

/// Where the shards run.
fn placement(general: &General) -> Result<Placement, Refused> {
    let count = ShardCount::new(general.worker_threads)
        .map_err(|error| Refused::new(EXIT_CONFIG, "worker_threads", &error))?;
    probe_host(count).map_err(|error| Refused::new(EXIT_OS, "cannot run here", &error))?;
    let topology = Topology::detect()
        .map_err(|error| Refused::new(EXIT_OS, "cannot read the CPUs of this process", &error))?;
    let policy = Policy {
        shards: Requested::Count(count),
        pin: general.worker_cpu_affinity_pinning,
    };
    let placement = place(&topology, &policy)
        .map_err(|error| Refused::new(EXIT_CONFIG, "worker_threads", &error))?;
    for note in &placement.notes {
        tracing::warn!("{note}");
    }
    Ok(placement)
}

fn tell_places(listening: &[Listening]) {
    for Listening {
        address,
        port,
        family,
    } in listening
    {
        tracing::info!(%address, port, family, "listening");
    }
}

/// Says to everybody who waits for it that clients can connect; from then on this is the process that
/// accepts them.
fn take_over(
    mut pid_file: Option<File>,
    inheritance: Option<Inheritance>,
    events: &UnboundedSender<Event>,
) -> io::Result<(Option<File>, Option<Predecessor>)> {
    let mut predecessor = None;
    if let Some(mut inheritance) = inheritance {
        notify::inherit();
        if let Some(mut file) = inheritance.pid_file.take() {
            daemon::write_pid(&mut file)?;
            pid_file = Some(file);
        }
        predecessor = Some(inheritance.ready(events.clone())?);
    }
    heir::tell_ready()?;
    notify::ready();
    Ok((pid_file, predecessor))
}

/// The listening socket that was handed over in the manner of earlier versions, under the address that
/// the configuration has: that of the socket counts.
fn adopted(cli: &Cli, places: &Places) -> Result<Vec<(String, Socket)>, Refused> {
    let Some(number) = cli.inherit_fd else {
        let what = "a socket of the service manager (LISTEN_FDS)";
        return activated(places).map_err(|error| Refused::new(EXIT_CONFIG, what, &error));
    };
    let adopted = heir::adopt_listener(number);
    let refused = |error| Refused::new(EXIT_CONFIG, "--inherit-fd", &error);
    let (address, socket) = adopted.map_err(refused)?;
    let place = places.first_tcp().unwrap_or(address);
    Ok(vec![(place, socket)])
}

/// Keys and certificates as they are in their files now.
fn keyring(config: &Config) -> Result<Keyring, Refused> {
    let material = Material::load(config)
        .map_err(|error| Refused::new(EXIT_CONFIG, "Configuration error", &error))?;
    for warning in &material.warnings {
        tracing::warn!("configuration: {warning}");
    }
    Ok(Keyring::new(material))
}

/// The socket for metrics, if they are wanted.
fn listen_for_scrapes(
    config: &Config,
    shared: &Shared,
    inherited: &mut Vec<(String, Socket)>,
) -> Result<Option<Scrape>, Refused> {
    let kept = inherited.extract_if(.., |(place, _)| *place == METRICS);
    let kept: Vec<Socket> = kept.map(|(_, socket)| socket).collect();
    let prometheus = &config.prometheus;
    if !prometheus.enabled {
        return Ok(None);
    }
    let refused = |error: io::Error| {
        let what = format!(
            "cannot listen on [prometheus] {}:{}",
            prometheus.host, prometheus.port
        );
        Refused::new(EXIT_CONFIG, &what, &error)
    };
    let address = scrape::address(prometheus).map_err(refused)?;
    let sources = Sources {
        sockets: Arc::default(),
        fleet: shared.fleet.clone(),
        connections: shared.connections.clone(),
        budget: shared.budget.clone(),
    };
    let is_there = |socket: &Socket| {
        socket
            .local_addr()
            .is_ok_and(|at| at.as_socket() == Some(address))
    };
    let scrape = match kept.into_iter().find(is_there) {
        Some(socket) => Scrape::on(socket.into(), sources),
        None => Scrape::bind(address, sources),
    };
    let scrape = scrape.map_err(refused)?;
    tracing::info!(%address, "metrics are served at /metrics");
    Ok(Some(scrape))
}
