//! Starting shards, and the tasks on them.
//!
//! **Owns:** one thread per plan with a glommio executor and a ring; [`spawn`].
//! **Does not own:** where shards run (`placement`), what they do (the caller's future).
//!
//! **Invariants**
//! 1. No shard's future starts before every shard has its ring: a message can always be announced.
//! 2. If one shard cannot start, none does.
//! 3. A panicking task ends alone; its shard goes on.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

use crate::mailbox::{ControlSeat, Inbox, Mesh, Outbox, take_seat};
use crate::placement::ShardPlan;
use crate::ring::driver::{Counted, drive};
use crate::ring::{self, Ring};
use crate::shard_id::ShardId;

/// Memory that glommio registers for its own rings, which carry nothing here.
const GLOMMIO_IO_BYTES: usize = 64 * 1024;
/// Depth of glommio's own rings.
const GLOMMIO_RING_DEPTH: usize = 16;
/// How often glommio looks at its own reactor: never, it has nothing to tell. And it must not: if this
/// time is over before glommio has come from looking there to running the first task, as on a machine
/// under load, glommio 0.9 takes that for having no task, and sleeps on rings that nothing wakes.
const GLOMMIO_PREEMPT: Duration = Duration::from_secs(100 * 365 * 86_400);

/// What a shard's future gets.
pub struct Context<M> {
    /// This shard.
    pub id: ShardId,
    /// Number of shards.
    pub count: usize,
    /// Messages to this shard.
    pub inbox: Inbox<M>,
    /// Messages from this shard.
    pub outbox: Outbox<M>,
}

/// All running shards.
pub struct Fleet {
    threads: Vec<ExecutorJoinHandle<()>>,
}

impl Fleet {
    /// Waits until every shard's future has ended.
    ///
    /// # Errors
    ///
    /// If a shard's thread has panicked.
    pub fn join(self) -> io::Result<()> {
        for thread in self.threads {
            thread
                .join()
                .map_err(|error| io::Error::other(error.to_string()))?;
        }
        Ok(())
    }
}

/// A task whose panic does not reach the executor.
struct Contained<F>(F);

impl<F: Future<Output = ()>> Future for Contained<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<()> {
        // SAFETY: structural pinning of the only field, as in `Counted`.
        let inner = unsafe { self.map_unchecked_mut(|contained| &mut contained.0) };
        catch_unwind(AssertUnwindSafe(|| inner.poll(context))).unwrap_or_else(|_| {
            tracing::error!("a task has panicked; it ends, its shard goes on");
            Poll::Ready(())
        })
    }
}

/// Starts a task on this shard. It runs until it ends; a panic ends only the task.
///
/// # Panics
///
/// On a thread that runs no shard.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(Counted(Contained(future))).detach();
}

/// Runs `main` on a ring of this thread's executor until it ends.
async fn run_shard(ring: ring::RingRef, main: impl Future<Output = ()> + 'static) {
    let done = Rc::new(Cell::new(false));
    let ended = Rc::clone(&done);
    spawn(async move {
        // Set also when `main` panics.
        struct End(Rc<Cell<bool>>);
        impl Drop for End {
            fn drop(&mut self) {
                self.0.set(true);
            }
        }
        let _end = End(ended);
        main.await;
    });
    drive(&ring, &done).await;
    ring::shut_down(&ring).await;
    ring::set_current(None);
}

trait RingEnd {
    fn report(&self, result: io::Result<()>);
}

impl RingEnd for Sender<io::Result<()>> {
    fn report(&self, result: io::Result<()>) {
        // The launcher waits for every report; it is gone only when it has given up itself.
        let _ = self.send(result);
    }
}

/// Starts one shard per plan, each running the future that `main` makes for it.
///
/// # Errors
///
/// If a thread or a ring cannot be made; nothing runs then.
pub fn launch<M, F, R>(plans: &[ShardPlan], main: F) -> io::Result<(Fleet, ControlSeat<M>)>
where
    M: Send + 'static,
    F: Fn(Context<M>) -> R + Clone + Send + 'static,
    R: Future<Output = ()> + 'static,
{
    let mesh = Mesh::new(plans.len())?;
    let (report, reports) = channel();
    let mut threads = Vec::new();
    let mut starts = Vec::new();
    for plan in plans {
        let (start, started) = channel::<()>();
        starts.push(start);
        let (mesh, main, report) = (mesh.clone(), main.clone(), report.clone());
        let (id, count) = (plan.id, plans.len());
        let placement = plan.cpu.map_or(Placement::Unbound, Placement::Fixed);
        let thread = LocalExecutorBuilder::new(placement)
            .name(&format!("shard-{}", id.index()))
            .io_memory(GLOMMIO_IO_BYTES)
            .ring_depth(GLOMMIO_RING_DEPTH)
            .preempt_timer(GLOMMIO_PREEMPT)
            .spawn(move || async move {
                let Some(ring) = build_ring(&report) else {
                    return;
                };
                let (inbox, outbox) = take_seat(&mesh, id);
                report.report(Ok(()));
                if started.recv().is_ok() {
                    run_shard(
                        ring,
                        main(Context {
                            id,
                            count,
                            inbox,
                            outbox,
                        }),
                    )
                    .await;
                }
            })
            .map_err(|error| io::Error::other(error.to_string()))?;
        threads.push(thread);
    }
    await_reports(&reports, plans.len())?;
    for start in starts {
        // A shard that reported success waits for this message.
        let _ = start.send(());
    }
    Ok((Fleet { threads }, ControlSeat::new(mesh)))
}

fn build_ring(report: &Sender<io::Result<()>>) -> Option<ring::RingRef> {
    match Ring::new() {
        Ok(ring) => {
            ring::set_current(Some(ring.clone()));
            Some(ring)
        }
        Err(error) => {
            report.report(Err(error));
            None
        }
    }
}

fn await_reports(reports: &Receiver<io::Result<()>>, count: usize) -> io::Result<()> {
    for _ in 0..count {
        let gone = |_| io::Error::other("a shard's thread has ended while it started");
        reports.recv().map_err(gone)??;
    }
    Ok(())
}

/// Runs one shard on a thread of its own until its future ends; for programs of one shard and tests.
///
/// # Errors
///
/// As [`launch`] and [`Fleet::join`].
pub fn run_one<F, R, T>(main: F) -> io::Result<T>
where
    F: FnOnce() -> R + Send + 'static,
    R: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let (result, results) = channel();
    let main = std::sync::Arc::new(crossbeam_queue::SegQueue::from_single(main));
    let plan = ShardPlan {
        id: ShardId::new(0),
        cpu: None,
    };
    let (fleet, _control) = launch::<(), _, _>(&[plan], move |_context| {
        let (main, result) = (main.pop(), result.clone());
        async move {
            if let Some(main) = main {
                let _ = result.send(main().await);
            }
        }
    })?;
    fleet.join()?;
    results
        .try_recv()
        .map_err(|_| io::Error::other("the shard's future has panicked"))
}

trait FromSingle<T> {
    fn from_single(value: T) -> Self;
}

impl<T> FromSingle<T> for crossbeam_queue::SegQueue<T> {
    fn from_single(value: T) -> Self {
        let queue = Self::new();
        queue.push(value);
        queue
    }
}
