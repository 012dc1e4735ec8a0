//! The drivers of Rust, in this process: tokio-postgres and sqlx.
//!
//! Owns: running many clients on one thread, what is the same for both.
//! Does not own: what each driver is asked (`tokio_postgres`, `sqlx`).
//! Invariants: a panic of any client fails the test; none waits for ever.

mod sqlx;
mod tokio_postgres;

use std::cell::Cell;
use std::pin::Pin;
use std::time::Duration;

use tokio::task::{JoinSet, LocalSet};

/// How many clients a test has.
const CLIENTS: i32 = 10;
/// How often each repeats what it does.
const ROUNDS: i32 = 40;
/// Longest run of all clients of a test.
const LONGEST: Duration = Duration::from_secs(120);
/// The pause between two cancel requests; one that comes too early has no effect.
const CANCEL_PAUSE: Duration = Duration::from_millis(20);

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Runs one task a client at the same time.
fn at_once(client: impl Fn(i32) -> Task) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let all = async {
        let mut tasks = JoinSet::new();
        for number in 0..CLIENTS {
            tasks.spawn_local(client(number));
        }
        while let Some(result) = tasks.join_next().await {
            result.unwrap();
        }
    };
    let limited = async { tokio::time::timeout(LONGEST, all).await };
    runtime
        .block_on(LocalSet::new().run_until(limited))
        .expect("the clients come to an end");
}

/// Repeats `cancel` until `statement` has ended, and returns what came of that.
async fn cancelled<T, Again: Future<Output = ()>>(
    statement: impl Future<Output = T>,
    cancel: impl Fn() -> Again,
) -> T {
    let is_over = Cell::new(false);
    let running = async {
        let result = statement.await;
        is_over.set(true);
        result
    };
    let cancelling = async {
        while !is_over.get() {
            cancel().await;
            tokio::time::sleep(CANCEL_PAUSE).await;
        }
    };
    tokio::join!(running, cancelling).0
}
