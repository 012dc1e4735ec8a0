//! From a configuration to a running process, and its end.
//!
//! **Owns:** the order of start-up, signals, exit codes.
//! **Does not own:** what follows from signals (`control`).

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use shards::{ControlSeat, Policy, Requested, ShardCount, Topology, launch, place, probe_host};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::api::{self, Question};
use crate::config::{Config, load};
use crate::control::{Control, Keys, keys};
use crate::fleet::Shards;
use crate::message::ShardMessage;
use crate::shard::shard_main;
use crate::watch::News;
use crate::{logging, notify, report};

/// Shards, unless it is set.
const SHARDS_MAX: usize = 4;
/// How long shards may take to end beyond the time that connections get.
const STOP_MAX: Duration = Duration::from_secs(1);
/// How often it is tried to listen at ports where it has failed.
const REOPEN: Duration = Duration::from_millis(250);

/// Runs the program.
pub(crate) fn run(file: &Path, is_test: bool) -> ExitCode {
    let config = load(file).and_then(|config| keys(&config).map(|keys| (config, keys)));
    let outcome = match config {
        Ok(_) if is_test => return ExitCode::SUCCESS,
        Ok((config, keys)) => {
            logging::start(config.log_level);
            serve(file.to_owned(), config, &keys)
        }
        Err(error) => Err(error.to_string()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            use std::io::Write;
            // There is no one else to tell.
            let _ = writeln!(std::io::stderr(), "Error: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn because<E: Display>(what: &'static str) -> impl Fn(E) -> String {
    move |error| format!("{what}: {error}")
}

fn serve(file: PathBuf, config: Config, keys: &Keys) -> Result<(), String> {
    let topology = Topology::detect().map_err(because("cannot read the CPUs"))?;
    let found = std::thread::available_parallelism().map_or(1, usize::from);
    let count = config.shards.unwrap_or_else(|| found.min(SHARDS_MAX));
    let count = ShardCount::new(count).map_err(because("worker_threads"))?;
    probe_host(count).map_err(because("cannot run here"))?;
    let policy = Policy {
        shards: Requested::Count(count),
        pin: false,
    };
    let placement = place(&topology, &policy).map_err(because("worker_threads"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(because("cannot start the control thread"))?;
    // From here on signals are caught: without a handler SIGHUP would end the process.
    let prepared = runtime.block_on(async {
        let listener = TcpListener::bind(config.api).await;
        let address = config.api;
        let listener = listener.map_err(|error| format!("cannot listen on {address}: {error}"))?;
        let signals = Signals::catch().map_err(because("cannot catch signals"))?;
        Ok::<_, String>((listener, signals))
    })?;
    let (fleet, seat) =
        launch(&placement.plans, shard_main).map_err(because("cannot start the shards"))?;
    let drain = runtime.block_on(Process::run(seat, (file, config), keys, prepared));
    let (ended, ends) = mpsc::channel();
    std::thread::spawn(move || {
        // The receiver may have given up.
        let _ = ended.send(fleet.join().is_ok());
    });
    // A second signal during the drain ends the process at once.
    runtime.block_on(async {
        let wait = tokio::task::spawn_blocking(move || ends.recv_timeout(drain + STOP_MAX));
        let again = Signals::catch();
        let Ok(mut again) = again else { return };
        tokio::select! {
            _ = wait => {}
            () = again.stop() => {}
        }
    });
    runtime.shutdown_background();
    Ok(())
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What the control thread runs.
struct Process {
    control: Control,
    api: JoinHandle<()>,
    ask: UnboundedSender<Question>,
}

impl Process {
    /// Runs until a signal; tells how long connections may still go on.
    async fn run(
        seat: ControlSeat<ShardMessage>,
        (file, config): (PathBuf, Config),
        keys: &Keys,
        (listener, mut signals): (TcpListener, Signals),
    ) -> Duration {
        let (tell, news) = unbounded_channel();
        let (ask, questions) = unbounded_channel();
        // Without clusters: what `apply` is given is all new.
        let mut before = config.clone();
        before.clusters.clear();
        let mut process = Self {
            control: Control::new(Shards::new(seat), (file, before), tell),
            api: tokio::spawn(api::serve(listener, ask.clone())),
            ask,
        };
        tracing::info!("Starting patroni_proxy {}", env!("CARGO_PKG_VERSION"));
        process.control.apply(config, keys).await;
        notify::ready();
        process.work(&mut signals, news, questions).await;
        tracing::info!("Shutting down patroni-proxy...");
        notify::stopping();
        let drain = process.control.drain_max();
        process.control.stop(drain).await;
        drain
    }

    async fn work(
        &mut self,
        signals: &mut Signals,
        mut news: UnboundedReceiver<News>,
        mut questions: UnboundedReceiver<Question>,
    ) {
        let mut reopen = tokio::time::interval(REOPEN);
        reopen.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let has_closed = self.control.has_closed_ports();
            let next = async {
                tokio::select! {
                    Some(news) = news.recv() => Next::News(news),
                    Some(question) = questions.recv() => Next::Question(question),
                    _ = signals.hang_up.recv() => Next::Reload,
                    _ = signals.terminate.recv() => Next::Stop,
                    _ = signals.interrupt.recv() => Next::Stop,
                    _ = reopen.tick(), if has_closed => Next::Reopen,
                }
            };
            match next.await {
                Next::News(news) => self.control.hear(news).await,
                Next::Question(question) => self.reply(question),
                Next::Reopen => self.control.open_ports().await,
                Next::Stop => return,
                Next::Reload => {
                    if self.control.reload().await {
                        self.move_api(self.control.config.api).await;
                    }
                }
            }
        }
    }

    fn reply(&self, question: Question) {
        let control = &self.control;
        // Who has asked may be gone.
        match question {
            Question::Update(answer) => drop(answer.send(control.ask_all())),
            Question::Metrics(answer) => drop(answer.send(report::metrics(control))),
            Question::Backends(answer) => drop(answer.send(report::backends(control))),
            Question::Missing(answer) => drop(answer.send(report::missing(control))),
        }
    }

    async fn move_api(&mut self, address: SocketAddr) {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                self.api.abort();
                self.api = tokio::spawn(api::serve(listener, self.ask.clone()));
            }
            Err(error) => tracing::error!("cannot listen on {address}: {error}"),
        }
    }
}

enum Next {
    News(News),
    Question(Question),
    Reload,
    Reopen,
    Stop,
}
