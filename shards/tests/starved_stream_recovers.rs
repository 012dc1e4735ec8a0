//! Streams that found no receive buffer go on when buffers return.
//!
//! **Owns:** starvation, and its end.

mod common;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::Write;
use std::task::{Context, Poll};

use common::{Checker, on_a_shard, pair, pattern, receive_pattern};
use shards::{Chunk, Stream};

/// Provided buffers of a shard.
const BUFFERS: usize = 1024;

#[test]
fn every_byte_arrives_after_all_buffers_were_held() {
    const STREAMS: usize = BUFFERS + 200;
    let (nears, mut fars): (Vec<_>, Vec<_>) = (0..STREAMS).map(|_| pair()).unzip();
    for far in &mut fars {
        far.write_all(&pattern(0, 100)).unwrap();
    }
    on_a_shard(move || async move {
        let mut streams: Vec<_> = nears.into_iter().map(Stream::new).collect();
        // Chunks are held until no stream gets a buffer any more.
        let mut held: Vec<Option<Chunk>> = (0..STREAMS).map(|_| None).collect();
        poll_fn(|context| {
            for (stream, chunk) in streams.iter_mut().zip(&mut held) {
                if chunk.is_none()
                    && let Poll::Ready(received) = stream.poll_receive(context)
                {
                    *chunk = received.unwrap();
                }
            }
            let taken = held.iter().flatten().count();
            assert!(taken <= BUFFERS, "a chunk without a buffer");
            if taken == BUFFERS {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        // The rest arrives as the first ones are released, one by one.
        let (mut checkers, mut starved) = (Vec::new(), Vec::new());
        for (index, chunk) in held.into_iter().enumerate() {
            let mut checker = Checker::default();
            match chunk {
                Some(chunk) => {
                    checker.check(&chunk);
                    checkers.push((index, checker));
                }
                None => starved.push((index, checker)),
            }
        }
        assert_eq!(starved.len(), STREAMS - BUFFERS);
        for (index, mut checker) in starved {
            receive_pattern(&mut streams[index], &mut checker, 100).await;
        }
        for (index, mut checker) in checkers {
            fars[index].write_all(&pattern(100, 100)).unwrap();
            receive_pattern(&mut streams[index], &mut checker, 200).await;
        }
    });
}

const BYTES: usize = 60_000;

/// Takes all that is there; each chunk is held while a thousand others pass.
fn take_and_hold(
    stream: &mut Stream,
    checker: &mut Checker,
    held: &mut VecDeque<Chunk>,
    context: &mut Context<'_>,
) {
    while checker.position < BYTES {
        let Poll::Ready(chunk) = stream.poll_receive(context) else {
            return;
        };
        let chunk = chunk.expect("no error").expect("no end yet");
        checker.check(&chunk);
        held.push_back(chunk);
        if held.len() > BUFFERS - 4 {
            held.pop_front();
        }
    }
}

#[test]
fn bytes_flow_while_most_buffers_are_held_for_long() {
    const STREAMS: usize = 300;
    let (nears, fars): (Vec<_>, Vec<_>) = (0..STREAMS).map(|_| pair()).unzip();
    let writer = std::thread::spawn(move || {
        let mut fars = fars;
        for position in (0..BYTES).step_by(3_000) {
            for far in &mut fars {
                far.write_all(&pattern(position, 3_000)).unwrap();
            }
        }
        fars
    });
    on_a_shard(move || async move {
        let mut streams: Vec<_> = nears.into_iter().map(Stream::new).collect();
        let mut checkers: Vec<_> = (0..STREAMS).map(|_| Checker::default()).collect();
        let mut held = VecDeque::new();
        poll_fn(|context| {
            for (stream, checker) in streams.iter_mut().zip(&mut checkers) {
                take_and_hold(stream, checker, &mut held, context);
            }
            if checkers.iter().all(|checker| checker.position == BYTES) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    });
    writer.join().unwrap();
}
