//! What the commands show, as plain values.
//!
//! **Owns:** the rows of clients and servers, and the settings, as the console shows them.
//! **Does not own:** where they come from (`session::commands`).

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;

use crate::config::{Config, Endpoint, PoolConfig, UserConfig};
use crate::metrics::Fleet;
use crate::metrics::pool::PoolReading;
use crate::metrics::statements::StatementAccount;
use crate::metrics::window::{PoolView, counts};

use super::sockets::Sockets;

/// What the commands show.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The version that runs.
    pub version: &'a str,
    /// The numbers of all shards.
    pub fleet: &'a Fleet,
    /// The settings.
    pub config: &'a Config,
    /// The clients, if they are asked for.
    pub clients: &'a [ClientRow],
    /// The servers, if they are asked for.
    pub servers: &'a [ServerRow],
    /// The prepared statements, if they are asked for.
    pub statements: &'a [StatementAccount],
    /// The pools with times and averages, if those are asked for.
    pub times: &'a [PoolView],
    /// The sockets, if they are asked for.
    pub sockets: &'a Sockets,
    /// Where clients can connect.
    pub listening: &'a [Listening],
    /// Only the columns are wanted: there are no rows of pools.
    pub is_heading: bool,
}

/// A place where clients can connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// An IP address, or the path of a socket.
    pub address: String,
    /// The port; that in the name of the socket.
    pub port: u16,
    /// `ipv4`, `ipv6`, `ipv6, ipv4` or `unix`.
    pub family: &'static str,
}

/// One client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRow {
    /// The process id that it was told.
    pub id: u32,
    /// What it has logged in to.
    pub database: String,
    /// What it has logged in as.
    pub user: String,
    /// As it said at login.
    pub application_name: String,
    /// Where it comes from; none on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// Its connection is encrypted.
    pub is_tls: bool,
    /// `idle`, `waiting` or `active`.
    pub state: &'static str,
    /// `idle`, `read` or `write`.
    pub wait: &'static str,
    /// Transactions that it has ended.
    pub transactions: u64,
    /// Queries that were answered.
    pub queries: u64,
    /// Errors that it was sent.
    pub errors: u64,
    /// Time since it has connected, in seconds.
    pub age_seconds: u64,
    /// The shard that serves it.
    pub shard: usize,
}

/// One server connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRow {
    /// Names the connection for life.
    pub id: u32,
    /// Process id of its session.
    pub pid: i32,
    /// The database of its pool.
    pub database: String,
    /// The user of its pool.
    pub user: String,
    /// Of the last client.
    pub application_name: String,
    /// `idle` or `active`.
    pub state: &'static str,
    /// `idle`, `read` or `write`.
    pub wait: &'static str,
    /// Transactions that have ended on it.
    pub transactions: u64,
    /// Queries that it has answered.
    pub queries: u64,
    /// Bytes sent to it.
    pub sent: u64,
    /// Bytes received from it.
    pub received: u64,
    /// Prepared statements that were there, that were not, and that there are.
    pub statements: [u64; 3],
    /// Time since it was opened, in seconds.
    pub age_seconds: u64,
    /// The shard that has it.
    pub shard: usize,
    /// The connection is encrypted.
    pub is_tls: bool,
}

/// A pool that is configured, with its numbers.
#[derive(Clone, Debug)]
pub(super) struct Tenant<'a> {
    pub(super) pool: &'a PoolConfig,
    pub(super) user: &'a UserConfig,
    pub(super) view: Cow<'a, PoolView>,
}

impl View<'_> {
    /// The pools that are configured, in the order of the configuration, without times and averages:
    /// those are many numbers.
    pub(super) fn tenants(&self) -> Vec<Tenant<'_>> {
        if self.is_heading {
            return Vec::new();
        }
        let views = counts(self.fleet).into_iter();
        self.tenants_of(views.map(Cow::Owned))
    }

    /// As [`View::tenants`], with times and averages.
    pub(super) fn tenants_with_times(&self) -> Vec<Tenant<'_>> {
        self.tenants_of(self.times.iter().map(Cow::Borrowed))
    }

    fn tenants_of<'a>(&'a self, views: impl Iterator<Item = Cow<'a, PoolView>>) -> Vec<Tenant<'a>> {
        if self.is_heading {
            return Vec::new();
        }
        let mut views: HashMap<_, _> = views
            .map(|view| ((view.database.clone(), view.user.clone()), view))
            .collect();
        let mut tenants = Vec::new();
        for pool in &self.config.pools {
            for user in &pool.users {
                let name = (pool.name.as_str().into(), user.username.as_str().into());
                let view = views.remove(&name);
                let view = view.unwrap_or_else(|| Cow::Owned(nothing(pool, user)));
                tenants.push(Tenant { pool, user, view });
            }
        }
        tenants
    }
}

/// The clients of the pools that have the same `name`, by that name.
pub(super) fn clients_by<'a>(
    tenants: &[Tenant<'a>],
    name: impl Fn(&Tenant<'a>) -> &'a str,
) -> HashMap<&'a str, u64> {
    let mut sums = HashMap::new();
    for tenant in tenants {
        *sums.entry(name(tenant)).or_default() += tenant.view.now.clients;
    }
    sums
}

/// A pool that no shard has heard of yet.
fn nothing(pool: &PoolConfig, user: &UserConfig) -> PoolView {
    PoolView {
        database: pool.name.as_str().into(),
        user: user.username.as_str().into(),
        now: PoolReading::default(),
        recent: PoolReading::default(),
        averages: crate::metrics::window::Averages::default(),
    }
}

/// Host and port as they are configured.
pub(super) fn host_and_port(endpoint: &Endpoint) -> (String, String) {
    match endpoint {
        Endpoint::Tcp { host, port } => (host.clone(), port.to_string()),
        Endpoint::Unix { path } => {
            let directory = path.parent().unwrap_or(path).display().to_string();
            let port = path.extension().unwrap_or_default().to_string_lossy();
            (directory, port.into_owned())
        }
    }
}
