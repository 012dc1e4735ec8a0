//! Tools of the integration tests.
//!
//! Owns: starting PostgreSQL, the pooler and a scripted server; a raw protocol client.
//! Does not own: any expectation about the pooler.

pub(crate) mod client;
pub(crate) mod doorman;
pub(crate) mod login;
pub(crate) mod message;
pub(crate) mod port;
pub(crate) mod postgres;
pub(crate) mod scripted;
pub(crate) mod target;
pub(crate) mod tls;

pub(crate) use client::{Client, ErrorFields, is_close};
pub(crate) use doorman::{Config, Doorman, User, program};
pub(crate) use login::{Login, Refusal};
pub(crate) use postgres::Postgres;
pub(crate) use target::Target;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for anything that must happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Makes a name that no other test of this process uses.
pub(crate) fn unique(stem: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{stem}_{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Whether the tests run as root, who alone can test `what`; says so if not.
pub(crate) fn is_root(what: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("NOT TESTED: {what}, for which the tests must run as root");
    }
    is_root
}

/// Polls `condition` until it holds; fails the test after the deadline.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(
            Instant::now() < end,
            "did not happen in {DEADLINE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs `body` in `count` threads at the same time, numbered from 0.
pub(crate) fn at_once(count: usize, body: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for number in 0..count {
            let body = &body;
            scope.spawn(move || body(number));
        }
    });
}

/// Turns bodies `fn name(target: &Target)` into tests: against PostgreSQL itself, and through
/// the pooler with one and with two shards.
macro_rules! everywhere {
    ($($name:ident),+ $(,)?) => { $(
        mod $name {
            use crate::common::Target;
            #[test]
            fn directly() { super::$name(&Target::direct()); }
            #[test]
            fn through_one_shard() { super::$name(&Target::pooled(1)); }
            #[test]
            fn through_two_shards() { super::$name(&Target::pooled(2)); }
        }
    )+ };
}

/// Turns bodies `fn name(shards: usize)` into tests through the pooler with one and two shards.
macro_rules! with_one_and_two_shards {
    ($($name:ident),+ $(,)?) => { $(
        mod $name {
            #[test]
            fn through_one_shard() { super::$name(1); }
            #[test]
            fn through_two_shards() { super::$name(2); }
        }
    )+ };
}

/// One test a name and number of shards, for what only several shards can get wrong.
macro_rules! with_two_and_four_shards {
    ($($name:ident),+ $(,)?) => { $(
        mod $name {
            #[test]
            fn through_two_shards() { super::$name(2); }
            #[test]
            fn through_four_shards() { super::$name(4); }
        }
    )+ };
}

pub(crate) use {everywhere, with_one_and_two_shards, with_two_and_four_shards};
