//! A task that panics ends, and what it owns with it; its shard and the other tasks go on.
//!
//! **Owns:** the containment of panics.

mod common;

use std::io::{Read, Write};

use common::{launch_shards, on_a_shard, pair, within_limit};
use shards::Stream;

#[test]
fn its_stream_closes_and_the_others_go_on() {
    let (doomed, mut doomed_peer) = pair();
    let (healthy, mut healthy_peer) = pair();
    doomed_peer.write_all(b"x").unwrap();
    let peers = std::thread::spawn(move || {
        assert_eq!(doomed_peer.read(&mut [0; 1]).unwrap_or(0), 0, "closed");
        healthy_peer.write_all(b"y").unwrap();
        healthy_peer.read_exact(&mut [0; 1]).unwrap();
    });
    on_a_shard(move || async move {
        shards::spawn(async move {
            let mut stream = Stream::new(doomed);
            let _ = stream.receive().await;
            panic!("a deliberate panic of a test");
        });
        let mut stream = Stream::new(healthy);
        let chunk = stream.receive().await.unwrap().unwrap();
        stream.send(chunk);
        stream.flush().await.unwrap();
    });
    peers.join().unwrap();
}

#[test]
fn a_panic_of_the_first_task_ends_its_shard_in_order() {
    within_limit(|| {
        let (fleet, _control) = launch_shards::<(), _, _>(2, |context| async move {
            assert_ne!(context.id.index(), 0, "a deliberate panic of a test");
        });
        fleet.join().unwrap();
    });
}
