//! A stream is handed from shard to shard again and again while its peer sends and receives: every
//! byte comes back, in order, and the end of the stream is seen by whoever has it then.
//!
//! **Owns:** detaching by polling, with traffic in both directions; abandoning it; waking.

#![allow(clippy::unwrap_used, reason = "a failure is the test's failure")]

mod common;

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use common::{Checker, launch_shards, on_a_shard, pair, pattern, receive_pattern, within_limit};
use shards::{Context, Detached, Seat, ShardId, Stream};

const BYTES: usize = 8 << 20;

/// Small steps of a linear congruence: good enough to choose places, and repeatable.
fn next(state: &mut u64) -> usize {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

/// Sends back what comes until some bytes have come, then passes the stream on. Ends with the stream.
async fn echo(mut context: Context<Detached>, moves: Arc<AtomicUsize>, mut seed: u64) {
    let (own, count) = (context.id.index(), context.count);
    'arrivals: loop {
        let Detached { socket, unread } = context.inbox.receive().await.1;
        let mut stream = Stream::new(socket);
        let mut left = next(&mut seed) % 100_000;
        stream.send(unread);
        loop {
            match stream.receive().await.unwrap() {
                Some(chunk) => {
                    let len = chunk.len();
                    stream.send(chunk);
                    if len > left {
                        break;
                    }
                    left -= len;
                }
                None => continue 'arrivals,
            }
        }
        moves.fetch_add(1, Ordering::Relaxed);
        let detached = poll_fn(|context| stream.poll_detach(context)).await;
        drop(stream);
        let other = (own + 1 + next(&mut seed) % (count - 1)) % count;
        let to = Seat::Shard(ShardId::new(other as u16));
        assert!(context.outbox.try_send(to, detached).is_ok());
    }
}

fn bytes_come_back_in_order(shards: u16) {
    within_limit(move || {
        let (near, far) = pair();
        let moves = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&moves);
        let (_fleet, control) = launch_shards(shards, move |context: Context<Detached>| {
            let seed = context.id.index() as u64;
            echo(context, Arc::clone(&counted), seed)
        });
        let first = Detached {
            socket: near,
            unread: Vec::new(),
        };
        assert!(control.try_send(ShardId::new(0), first).is_ok());
        let mut writer = far.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            let mut seed = 99;
            let mut position = 0;
            while position < BYTES {
                let len = (1 + next(&mut seed) % 30_000).min(BYTES - position);
                writer.write_all(&pattern(position, len)).unwrap();
                position += len;
            }
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut checker = Checker::default();
        let mut reader = far;
        let mut buffer = vec![0; 65_536];
        loop {
            let len = reader.read(&mut buffer).unwrap();
            if len == 0 {
                break;
            }
            checker.check(&buffer[..len]);
        }
        assert_eq!(checker.position, BYTES);
        writing.join().unwrap();
        assert!(moves.load(Ordering::Relaxed) >= 40, "{moves:?} moves");
    });
}

#[test]
fn every_byte_comes_back_over_two_shards() {
    bytes_come_back_in_order(2);
}

#[test]
fn every_byte_comes_back_over_four_shards() {
    bytes_come_back_in_order(4);
}

#[test]
fn a_detachment_that_is_given_up_leaves_the_stream_as_it_was() {
    let (near, mut far) = pair();
    on_a_shard(move || async move {
        let mut stream = Stream::new(near);
        let mut checker = Checker::default();
        for round in 0..50 {
            // A receive is in the kernel, so the first poll cannot be ready.
            poll_fn(|context| {
                assert!(stream.poll_receive(context).is_pending());
                Poll::Ready(())
            })
            .await;
            shards::sleep(Duration::from_millis(1)).await;
            let started = poll_fn(|context| Poll::Ready(stream.poll_detach(context))).await;
            assert!(started.is_pending());
            far.write_all(&pattern(checker.position, 100 + round))
                .unwrap();
            let total = checker.position + 100 + round;
            receive_pattern(&mut stream, &mut checker, total).await;
        }
    });
}

#[test]
fn the_next_owner_sees_bytes_and_end_that_came_during_the_detachment() {
    let (near, mut far) = pair();
    on_a_shard(move || async move {
        let mut stream = Stream::new(near);
        poll_fn(|context| {
            assert!(stream.poll_receive(context).is_pending());
            Poll::Ready(())
        })
        .await;
        far.write_all(&pattern(0, 1000)).unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        let Detached { socket, unread } = poll_fn(|context| stream.poll_detach(context)).await;
        let mut checker = Checker::default();
        checker.check(&unread);
        let mut stream = Stream::new(socket);
        receive_pattern(&mut stream, &mut checker, 1000).await;
        assert!(stream.receive().await.unwrap().is_none());
    });
}

#[test]
fn a_waiting_task_can_be_woken_without_news() {
    let (near, _far) = pair();
    on_a_shard(move || async move {
        let mut stream = Stream::new(near);
        let id = stream.id();
        let polls = Rc::new(Cell::new(0));
        let seen = Rc::clone(&polls);
        shards::spawn(async move {
            // Numbers that nobody has do no harm.
            shards::wake(u32::MAX);
            shards::wake(id + 1);
            while seen.get() < 3 {
                shards::wake(id);
                shards::sleep(Duration::from_millis(1)).await;
            }
        });
        let mut waiting = pin!(poll_fn(|context| {
            polls.set(polls.get() + 1);
            assert!(stream.poll_receive(context).is_pending());
            if polls.get() == 3 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }));
        waiting.as_mut().await;
    });
}
