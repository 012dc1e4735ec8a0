//! Bytes leave in the order in which they were queued, whatever the kernel takes at a time.
//!
//! **Owns:** one send per socket; the rest of a short send.

mod common;

use std::io::Read;
use std::rc::Rc;
use std::time::Duration;

use common::{Checker, on_a_shard, pair_with_buffers, pattern};
use shards::{Stream, sleep};

const BYTES: usize = 1 << 20;

#[test]
fn a_slow_reader_with_tiny_buffers_sees_the_sequence() {
    let (near, mut far) = pair_with_buffers(4096);
    let reader = std::thread::spawn(move || {
        let mut checker = Checker::default();
        let mut buffer = [0; 3_001];
        let mut len = 1;
        loop {
            let count = far.read(&mut buffer[..len]).unwrap();
            if count == 0 {
                return checker.position;
            }
            checker.check(&buffer[..count]);
            len = (len * 31 + 7) % 3_000 + 1;
        }
    });
    on_a_shard(move || async move {
        let mut stream = Stream::new(near);
        let (mut position, mut len) = (0, 1);
        while position < BYTES {
            let bytes = pattern(position, len.min(BYTES - position));
            position += bytes.len();
            if len % 2 == 0 {
                stream.send(bytes);
            } else {
                stream.send(Rc::<[u8]>::from(bytes));
            }
            len = (len * 13 + 5) % 977 + 1;
            if len % 50 == 0 {
                // Sends meet sends in flight, and queues of every length.
                sleep(Duration::from_micros(100)).await;
            }
        }
        stream.flush().await.unwrap();
        drop(stream);
        while !reader.is_finished() {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(reader.join().unwrap(), BYTES);
    });
}
