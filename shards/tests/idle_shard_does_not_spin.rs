//! A shard on which nothing happens makes no system call.
//!
//! **Owns:** the wait of an idle shard.

mod common;

use std::io::{Read, Write};
use std::sync::mpsc::channel;

use common::{launch_shards, pair, within_limit};
use shards::{ShardId, Stream, ring_enters};

async fn echo(mut stream: Stream) {
    while let Ok(Some(chunk)) = stream.receive().await {
        stream.send(chunk);
    }
}

#[test]
fn the_count_of_calls_stands_still_while_nothing_happens() {
    within_limit(|| {
        let (tell, told) = channel();
        let (busy_near, mut busy) = pair();
        let near = std::sync::Arc::new(std::sync::Mutex::new(Some(busy_near)));
        let (fleet, control) = launch_shards::<bool, _, _>(2, move |mut context| {
            let tell = tell.clone();
            let near = near.clone();
            async move {
                if context.id.index() == 1 {
                    // The clock of the test: it answers many times meanwhile.
                    let near = near.lock().unwrap().take().unwrap();
                    shards::spawn(echo(Stream::new(near)));
                }
                let mut end = false;
                while !end {
                    end = context.inbox.receive().await.1;
                    tell.send(ring_enters()).unwrap();
                }
            }
        });
        let idle = ShardId::new(0);
        let calls = |end| {
            control.try_send(idle, end).unwrap();
            told.recv().unwrap()
        };
        let before = calls(false);
        for round in 0..5_000_u32 {
            busy.write_all(&round.to_ne_bytes()).unwrap();
            busy.read_exact(&mut [0; 4]).unwrap();
        }
        let after = calls(true);
        assert!(
            after - before <= 3,
            "{} calls for one message",
            after - before
        );
        control.try_send(ShardId::new(1), true).unwrap();
        fleet.join().unwrap();
    });
}
