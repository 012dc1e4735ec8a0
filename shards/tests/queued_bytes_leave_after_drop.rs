//! What was queued before a stream was dropped still reaches the peer, then the end of the stream.
//!
//! **Owns:** lingering, also past the end of the shard.

mod common;

use std::io::{Read, Write};
use std::time::Duration;

use common::{Checker, on_a_shard, pair, pattern};
use shards::{Stream, sleep};

const BYTES: usize = 3 << 20;

fn reader(mut far: std::net::TcpStream) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        far.read_to_end(&mut all).expect("an orderly end");
        let mut checker = Checker::default();
        checker.check(&all);
        checker.position
    })
}

#[test]
fn the_last_bytes_arrive_before_the_end() {
    let (near, far) = pair();
    let reader = reader(far);
    on_a_shard(move || async move {
        let mut stream = Stream::new(near);
        for start in (0..BYTES).step_by(8192) {
            stream.send(pattern(start, 8192));
        }
        drop(stream);
        while !reader.is_finished() {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(reader.join().unwrap(), BYTES);
    });
}

#[test]
fn bytes_that_nobody_has_read_do_not_reset_the_connection() {
    let (near, mut far) = pair();
    far.write_all(&vec![9; 100_000]).unwrap();
    let reader = reader(far);
    on_a_shard(move || async move {
        let mut stream = Stream::new(near);
        stream.send(pattern(0, 100));
        drop(stream);
        while !reader.is_finished() {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(reader.join().unwrap(), 100);
    });
}

#[test]
fn the_end_of_the_shard_does_not_cut_them_off() {
    let (near, far) = pair();
    let reader = reader(far);
    on_a_shard(move || async move {
        let mut stream = Stream::new(near);
        for start in (0..BYTES).step_by(8192) {
            stream.send(pattern(start, 8192));
        }
    });
    assert_eq!(reader.join().unwrap(), BYTES);
}
