//! No descriptor of the crate is inherited by a program that the process starts.
//!
//! **Owns:** `FD_CLOEXEC` of accepted, listening and connected sockets.

mod common;

use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use common::on_a_shard;
use shards::{Families, Listener, Stream, bind_tcp, bind_unix, connect_tcp, connect_unix};

fn assert_closes(fd: BorrowedFd<'_>) {
    // SAFETY: F_GETFD takes no pointer.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
}

#[test]
fn sockets_close_on_exec() {
    on_a_shard(|| async {
        let socket = bind_tcp("127.0.0.1:0".parse().unwrap(), Families::Both).unwrap();
        socket.listen(8).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut listener = Listener::new(socket);
        assert_closes(listener.socket().as_fd());
        let _peer = TcpStream::connect(address).unwrap();
        let accepted = listener.accept().await.unwrap();
        assert_closes(accepted.as_fd());
        let stream = Stream::new(accepted);
        assert_closes(stream.as_fd());
        let connected = connect_tcp(address, |_| Ok(())).await.unwrap();
        assert_closes(connected.as_fd());
    });
}

#[test]
fn unix_sockets_close_on_exec() {
    let path = std::env::temp_dir().join(format!("shards-cloexec-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let socket_path = path.clone();
    on_a_shard(move || async move {
        let socket = bind_unix(&socket_path).unwrap();
        socket.listen(8).unwrap();
        let mut listener = Listener::new(socket);
        assert_closes(listener.socket().as_fd());
        let connected = connect_unix(&socket_path, |_| Ok(())).await.unwrap();
        assert_closes(connected.as_fd());
        assert_closes(listener.accept().await.unwrap().as_fd());
    });
    std::fs::remove_file(&path).unwrap();
}
