//! From arguments to a running process, and its end.
//!
//! **Owns:** the order of start-up, exit codes.
//! **Does not own:** what runs afterwards (`control`, `shard_main`).
//!
//! Source: sysexits.h for the exit codes.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crossbeam_queue::SegQueue;
use shards::{
    Policy, Requested, ShardCount, Socket, Topology, bind_tcp, launch, place, probe_host,
};
use socket2::{Domain, SockRef, Type};

use crate::config::{self, Config, General};
use crate::metrics::Fleet;
use crate::session::budget::Budget;
use crate::session::shard::Connections;
use crate::tls::{Keyring, Material};

use super::advice::{self, Facts};
use super::cli::{self, Cli, Command, EXIT_CONFIG};
use super::control::{control, prepare};
use super::daemon::{self, Foreground, Side};
use super::hand_over::OnTheirWay;
use super::prover::Prover;
use super::scrape::{self, Scrape, Sources};
use super::shard_main::{Shared, shard_main};
use super::{generate, logging, migrate};

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
    if cli.daemon {
        match daemon::detach(&loaded.config.general.daemon_pid_file) {
            Ok(Side::Daemon(waiting)) => foreground = Some(waiting),
            Ok(Side::Foreground(code)) => return code,
            Err(reason) => {
                eprintln!("Error daemonize: {reason}");
                return ExitCode::from(EXIT_OS);
            }
        }
    }
    logging::start(cli.log_level, cli.log_format, !cli.no_color);
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
    match serve(cli, &Arc::new(loaded.config), prover, &mut foreground) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refused { code, reason }) => {
            tracing::error!("{reason}");
            let reason = format!("pg_doorman: {reason}");
            eprintln!("{reason}");
            if let Some(waiting) = foreground {
                waiting.refused(code, &reason);
            }
            ExitCode::from(code)
        }
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
}

/// Serves until a signal. `foreground` is told when clients can connect.
fn serve(
    cli: &Cli,
    config: &Arc<Config>,
    prover: Prover,
    foreground: &mut Option<Foreground>,
) -> Result<(), Refused> {
    let general = &config.general;
    let os = |what: &'static str| move |error: io::Error| Refused::new(EXIT_OS, what, &error);
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
    let prepared = prepare().map_err(os("cannot prepare the control thread"))?;
    let listeners = Arc::new(SegQueue::new());
    let address = listen_address(general)?;
    let refused = |error| Refused::new(EXIT_CONFIG, &format!("cannot listen on {address}"), &error);
    check_free(address).map_err(refused)?;
    let shared = Shared {
        config: Arc::clone(config),
        connections: Connections::default(),
        budget: Budget::default(),
        fleet: Fleet::new(placement.plans.len()),
        keyring: keyring(config)?,
        on_their_way: OnTheirWay::new(placement.plans.len()),
        mock_secret: prover.secret(),
    };
    // Before the address for clients: who can connect there finds the rest in place.
    let scrape = listen_for_scrapes(config, &shared)?;
    for _ in &placement.plans {
        listeners.push(listen(general, address).map_err(refused)?);
    }
    let numbers = (shared.fleet.clone(), shared.keyring.clone(), prover);
    let (fleet, seat) = launch(&placement.plans, move |context| {
        shard_main(
            context,
            shared.clone(),
            listeners.pop().into_iter().collect(),
        )
    })
    .map_err(os("cannot start the shards"))?;
    tracing::info!(%address, shards = placement.plans.len(), "Waiting for dear clients");
    let _pid_file = foreground.take().map(Foreground::ready);
    let told = (cli.config_file.clone(), Arc::clone(config));
    control(prepared, seat, told, numbers, scrape).map_err(os("the control thread has failed"))?;
    let (ended, ends) = mpsc::channel();
    std::thread::spawn(move || {
        // The receiver may have given up.
        let _ = ended.send(fleet.join().is_ok());
    });
    if ends.recv_timeout(STOP_MAX) != Ok(true) {
        tracing::warn!("not every shard has ended in time");
    }
    Ok(())
}

fn listen_address(general: &General) -> Result<SocketAddr, Refused> {
    let text = format!("{}:{}", general.host, general.port);
    let mut found = text
        .to_socket_addrs()
        .map_err(|error| Refused::new(EXIT_CONFIG, &format!("cannot resolve {text}"), &error))?;
    found
        .next()
        .ok_or_else(|| Refused::new(EXIT_CONFIG, &text, &"no address"))
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
fn listen_for_scrapes(config: &Config, shared: &Shared) -> Result<Option<Scrape>, Refused> {
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
        fleet: shared.fleet.clone(),
        connections: shared.connections.clone(),
        budget: shared.budget.clone(),
    };
    let scrape = Scrape::bind(address, sources).map_err(refused)?;
    tracing::info!(%address, "metrics are served at /metrics");
    Ok(Some(scrape))
}

/// Finds out whether another process listens on `address`. The shards share their address among
/// themselves (`SO_REUSEPORT`), and would share it with a stranger of the same user just as well.
fn check_free(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// A listening socket whose options every accepted socket inherits.
fn listen(general: &General, address: SocketAddr) -> io::Result<Socket> {
    let socket = bind_tcp(address)?;
    socket.set_tcp_nodelay(general.tcp_no_delay)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(general.tcp_keepalives_idle)
        .with_interval(general.tcp_keepalives_interval)
        .with_retries(general.tcp_keepalives_count);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_linger(Some(general.tcp_so_linger))?;
    if !general.tcp_user_timeout.is_zero() {
        SockRef::from(&socket).set_tcp_user_timeout(Some(general.tcp_user_timeout))?;
    }
    let backlog = if general.backlog == 0 {
        general.max_connections.min(i32::MAX as u64) as i32
    } else {
        i32::try_from(general.backlog).unwrap_or(i32::MAX)
    };
    socket.listen(backlog)?;
    Ok(socket)
}
