//! A stream that fills buffers in a row is received in large regions, and back when it calms down.
//!
//! **Owns:** the switch, both ways, and the order of bytes across it.

mod common;

use std::future::poll_fn;
use std::io::Write;
use std::sync::mpsc::channel;
use std::task::Poll;
use std::time::Duration;

use common::{Checker, on_a_shard, pair, pattern, receive_pattern};
use shards::{BUFFER_BYTES, Stream, sleep};

const BULK: usize = 8 << 20;
const CALM: usize = 200;
const BURST: usize = 100_000;

#[test]
fn chunks_grow_and_shrink_and_keep_their_order() {
    let (near, mut far) = pair();
    let (go_on, may_go_on) = channel();
    let writer = std::thread::spawn(move || {
        let mut position = 0;
        let mut write = |len| {
            far.write_all(&pattern(position, len)).unwrap();
            position += len;
        };
        for _ in 0..3 {
            write(BULK);
            for _ in 0..CALM {
                may_go_on.recv().unwrap();
                write(10);
            }
            may_go_on.recv().unwrap();
            write(BURST);
        }
        may_go_on.recv().unwrap_err();
    });
    on_a_shard(move || async move {
        let mut stream = Stream::new(near);
        let mut checker = Checker::default();
        for _ in 0..3 {
            let (mut largest, end) = (0, checker.position + BULK);
            while checker.position < end {
                let chunk = stream.receive().await.unwrap().unwrap();
                largest = largest.max(chunk.len());
                checker.check(&chunk);
            }
            assert!(largest > 4 * BUFFER_BYTES, "{largest} is not large");
            for _ in 0..CALM {
                go_on.send(()).unwrap();
                checker.check(&stream.receive().await.unwrap().unwrap());
            }
            // Calm now: the first chunk of a burst is a small buffer.
            go_on.send(()).unwrap();
            let (mut first, end) = (None, checker.position + BURST);
            while checker.position < end {
                let chunk = stream.receive().await.unwrap().unwrap();
                first.get_or_insert(chunk.len());
                checker.check(&chunk);
            }
            assert!(first.unwrap() <= BUFFER_BYTES);
        }
    });
    writer.join().unwrap();
}

#[test]
fn order_is_kept_at_every_rhythm() {
    const BYTES: usize = 16 << 20;
    let (near, mut far) = pair();
    let writer = std::thread::spawn(move || {
        let (mut position, mut len) = (0, 1);
        while position < BYTES {
            let now = len.min(BYTES - position);
            far.write_all(&pattern(position, now)).unwrap();
            position += now;
            len = len * 31 % 400_009 + 1;
        }
        far
    });
    on_a_shard(move || async move {
        let mut stream = Stream::new(near);
        let (mut checker, mut count) = (Checker::default(), 0_u64);
        while checker.position < BYTES {
            let chunk = stream.receive().await.unwrap().unwrap();
            checker.check(&chunk);
            count += 1;
            if count.is_multiple_of(7) {
                stream.pause();
            }
            if count.is_multiple_of(11) {
                sleep(Duration::from_micros(300)).await;
            }
        }
        assert_eq!(checker.position, BYTES);
    });
    writer.join().unwrap();
}

#[test]
fn order_is_kept_across_the_switch_when_nobody_takes_for_a_while() {
    const STREAMS: usize = 8;
    const BYTES: usize = 700_000;
    let (nears, fars): (Vec<_>, Vec<_>) = (0..STREAMS).map(|_| pair()).unzip();
    let writers = fars.into_iter().map(|mut far| {
        std::thread::spawn(move || {
            far.write_all(&pattern(0, BYTES)).unwrap();
            far
        })
    });
    let writers: Vec<_> = writers.collect();
    on_a_shard(move || async move {
        let mut streams: Vec<_> = nears.into_iter().map(Stream::new).collect();
        poll_fn(|context| {
            for stream in &mut streams {
                let _ = stream.poll_receive(context);
            }
            Poll::Ready(())
        })
        .await;
        // Four buffers fill in a row, the stream turns to bulk, and its owner is busy.
        sleep(Duration::from_millis(20)).await;
        for mut stream in streams {
            let mut checker = Checker::default();
            receive_pattern(&mut stream, &mut checker, BYTES).await;
        }
    });
    for writer in writers {
        writer.join().unwrap();
    }
}
