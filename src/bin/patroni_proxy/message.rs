//! What control tells shards.
//!
//! **Owns:** the messages and the plan of a port.
//! **Does not own:** making plans (`plans`), acting on them (`shard`, `port`).

use std::sync::Arc;
use std::time::Duration;

use shards::Socket;

use crate::balance::Backend;
use crate::config::SocketOptions;
use crate::numbers::PortNumbers;

/// Names a port as long as the process runs.
pub(crate) type PortId = u64;

/// All that a shard must know of a port.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// `cluster:port`, for the log.
    pub(crate) label: Arc<str>,
    /// Get connections, in the order of the cluster.
    pub(crate) backends: Vec<Backend>,
    /// Keep the connections they have, for a while.
    pub(crate) resting: Vec<Arc<str>>,
    /// How long that is.
    pub(crate) drain: Duration,
    /// How long one try to connect may take.
    pub(crate) connect_timeout: Duration,
    /// Open connections at a time; zero = any number.
    pub(crate) connections_max: u64,
    /// Options of sockets to backends.
    pub(crate) sockets: SocketOptions,
    /// Where is counted.
    pub(crate) numbers: Arc<PortNumbers>,
}

impl PartialEq for Plan {
    /// All but the numbers.
    fn eq(&self, other: &Self) -> bool {
        let times = |one: &Self| (one.drain, one.connect_timeout);
        self.label == other.label
            && self.backends == other.backends
            && self.resting == other.resting
            && times(self) == times(other)
            && self.connections_max == other.connections_max
            && self.sockets == other.sockets
    }
}

/// From control to a shard.
#[derive(Debug)]
pub(crate) enum ShardMessage {
    /// Accept on `socket`, which listens.
    Open {
        /// The new port.
        port: PortId,
        /// This shard's listening socket.
        socket: Socket,
        /// Where its connections go.
        plan: Arc<Plan>,
    },
    /// From now on it is this plan.
    Replan {
        /// The port.
        port: PortId,
        /// Where its connections go.
        plan: Arc<Plan>,
    },
    /// Accept no more, and cut what is still open after `drain`.
    Close {
        /// The port.
        port: PortId,
        /// How long connections may go on.
        drain: Duration,
    },
    /// As `Close` for all ports, each with the time of its plan; then the shard ends.
    Stop {
        /// The longest of these times.
        drain: Duration,
    },
}
