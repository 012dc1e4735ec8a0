//! Thread-per-core runtime over `io_uring`.

mod error;
mod placement;
mod probe;
mod shard_id;
mod topology;

pub use error::{PlacementError, ProbeError, RingCall};
pub use placement::{Placement, PlacementNote, Policy, Requested, ShardPlan, place};
pub use probe::{KernelVersion, ProbeReport, probe_host};
pub use shard_id::{ShardCount, ShardId};
pub use topology::{Cpu, Topology};
