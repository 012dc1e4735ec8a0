//! Streams that wait for bytes hold no receive buffer, however many they are.
//!
//! **Owns:** the price of an idle stream.

mod common;

use std::future::poll_fn;
use std::io::Write;
use std::task::Poll;

use common::{on_a_shard, pair};
use shards::Stream;

/// More than a shard has buffers.
const STREAMS: usize = 1_500;

#[test]
fn more_streams_than_buffers_wait_and_each_can_receive() {
    let (nears, mut fars): (Vec<_>, Vec<_>) = (0..STREAMS).map(|_| pair()).unzip();
    on_a_shard(move || async move {
        let mut streams: Vec<_> = nears.into_iter().map(Stream::new).collect();
        for round in 0..2 {
            poll_fn(|context| {
                for stream in &mut streams {
                    assert!(stream.poll_receive(context).is_pending());
                }
                Poll::Ready(())
            })
            .await;
            // All are armed and idle; one after the other gets bytes, a chunk is not held.
            for (stream, far) in streams.iter_mut().zip(&mut fars) {
                far.write_all(&[round]).unwrap();
                assert_eq!(&*stream.receive().await.unwrap().unwrap(), [round]);
            }
        }
    });
}
