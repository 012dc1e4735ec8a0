//! Asks one cluster again and again.
//!
//! **Owns:** the rhythm, addresses of members with names.
//! **Does not own:** one question (`pg_doorman::patroni`), what follows from the answer (`control`).
//!
//! Runs on the control thread, one task a cluster: clusters do not wait for each other.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pg_doorman::patroni::{Cluster, Watcher};
use rustls::ClientConfig;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::plans::{Addresses, View};

/// How long looking up one name may take.
const LOOKUP_MAX: Duration = Duration::from_secs(2);

/// What a question has told.
#[derive(Debug)]
pub(crate) struct News {
    /// Which cluster.
    pub(crate) cluster: String,
    /// Which watch of it: news of one that was replaced are not wanted.
    pub(crate) generation: u64,
    /// None if nobody has answered.
    pub(crate) view: Option<View>,
    /// Dropped when the news have been acted on.
    pub(crate) done: Option<oneshot::Sender<()>>,
}

/// A running watch. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Tells news of this watch from those of an earlier one.
    pub(crate) generation: u64,
    ask: UnboundedSender<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Begins to ask `hosts` every `interval`.
    pub(crate) fn start(
        (cluster, generation): (String, u64),
        (hosts, tls): (Vec<String>, Option<Arc<ClientConfig>>),
        interval: Duration,
        news: UnboundedSender<News>,
    ) -> Self {
        let (ask, asked) = unbounded_channel();
        let round = Round {
            cluster,
            generation,
            interval,
            news,
            watcher: Watcher::new(hosts, tls),
            addresses: Addresses::new(),
        };
        Self {
            generation,
            ask,
            task: tokio::spawn(round.run(asked)),
        }
    }

    /// Asks now. `done` is dropped when the answer has been acted on.
    pub(crate) fn ask_now(&self, done: oneshot::Sender<()>) {
        // If the task has ended, `done` is dropped at once, which is right.
        let _ = self.ask.send(done);
    }
}

struct Round {
    cluster: String,
    generation: u64,
    interval: Duration,
    news: UnboundedSender<News>,
    watcher: Watcher,
    addresses: Addresses,
}

impl Round {
    async fn run(mut self, mut asked: UnboundedReceiver<oneshot::Sender<()>>) {
        let mut done = None;
        loop {
            let view = match self.watcher.members().await {
                Ok(cluster) => {
                    self.locate(&cluster).await;
                    Some(View {
                        cluster,
                        addresses: self.addresses.clone(),
                    })
                }
                Err(error) => {
                    let cluster = &self.cluster;
                    tracing::warn!("Cluster '{cluster}': failed to fetch members: {error}");
                    None
                }
            };
            let news = News {
                cluster: self.cluster.clone(),
                generation: self.generation,
                view,
                done: done.take(),
            };
            if self.news.send(news).is_err() {
                return;
            }
            if let Ok(Some(asker)) = timeout(self.interval, asked.recv()).await {
                done = Some(asker);
            }
        }
    }

    /// Finds the addresses of all members. A name that cannot be looked up now keeps those it had.
    async fn locate(&mut self, cluster: &Cluster) {
        let mut found = Addresses::new();
        let mut lookups = JoinSet::new();
        for member in &cluster.members {
            let host = member.host.clone();
            if let Ok(address) = host.parse::<IpAddr>() {
                found.insert(host, vec![address]);
            } else if found.insert(host.clone(), Vec::new()).is_none() {
                lookups.spawn(async move { (look_up(&host).await, host) });
            }
        }
        while let Some(looked_up) = lookups.join_next().await {
            let Ok((outcome, host)) = looked_up else {
                continue;
            };
            let addresses = outcome.unwrap_or_else(|reason| {
                let cluster = &self.cluster;
                tracing::warn!("Cluster '{cluster}': cannot look up '{host}': {reason}");
                self.addresses.get(&host).cloned().unwrap_or_default()
            });
            found.insert(host, addresses);
        }
        self.addresses = found;
    }
}

async fn look_up(host: &str) -> Result<Vec<IpAddr>, String> {
    let lookup = timeout(LOOKUP_MAX, tokio::net::lookup_host((host, 0))).await;
    let addresses = lookup.map_err(|late| late.to_string())?;
    let addresses = addresses.map_err(|error| error.to_string())?;
    Ok(addresses.map(|address| address.ip()).collect())
}
