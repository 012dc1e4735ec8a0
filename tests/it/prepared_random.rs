//! Random conversations about prepared statements: what the pooler answers is what PostgreSQL answers.
//!
//! One client talks to PostgreSQL itself; the other says the same through the pooler, while others
//! use the same few servers. Tags, errors, rows and transaction status must be the same.
//!
//! Not tried, since the pooler answers otherwise: a statement that is used behind the Sync of a
//! batch, still unanswered, that defines it and fails before that; a name defined twice, in two
//! batches, before the first answer; and a write that begins a transaction and lets it fail, with more
//! behind that.
//!
//! Source: protocol-flow.html (extended query, pipelining).

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::common::client::Reply;
use crate::common::message::{bind, close, describe, execute, flush, parse, query, sync, unnamed};
use crate::common::{Client, Config, Postgres, Target, with_one_and_two_shards};

with_one_and_two_shards!(random_conversations_are_answered_as_by_postgresql);

const TEXTS: [&str; 8] = [
    "select 'one'",
    "select 'two', 2",
    "select 3 where false",
    "select 1/0::int",
    "selec",
    "select no_such_column",
    "set local work_mem = '1MB'",
    "",
];

struct Speaker {
    rng: StdRng,
    /// For messages.
    said: String,
}

impl Speaker {
    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.rng.random_range(0..all.len())]
    }

    fn message(&mut self, names: &[&str]) -> Vec<u8> {
        let name = self.one_of(names);
        let (said, bytes) = match self.rng.random_range(0..16) {
            0..5 => {
                let text = self.one_of(&TEXTS);
                (format!("P {name:?} {text:?}"), parse(name, text))
            }
            5..8 => (format!("B {name:?}"), bind("", name, &[])),
            8 | 9 => (format!("D {name:?}"), describe(b'S', name)),
            10 => ("D portal".to_owned(), describe(b'P', "")),
            11 => (format!("C {name:?}"), close(b'S', name)),
            12 => ("H".to_owned(), flush()),
            _ => ("E".to_owned(), execute("", 0)),
        };
        self.said.push_str(&said);
        self.said.push_str("; ");
        bytes
    }

    fn segment(&mut self, names: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..self.rng.random_range(1..9) {
            bytes.extend(self.message(names));
        }
        self.said.push_str("S\n");
        bytes.extend(sync());
        bytes
    }

    fn query(&mut self) -> Vec<u8> {
        let name = self.one_of(&["a", "b", "c", "d"]);
        let deallocate = format!("deallocate {name}");
        let sql = match self.rng.random_range(0..14) {
            0..3 => "begin",
            3 | 4 => "commit",
            5 | 6 => "rollback",
            7 | 8 => &deallocate,
            9 => "deallocate all",
            10 => "discard all",
            11 => "select 1/0",
            _ => "select 'simple'",
        };
        self.said.push_str(sql);
        self.said.push('\n');
        query(sql)
    }

    /// What is written at once, and how many ReadyForQuery answer it.
    fn write(&mut self, status: char) -> (Vec<u8>, usize) {
        self.said.clear();
        let choice = self.rng.random_range(0..10);
        if choice < 3 {
            return (self.query(), 1);
        }
        if choice < 5 && status != 'E' {
            let segments: [&[&str]; 3] = [&["a", "b"], &["c", "d"], &[""]];
            let mut count = segments.len();
            let mut bytes = Vec::new();
            for names in segments {
                if self.rng.random_range(0..3) == 0 {
                    let sql = self.one_of(&["select 1/0", "select 'between'"]);
                    self.said += sql;
                    self.said.push('\n');
                    bytes.extend(query(sql));
                    count += 1;
                }
                bytes.extend(self.segment(names));
            }
            return (bytes, count);
        }
        let names = ["a", "b", "c", "d", ""];
        if status == 'E' {
            let bytes = [self.message(&names), sync()].concat();
            return (bytes, 1);
        }
        (self.segment(&names), 1)
    }
}

/// The answers; `what` tells of the conversation if there are none.
fn replies(client: &mut Client, (bytes, count): (&[u8], usize), what: &str) -> Vec<Reply> {
    client.send(bytes);
    let reply = |_| {
        client
            .try_reply()
            .unwrap_or_else(|error| panic!("{what}: {error}"))
    };
    (0..count).map(reply).collect()
}

/// What must be the same.
fn essence(replies: &[Reply], mut was_failed: bool) -> String {
    let mut essence = String::new();
    for reply in replies {
        if was_failed {
            // A statement that the server lacks cannot be parsed then, where PostgreSQL itself might
            // describe it.
            essence.push(reply.status);
            continue;
        }
        let Reply {
            tags,
            rows,
            errors,
            status,
            ..
        } = reply;
        let _ = writeln!(essence, "{tags} {errors:?} {rows:?} {status}");
        was_failed = *status == 'E';
    }
    essence
}

fn converse(target: &Target, pooled: &mut Client, seed: u64) {
    let mut direct = target.connect();
    let mut speaker = Speaker {
        rng: StdRng::seed_from_u64(seed),
        said: String::new(),
    };
    let mut status = 'I';
    let mut history = String::new();
    for _ in 0..60 {
        let (bytes, count) = speaker.write(status);
        let what = format!("seed={seed}, after\n{history}now {}", speaker.said);
        let wanted = replies(&mut direct, (&bytes, count), &format!("directly {what}"));
        let got = replies(pooled, (&bytes, count), &what);
        let was_failed = status == 'E';
        let (wanted_text, got_text) = (essence(&wanted, was_failed), essence(&got, was_failed));
        history += &speaker.said;
        assert_eq!(wanted_text, got_text, "seed={seed}, after\n{history}");
        status = wanted[count - 1].status;
    }
    direct.execute("rollback");
    pooled.execute("rollback");
    pooled.execute("deallocate all");
}

/// Has the servers that the others have, and more statements than they may keep.
fn use_servers(mut client: Client, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        let messages = TEXTS[..3].iter().map(|text| unnamed(text, &[]));
        let reply = client.batch(&messages.collect::<Vec<_>>());
        assert!(reply.errors.is_empty(), "{:?}", reply.errors);
    }
}

fn random_conversations_are_answered_as_by_postgresql(shards: usize) {
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(3)
        .pool_key("prepared_statements_cache_size", 5)
        .start();
    let target = Target::direct();
    let first: u64 = std::env::var("SEED").map_or_else(
        |_| rand::random(),
        |seed| seed.parse().expect("SEED is a number"),
    );
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| use_servers(doorman.connect(), &is_over));
        }
        let outcome = std::panic::catch_unwind(|| {
            let mut pooled = doorman.connect();
            for offset in 0..12 {
                converse(&target, &mut pooled, first.wrapping_add(offset));
            }
        });
        is_over.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}
