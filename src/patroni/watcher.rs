//! Asks the hosts of one cluster until one answers.
//!
//! **Owns:** the order of hosts over time, the line of the log about each failure.
//! **Does not own:** when to ask, what to do with the answer.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::client::{FETCH_MAX, FetchError, fetch};
use super::cluster::{Cluster, parse};
use super::hosts::Hosts;

/// How long a host may be silent before the next one is asked, too.
pub const SILENCE: Duration = Duration::from_secs(1);

/// No host of a cluster has answered. Blame: the hosts or the way to them. Retry: later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllUnavailable;

impl fmt::Display for AllUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("All hosts unavailable")
    }
}

impl std::error::Error for AllUnavailable {}

/// The hosts of one cluster.
#[derive(Debug)]
pub struct Watcher {
    urls: Vec<String>,
    hosts: Hosts,
    tls: Option<Arc<ClientConfig>>,
}

impl Watcher {
    /// Will ask the hosts at these base addresses; `tls` is for those with `https`.
    pub fn new(urls: Vec<String>, tls: Option<Arc<ClientConfig>>) -> Self {
        Self {
            hosts: Hosts::new(urls.len()),
            urls,
            tls,
        }
    }

    /// Asks one host after the other, the next one also when the last one is silent for
    /// [`SILENCE`]; the first usable answer wins. Takes up to [`super::FETCH_MAX`] and one such
    /// time a host.
    ///
    /// # Errors
    ///
    /// If none gives a usable answer.
    pub async fn members(&mut self) -> Result<Cluster, AllUnavailable> {
        let mut waiting = self.hosts.order(Instant::now()).into_iter();
        // Dropping it gives up whatever is still asked.
        let mut asked = JoinSet::new();
        let mut silent = Vec::new();
        loop {
            let next = waiting.next();
            if let Some(place) = next {
                asked.spawn(ask(place, self.url(place), self.tls.clone()));
                silent.push(place);
            }
            let patience = if next.is_some() { SILENCE } else { FETCH_MAX };
            let Ok(outcome) = timeout(patience, asked.join_next()).await else {
                continue;
            };
            let Some(outcome) = outcome else {
                return Err(AllUnavailable);
            };
            // A task that panicked would count as silent.
            let Ok((place, outcome)) = outcome else {
                continue;
            };
            silent.retain(|one| *one != place);
            match outcome {
                Ok(cluster) => {
                    self.hosts.note_success(place);
                    for place in silent {
                        let url = self.url(place);
                        tracing::warn!(
                            "Failed to fetch cluster from {url}: another host was faster"
                        );
                        self.hosts.note_failure(place, Instant::now());
                    }
                    return Ok(cluster);
                }
                Err(error) => {
                    let url = self.url(place);
                    tracing::warn!("Failed to fetch cluster from {url}: {error}");
                    self.hosts.note_failure(place, Instant::now());
                }
            }
        }
    }

    fn url(&self, place: usize) -> String {
        let base = self.urls.get(place).map_or("", String::as_str);
        format!("{}/cluster", base.strip_suffix('/').unwrap_or(base))
    }
}

async fn ask(
    place: usize,
    url: String,
    tls: Option<Arc<ClientConfig>>,
) -> (usize, Result<Cluster, FetchError>) {
    let answer = fetch(&url, tls.as_ref()).await;
    let cluster = answer.and_then(|body| parse(&body).map_err(FetchError::from));
    (place, cluster)
}
