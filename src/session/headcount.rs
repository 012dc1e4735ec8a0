//! How many clients a database and a user have, over all shards.
//!
//! **Owns:** the counts, and who counts.
//! **Does not own:** the limits (`config::limits`), the count of all connections (`shard`).
//!
//! A count is touched when a client has proved who it is and when it goes, wherever it is then.
//!
//! **Invariant:** who counts has been let in under the limit of that moment; a limit that is lowered
//! sends nobody away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What clients have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// The database that they have asked for.
    Database,
    /// The user that they have logged in as, in whatever database.
    User,
}

type Counts = HashMap<(Group, Box<str>), Weak<AtomicU64>>;

/// The counts of all groups that have a member.
#[derive(Clone, Debug, Default)]
pub struct Headcounts(Arc<Mutex<Counts>>);

/// One client in the count of a group. Ends when dropped.
#[derive(Debug)]
pub struct Member(Arc<AtomicU64>);

impl Headcounts {
    fn count(&self, group: Group, name: &str) -> Arc<AtomicU64> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counts.get(&(group, name.into())).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            counts.retain(|_, count| count.strong_count() > 0);
            let count = Arc::<AtomicU64>::default();
            counts.insert((group, name.into()), Arc::downgrade(&count));
            count
        })
    }

    /// Counts one more, unless there are `limit` already; 0 = no limit.
    pub fn enter(&self, group: Group, name: &str, limit: usize) -> Option<Member> {
        let count = self.count(group, name);
        let more = |now: u64| (limit == 0 || now < limit as u64).then_some(now + 1);
        let entered = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        // Not `then_some`: a member that was never counted would be taken off when dropped.
        entered.is_ok().then(|| Member(count))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_makes_place_in_its_own_group_only() {
        let counts = Headcounts::default();
        let enter = |name, limit| counts.enter(Group::Database, name, limit);
        let (first, second) = (enter("a", 2), enter("a", 2));
        assert!(first.is_some() && second.is_some());
        assert!(enter("a", 2).is_none());
        assert!(enter("a", 2).is_none(), "a refusal changes nothing");
        assert!(enter("a", 0).is_some(), "no limit");
        assert!(enter("b", 1).is_some());
        assert!(counts.enter(Group::User, "a", 1).is_some());
        drop(first);
        assert!(enter("a", 2).is_some());
    }

    #[test]
    fn threads_together_do_not_pass_the_limit() {
        let counts = Headcounts::default();
        let most = AtomicU64::new(0);
        let come_and_go = || {
            for member in (0..2000).filter_map(|_| counts.enter(Group::User, "u", 3)) {
                most.fetch_max(member.0.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(come_and_go);
            }
        });
        assert!((1..=3).contains(&most.into_inner()));
        assert!(counts.enter(Group::User, "u", 1).is_some(), "all have gone");
    }
}
