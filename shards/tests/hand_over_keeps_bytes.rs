//! A stream moves between shards while its peer is sending; every byte arrives, in order.
//!
//! **Owns:** detaching, and what travels along.

#![allow(clippy::unwrap_used, reason = "a failure is the test's failure")]

mod common;

use std::cell::Cell;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use common::{Checker, launch_shards, pair, pattern, within_limit};
use shards::{Chunk, Context, Detached, Seat, ShardId, Stream};

const BYTES: usize = 6 << 20;

struct Moving {
    detached: Detached,
    seen: usize,
}

type Start = Arc<Mutex<Option<OwnedFd>>>;

fn take(checker: &mut Checker, chunk: Option<Chunk>) {
    checker.check(&chunk.expect("no end yet"));
}

/// Reads a little, then passes the stream to the other shard.
async fn serve(mut context: Context<Moving>, start: Start, moves: Arc<Mutex<usize>>) {
    let other = Seat::Shard(ShardId::new(1 - context.id.index() as u16));
    let first = start.lock().unwrap().take();
    let mut mine = first
        .filter(|_| context.id.index() == 0)
        .map(|socket| Moving {
            detached: Detached {
                socket,
                unread: Vec::new(),
            },
            seen: 0,
        });
    loop {
        let moving = match mine.take() {
            Some(moving) => moving,
            None => context.inbox.receive().await.1,
        };
        let mut checker = Checker {
            position: moving.seen,
        };
        let mut stream = Stream::new(moving.detached.socket);
        checker.check(&moving.detached.unread);
        let stop = (checker.position + 200_000).min(BYTES);
        while checker.position < stop {
            take(&mut checker, stream.receive().await.expect("no error"));
        }
        *moves.lock().unwrap() += 1;
        let detached = stream.detach().await;
        let end = checker.position + detached.unread.len() == BYTES;
        if end {
            checker.check(&detached.unread);
            assert_eq!(checker.position, BYTES);
        }
        let moving = Moving {
            detached,
            seen: if end { BYTES } else { checker.position },
        };
        let moving = context
            .outbox
            .try_send(if end { Seat::Control } else { other }, moving);
        assert!(moving.is_ok());
    }
}

#[test]
fn every_byte_arrives_in_order_over_many_moves() {
    within_limit(|| {
        let (near, mut far) = pair();
        let start: Start = Arc::new(Mutex::new(None));
        *start.lock().unwrap() = Some(near);
        let moves = Arc::new(Mutex::new(0));
        let counted = moves.clone();
        // Shard 0 must find the socket, whichever shard starts first.
        let (_fleet, mut control) = launch_shards::<Moving, _, _>(2, move |context| {
            let start = if context.id.index() == 0 {
                start.clone()
            } else {
                Arc::default()
            };
            serve(context, start, counted.clone())
        });
        for position in (0..BYTES).step_by(10_000) {
            far.write_all(&pattern(position, 10_000.min(BYTES - position)))
                .unwrap();
        }
        let moving = loop {
            wait_readable(&control);
            if let Some((_, moving)) = control.try_receive() {
                break moving;
            }
        };
        assert_eq!(moving.seen, BYTES);
        assert!(*moves.lock().unwrap() >= 4, "it has moved");
    });
}

fn wait_readable(seat: &shards::ControlSeat<Moving>) {
    use std::os::fd::{AsFd, AsRawFd};
    let mut entry = libc::pollfd {
        fd: seat.as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: `entry` is one valid pollfd.
    assert_eq!(unsafe { libc::poll(&raw mut entry, 1, 20_000) }, 1);
}

#[test]
fn bytes_queued_before_the_move_leave_before_it() {
    let (near, far) = pair();
    let reader = std::thread::spawn(move || {
        use std::io::Read;
        let mut far = far;
        let mut all = Vec::new();
        far.read_to_end(&mut all).unwrap();
        all
    });
    let total = Cell::new(0);
    common::on_a_shard(move || async move {
        let mut stream = Stream::new(near);
        while total.get() < BYTES {
            stream.send(pattern(total.get(), 100_000));
            total.set(total.get() + 100_000);
        }
        let detached = stream.detach().await;
        // A second life on the same shard.
        let mut stream = Stream::new(detached.socket);
        stream.send(pattern(total.get(), 5));
        drop(stream);
        let mut checker = Checker::default();
        while !reader.is_finished() {
            shards::sleep(std::time::Duration::from_millis(5)).await;
        }
        checker.check(&reader.join().unwrap());
        assert_eq!(checker.position, total.get() + 5);
    });
}
