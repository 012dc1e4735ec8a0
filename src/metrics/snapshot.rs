//! The numbers at one moment, as plain values.
//!
//! **Owns:** reading the blocks.
//! **Does not own:** which numbers there are (`descriptors`).
//!
//! The shards go on counting while they are read, so two numbers of a snapshot may be a moment apart.

use super::descriptors::{DESCRIPTORS, Descriptor, Source};
use super::{Droppable, Fleet, ShardMetrics};

/// The numbers of the process that no shard owns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessSnapshot {
    /// The version that runs.
    pub version: &'static str,
    /// Open client connections.
    pub clients: u64,
    /// Memory claimed by client messages that do not arrive in one piece, in bytes.
    pub message_memory_bytes: u64,
    /// Virtual memory of the process, in bytes.
    pub virtual_memory_bytes: u64,
    /// Connections since the start: plain, TLS, cancel requests, all.
    pub connection_counts: [u64; 4],
    /// Open sockets: TCP over IPv4 and over IPv6, Unix, others.
    pub socket_counts: [u64; 4],
}

/// One number of one shard.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Which one.
    pub descriptor: &'static Descriptor,
    /// Which kind of lost messages, if it is counted by kind.
    pub kind: Option<Droppable>,
    /// The number in the descriptor's unit.
    pub value: u64,
}

/// The numbers of one shard.
#[derive(Clone, Debug)]
pub struct ShardSnapshot {
    /// Number of the shard.
    pub shard: usize,
    /// Its numbers in the order of the table.
    pub readings: Vec<Reading>,
}

/// Connections since the start of the first process: plain, TLS, cancel requests, all.
pub fn connection_counts(fleet: &Fleet) -> [u64; 4] {
    let mut sums = [0; 4];
    for shard in fleet.shards() {
        let numbers = [
            &shard.logins_plain,
            &shard.logins_tls,
            &shard.cancels_received,
            &shard.clients_accepted,
        ];
        for (sum, number) in sums.iter_mut().zip(numbers) {
            *sum += number.get();
        }
    }
    let inherited = fleet.inherited();
    let fields = [
        "logins_plain",
        "logins_tls",
        "cancels_received",
        "clients_accepted",
    ];
    for (sum, field) in sums.iter_mut().zip(fields) {
        *sum += inherited.of_shards(field);
    }
    sums
}

impl ShardSnapshot {
    /// Reads the block of shard `shard`.
    pub fn take(shard: usize, metrics: &ShardMetrics) -> Self {
        let mut readings = Vec::new();
        for descriptor in DESCRIPTORS {
            let reading = |kind, value| Reading {
                descriptor,
                kind,
                value,
            };
            match descriptor.source {
                Source::Shard { read, .. } => readings.push(reading(None, read(metrics))),
                Source::ShardByKind { read, .. } => readings.extend(
                    Droppable::ALL
                        .iter()
                        .map(|kind| reading(Some(*kind), read(metrics, *kind))),
                ),
                Source::Process(_) | Source::Version => {}
            }
        }
        Self { shard, readings }
    }

    /// Reads the blocks of all shards.
    pub fn take_all(fleet: &Fleet) -> Vec<Self> {
        let shards = fleet.shards().iter().enumerate();
        let inherited = fleet.inherited();
        shards
            .map(|(index, metrics)| {
                let mut snapshot = Self::take(index, metrics);
                for reading in &mut snapshot.readings {
                    inherited.add_to(index, reading);
                }
                snapshot
            })
            .collect()
    }

    /// The number of a field, all kinds together; 0 if there is no such field.
    pub fn value(&self, field: &str) -> u64 {
        self.readings
            .iter()
            .filter(|reading| reading.descriptor.source.field() == Some(field))
            .map(|reading| reading.value)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_has_the_numbers_of_its_shard() {
        let fleet = Fleet::new(2);
        fleet.shard(1).wants.add(7);
        fleet.shard(1).dropped(Droppable::Cancel);
        fleet.shard(1).dropped(Droppable::Grant);
        let shards = ShardSnapshot::take_all(&fleet);
        assert_eq!((shards[0].shard, shards[1].shard), (0, 1));
        assert_eq!((shards[0].value("wants"), shards[1].value("wants")), (0, 7));
        assert_eq!(shards[1].value("messages_dropped"), 2);
        assert_eq!(shards[1].value("no such field"), 0);
        fleet.shard(1).wants.add(1);
        assert_eq!(shards[1].value("wants"), 7);
    }
}
