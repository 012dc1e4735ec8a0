//! Placement: how many shards there are and which CPU each one runs on.
//!
//! Owns: the decision, as a pure function of topology and policy.
//! Does not own: reading the topology (`topology`), the pinning itself (the runtime).
//! Invariants: at least one plan; plan `i` is for shard `i`; a planned CPU is always in the
//! affinity mask; a second thread of a core is used only after every core has one shard.
//! Source: none; the order follows from how cores and their hardware threads share execution
//! units and caches.
//!
//! ```text
//!   package 0                package 1                  order of shards
//!   core 0: cpu 0, cpu 4     core 2: cpu 2, cpu 6       0 1 2 3   one per core, package by package
//!   core 1: cpu 1, cpu 5     core 3: cpu 3, cpu 7       4 5 6 7   then the sibling threads
//!                                                       0 1 ...   then around again
//! ```

use std::fmt;

use crate::error::PlacementError;
use crate::shard_id::{ShardCount, ShardId};
use crate::topology::{Cpu, Topology};

/// How many shards to start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Requested {
    /// One per CPU of the affinity mask, but no more than the CPU quota.
    #[default]
    Auto,
    /// Exactly this many, even beyond the number of CPUs.
    Count(ShardCount),
}

/// What the operator asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How many shards to start.
    pub shards: Requested,
    /// Whether each shard stays on one CPU.
    pub pin: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            shards: Requested::Auto,
            pin: true,
        }
    }
}

/// Where one shard runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardPlan {
    /// The shard.
    pub id: ShardId,
    /// The CPU to pin it to; `None` leaves it to the scheduler.
    pub cpu: Option<usize>,
}

/// Something the operator should know about a placement that is carried out all the same.
/// `Display` gives one sentence for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlacementNote {
    /// Some CPUs carry several shards.
    MoreShardsThanCpus {
        /// Shards asked for.
        shards: usize,
        /// CPUs of the affinity mask.
        cpus: usize,
    },
    /// The shards together may spend less CPU time than one CPU each.
    MoreShardsThanQuota {
        /// Shards asked for.
        shards: usize,
        /// The quota in whole CPUs, rounded up.
        quota: usize,
    },
}

impl fmt::Display for PlacementNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MoreShardsThanCpus { shards, cpus } => write!(
                f,
                "{shards} shards share {cpus} allowed CPUs: they compete for CPU time; ask for at \
                 most {cpus} shards or widen the CPU affinity of the process"
            ),
            Self::MoreShardsThanQuota { shards, quota } => write!(
                f,
                "{shards} shards run under a CPU quota of {quota} CPUs: the kernel will throttle \
                 them under load; ask for at most {quota} shards or raise cpu.max"
            ),
        }
    }
}

/// One plan per shard, in order of ids, and what to tell the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Never empty; entry `i` is for shard `i`.
    pub plans: Vec<ShardPlan>,
    /// Worth a warning each.
    pub notes: Vec<PlacementNote>,
}

impl Placement {
    /// The number of shards.
    ///
    /// # Errors
    /// [`PlacementError::BadShardCount`] for a hand-made placement with no or too many plans.
    pub fn count(&self) -> Result<ShardCount, PlacementError> {
        ShardCount::new(self.plans.len())
    }
}

/// Decides how many shards there are and where each one runs.
///
/// # Errors
/// [`PlacementError::NoCpus`] when the topology has no CPU.
pub fn place(topology: &Topology, policy: &Policy) -> Result<Placement, PlacementError> {
    let order = fill_order(&topology.cpus);
    if order.is_empty() {
        return Err(PlacementError::NoCpus);
    }
    let count = match policy.shards {
        Requested::Count(count) => count,
        Requested::Auto => auto_count(order.len(), topology.quota_cpus)?,
    };
    // The order is not empty, so `cycle` never ends before the ids do.
    let plans = count
        .ids()
        .zip(order.iter().cycle())
        .map(|(id, &cpu)| ShardPlan {
            id,
            cpu: policy.pin.then_some(cpu),
        })
        .collect();
    Ok(Placement {
        plans,
        notes: notes(count.get(), order.len(), topology.quota_cpus),
    })
}

fn auto_count(cpus: usize, quota: Option<usize>) -> Result<ShardCount, PlacementError> {
    let bounded = cpus.min(quota.unwrap_or(cpus)).min(ShardCount::MAX);
    ShardCount::new(bounded.max(1))
}

/// The CPU ids in the order in which shards take them: the first allowed thread of every core,
/// then the second ones; within a round package by package, so that few shards stay close.
fn fill_order(cpus: &[Cpu]) -> Vec<usize> {
    let mut ranked: Vec<(usize, usize, usize)> = cpus
        .iter()
        .map(|cpu| {
            let earlier_threads = cpus
                .iter()
                .filter(|other| other.core == cpu.core && other.id < cpu.id)
                .count();
            (earlier_threads, cpu.package, cpu.id)
        })
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, _, id)| id).collect()
}

fn notes(shards: usize, cpus: usize, quota: Option<usize>) -> Vec<PlacementNote> {
    let mut notes = Vec::new();
    if shards > cpus {
        notes.push(PlacementNote::MoreShardsThanCpus { shards, cpus });
    }
    // A quota at or above the number of CPUs adds nothing to the note above.
    if let Some(quota) = quota.filter(|&quota| quota < cpus && shards > quota) {
        notes.push(PlacementNote::MoreShardsThanQuota { shards, quota });
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CPUs given as (id, core, package).
    fn topology(cpus: &[(usize, usize, usize)], quota_cpus: Option<usize>) -> Topology {
        let cpus = cpus
            .iter()
            .map(|&(id, core, package)| Cpu { id, core, package })
            .collect();
        Topology { cpus, quota_cpus }
    }

    fn two_sockets() -> Topology {
        let cpus: Vec<_> = (0..8).map(|id| (id, id % 4, id % 4 / 2)).collect();
        topology(&cpus, None)
    }

    fn policy(shards: usize, pin: bool) -> Policy {
        let shards = match shards {
            0 => Requested::Auto,
            n => Requested::Count(ShardCount::new(n).unwrap()),
        };
        Policy { shards, pin }
    }

    fn cpus_of(placement: &Placement) -> Vec<usize> {
        for (i, plan) in placement.plans.iter().enumerate() {
            assert_eq!(plan.id.index(), i);
        }
        placement.plans.iter().filter_map(|plan| plan.cpu).collect()
    }

    #[test]
    fn auto_takes_every_allowed_cpu() {
        let placement = place(&two_sockets(), &Policy::default()).unwrap();
        assert_eq!(cpus_of(&placement), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(placement.notes.is_empty());
        assert_eq!(placement.count().unwrap().get(), 8);
    }

    #[test]
    fn auto_is_bounded_by_the_quota() {
        let mut topology = two_sockets();
        for (quota, shards) in [(3, 3), (100, 8), (0, 1)] {
            topology.quota_cpus = Some(quota);
            let placement = place(&topology, &policy(0, true)).unwrap();
            assert_eq!(placement.plans.len(), shards, "quota {quota}");
        }
    }

    #[test]
    fn cores_fill_before_sibling_threads_when_siblings_are_neighbours() {
        let topology = topology(&[(0, 0, 0), (1, 0, 0), (2, 2, 0), (3, 2, 0)], None);
        let placement = place(&topology, &policy(3, true)).unwrap();
        assert_eq!(cpus_of(&placement), [0, 2, 1]);
    }

    #[test]
    fn packages_fill_one_after_the_other() {
        let topology = topology(&[(0, 0, 0), (1, 1, 1), (2, 2, 0), (3, 3, 1)], None);
        let placement = place(&topology, &policy(0, true)).unwrap();
        assert_eq!(cpus_of(&placement), [0, 2, 1, 3]);
    }

    #[test]
    fn a_core_whose_first_thread_is_masked_out_still_counts_as_a_core() {
        let topology = topology(&[(5, 1, 0), (6, 2, 0), (10, 2, 0)], None);
        let placement = place(&topology, &policy(0, true)).unwrap();
        assert_eq!(cpus_of(&placement), [5, 6, 10]);
    }

    #[test]
    fn more_shards_than_cpus_wrap_around_with_a_note() {
        let topology = topology(&[(4, 4, 0), (7, 7, 0)], None);
        let placement = place(&topology, &policy(5, true)).unwrap();
        assert_eq!(cpus_of(&placement), [4, 7, 4, 7, 4]);
        let note = PlacementNote::MoreShardsThanCpus { shards: 5, cpus: 2 };
        assert_eq!(placement.notes, [note]);
        assert!(note.to_string().contains("5 shards share 2 allowed CPUs"));
    }

    #[test]
    fn more_shards_than_the_quota_are_noted() {
        let mut topology = two_sockets();
        topology.quota_cpus = Some(2);
        let placement = place(&topology, &policy(4, false)).unwrap();
        let note = PlacementNote::MoreShardsThanQuota {
            shards: 4,
            quota: 2,
        };
        assert_eq!(placement.notes, [note]);
        assert!(note.to_string().contains("cpu.max"));
    }

    #[test]
    fn without_pinning_no_shard_gets_a_cpu() {
        let placement = place(&two_sockets(), &policy(3, false)).unwrap();
        assert_eq!(placement.plans.len(), 3);
        assert!(placement.plans.iter().all(|plan| plan.cpu.is_none()));
    }

    #[test]
    fn two_cpus_are_enough_to_pin() {
        let placement = place(&topology(&[(0, 0, 0), (1, 1, 0)], None), &policy(2, true)).unwrap();
        assert_eq!(cpus_of(&placement), [0, 1]);
    }

    #[test]
    fn an_empty_topology_is_an_error() {
        let error = place(&Topology::default(), &Policy::default()).unwrap_err();
        assert!(matches!(error, PlacementError::NoCpus));
    }
}
