//! From the members of a cluster to the plan of a port.
//!
//! **Owns:** the order of backends, their keys and weights, what becomes of members that rest.
//! **Does not own:** eligibility (`pg_doorman::patroni`), the choice of one (`balance`).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use pg_doorman::patroni::{Cluster, Member, Role, Standing};

use crate::balance::Backend;
use crate::config::{Port, SocketOptions};
use crate::message::Plan;
use crate::numbers::{Load, PortNumbers};

/// The weight of a replica, and of a leader unless it is set.
const WEIGHT: u64 = 100;

/// Addresses of the hosts of members.
pub(crate) type Addresses = HashMap<String, Vec<IpAddr>>;

/// What one question to a cluster has told.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// The members.
    pub(crate) cluster: Cluster,
    /// Where they are.
    pub(crate) addresses: Addresses,
}

/// What stays while plans of a port follow each other.
#[derive(Debug)]
pub(crate) struct Books {
    /// `cluster:port`.
    pub(crate) label: Arc<str>,
    /// Open connections by key of the backend.
    pub(crate) loads: HashMap<Arc<str>, Arc<Load>>,
    /// All other numbers.
    pub(crate) numbers: Arc<PortNumbers>,
}

/// The plan of `port` for the members in `view`.
pub(crate) fn plan(
    port: &Port,
    view: Option<&View>,
    sockets: SocketOptions,
    books: &mut Books,
) -> Plan {
    let mut backends: Vec<Backend> = Vec::new();
    let mut resting: Vec<Arc<str>> = Vec::new();
    let members = view.map_or(&[][..], |view| &view.cluster.members);
    for member in members {
        let key = key(member, port.host_port);
        let is_known = backends.iter().any(|one| one.key == key);
        match port.rule.standing(member) {
            Standing::Eligible if !is_known => {
                let addresses = view.and_then(|view| view.addresses.get(&member.host));
                let addresses = addresses.map_or(&[][..], Vec::as_slice);
                let load = books.loads.entry(Arc::clone(&key)).or_default();
                backends.push(backend(member, key, port, addresses, Arc::clone(load)));
            }
            Standing::Resting => resting.push(key),
            Standing::Eligible | Standing::Out => {}
        }
    }
    resting.retain(|key| backends.iter().all(|one| one.key != *key));
    let is_used = |key: &Arc<str>, load: &Arc<Load>| {
        load.open() > 0 || backends.iter().any(|one| one.key == *key)
    };
    books.loads.retain(|key, load| is_used(key, load));
    Plan {
        label: Arc::clone(&books.label),
        backends,
        resting,
        drain: port.drain,
        connect_timeout: port.connect_timeout,
        connections_max: port.connections_max,
        sockets,
        numbers: Arc::clone(&books.numbers),
    }
}

fn key(member: &Member, port: u16) -> Arc<str> {
    let host = &member.host;
    if host.contains(':') {
        format!("[{host}]:{port}").into()
    } else {
        format!("{host}:{port}").into()
    }
}

fn backend(
    member: &Member,
    key: Arc<str>,
    port: &Port,
    addresses: &[IpAddr],
    load: Arc<Load>,
) -> Backend {
    let is_leader = member.role == Role::Leader;
    Backend {
        key,
        host: member.host.as_str().into(),
        addresses: addresses
            .iter()
            .map(|ip| SocketAddr::new(*ip, port.host_port))
            .collect(),
        weight: if is_leader {
            port.leader_weight
        } else {
            WEIGHT
        },
        load,
    }
}

/// The backends of `before` that `after` has no more, with what becomes of their connections.
pub(crate) fn removed<'a>(before: &'a Plan, after: &'a Plan) -> impl Iterator<Item = Removed<'a>> {
    let is_gone = |one: &&Backend| after.backends.iter().all(|other| other.key != one.key);
    before
        .backends
        .iter()
        .filter(is_gone)
        .map(|backend| Removed {
            backend,
            is_drained: !after.drain.is_zero() && after.resting.contains(&backend.key),
        })
}

/// A backend that gets no more connections.
pub(crate) struct Removed<'a> {
    /// Which one.
    pub(crate) backend: &'a Backend,
    /// Those it has go on for a while.
    pub(crate) is_drained: bool,
}
