//! The control thread: what the shards are told, and when.
//!
//! **Owns:** the configuration in use, views of clusters, the ports with their plans.
//! **Does not own:** asking clusters (`watch`), answering questions over HTTP (`api`).
//!
//! **Invariants**
//! 1. A port is known by the address it listens at: whatever else changes, it stays open.
//! 2. A cluster that does not answer keeps its last view.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pg_doorman::tls::https;
use rustls::ClientConfig;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::config::{Config, ConfigError, Port, load};
use crate::fleet::Shards;
use crate::listen::listen;
use crate::message::{Plan, PortId, ShardMessage};
use crate::numbers::PortNumbers;
use crate::plans::{Books, View, plan, removed};
use crate::reload::changes;
use crate::watch::{News, Watch};
use crate::{logging, notify};

/// How long addresses that were closed by a reload may take to be free again.
const FREED_MAX: Duration = Duration::from_millis(500);
/// How often it is looked whether they are.
const FREED_STEP: Duration = Duration::from_millis(5);

/// What TLS needs, by cluster.
pub(crate) type Keys = HashMap<String, Arc<ClientConfig>>;

/// One port that clients can connect to, or should.
pub(crate) struct Door {
    id: PortId,
    /// Its cluster.
    pub(crate) cluster: String,
    /// Its name there.
    pub(crate) name: String,
    /// Why it does not listen, if it does not.
    pub(crate) refusal: Option<String>,
    /// What the shards have been told last.
    pub(crate) plan: Arc<Plan>,
    settings: Port,
    books: Books,
}

/// The control thread's state.
pub(crate) struct Control {
    shards: Shards,
    file: PathBuf,
    /// The configuration in use.
    pub(crate) config: Config,
    /// What is known of clusters, by name.
    pub(crate) views: BTreeMap<String, View>,
    watches: HashMap<String, Watch>,
    /// The ports, by address.
    pub(crate) doors: BTreeMap<SocketAddr, Door>,
    news: UnboundedSender<News>,
    next: u64,
}

/// Reads the keys of all clusters. Blocks on file IO.
///
/// # Errors
///
/// The first file that cannot be used.
pub(crate) fn keys(config: &Config) -> Result<Keys, ConfigError> {
    let mut keys = Keys::new();
    for (name, cluster) in &config.clusters {
        if !cluster.hosts.iter().any(|host| host.starts_with("https:")) {
            continue;
        }
        let made = https(&cluster.tls.clone().unwrap_or_default());
        let wrong = |error| ConfigError(format!("Cluster '{name}': {error}"));
        keys.insert(name.clone(), made.map_err(wrong)?);
    }
    Ok(keys)
}

impl Control {
    /// Nothing is open and nobody is asked yet; see [`Control::apply`].
    pub(crate) fn new(
        shards: Shards,
        (file, config): (PathBuf, Config),
        news: UnboundedSender<News>,
    ) -> Self {
        Self {
            shards,
            file,
            config,
            views: BTreeMap::new(),
            watches: HashMap::new(),
            doors: BTreeMap::new(),
            news,
            next: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Opens and closes ports and watches, so that they are those of `config`.
    pub(crate) async fn apply(&mut self, config: Config, keys: &Keys) {
        for key in &config.unknown {
            tracing::warn!("'{key}' is not a known key, it has no effect");
        }
        let before = std::mem::replace(&mut self.config, config);
        self.apply_watches(&before, keys);
        let mut wanted = BTreeMap::new();
        for (cluster, settings) in &self.config.clusters {
            for (name, port) in &settings.ports {
                wanted.insert(port.listen, (cluster.clone(), name.clone(), port.clone()));
            }
        }
        let is_gone = |address: &&SocketAddr| !wanted.contains_key(address);
        let gone: Vec<_> = self.doors.keys().filter(is_gone).copied().collect();
        let mut freed = !gone.is_empty();
        for address in gone {
            self.close(address).await;
        }
        for (address, (cluster, name, settings)) in wanted {
            let label: Arc<str> = format!("{cluster}:{name}").into();
            if let Some(door) = self.doors.get_mut(&address) {
                (door.cluster, door.name, door.settings) = (cluster, name, settings);
                door.books.label = label;
                self.replan(address).await;
            } else {
                self.add(address, (cluster, name, label), settings);
            }
        }
        // An address that was closed just now may overlap a new one, and shards need a moment.
        let patience = Instant::now() + FREED_MAX;
        while freed && self.has_closed_ports() {
            freed = Instant::now() < patience;
            self.open_some(!freed).await;
            tokio::time::sleep(FREED_STEP).await;
        }
        self.open_ports().await;
    }

    fn apply_watches(&mut self, before: &Config, keys: &Keys) {
        let (config, same_interval) = (&self.config, before.interval == self.config.interval);
        let is_same = |name: &String| {
            let (old, new) = (before.clusters.get(name), config.clusters.get(name));
            let of = |one: &crate::config::Cluster| (one.hosts.clone(), one.tls.clone());
            // Files of keys may have changed although their names have not.
            new.is_some() && old.map(of) == new.map(of) && same_interval && !keys.contains_key(name)
        };
        self.watches.retain(|name, _| is_same(name));
        self.views
            .retain(|name, _| config.clusters.contains_key(name));
        for (name, cluster) in self.config.clusters.clone() {
            if self.watches.contains_key(&name) {
                continue;
            }
            let source = (cluster.hosts, keys.get(&name).cloned());
            let called = (name.clone(), self.number());
            let watch = Watch::start(called, source, self.config.interval, self.news.clone());
            self.watches.insert(name, watch);
        }
    }

    fn add(
        &mut self,
        address: SocketAddr,
        (cluster, name, label): (String, String, Arc<str>),
        settings: Port,
    ) {
        let mut books = Books {
            label,
            loads: HashMap::new(),
            numbers: Arc::new(PortNumbers::new(self.shards.count())),
        };
        let view = self.views.get(&cluster);
        let door = Door {
            plan: Arc::new(plan(&settings, view, self.config.sockets, &mut books)),
            id: self.number(),
            cluster,
            name,
            refusal: Some("not yet tried".to_owned()),
            settings,
            books,
        };
        self.doors.insert(address, door);
    }

    /// Tries to listen at all ports that do not yet. A failure is told when it is a new one.
    pub(crate) async fn open_ports(&mut self) {
        self.open_some(true).await;
    }

    async fn open_some(&mut self, tells_failures: bool) {
        let (shards, options) = (self.shards.count(), self.config.sockets);
        for (address, door) in &mut self.doors {
            if door.refusal.is_none() {
                continue;
            }
            match listen(*address, shards, &options) {
                Ok(sockets) => {
                    door.refusal = None;
                    let mut sockets = sockets.into_iter();
                    let message = || {
                        Some(ShardMessage::Open {
                            port: door.id,
                            socket: sockets.next()?,
                            plan: Arc::clone(&door.plan),
                        })
                    };
                    self.shards.tell(message).await;
                    tracing::info!("Port '{}' listening on {address}", door.books.label);
                }
                Err(_) if !tells_failures => {}
                Err(error) => {
                    let reason = format!("Failed to bind: {address}: {error}");
                    if door.refusal.as_ref() != Some(&reason) {
                        tracing::error!("Port '{}' error: {reason}", door.books.label);
                    }
                    door.refusal = Some(reason);
                }
            }
        }
    }

    /// True if some port does not listen.
    pub(crate) fn has_closed_ports(&self) -> bool {
        self.doors.values().any(|door| door.refusal.is_some())
    }

    async fn close(&mut self, address: SocketAddr) {
        let Some(door) = self.doors.remove(&address) else {
            return;
        };
        let (label, open) = (&door.books.label, door.books.numbers.open.open());
        tracing::info!("Port '{label}' stopped, {open} connections were open");
        let (port, drain) = (door.id, door.settings.drain);
        let message = || Some(ShardMessage::Close { port, drain });
        self.shards.tell(message).await;
    }

    /// Makes the plan of a port anew, and tells it if it is another one.
    async fn replan(&mut self, address: SocketAddr) {
        let sockets = self.config.sockets;
        let Some(door) = self.doors.get_mut(&address) else {
            return;
        };
        let view = self.views.get(&door.cluster);
        let next = plan(&door.settings, view, sockets, &mut door.books);
        if next == *door.plan {
            return;
        }
        let next = Arc::new(next);
        for gone in removed(&door.plan, &next) {
            let (label, host) = (&next.label, &gone.backend.host);
            let open = gone.backend.load.open();
            if gone.is_drained {
                let seconds = next.drain.as_secs();
                tracing::info!(
                    "Port '{label}': backend '{host}' rests, {open} clients may stay {seconds} s"
                );
            } else {
                tracing::info!(
                    "Port '{label}': backend '{host}' removed, disconnected {open} clients"
                );
            }
        }
        door.plan = Arc::clone(&next);
        let port = door.id;
        let message = || {
            let plan = Arc::clone(&next);
            Some(ShardMessage::Replan { port, plan })
        };
        self.shards.tell(message).await;
    }

    /// Takes over what a cluster has told.
    pub(crate) async fn hear(&mut self, news: News) {
        let watch = self.watches.get(&news.cluster);
        if watch.is_none_or(|watch| watch.generation != news.generation) {
            return;
        }
        let Some(view) = news.view else { return };
        self.views.insert(news.cluster.clone(), view);
        let is_its = |door: &Door| door.cluster == news.cluster;
        let ports = self.doors.iter().filter(|(_, door)| is_its(door));
        let ports: Vec<_> = ports.map(|(address, _)| *address).collect();
        for address in ports {
            self.replan(address).await;
        }
        drop(news.done);
    }

    /// Asks all clusters at once; each of the receivers ends when the answer has been acted on.
    pub(crate) fn ask_all(&self) -> Vec<oneshot::Receiver<()>> {
        let ask = |watch: &Watch| {
            let (done, is_done) = oneshot::channel();
            watch.ask_now(done);
            is_done
        };
        self.watches.values().map(ask).collect()
    }

    /// Reads the file again. True if the API is to listen elsewhere.
    pub(crate) async fn reload(&mut self) -> bool {
        tracing::info!("Received SIGHUP, reloading configuration...");
        notify::reloading();
        let read = load(&self.file).and_then(|config| {
            let keys = keys(&config)?;
            Ok((config, keys))
        });
        let has_moved = match read {
            Ok((config, keys)) => {
                let lines = changes(&self.config, &config);
                let (old, new) = (self.config.log_level, config.log_level);
                // What changes is told if either says so.
                logging::set_level(old.max(new));
                for line in &lines {
                    tracing::info!("{line}");
                }
                let has_moved = self.config.api != config.api;
                self.apply(config, &keys).await;
                tracing::info!(
                    "Configuration {}",
                    if lines.is_empty() {
                        "unchanged"
                    } else {
                        "reloaded successfully"
                    }
                );
                logging::set_level(new);
                has_moved
            }
            Err(error) => {
                tracing::error!("Failed to reload configuration: {error}");
                tracing::warn!("Keeping previous configuration");
                false
            }
        };
        notify::ready();
        has_moved
    }

    /// The longest time that connections of a port may go on at the end.
    pub(crate) fn drain_max(&self) -> Duration {
        let drains = self.doors.values().map(|door| door.settings.drain);
        drains.max().unwrap_or_default()
    }

    /// Tells the shards to end.
    pub(crate) async fn stop(&self, drain: Duration) {
        self.shards
            .tell(|| Some(ShardMessage::Stop { drain }))
            .await;
    }
}
