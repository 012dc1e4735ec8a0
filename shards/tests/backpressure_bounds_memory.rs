//! A peer that reads nothing costs the window and the sockets' buffers, not what the source offers.
//!
//! **Owns:** pausing the source.

mod common;

use std::future::poll_fn;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::task::{Context, Poll};
use std::time::Duration;

use common::{Checker, on_a_shard, pair_with_buffers, pattern};
use shards::{REGION_BYTES, Stream};

const WINDOW_BYTES: usize = 256 * 1024;
const BYTES: usize = 32 << 20;
const SOCKET_BYTES: usize = 64 * 1024;

/// Moves what has arrived. `false` at the end.
fn forward(from: &mut Stream, to: &mut Stream, context: &mut Context<'_>) -> bool {
    while to.queued_bytes() < WINDOW_BYTES {
        match from.poll_receive(context) {
            Poll::Ready(Ok(Some(chunk))) => to.send(chunk),
            Poll::Ready(Ok(None) | Err(_)) => return false,
            Poll::Pending => return true,
        }
        // One region may overshoot.
        assert!(to.queued_bytes() < WINDOW_BYTES + REGION_BYTES);
    }
    from.pause();
    let _ = to.poll_sent(WINDOW_BYTES / 2, context);
    true
}

#[test]
fn the_source_is_stopped_and_goes_on_when_the_reader_does() {
    let (source_near, mut source) = pair_with_buffers(SOCKET_BYTES);
    let (sink_near, mut sink) = pair_with_buffers(SOCKET_BYTES);
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = accepted.clone();
    let (stuck, is_stuck) = channel();
    std::thread::spawn(move || {
        // A write that waits this long is stuck.
        let patience = Duration::from_secs(1);
        source.set_write_timeout(Some(patience)).unwrap();
        let mut position = 0;
        while position < BYTES {
            match source.write(&pattern(position, 10_000.min(BYTES - position))) {
                Ok(count) => {
                    position += count;
                    counted.store(position, Ordering::Relaxed);
                }
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                    let _ = stuck.send(());
                }
            }
        }
    });
    let reader = std::thread::spawn(move || {
        is_stuck.recv().expect("the source is stopped");
        let bound = WINDOW_BYTES + 2 * REGION_BYTES + 10 * SOCKET_BYTES;
        let taken = accepted.load(Ordering::Relaxed);
        assert!(
            taken < bound,
            "{taken} bytes were taken for a peer that reads nothing"
        );
        let mut checker = Checker::default();
        let mut buffer = vec![0; 100_000];
        loop {
            let count = sink.read(&mut buffer).unwrap();
            checker.check(&buffer[..count]);
            if count == 0 {
                return checker.position;
            }
        }
    });
    on_a_shard(move || async move {
        let (mut from, mut to) = (Stream::new(source_near), Stream::new(sink_near));
        poll_fn(|context| {
            if forward(&mut from, &mut to, context) {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
        to.flush().await.unwrap();
    });
    assert_eq!(reader.join().unwrap(), BYTES);
}
