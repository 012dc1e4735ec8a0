//! A receive future may be dropped at any point, before, while and after bytes arrive.
//!
//! **Owns:** the safety of abandoning a receive.

mod common;

use std::future::{Future, poll_fn};
use std::io::Write;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant, UNIX_EPOCH};

use common::{Checker, on_a_shard, pair, pattern};
use shards::{Stream, until};

const BYTES: usize = 4 << 20;

#[test]
fn dropping_receives_at_random_points_keeps_every_byte() {
    let seed = UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let (near, mut far) = pair();
    let writer = std::thread::spawn(move || {
        let mut position = 0;
        let mut len = 1;
        while position < BYTES {
            let now = len.min(BYTES - position);
            far.write_all(&pattern(position, now)).unwrap();
            position += now;
            len = len * 7 % 30_011 + 1;
        }
        far
    });
    on_a_shard(move || async move {
        let mut random = seed | 1;
        let mut stream = Stream::new(near);
        let mut checker = Checker::default();
        while checker.position < BYTES {
            random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(99);
            match (random >> 60) % 4 {
                0 => drop(stream.receive()),
                1 => {
                    let mut receive = pin!(stream.receive());
                    let taken = poll_fn(|context| match receive.as_mut().poll(context) {
                        Poll::Ready(chunk) => Poll::Ready(Some(chunk)),
                        Poll::Pending => Poll::Ready(None),
                    });
                    if let Some(chunk) = taken.await {
                        checker.check(&chunk.unwrap().unwrap());
                    }
                }
                2 => {
                    let soon = Instant::now() + Duration::from_micros((random >> 40) % 200);
                    if let Some(chunk) = until(soon, stream.receive()).await {
                        checker.check(&chunk.unwrap().unwrap());
                    }
                }
                _ => {
                    stream.pause();
                    checker.check(&stream.receive().await.unwrap().unwrap());
                }
            }
        }
        assert_eq!(checker.position, BYTES);
    });
    writer.join().unwrap();
}
