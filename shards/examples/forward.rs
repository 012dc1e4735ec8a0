//! A byte forwarder: every connection to the listening address is joined with one to the target.
//!
//! It knows nothing of what it forwards, and is the benchmark of the crate's data path.
//!
//! ```text
//! cargo run --release -p shards --example forward -- <shards> <listen address> <target address>
//! ```

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use shards::{
    Families, Listener, Policy, Requested, ShardCount, Stream, Topology, bind_tcp, connect_tcp,
    launch, place,
};

/// Bytes that may wait for a slow reader before its peer is not read any more.
const WINDOW_BYTES: usize = 256 * 1024;

/// Moves what has arrived at `from` to `to`. `false` when `from` has ended.
fn forward(from: &mut Stream, to: &mut Stream, context: &mut Context<'_>) -> bool {
    while to.queued_bytes() < WINDOW_BYTES {
        match from.poll_receive(context) {
            Poll::Ready(Ok(Some(chunk))) => to.send(chunk),
            Poll::Ready(Ok(None) | Err(_)) => return false,
            Poll::Pending => return true,
        }
    }
    from.pause();
    // Notes who is to be woken; the receive goes on with the next call.
    let _ = to.poll_sent(WINDOW_BYTES / 2, context);
    true
}

async fn join(mut near: Stream, target: SocketAddr) {
    let Ok(mut far) = connect_tcp(target, |socket| socket.set_tcp_nodelay(true)).await else {
        return;
    };
    poll_fn(|context| {
        let open = forward(&mut near, &mut far, context) && forward(&mut far, &mut near, context);
        if open { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
}

async fn serve(listen: SocketAddr, target: SocketAddr) {
    let socket = bind_tcp(listen, Families::Both).expect("the listening address can be bound");
    socket
        .set_tcp_nodelay(true)
        .expect("TCP_NODELAY can be set");
    socket.listen(1024).expect("the socket can listen");
    let mut listener = Listener::new(socket);
    while let Ok(accepted) = listener.accept().await {
        shards::spawn(join(Stream::new(accepted), target));
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, count, listen, target] = arguments.as_slice() else {
        eprintln!("usage: forward <shards> <listen address> <target address>");
        std::process::exit(2);
    };
    let count = ShardCount::new(count.parse().expect("a number")).expect("a number of shards");
    let shards = Requested::Count(count);
    let listen: SocketAddr = listen.parse().expect("a listening address");
    let target: SocketAddr = target.parse().expect("a target address");
    let topology = Topology::detect().expect("the CPUs of this process are known");
    let placement = place(&topology, &Policy { shards, pin: true }).expect("a placement");
    let (fleet, _control) =
        launch::<(), _, _>(&placement.plans, move |_context| serve(listen, target))
            .expect("the shards start");
    fleet.join().expect("the shards end");
}
