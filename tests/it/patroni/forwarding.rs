//! What becomes of bytes: order, backpressure, half-closed connections, PostgreSQL behind the proxy.
//!
//! Owns: one connection once it is made.
//! Does not own: how many bytes a second (`bench-harness`).

use std::io::{Read, Write};

use super::{Backend, Guest, Proxy, Rest, Setup, member};
use crate::common::{Login, Postgres, at_once, eventually, port, with_one_and_two_shards};

with_one_and_two_shards!(
    bytes_arrive_as_they_were_sent_and_the_end_after_them,
    a_slow_reader_stops_its_sender,
    a_backend_that_goes_takes_its_clients_along,
    postgresql_can_be_used_through_the_proxy
);

/// A proxy in front of one backend that echoes.
fn proxy(shards: usize) -> (Proxy, Backend, u16) {
    let host_port = port::free();
    let backend = Backend::new(host_port);
    let rest = Rest::new(&[member(backend.host(), "leader")]);
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let listen = setup.port("p", &["leader"], host_port);
    (setup.key("worker_threads", shards).start(), backend, listen)
}

/// Bytes that no two places of have alike for long.
fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(99);
        (state >> 56) as u8
    };
    (0..count).map(|_| next()).collect()
}

fn bytes_arrive_as_they_were_sent_and_the_end_after_them(shards: usize) {
    const COUNT: usize = 5_000_000;
    let (proxy, backend, listen) = proxy(shards);
    at_once(4, |number| {
        let mut guest = Guest::of(listen, backend.host());
        let bytes = noise(COUNT, number as u64);
        let mut writer = guest.stream().try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&bytes).unwrap());
            assert!(
                guest.read_exact(COUNT) == bytes,
                "other bytes than were sent"
            );
        });
        // The other direction lives on.
        guest.finish_sending();
        assert_eq!(guest.line(), Some(format!("end after {COUNT}")));
        assert_eq!(guest.line(), None);
    });
    eventually("the connections have ended", || {
        proxy.metric("connections", "p") == 0
    });
    assert_eq!(proxy.metric("client_bytes_total", "p"), 4 * COUNT as u64);
    assert!(proxy.metric("backend_bytes_total", "p") > 4 * COUNT as u64);
    assert_eq!(proxy.metric("cut_total", "p"), 0);
}

fn a_slow_reader_stops_its_sender(shards: usize) {
    let (proxy, backend, listen) = proxy(shards);
    let guest = Guest::of(listen, backend.host());
    let mut writer = guest.stream();
    writer.set_nonblocking(true).unwrap();
    // Nothing is read, so buffers fill up on the way there and back, and then no more is taken.
    let piece = noise(64 * 1024, 1);
    let (mut sent, mut last) = (0, 0);
    eventually("no more is taken", || {
        for _ in 0..1000 {
            match writer.write(&piece) {
                Ok(count) => sent += count,
                Err(_) => break,
            }
        }
        let taken = proxy.metric("client_bytes_total", "p");
        let is_still = taken > 0 && taken == last;
        last = taken;
        is_still
    });
    let resident = {
        let path = format!("/proc/{}/statm", proxy.pid());
        let text = std::fs::read_to_string(path).unwrap();
        text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    assert!(resident < 100 << 20, "{resident} bytes are resident");
    writer.set_nonblocking(false).unwrap();
    guest.finish_sending();
    let mut rest = Vec::new();
    let mut reader = guest.stream().try_clone().unwrap();
    reader.read_to_end(&mut rest).unwrap();
    let text = String::from_utf8_lossy(&rest[rest.len() - 40..]).into_owned();
    assert!(
        text.ends_with(&format!("end after {sent}\n")),
        "{sent}: {text}"
    );
}

fn a_backend_that_goes_takes_its_clients_along(shards: usize) {
    let postgres = Postgres::private();
    let (_proxy, listen) = to_postgres(&postgres, shards);
    let mut client = Login::new(listen).connect();
    assert_eq!(client.value("select 1"), "1");
    postgres.crash();
    assert!(client.try_query("select 1").is_err());
    postgres.start();
    assert_eq!(Login::new(listen).connect().value("select 1"), "1");
}

fn to_postgres(postgres: &Postgres, shards: usize) -> (Proxy, u16) {
    let rest = Rest::new(&[member("127.0.0.1", "leader")]);
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let listen = setup.port("p", &["leader"], postgres.port());
    (setup.key("worker_threads", shards).start(), listen)
}

fn postgresql_can_be_used_through_the_proxy(shards: usize) {
    let (proxy, listen) = to_postgres(Postgres::shared(), shards);
    at_once(8, |number| {
        let mut client = Login::new(listen).connect();
        for round in 0..100 {
            let sql = format!("select {number} + {round}");
            assert_eq!(client.value(&sql), (number + round).to_string());
        }
        let rows = client.rows("select repeat('x', 1000) from generate_series(1, 2000)");
        assert_eq!(rows.len(), 2000);
    });
    eventually("the connections have ended", || {
        proxy.metric("connections", "p") == 0
    });
}
