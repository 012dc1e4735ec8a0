//! Forwarding one small message costs about one system call per wake-up of the shard.
//!
//! **Owns:** the number of `io_uring_enter` calls.

#![allow(clippy::unwrap_used, reason = "a failure is the test's failure")]

mod common;

use std::io::{Read, Write};

use common::{on_a_shard, pair};
use shards::{Stream, ring_enters};

const ROUNDS: u64 = 2_000;

async fn pump(mut from: Stream, mut to: Stream) {
    // One direction at a time, as in a question and its answer.
    for _ in 0..ROUNDS {
        let question = from.receive().await.unwrap().unwrap();
        to.send(question);
        let answer = to.receive().await.unwrap().unwrap();
        from.send(answer);
    }
    from.flush().await.unwrap();
}

#[test]
fn a_round_trip_through_a_forwarder_costs_few_calls() {
    let (left, mut asker) = pair();
    let (right, mut answerer) = pair();
    let asker = std::thread::spawn(move || {
        for round in 0..ROUNDS {
            asker.write_all(&round.to_ne_bytes()).unwrap();
            let mut answer = [0; 8];
            asker.read_exact(&mut answer).unwrap();
            assert_eq!(answer, round.to_ne_bytes());
        }
    });
    let answerer = std::thread::spawn(move || {
        for _ in 0..ROUNDS {
            let mut question = [0; 8];
            answerer.read_exact(&mut question).unwrap();
            answerer.write_all(&question).unwrap();
        }
    });
    let enters = on_a_shard(move || async move {
        let before = ring_enters();
        pump(Stream::new(left), Stream::new(right)).await;
        ring_enters() - before
    });
    asker.join().unwrap();
    answerer.join().unwrap();
    // Two wake-ups per round trip; what each sends leaves with the call that waits for the next.
    assert!(
        (ROUNDS..=2 * ROUNDS + 50).contains(&enters),
        "{enters} calls for {ROUNDS} round trips"
    );
}

#[test]
fn many_streams_share_the_call_of_a_turn() {
    const STREAMS: usize = 100;
    let (nears, mut fars): (Vec<_>, Vec<_>) = (0..STREAMS).map(|_| pair()).unzip();
    let enters = on_a_shard(move || async move {
        let mut streams: Vec<_> = nears.into_iter().map(Stream::new).collect();
        let before = ring_enters();
        for stream in &mut streams {
            stream.send(b"to everyone".to_vec());
        }
        for stream in &mut streams {
            stream.flush().await.unwrap();
        }
        ring_enters() - before
    });
    for far in &mut fars {
        far.read_exact(&mut [0; 11]).unwrap();
    }
    assert!(enters <= 3, "{enters} calls for {STREAMS} sends");
}
