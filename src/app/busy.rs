//! How busy a shard is, and what it keeps.
//!
//! **Owns:** writing the CPU time of a shard's thread and its share, and how many prepared statements it
//! keeps, into the shard's numbers.
//! **Does not own:** the clock of the thread (`shards`), showing it (`metrics`, the console).
//!
//! One timer a second: an idle shard wakes up for it and goes back to sleep, some ten microseconds.

use std::rc::Rc;
use std::time::{Duration, Instant};

use shards::{sleep, thread_cpu_time};

use crate::metrics::ShardMetrics;
use crate::server::statements::text::Kept;
use crate::session::Shard;

/// How often it is written.
const PERIOD: Duration = Duration::from_secs(1);

/// What was seen at the last look.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    cpu: Duration,
}

/// Writes `busy_us` and `busy_permille` of this thread's shard, for as long as the shard lives.
pub async fn measure(shard: Rc<Shard>) {
    let mut last = look();
    // What the thread has used before this is its as well.
    shard.metrics().busy_us.add(micros(last.cpu));
    loop {
        sleep(PERIOD).await;
        let next = look();
        note(shard.metrics(), last, next);
        last = next;
        let mut statements = shard.host.statements.borrow_mut();
        statements.tidy();
        note_statements(shard.metrics(), statements.kept());
    }
}

/// Reads both clocks. Not the time of the turn: a turn may be long, and is what is measured.
fn look() -> Look {
    Look {
        at: Instant::now(),
        cpu: thread_cpu_time(),
    }
}

fn note(metrics: &ShardMetrics, last: Look, next: Look) {
    let used = micros(next.cpu) - micros(last.cpu).min(micros(next.cpu));
    let passed = micros(next.at.saturating_duration_since(last.at)).max(1);
    metrics.busy_us.add(used);
    // The clocks are not read at the same instant, so a busy thread may seem to exceed the whole.
    metrics.busy_permille.set((used * 1000 / passed).min(1000));
}

fn note_statements(metrics: &ShardMetrics, kept: &Kept) {
    metrics.statements.set(kept.count() as u64);
    metrics.statement_texts.set(kept.bytes() as u64);
}

/// Whole microseconds since the clock's start, so that parts add up to the whole.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_of_the_time_that_has_passed() {
        let metrics = ShardMetrics::default();
        let start = Look {
            at: Instant::now(),
            cpu: Duration::from_micros(70),
        };
        let later = |wall_ms, cpu_us| Look {
            at: start.at + Duration::from_millis(wall_ms),
            cpu: start.cpu + Duration::from_micros(cpu_us),
        };
        note(&metrics, start, later(1000, 250_000));
        assert_eq!(metrics.busy_permille.get(), 250);
        note(&metrics, later(1000, 250_000), later(3000, 2_251_000));
        assert_eq!(metrics.busy_permille.get(), 1000);
        assert_eq!(metrics.busy_us.get(), 2_251_000);
        note(&metrics, start, start);
        assert_eq!(metrics.busy_permille.get(), 0);
    }
}
