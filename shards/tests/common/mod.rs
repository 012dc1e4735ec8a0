//! What the tests of the shard runtime share: running a shard under a deadline, peers, bytes whose
//! order can be checked.
//!
//! **Owns:** failure bounds; the pattern.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::future::Future;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::mpsc::channel;
use std::time::Duration;

use shards::{Context, ControlSeat, Fleet, ShardId, ShardPlan, Stream, launch, run_one};

/// After this time a test has failed. Nothing waits for it on the way to success.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Runs `main` on a shard of its own; panics if it does not end in time.
pub(crate) fn on_a_shard<F, R, T>(main: F) -> T
where
    F: FnOnce() -> R + Send + 'static,
    R: Future<Output = T> + 'static,
    T: Send + 'static,
{
    within_limit(|| run_one(main).expect("the shard runs"))
}

/// Runs `work` on a thread of its own; panics if it does not end in time.
pub(crate) fn within_limit<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = channel();
    std::thread::spawn(move || done.send(work()));
    result.recv_timeout(LIMIT).expect("it ends in time")
}

/// Starts `count` unpinned shards.
pub(crate) fn launch_shards<M, F, R>(count: u16, main: F) -> (Fleet, ControlSeat<M>)
where
    M: Send + 'static,
    F: Fn(Context<M>) -> R + Clone + Send + 'static,
    R: Future<Output = ()> + 'static,
{
    let plans: Vec<_> = (0..count)
        .map(|index| ShardPlan {
            id: ShardId::new(index),
            cpu: None,
        })
        .collect();
    launch(&plans, main).expect("the shards start")
}

/// Two connected TCP sockets with the kernel's usual buffers. Reads of the second one time out.
pub(crate) fn pair() -> (OwnedFd, TcpStream) {
    pair_with_buffers(0)
}

/// Two connected TCP sockets; `bytes` is the size of their buffers, 0 the kernel's choice.
pub(crate) fn pair_with_buffers(bytes: usize) -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let set = |socket: socket2::SockRef<'_>| {
        socket.set_tcp_nodelay(true).expect("no delay");
        if bytes > 0 {
            socket.set_send_buffer_size(bytes).expect("a buffer");
            socket.set_recv_buffer_size(bytes).expect("a buffer");
        }
    };
    set((&listener).into());
    let near = TcpStream::connect(address).expect("a connection");
    set((&near).into());
    let far = listener.accept().expect("a connection").0;
    set((&far).into());
    far.set_read_timeout(Some(LIMIT)).expect("a timeout");
    (near.into(), far)
}

/// The byte at `position` of the test stream.
fn byte_at(position: usize) -> u8 {
    let mixed = (position as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 56) as u8
}

/// `len` bytes of the test stream from `start` on.
pub(crate) fn pattern(start: usize, len: usize) -> Vec<u8> {
    (start..start + len).map(byte_at).collect()
}

/// Checks that bytes continue the test stream.
#[derive(Default)]
pub(crate) struct Checker {
    /// Bytes seen.
    pub(crate) position: usize,
}

impl Checker {
    /// Panics with the position of the first wrong byte.
    pub(crate) fn check(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let position = self.position;
            assert_eq!(*byte, byte_at(position), "byte {position}");
            self.position += 1;
        }
    }
}

/// Receives and checks until `checker` has seen `total` bytes.
pub(crate) async fn receive_pattern(stream: &mut Stream, checker: &mut Checker, total: usize) {
    while checker.position < total {
        let chunk = stream.receive().await.expect("no error");
        checker.check(&chunk.expect("no end yet"));
    }
}
