//! The statements of a server, by cases and against a model.

use std::collections::{HashMap, VecDeque};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::power::Power;
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
    assert_eq!(statements.want(1, Asker::Parse), Need::Parse);
    assert_eq!(
        statements.want(1, Asker::Parse),
        Need::Nothing,
        "skipped together with its Parse, if at all"
    );
    statements.apply(done(1));
    statements.sync_sent();
    assert_eq!(statements.want(1, Asker::Parse), Need::Nothing);
}

#[test]
fn what_is_learned_of_a_statement_that_came_from_elsewhere_is_about_no_other() {
    let mut statements = Statements::arrived(&[(1, true), (2, true)]);
    let shape = |digest| Shape::from_digest(digest);
    let mut result_of = |key, described: Option<u32>| {
        assert_eq!(statements.want(key, Asker::Parse), Need::Nothing);
        let result = statements.result();
        if let Some(digest) = described {
            statements.asked(result);
            statements.described(result, shape(digest));
        }
        result.shape
    };
    result_of(2, Some(7));
    assert_eq!(result_of(1, Some(8)), Shape::UNKNOWN);
    assert_eq!(result_of(2, None), shape(7));
    assert_eq!(result_of(1, None), shape(8));
}

#[test]
fn a_failed_parse_leaves_nothing() {
    let mut statements = Statements::default();
    assert_eq!(statements.want(1, Asker::Parse), Need::Parse);
    statements.sync_sent();
    statements.apply(failed(1));
    assert_eq!(statements.count(), 0);
    assert_eq!(statements.want(1, Asker::Parse), Need::Parse);
}

#[test]
fn behind_a_sync_an_unconfirmed_statement_is_made_anew() {
    let mut statements = Statements::default();
    assert_eq!(statements.want(1, Asker::Parse), Need::Parse);
    statements.sync_sent();
    assert_eq!(statements.want(1, Asker::Parse), Need::CloseAndParse);
    assert_eq!(statements.want(1, Asker::Parse), Need::Nothing);
    statements.apply(failed(1));
    statements.apply(done(2));
    statements.sync_sent();
    assert_eq!(statements.want(1, Asker::Parse), Need::Nothing);
}

#[test]
fn the_least_used_statement_is_closed() {
    let mut statements = Statements::default();
    for key in [1, 2, 1, 3] {
        let _ = statements.want(key, Asker::Parse);
    }
    assert_eq!(statements.evict(2), Some(2));
    assert_eq!(statements.evict(2), None);
    assert_eq!(
        statements.want(2, Asker::Parse),
        Need::CloseAndParse,
        "its Close is on its way"
    );
    assert_eq!(statements.evict(2), Some(1));
    statements.apply(done(7));
    assert_eq!(statements.count(), 2);
    assert_eq!(statements.want(1, Asker::Parse), Need::Parse);
}

#[test]
fn a_close_that_was_skipped_has_closed_nothing() {
    let mut statements = Statements::default();
    let _ = statements.want(1, Asker::Parse);
    statements.apply(done(1));
    let _ = statements.want(2, Asker::Parse);
    assert_eq!(statements.evict(1), Some(1));
    statements.apply(failed(2));
    assert_eq!(statements.want(1, Asker::Parse), Need::Nothing);
    assert_eq!(statements.want(2, Asker::Parse), Need::Parse);
}

#[test]
fn while_a_command_may_forget_everything_nothing_is_certain() {
    let mut statements = Statements::default();
    let _ = statements.want(1, Asker::Parse);
    let _ = statements.want(2, Asker::Parse);
    statements.apply(done(2));
    statements.doubt();
    assert_eq!(statements.want(1, Asker::Parse), Need::CloseAndParse);
    assert_eq!(statements.want(1, Asker::Parse), Need::Nothing);
    statements.forgotten();
    statements.apply(done(2));
    statements.answered(true);
    assert_eq!(statements.want(1, Asker::Parse), Need::Nothing);
    assert_eq!(statements.want(2, Asker::Parse), Need::Parse);
}

#[test]
fn the_server_is_believed() {
    let mut statements = Statements::default();
    let _ = statements.want(1, Asker::Parse);
    statements.apply(done(1));
    statements.correct(1, false);
    assert_eq!(statements.want(1, Asker::Parse), Need::Parse);
    statements.apply(failed(1));
    statements.correct(1, true);
    let need = statements.want(1, Asker::Holder(0));
    assert_eq!(need, Need::CloseAndParse, "nobody knows what it says");
    statements.apply(done(2));
    assert_eq!(statements.want(1, Asker::Parse), Need::Nothing);
    statements.correct(9, false);
    assert_eq!(statements.count(), 1);
}

#[test]
fn a_statement_is_of_the_world_in_which_it_was_parsed_last_with_success() {
    let mut statements = Statements::default();
    let _ = statements.want(1, Asker::Parse);
    statements.apply(done(1));
    statements.trust.runs(Power::DOUBT);
    assert_eq!(statements.want(1, Asker::Parse), Need::CloseAndParse);
    assert_eq!(statements.want(1, Asker::Parse), Need::Nothing);
    statements.sync_sent();
    statements.apply(failed(2));
    assert!(!statements.trust.completed(b"ALTER TABLE"));
    assert_eq!(
        statements.want(1, Asker::Holder(0)),
        Need::Nothing,
        "it was defined before"
    );
    let need = statements.want(1, Asker::Parse);
    assert_eq!(need, Need::CloseAndParse, "the second was skipped");
    statements.apply(done(2));
    assert_eq!(statements.want(1, Asker::Parse), Need::Nothing);
}

#[test]
fn what_has_failed_is_made_again() {
    let mut statements = Statements::default();
    for key in [1, 2] {
        let _ = statements.want(key, Asker::Parse);
    }
    statements.apply(done(2));
    assert_eq!(statements.want(1, Asker::Parse), Need::Nothing);
    let first = statements.last_wanted();
    assert_eq!(statements.want(2, Asker::Parse), Need::Nothing);
    statements.distrust(first);
    statements.distrust(NONE);
    assert_eq!(statements.want(2, Asker::Parse), Need::Nothing);
    assert_eq!(statements.want(1, Asker::Holder(0)), Need::CloseAndParse);
    statements.apply(done(2));
    assert_eq!(statements.want(1, Asker::Parse), Need::Nothing);
}

/// PostgreSQL as far as statements go. A message and whether something unrelated fails there.
#[derive(Default)]
struct Server {
    /// What each meant when it was parsed.
    has: HashMap<Key, u32>,
    /// What texts mean now.
    meaning: u32,
    input: VecDeque<Message>,
    skips: bool,
    /// What is not yet told.
    tally: VecDeque<Told>,
}

enum Told {
    /// The outcome of a message with a record.
    Outcome(bool),
    /// A command tag.
    Altered,
}

#[derive(Clone, Copy)]
enum Message {
    Parse(Key),
    Close(Key),
    /// Must find its statement, as a Parse of now would make it.
    Bind(Key),
    /// Changes what texts mean.
    Alter,
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
                        self.has.insert(key, self.meaning).is_none(),
                        "seed={seed}: {key} is parsed a second time"
                    );
                }
                self.tally.push_back(Told::Outcome(runs));
            }
            Message::Close(key) => {
                if runs {
                    self.has.remove(&key);
                }
                self.tally.push_back(Told::Outcome(runs));
            }
            Message::Bind(key) => assert!(
                !runs || self.has.get(&key) == Some(&self.meaning),
                "seed={seed}: {key} is missing or old"
            ),
            Message::Alter if runs => {
                self.meaning += 1;
                self.tally.push_back(Told::Altered);
            }
            Message::Alter => {}
            Message::Fails => self.skips = true,
            Message::Sync => self.skips = false,
            Message::Forget => self.has.clear(),
        }
    }
}

fn use_one(statements: &mut Statements, server: &mut Server, key: Key, limit: usize) {
    match statements.want(key, Asker::Parse) {
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
            Some(Told::Outcome(true)) => statements.apply(done(1)),
            Some(Told::Outcome(false)) => statements.apply(failed(1)),
            Some(Told::Altered) => assert!(!statements.trust.completed(b"ALTER TABLE")),
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
        let mut generation = 0;
        for _ in 0..rng.random_range(1..200) {
            match rng.random_range(0..20) {
                0..8 => use_one(&mut statements, &mut server, rng.random_range(0..8), limit),
                8 => server.input.push_back(Message::Fails),
                17 => {
                    server.input.push_back(Message::Alter);
                    statements.trust.runs(Power::DOUBT);
                }
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
                    statements.answered(true);
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
                statements.answered(true);
                if !server.skips && rng.random_bool(0.5) {
                    let is_shaped = statements.trust.ready(true, true);
                    generation += u32::from(is_shaped);
                    statements.trust.meet(generation);
                }
            }
        }
        while !server.input.is_empty() {
            server.read(seed);
        }
        tell(&mut statements, &mut server, usize::MAX);
        let mut known: Vec<_> = statements.index.keys().copied().collect();
        let mut has: Vec<_> = server.has.keys().copied().collect();
        known.sort_unstable();
        has.sort_unstable();
        assert_eq!(known, has, "seed={seed}");
        assert_eq!(statements.count(), has.len(), "seed={seed}");
    }
}
