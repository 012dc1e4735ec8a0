//! A fleet ends at once although its tasks have open streams and listeners, and nothing stays open.
//!
//! **Owns:** the end of a fleet.

mod common;

use std::io::Read;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use common::{launch_shards, pair, within_limit};
use shards::{Families, Listener, Stream, bind_tcp, sleep};

async fn wait_for_bytes(mut stream: Stream) {
    let _ = stream.receive().await;
}

#[test]
fn the_fleet_ends_with_streams_open_and_closes_them() {
    within_limit(|| {
        let (send_near, nears) = channel();
        let nears = std::sync::Arc::new(std::sync::Mutex::new(nears));
        let mut fars = Vec::new();
        for _ in 0..20 {
            let (near, far) = pair();
            send_near.send(near).unwrap();
            fars.push(far);
        }
        let (fleet, control) = launch_shards::<(), _, _>(2, move |mut context| {
            let nears = nears.clone();
            async move {
                for _ in 0..10 {
                    let near = nears.lock().unwrap().recv().unwrap();
                    shards::spawn(wait_for_bytes(Stream::new(near)));
                }
                shards::spawn(async {
                    let socket = bind_tcp("127.0.0.1:0".parse().unwrap(), Families::Both).unwrap();
                    socket.listen(8).unwrap();
                    let _ = Listener::new(socket).accept().await;
                });
                shards::spawn(sleep(Duration::from_secs(3600)));
                context.inbox.receive().await;
            }
        });
        for shard in 0..2 {
            control.try_send(shards::ShardId::new(shard), ()).unwrap();
        }
        let started = Instant::now();
        fleet.join().unwrap();
        assert!(
            started.elapsed() < Duration::from_millis(1500),
            "nothing is waited for"
        );
        for mut far in fars {
            assert_eq!(far.read(&mut [0; 8]).unwrap(), 0, "the stream was closed");
        }
    });
}
