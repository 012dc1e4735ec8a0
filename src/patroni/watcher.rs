//! Asks the hosts of one cluster until one answers.
//!
//! **Owns:** the order of hosts over time, the line of the log about each failure.
//! **Does not own:** when to ask, what to do with the answer.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use rustls::ClientConfig;

use super::client::{FetchError, fetch};
use super::cluster::{Cluster, parse};
use super::hosts::Hosts;

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

    /// Asks one host after the other. Takes up to [`super::FETCH_MAX`] a host.
    ///
    /// # Errors
    ///
    /// If none gives a usable answer.
    pub async fn members(&mut self) -> Result<Cluster, AllUnavailable> {
        for place in self.hosts.order(Instant::now()) {
            let Some(base) = self.urls.get(place) else {
                continue;
            };
            let url = format!("{}/cluster", base.strip_suffix('/').unwrap_or(base));
            let answer = fetch(&url, self.tls.as_ref()).await;
            match answer.and_then(|body| parse(&body).map_err(FetchError::from)) {
                Ok(cluster) => {
                    self.hosts.note_success(place);
                    return Ok(cluster);
                }
                Err(error) => {
                    tracing::warn!("Failed to fetch cluster from {url}: {error}");
                    self.hosts.note_failure(place, Instant::now());
                }
            }
        }
        Err(AllUnavailable)
    }
}
