//! The control thread: signals, reloads, metrics, and work that would block a shard.
//!
//! **Owns:** everything of the process that is not per query.
//! **Does not own:** anything on the path of a query.

use std::convert::Infallible;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shards::{ControlSeat, Seat, ShardId};
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tracing::Level;

use crate::admin::settings;
use crate::auth::derive_keys;
use crate::config::{self, Config, ConfigDiff};
use crate::metrics::Fleet;
use crate::metrics::window::WINDOW;
use crate::tls::Keyring;

use super::advice::{self, Facts};
use super::chores::Chores;
use super::guests::Guests;
use super::mailbox::{Confirmation, ShardMessage, Work, WorkResult};
use super::prover::Prover;
use super::scrape::{Answers, Scrape};
use super::succession::notify;
use super::succession::steps::{Event, Succession};
use super::{logging, report, sockets};

/// How often a message that did not fit is tried again.
const RETRY: Duration = Duration::from_millis(5);

/// How long shards may take to take a configuration over before the one who asks is told so.
const CONFIRMATION_MAX: Duration = Duration::from_secs(10);

/// The period of what is never done.
const NEVER: Duration = Duration::from_secs(86400);

/// Events of an upgrade that are looked at in one turn.
const EVENTS_MAX: usize = 256;

/// The control thread's state.
pub(super) struct Control {
    pub(super) seat: ControlSeat<ShardMessage>,
    config_file: PathBuf,
    /// What the shards have been told last.
    pub(super) config: Arc<Config>,
    /// What is logged if the file does not say it.
    log_level: Level,
    /// What the process was started with.
    started: Arc<Config>,
    pub(super) fleet: Fleet,
    keyring: Keyring,
    is_winding_down: bool,
    chores: Chores,
    pub(super) guests: Guests,
    /// Answers that wait until the shards have been told of guests.
    waiting: Vec<(Answerer, WorkResult)>,
    prover: Prover,
    pub(super) is_over: bool,
    pub(super) succession: Succession,
    /// Serves metrics.
    pub(super) scrape: Option<JoinHandle<()>>,
    /// The same, when the old process has told what it has counted.
    pub(super) later_scrape: Option<Scrape>,
    /// Those who have asked for metrics.
    pub(super) answers: Option<Answers>,
    /// Cancel requests that another process has asked for: its shard, and its ticket.
    pub(super) cancels_there: Vec<(u16, u32)>,
    done: UnboundedSender<(Seat, u32, WorkResult)>,
}

/// The control thread's runtime, with its signal handlers in place.
pub struct Prepared {
    runtime: Runtime,
    signals: Signals,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    upgrade: Signal,
}

/// Prepares the control thread. To be called before anybody can connect: from then on a signal may
/// come, and without a handler `SIGHUP` would end the process.
///
/// # Errors
///
/// If the runtime or a signal handler cannot be made.
pub fn prepare() -> io::Result<Prepared> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let context = runtime.enter();
    let signals = Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        hang_up: signal(SignalKind::hangup())?,
        upgrade: signal(SignalKind::user_defined2())?,
    };
    drop(context);
    Ok(Prepared { runtime, signals })
}

/// Runs until the process is told to stop, and tells the shards then. Serves `scrape` meanwhile.
///
/// # Errors
///
/// If the control thread's seat cannot be watched.
pub fn control(
    prepared: Prepared,
    seat: ControlSeat<ShardMessage>,
    (config_file, config, log_level): (PathBuf, Arc<Config>, Level),
    (fleet, keyring, prover): (Fleet, Keyring, Prover),
    scrape: Option<Scrape>,
    start: impl FnOnce(UnboundedSender<Event>) -> io::Result<Succession>,
) -> io::Result<bool> {
    let Prepared { runtime, signals } = prepared;
    let outcome = runtime.block_on(async {
        let (events, happens) = unbounded_channel();
        let (done, results) = unbounded_channel();
        #[expect(
            deprecated,
            reason = "its successor is unsafe to call; this descriptor is owned and never replaced"
        )]
        let bell = AsyncFd::new(seat.as_fd().try_clone_to_owned()?)?;
        let mut control = Control {
            seat,
            config_file,
            started: Arc::clone(&config),
            config,
            log_level,
            fleet,
            keyring,
            is_winding_down: false,
            chores: Chores::default(),
            guests: Guests::default(),
            waiting: Vec::new(),
            prover,
            is_over: false,
            succession: start(events)?,
            scrape: None,
            later_scrape: scrape,
            answers: None,
            cancels_there: Vec::new(),
            done,
        };
        if control.succession.predecessor.is_none() {
            control.serve_metrics();
        }
        control.run(signals, &bell, (results, happens)).await
    });
    // Who looks up a name or derives keys now does so for nobody; its thread ends with the process.
    runtime.shutdown_background();
    outcome
}

impl Control {
    async fn run(
        mut self,
        mut signals: Signals,
        bell: &AsyncFd<OwnedFd>,
        (mut results, mut happens): (
            UnboundedReceiver<(Seat, u32, WorkResult)>,
            UnboundedReceiver<Event>,
        ),
    ) -> io::Result<bool> {
        let mut windows = tokio::time::interval(WINDOW);
        // The first is at once.
        windows.tick().await;
        let period = notify::watchdog_period();
        let mut watchdog = tokio::time::interval(period.unwrap_or(NEVER));
        watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.is_over {
            tokio::select! {
                _ = watchdog.tick(), if period.is_some() => self.watch(),
                _ = windows.tick() => {
                    self.fleet.tick();
                    logging::tell_suppressed();
                    report::write(&self.fleet);
                    if self.guests.tidy(&self.config, &self.fleet) {
                        self.spread(Arc::clone(&self.config)).await;
                    }
                }
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => {
                    if interrupt_upgrades() {
                        self.upgrade(None);
                    } else {
                        self.wind_down().await;
                    }
                }
                _ = signals.upgrade.recv() => self.upgrade(None),
                Some(event) = happens.recv() => {
                    self.succeed(event).await;
                    // Sizes change once for all that has come meanwhile.
                    for _ in 0..EVENTS_MAX {
                        let Ok(event) = happens.try_recv() else { break };
                        self.succeed(event).await;
                    }
                    self.settle_newcomers().await;
                }
                _ = signals.hang_up.recv() => {
                    // What is wrong is in the log.
                    notify::reloading();
                    let _ = self.reload().await;
                    notify::ready();
                }
                ready = bell.readable() => {
                    ready?.clear_ready();
                    self.read_messages().await;
                }
                Some((shard, number, result)) = results.recv() => {
                    if let Seat::Shard(shard) = shard {
                        let result = Box::new(result);
                        self.send(shard, ShardMessage::Answer { number, result }).await;
                    }
                }
            }
        }
        let is_succeeded = self.succession.is_departing();
        self.finish_succession();
        if is_succeeded && let Some(answers) = &self.answers {
            // They have been accepted here, so nobody else answers them.
            answers.finish().await;
        }
        if !is_succeeded {
            notify::stopping();
        }
        self.fleet.close();
        logging::tell_suppressed();
        tracing::info!("stopping");
        for shard in 0..self.seat.shard_count() {
            self.send(ShardId::new(shard as u16), ShardMessage::Stop)
                .await;
        }
        Ok(is_succeeded)
    }

    /// Tells the service manager that all shards answer, as soon as they have.
    fn watch(&self) {
        let (confirmation, mut confirmed) = channel::<Infallible>(1);
        for shard in 0..self.seat.shard_count() {
            let message = ShardMessage::Ping(Confirmation(confirmation.clone()));
            if self
                .seat
                .try_send(ShardId::new(shard as u16), message)
                .is_err()
            {
                // It has not read what it was sent before; the next time it may have.
                return;
            }
        }
        drop(confirmation);
        tokio::spawn(async move {
            confirmed.recv().await;
            notify::alive();
        });
    }

    /// Has the shards let transactions end; one of them then says that it is over.
    async fn wind_down(&mut self) {
        if std::mem::replace(&mut self.is_winding_down, true) {
            return;
        }
        let limit = self.config.general.shutdown_timeout;
        tracing::info!(?limit, "stopping when transactions have ended");
        self.send(ShardId::new(0), ShardMessage::WindDown).await;
    }

    /// Sends a message, waiting for room. Only the control thread may wait: no shard waits for it.
    pub(super) async fn send(&self, shard: ShardId, message: ShardMessage) {
        let mut message = message;
        while let Err(refused) = self.seat.try_send(shard, message) {
            message = refused.into_message();
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Reads the configuration again and gives it to the shards; otherwise says why not.
    async fn reload(&mut self) -> Result<Spread, String> {
        let mut loaded = config::load(&self.config_file).map_err(|error| {
            tracing::error!(%error, "Config reload error, the old configuration stays");
            error.to_string()
        })?;
        self.prover.prepare(&mut loaded.config).map_err(|error| {
            tracing::error!(%error, "Config reload error, the old configuration stays");
            error.to_string()
        })?;
        let material = self.keyring.read(&loaded.config).map_err(|error| {
            let text = format!("Configuration error: {error}");
            tracing::error!(error = %text, "Config reload error, the old configuration stays");
            text
        })?;
        for warning in loaded.warnings.iter().chain(&material.warnings) {
            tracing::warn!("configuration: {warning}");
        }
        let facts = Facts::gather(&self.config_file);
        for warning in advice::warnings(&loaded.config, facts) {
            tracing::warn!("configuration: {warning}");
        }
        loaded
            .config
            .general
            .log_level
            .get_or_insert(self.log_level);
        self.keyring.install(material);
        for key in ConfigDiff::between(&self.started, &loaded.config).restart_keys {
            tracing::warn!(
                "configuration: {key} differs from the start: it is used after a restart"
            );
        }
        let spread = self.spread(Arc::new(loaded.config)).await;
        tracing::info!("configuration reloaded");
        Ok(spread)
    }

    /// Gives a configuration to the shards, with the guests.
    pub(super) async fn spread(&mut self, config: Arc<Config>) -> Spread {
        if config.general.log_level != self.config.general.log_level
            && let Some(level) = config.general.log_level
            && let Err(error) = logging::set_level(level)
        {
            tracing::error!(%level, %error, "the level of the log cannot be changed");
        }
        self.config = config;
        let config = self.guests.over(&self.config);
        let config = self.succession.over(&config);
        let (confirmation, confirmed) = channel(1);
        for shard in 0..self.seat.shard_count() {
            let confirmation = Confirmation(confirmation.clone());
            let message = ShardMessage::Reload(Arc::clone(&config), confirmation);
            self.send(ShardId::new(shard as u16), message).await;
        }
        Spread(confirmed)
    }

    /// Changes one setting, until the next reload.
    async fn set(&mut self, key: &str, value: &str) -> Result<Spread, String> {
        let mut config = (*self.config).clone();
        settings::set(&mut config.general, key, value).map_err(|error| error.to_string())?;
        let spread = self.spread(Arc::new(config)).await;
        tracing::info!(key, value, "SET at the console");
        Ok(spread)
    }

    async fn read_messages(&mut self) {
        while let Some((from, message)) = self.seat.try_receive() {
            match message {
                ShardMessage::Ask { number, work } => {
                    self.start(from, number, *work).await;
                }
                ShardMessage::Emigrant(record) => self.emigrate(record).await,
                ShardMessage::EmigrantPair(pair, leave) => self.emigrate_pair(*pair, leave).await,
                ShardMessage::EmigrantServer(record, leave) => {
                    self.emigrate_server(*record, leave);
                }
                ShardMessage::Cancel { ticket, request } => {
                    self.cancel_there(from, ticket, &request).await;
                }
                ShardMessage::CancelDone { ticket } => self.cancelled_here(ticket),
                other => tracing::error!(?from, message = ?other, "a message for somebody else"),
            }
        }
        if !self.waiting.is_empty() {
            // Once for all that have come together.
            self.spread(Arc::clone(&self.config)).await;
            for (answer, result) in std::mem::take(&mut self.waiting) {
                answer.give(result);
            }
        }
    }

    /// Does what is asked for; what takes long, beside everything else.
    async fn start(&mut self, from: Seat, number: u32, work: Work) {
        let answer = Answerer {
            done: self.done.clone(),
            from,
            number,
        };
        match work {
            Work::Resolve { host, port } => {
                tokio::spawn(async move {
                    answer.give(WorkResult::Resolved(resolve(&host, port).await));
                });
            }
            Work::Derive {
                password,
                salt,
                iterations,
            } => {
                tokio::task::spawn_blocking(move || {
                    let keys = derive_keys(password.expose(), &salt, iterations);
                    answer.give(WorkResult::Derived(keys.map_err(|error| error.to_string())));
                });
            }
            Work::Chore(chore) => {
                let chores = self.chores.clone();
                tokio::spawn(async move {
                    answer.give(WorkResult::Done(chores.run(chore).await));
                });
            }
            Work::Guest(guest) => {
                let taken = self.guests.take(guest, &self.config);
                let has_changed = taken.is_ok();
                let result = WorkResult::Reloaded(taken);
                if has_changed {
                    self.waiting.push((answer, result));
                } else {
                    answer.give(result);
                }
            }
            Work::Set { key, value } => {
                let spread = self.set(&key, &value).await;
                answer.give_when_done(spread, WorkResult::Set);
            }
            Work::ShutDown => self.is_over = true,
            Work::Refuse => {
                self.succession.listeners.clear();
                answer.give(WorkResult::Refused);
            }
            Work::Upgrade => self.upgrade(Some(answer)),
            Work::Sockets => {
                tokio::task::spawn_blocking(|| {
                    answer.give(WorkResult::Sockets(sockets::count().map(Box::new)));
                });
            }
            Work::Reload => {
                let spread = self.reload().await;
                answer.give_when_done(spread, WorkResult::Reloaded);
            }
        }
    }
}

/// A configuration on its way: ends when all shards have it.
#[derive(Debug)]
pub(super) struct Spread(Receiver<Infallible>);

impl Spread {
    async fn done(mut self) -> Result<(), String> {
        let done = tokio::time::timeout(CONFIRMATION_MAX, self.0.recv());
        let done = done.await.map(|_| ());
        done.map_err(|_| "not every shard has the new configuration yet".to_owned())
    }
}

/// Takes the result of one errand.
#[derive(Debug)]
pub(super) struct Answerer {
    done: UnboundedSender<(Seat, u32, WorkResult)>,
    from: Seat,
    number: u32,
}

impl Answerer {
    pub(super) fn give(self, result: WorkResult) {
        // The receiver is gone only when the process ends.
        let _ = self.done.send((self.from, self.number, result));
    }

    /// Answers when all shards have what is on its way to them. Control goes on meanwhile.
    fn give_when_done(
        self,
        spread: Result<Spread, String>,
        result: fn(Result<(), String>) -> WorkResult,
    ) {
        match spread {
            Err(reason) => self.give(result(Err(reason))),
            Ok(spread) => {
                tokio::spawn(async move { self.give(result(spread.done().await)) });
            }
        }
    }
}

/// Whether `SIGINT` has another process take over, as in earlier versions: nobody who types it at a
/// terminal wants that.
fn interrupt_upgrades() -> bool {
    let only_stops = std::env::var_os("PG_DOORMAN_CI_SHUTDOWN_ONLY");
    only_stops.is_none_or(|value| value != "1") && !io::stdin().is_terminal()
}

async fn resolve(host: &str, port: u16) -> Result<Vec<std::net::SocketAddr>, String> {
    let found = tokio::net::lookup_host((host, port)).await;
    found
        .map(Iterator::collect)
        .map_err(|error| format!("{host}: {error}"))
}
