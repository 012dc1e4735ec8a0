//! Shards that listen on one address with `SO_REUSEPORT` all get connections.
//!
//! **Owns:** accepting, on several shards.

#![allow(clippy::unwrap_used, reason = "a failure is the test's failure")]

mod common;

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{LIMIT, launch_shards, within_limit};
use shards::{Families, Listener, ShardId, Stream, bind_tcp, spawn};

const CONNECTIONS: usize = 200;

fn free_address() -> SocketAddr {
    let holder = bind_tcp("127.0.0.1:0".parse().unwrap(), Families::Both).unwrap();
    holder.local_addr().unwrap().as_socket().unwrap()
}

/// Tells every connection which shard it has met.
async fn greet(mut listener: Listener, id: u8) {
    while let Ok(socket) = listener.accept().await {
        Stream::new(socket).send(vec![id]);
    }
}

#[test]
fn two_shards_share_two_hundred_connections() {
    within_limit(|| {
        let address = free_address();
        let (ready, all_ready) = channel();
        let (fleet, control) = launch_shards::<(), _, _>(2, move |mut context| {
            let ready = ready.clone();
            async move {
                let socket = bind_tcp(address, Families::Both).unwrap();
                socket.listen(256).unwrap();
                let listener = Listener::new(socket);
                ready.send(()).unwrap();
                spawn(greet(listener, context.id.index() as u8));
                context.inbox.receive().await;
            }
        });
        all_ready.recv().unwrap();
        all_ready.recv().unwrap();
        let mut counts = [0; 2];
        for _ in 0..CONNECTIONS {
            let mut peer = TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
            peer.set_read_timeout(Some(LIMIT)).unwrap();
            let mut id = [0];
            peer.read_exact(&mut id).unwrap();
            counts[usize::from(id[0])] += 1;
        }
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        assert_eq!(counts[0] + counts[1], CONNECTIONS);
        for shard in 0..2 {
            control.try_send(ShardId::new(shard), ()).unwrap();
        }
        fleet.join().unwrap();
    });
}
