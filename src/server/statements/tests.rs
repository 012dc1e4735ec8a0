//! The statements of a server, by cases and against a model.

use std::collections::{HashSet, VecDeque};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

fn done(count: u32) -> Tally {
    Tally {
        done: count,
        failed: 0,
    }
}

fn failed(count: u32) -> Tally {
    Tally {
        done: 0,
        failed: count,
    }
}

#[test]
fn a_statement_is_made_once() {
    let mut statements = Statements::default();
    assert_eq!(statements.want(1), Need::Parse);
    assert_eq!(
        statements.want(1),
        Need::Nothing,
        "skipped together with its Parse, if at all"
    );
    statements.apply(done(1));
    statements.sync_sent();
    assert_eq!(statements.want(1), Need::Nothing);
}

#[test]
fn a_failed_parse_leaves_nothing() {
    let mut statements = Statements::default();
    assert_eq!(statements.want(1), Need::Parse);
    statements.sync_sent();
    statements.apply(failed(1));
    assert_eq!(statements.count(), 0);
    assert_eq!(statements.want(1), Need::Parse);
}

#[test]
fn behind_a_sync_an_unconfirmed_statement_is_made_anew() {
    let mut statements = Statements::default();
    assert_eq!(statements.want(1), Need::Parse);
    statements.sync_sent();
    assert_eq!(statements.want(1), Need::CloseAndParse);
    assert_eq!(statements.want(1), Need::Nothing);
    statements.apply(failed(1));
    statements.apply(done(2));
    statements.sync_sent();
    assert_eq!(statements.want(1), Need::Nothing);
}

#[test]
fn the_least_used_statement_is_closed() {
    let mut statements = Statements::default();
    for key in [1, 2, 1, 3] {
        let _ = statements.want(key);
    }
    assert_eq!(statements.evict(2), Some(2));
    assert_eq!(statements.evict(2), None);
    assert_eq!(
        statements.want(2),
        Need::CloseAndParse,
        "its Close is on its way"
    );
    assert_eq!(statements.evict(2), Some(1));
    statements.apply(done(7));
    assert_eq!(statements.count(), 2);
    assert_eq!(statements.want(1), Need::Parse);
}

#[test]
fn a_close_that_was_skipped_has_closed_nothing() {
    let mut statements = Statements::default();
    let _ = statements.want(1);
    statements.apply(done(1));
    let _ = statements.want(2);
    assert_eq!(statements.evict(1), Some(1));
    statements.apply(failed(2));
    assert_eq!(statements.want(1), Need::Nothing);
    assert_eq!(statements.want(2), Need::Parse);
}

#[test]
fn while_a_command_may_forget_everything_nothing_is_certain() {
    let mut statements = Statements::default();
    let _ = statements.want(1);
    let _ = statements.want(2);
    statements.apply(done(2));
    statements.doubt();
    assert_eq!(statements.want(1), Need::CloseAndParse);
    assert_eq!(statements.want(1), Need::Nothing);
    statements.forgotten();
    statements.apply(done(2));
    statements.settled();
    assert_eq!(statements.want(1), Need::Nothing);
    assert_eq!(statements.want(2), Need::Parse);
}

#[test]
fn the_server_is_believed() {
    let mut statements = Statements::default();
    let _ = statements.want(1);
    statements.apply(done(1));
    statements.correct(1, false);
    assert_eq!(statements.want(1), Need::Parse);
    statements.apply(failed(1));
    statements.correct(1, true);
    assert_eq!(statements.want(1), Need::Nothing);
    statements.correct(9, false);
    assert_eq!(statements.count(), 1);
}

/// PostgreSQL as far as statements go. A message and whether something unrelated fails there.
#[derive(Default)]
struct Server {
    has: HashSet<Key>,
    input: VecDeque<Message>,
    skips: bool,
    /// Outcomes of messages with a record, not yet told.
    tally: VecDeque<bool>,
}

#[derive(Clone, Copy)]
enum Message {
    Parse(Key),
    Close(Key),
    /// Must find its statement.
    Bind(Key),
    Fails,
    Sync,
    Forget,
}

impl Server {
    fn read(&mut self, seed: u64) {
        let Some(message) = self.input.pop_front() else {
            return;
        };
        let runs = !self.skips;
        match message {
            Message::Parse(key) => {
                if runs {
                    assert!(
                        self.has.insert(key),
                        "seed={seed}: {key} is parsed a second time"
                    );
                }
                self.tally.push_back(runs);
            }
            Message::Close(key) => {
                if runs {
                    self.has.remove(&key);
                }
                self.tally.push_back(runs);
            }
            Message::Bind(key) => assert!(
                !runs || self.has.contains(&key),
                "seed={seed}: {key} is missing"
            ),
            Message::Fails => self.skips = true,
            Message::Sync => self.skips = false,
            Message::Forget => self.has.clear(),
        }
    }
}

fn use_one(statements: &mut Statements, server: &mut Server, key: Key, limit: usize) {
    match statements.want(key) {
        Need::Nothing => {}
        Need::Parse => server.input.push_back(Message::Parse(key)),
        Need::CloseAndParse => {
            server.input.push_back(Message::Close(key));
            server.input.push_back(Message::Parse(key));
        }
    }
    while let Some(old) = statements.evict(limit) {
        server.input.push_back(Message::Close(old));
    }
    server.input.push_back(Message::Bind(key));
}

/// Tells the outcomes that have arrived.
fn tell(statements: &mut Statements, server: &mut Server, count: usize) {
    for _ in 0..count.min(server.tally.len()) {
        match server.tally.pop_front() {
            Some(true) => statements.apply(done(1)),
            Some(false) => statements.apply(failed(1)),
            None => {}
        }
    }
}

#[test]
fn whatever_fails_statements_are_there_when_they_are_used_and_never_made_twice() {
    let first: u64 = rand::random();
    for seed in (0..2000).map(|offset| first.wrapping_add(offset)) {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut statements, mut server) = (Statements::default(), Server::default());
        let limit = rng.random_range(1..6);
        for _ in 0..rng.random_range(1..200) {
            match rng.random_range(0..20) {
                0..8 => use_one(&mut statements, &mut server, rng.random_range(0..8), limit),
                8 => server.input.push_back(Message::Fails),
                9..11 => {
                    server.input.push_back(Message::Sync);
                    statements.sync_sent();
                }
                // A simple query, alone: its reply is read before anything else is sent.
                11 if server.input.is_empty() && server.tally.is_empty() && !server.skips => {
                    server.has.clear();
                    statements.forgotten();
                    assert_eq!(statements.count(), 0);
                }
                12 if server.input.is_empty() && server.tally.is_empty() && !server.skips => {
                    statements.settled();
                    statements.doubt();
                    server.input.push_back(Message::Forget);
                    let key = rng.random_range(0..8);
                    use_one(&mut statements, &mut server, key, limit);
                    server.read(seed);
                    statements.forgotten();
                }
                13..17 => server.read(seed),
                _ => tell(&mut statements, &mut server, rng.random_range(1..4)),
            }
            if server.input.is_empty() && server.tally.is_empty() {
                statements.settled();
            }
        }
        while !server.input.is_empty() {
            server.read(seed);
        }
        tell(&mut statements, &mut server, usize::MAX);
        let mut known: Vec<_> = statements.index.keys().copied().collect();
        let mut has: Vec<_> = server.has.iter().copied().collect();
        known.sort_unstable();
        has.sort_unstable();
        assert_eq!(known, has, "seed={seed}");
        assert_eq!(statements.count(), has.len(), "seed={seed}");
    }
}
