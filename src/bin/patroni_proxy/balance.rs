//! Which backend a new connection gets.
//!
//! **Owns:** the choice: the fewest open connections, weighted.
//! **Does not own:** who is eligible (`plans`), counting (whoever connects).
//! **Invariant:** among equals the first in the order of the cluster is chosen.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::numbers::Load;

/// Where connections can go. `key` tells backends apart; addresses may change with it the same.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    /// Host and port as the cluster and the configuration write them.
    pub(crate) key: Arc<str>,
    /// What the cluster calls it.
    pub(crate) host: Arc<str>,
    /// Tried one after the other.
    pub(crate) addresses: Arc<[SocketAddr]>,
    /// Share of the connections, relative to that of others; 0 = only if there is no other.
    pub(crate) weight: u64,
    /// Its open connections of this port, on all shards.
    pub(crate) load: Arc<Load>,
}

impl PartialEq for Backend {
    /// All but the load.
    fn eq(&self, other: &Self) -> bool {
        let of = |one: &Self| (Arc::clone(&one.key), one.weight, Arc::clone(&one.addresses));
        of(self) == of(other)
    }
}

/// The backend for the next connection, not one of `tried`.
pub(crate) fn choose<'a>(backends: &'a [Backend], tried: &[Arc<str>]) -> Option<&'a Backend> {
    let mut best: Option<(&Backend, u128, u128)> = None;
    for backend in backends.iter().filter(|one| !tried.contains(&one.key)) {
        // Connections it would have, by weight: compared as fractions.
        let after = u128::from(backend.load.open()) + 1;
        let weight = u128::from(backend.weight);
        let is_better = match best {
            None => true,
            Some((_, _, 0)) if weight > 0 => true,
            Some((_, _, other_weight)) if other_weight > 0 && weight == 0 => false,
            Some((_, other, 0)) => after < other,
            Some((_, other, other_weight)) => after * other_weight < other * weight,
        };
        if is_better {
            best = Some((backend, after, weight));
        }
    }
    best.map(|(backend, _, _)| backend)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(weights: &[u64]) -> Vec<Backend> {
        let backend = |(number, weight): (usize, &u64)| Backend {
            key: number.to_string().into(),
            host: number.to_string().into(),
            addresses: Vec::new().into(),
            weight: *weight,
            load: Arc::default(),
        };
        weights.iter().enumerate().map(backend).collect()
    }

    /// Connections of each backend after `count` choices.
    fn spread(weights: &[u64], count: usize) -> Vec<u64> {
        let backends = backends(weights);
        for _ in 0..count {
            choose(&backends, &[]).unwrap().load.open_one();
        }
        backends.iter().map(|one| one.load.open()).collect()
    }

    #[test]
    fn the_one_with_the_fewest_connections_is_chosen_and_the_first_of_equals() {
        assert_eq!(spread(&[100, 100, 100], 1), [1, 0, 0]);
        assert_eq!(spread(&[100, 100, 100], 5), [2, 2, 1]);
        let backends = backends(&[100, 100]);
        backends[0].load.open_one();
        assert_eq!(&*choose(&backends, &[]).unwrap().key, "1");
    }

    #[test]
    fn a_smaller_weight_gets_fewer_connections() {
        assert_eq!(spread(&[50, 100, 100], 50), [10, 20, 20]);
        assert_eq!(spread(&[25, 100], 3), [0, 3]);
        assert_eq!(spread(&[25, 100], 5), [1, 4]);
    }

    #[test]
    fn without_weight_a_backend_is_the_last_resort() {
        assert_eq!(spread(&[0, 100], 9), [0, 9]);
        assert_eq!(spread(&[0, 0], 4), [2, 2]);
        let backends = backends(&[0, 100]);
        assert_eq!(&*choose(&backends, &["1".into()]).unwrap().key, "0");
        assert!(choose(&backends, &["1".into(), "0".into()]).is_none());
    }
}
