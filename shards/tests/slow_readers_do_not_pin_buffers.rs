//! Streams whose bytes nobody takes do not keep others from receiving.
//!
//! **Owns:** what happens when all receive buffers are full of such bytes.

mod common;

use std::future::poll_fn;
use std::io::Write;
use std::task::Poll;

use common::{Checker, on_a_shard, pair, pattern, receive_pattern};
use shards::Stream;

const GREEDY: usize = 60;
const BYTES: usize = 400_000;

#[test]
fn bytes_that_nobody_takes_leave_the_buffers_to_others() {
    let mut writers = Vec::new();
    let mut nears = Vec::new();
    for _ in 0..GREEDY {
        let (near, mut far) = pair();
        nears.push(near);
        writers.push(std::thread::spawn(move || {
            far.write_all(&pattern(0, BYTES)).unwrap();
            far
        }));
    }
    let (victim, mut peer) = pair();
    on_a_shard(move || async move {
        let mut greedy: Vec<_> = nears.into_iter().map(Stream::new).collect();
        let mut victim = Stream::new(victim);
        // One look at each stream; after that their task is busy with something else.
        poll_fn(|context| {
            for stream in &mut greedy {
                let _ = stream.poll_receive(context);
            }
            Poll::Ready(())
        })
        .await;
        for round in 0..100 {
            peer.write_all(&[round]).unwrap();
            let chunk = victim.receive().await.unwrap().unwrap();
            assert_eq!(&*chunk, [round]);
            shards::sleep(std::time::Duration::from_micros(200)).await;
        }
        for mut stream in greedy {
            let mut checker = Checker::default();
            receive_pattern(&mut stream, &mut checker, BYTES).await;
        }
    });
    for writer in writers {
        writer.join().unwrap();
    }
}
