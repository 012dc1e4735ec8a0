//! The ring without an executor: the tests play tasks and driver.
//!
//! **Owns:** tests of what cannot be brought about through [`crate::Stream`] at will.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::FromRawFd;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::receive::Received;
use super::*;

fn waker() -> Waker {
    Waker::noop().clone()
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

/// A ring, one stream of it, and the other end.
fn ring_and_stream() -> (RingRef, u32, TcpStream) {
    let ring = Ring::new().unwrap();
    let (near, far) = pair();
    far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let id = ring.borrow_mut().open(near.into());
    (ring, id, far)
}

/// Turns until `done`, each turn bounded by a timer. Panics after ten seconds.
fn turn_until(ring: &RingRef, mut done: impl FnMut(&mut Ring) -> bool) {
    let limit = Instant::now() + Duration::from_secs(10);
    while !done(&mut ring.borrow_mut()) {
        assert!(Instant::now() < limit, "it never happens");
        turn(ring);
    }
}

/// One turn that does not wait longer than 20 ms.
fn turn(ring: &RingRef) {
    let mut ring = ring.borrow_mut();
    let key = ring.set_timer(Instant::now() + Duration::from_millis(20), &waker());
    ring.turn();
    drop(ring.clear_timer(key));
}

#[test]
fn a_starved_stream_that_is_dropped_is_not_armed_again() {
    let (ring, id, mut far) = ring_and_stream();
    // All buffers but none for `id`: a second stream takes them.
    let (near, mut greedy) = pair();
    let eater = ring.borrow_mut().open(near.into());
    greedy.set_nonblocking(true).unwrap();
    let mut held = Vec::new();
    turn_until(&ring, |ring| {
        let _ = greedy.write(&[7; 64]);
        if let Received::Chunk(chunk) = ring.receive(eater, &waker()).0 {
            held.push(chunk);
        }
        held.len() == usize::from(BUFFERS)
    });
    far.write_all(b"unread").unwrap();
    let _ = ring.borrow_mut().receive(id, &waker());
    turn_until(&ring, |ring| {
        ring.slots[id as usize].receive == Receive::Starved
    });
    drop(ring.borrow_mut().release(id, true));
    turn_until(&ring, |ring| ring.slots[id as usize].life == Life::Free);
    drop(held);
    turn(&ring);
    let slot = &ring.borrow().slots[id as usize];
    assert_eq!((slot.operations, slot.receive), (0, Receive::Idle));
}

#[test]
fn the_peers_end_of_stream_does_not_cut_off_what_lingers() {
    // More pieces than one send takes, more bytes than the sockets' buffers do.
    const PIECES: usize = 256;
    const PIECE_BYTES: usize = 64 * 1024;
    let (ring, id, mut far) = ring_and_stream();
    {
        let mut ring = ring.borrow_mut();
        for _ in 0..PIECES {
            ring.send(id, vec![1; PIECE_BYTES].into());
        }
        drop(ring.release(id, true));
    }
    turn(&ring);
    far.shutdown(Shutdown::Write).unwrap();
    turn(&ring);
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        far.read_to_end(&mut all).map(|_| all.len())
    });
    turn_until(&ring, |ring| ring.slots[id as usize].life == Life::Free);
    assert_eq!(reader.join().unwrap().unwrap(), PIECES * PIECE_BYTES);
}

#[test]
fn a_stream_that_has_ended_closes_with_its_last_byte() {
    let (ring, id, far) = ring_and_stream();
    far.shutdown(Shutdown::Write).unwrap();
    turn_until(&ring, |ring| {
        matches!(ring.receive(id, &waker()).0, Received::End)
    });
    {
        let mut ring = ring.borrow_mut();
        ring.send(id, b"bye".to_vec().into());
        drop(ring.release(id, true));
    }
    let started = Instant::now();
    turn_until(&ring, |ring| ring.slots[id as usize].life == Life::Free);
    assert!(started.elapsed() < LINGER, "it has waited for nothing");
}

#[test]
fn a_send_that_the_kernel_fails_to_cancel_does_not_hold_the_slot() {
    // A send to a peer that has ended its direction and reads nothing is on its way between the
    // kernel's lists when the cancellation looks for it.
    let (ring, id, far) = ring_and_stream();
    ring.borrow_mut().send(id, vec![1; 16 << 20].into());
    turn(&ring);
    far.shutdown(Shutdown::Write).unwrap();
    turn_until(&ring, |ring| {
        matches!(ring.receive(id, &waker()).0, Received::End)
    });
    drop(ring.borrow_mut().release(id, false));
    turn_until(&ring, |ring| ring.slots[id as usize].life == Life::Free);
}

#[test]
fn an_empty_buffer_at_the_end_leaves_earlier_chunks_alone() {
    let (ring, id, _far) = ring_and_stream();
    let mut ring = ring.borrow_mut();
    ring.slots[id as usize].receive = Receive::Multishot;
    ring.slots[id as usize].operations = 1;
    ring.in_kernel = 1;
    let with_buffer = |buffer: u32| 1 | buffer << 16;
    let more = 2;
    ring.on_received(id, 5, with_buffer(0) | more);
    ring.on_received(id, 0, with_buffer(1));
    let chunk = |received| matches!(received, Received::Chunk(chunk) if chunk.len() == 5);
    assert!(chunk(ring.receive(id, &waker()).0));
    assert!(matches!(ring.receive(id, &waker()).0, Received::End));
    assert_eq!(ring.buffers.free_count(), usize::from(BUFFERS));
}

#[test]
fn a_watched_stream_is_received_from_although_it_was_paused() {
    let (ring, id, mut far) = ring_and_stream();
    ring.borrow_mut().pause(id);
    drop(ring.borrow_mut().watch(id, 77));
    far.write_all(b"news").unwrap();
    let mut numbers = Vec::new();
    turn_until(&ring, |ring| {
        ring.take_watch_events(&mut numbers, &waker());
        !numbers.is_empty()
    });
    assert_eq!(numbers, [77]);
}

#[test]
fn completions_set_aside_are_handled_without_waiting() {
    let ring = Ring::new().unwrap();
    let mut ring = ring.borrow_mut();
    ring.completions.push((MAIL_TOKEN, 0, 0));
    let started = Instant::now();
    let key = ring.set_timer(started + Duration::from_secs(5), &waker());
    ring.turn();
    assert!(ring.mail_waiting && started.elapsed() < Duration::from_secs(5));
    drop(ring.clear_timer(key));
}

#[test]
fn the_eventfd_is_watched_again_when_the_kernel_has_stopped() {
    let ring = Ring::new().unwrap();
    let mut ring = ring.borrow_mut();
    // SAFETY: eventfd(2) takes no pointers; the descriptor is new.
    let eventfd = unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) };
    ring.watch_eventfd(types::Fd(eventfd.as_raw_fd()));
    // The completion queue was full: the last completion carries no promise of more.
    ring.on_operation(0, i32::from(libc::POLLIN), 0);
    assert_eq!(ring.in_kernel, 1);
    assert!(ring.mail_waiting);
    ring.stopping = true;
    ring.on_operation(0, -libc::ECANCELED, 0);
    assert_eq!(ring.in_kernel, 0);
}

#[test]
fn waiting_again_does_not_collect_clones_of_the_waker() {
    struct Nothing;
    impl std::task::Wake for Nothing {
        fn wake(self: std::sync::Arc<Self>) {}
    }
    let counted = std::sync::Arc::new(Nothing);
    let waker = Waker::from(counted.clone());
    let ring = Ring::new().unwrap();
    let mut ring = ring.borrow_mut();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let accept = ring.accept_start(Rc::new(listener.into()));
    for _ in 0..100 {
        assert!(!ring.take_mail(&waker));
        ring.take_watch_events(&mut Vec::new(), &waker);
        assert!(ring.accept_next(accept, &waker).is_none());
    }
    // Here, in `waker`, and once per thing that is waited for.
    assert_eq!(std::sync::Arc::strong_count(&counted), 5);
}

#[test]
fn a_bulk_stream_that_has_become_idle_gives_its_region_back() {
    const BYTES: usize = 8 << 20;
    let (ring, id, mut far) = ring_and_stream();
    let writer = std::thread::spawn(move || {
        far.write_all(&vec![3; BYTES]).unwrap();
        far
    });
    let (mut received, mut seen_region) = (0, false);
    turn_until(&ring, |ring| {
        while let Received::Chunk(chunk) = ring.receive(id, &waker()).0 {
            received += chunk.len();
        }
        seen_region |= ring.slots[id as usize].region.is_some();
        received == BYTES
    });
    assert!(seen_region, "the stream was bulk");
    let _far = writer.join().unwrap();
    turn_until(&ring, |ring| {
        let slot = &ring.slots[id as usize];
        slot.region.is_none() && slot.receive == Receive::Multishot
    });
}

#[test]
fn a_dropped_listener_does_not_accept_for_the_next_owner_of_its_number() {
    let ring = Ring::new().unwrap();
    let socket = Rc::new(Socket::from(TcpListener::bind("127.0.0.1:0").unwrap()));
    {
        // Armed and given up before the kernel has seen anything.
        let mut ring = ring.borrow_mut();
        let accept = ring.accept_start(socket);
        assert!(ring.accept_next(accept, &waker()).is_none());
        drop(ring.abandon(accept));
    }
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let _peer = TcpStream::connect(other.local_addr().unwrap()).unwrap();
    turn_until(&ring, |ring| ring.in_kernel == 0);
    other.set_nonblocking(true).unwrap();
    assert!(other.accept().is_ok(), "the connection is the other's");
}
