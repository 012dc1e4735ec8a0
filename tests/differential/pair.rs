//! Two connections that hear the same: one to PostgreSQL, one to the pooler.
//!
//! Owns: running a script on both, comparing, and putting both right for the next script.
//! Does not own: what counts of an answer (`compare`), what is left out (`gaps`).
//! Invariants:
//! - the pooler's side has a database of its own that is like the other one, so neither sees the
//!   other's rows;
//! - what ends with a transaction in transaction mode only is removed from PostgreSQL's side at the end
//!   of a transaction, by extended messages, which leave the unnamed statement alone.
//!
//! Source: protocol-flow.html.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::common::client::{self, Client};
use crate::common::login::Login;
use crate::common::message;
use crate::compare::{are_equal, brief, essence, is_lost, kind};
use crate::gaps::{self, Gaps};
use crate::generator;
use crate::progress::{Answer, Mode, Progress, is_fatal};
use crate::script::{Message, Script, When};
use crate::texts;

/// How long either side may be silent.
const PATIENCE: Duration = Duration::from_secs(8);
/// The database of PostgreSQL's side; the pooler's is the one of all tests.
pub(crate) const TWIN: &str = "twin";
/// The `application_name` of all sessions, also by default.
pub(crate) const APPLICATION: &str = "differential";
/// Removes from a session what the pooler removes at the end of a transaction.
const SWEEP: [&str; 4] = [
    "close all",
    "discard temp",
    "deallocate s1",
    "deallocate s2",
];

/// Where the two sides are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) postgres: u16,
    pub(crate) pooler: u16,
}

/// An answer that is not the same.
#[derive(Debug)]
pub(crate) struct Difference {
    /// What kind of answer came in place of which.
    pub(crate) kind: String,
    text: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Two sessions and the connections that tidy up behind them.
pub(crate) struct Pair<'a> {
    number: usize,
    ports: Ports,
    gaps: &'a Gaps,
    direct: Client,
    pooled: Client,
    progress: Progress,
    /// One for each database.
    keepers: [Client; 2],
    is_littered: bool,
    /// A statement was described since the last `Sync` or query.
    has_described: bool,
}

fn login(port: u16, database: &str) -> Client {
    let login = Login::new(port)
        .database(database)
        .parameter("application_name", APPLICATION);
    let mut client = None;
    // A server that has crashed is back in a moment.
    crate::common::eventually("a login", || {
        client = login.attempt().ok();
        client.is_some()
    });
    let mut client = client.unwrap();
    client.set_deadline(PATIENCE);
    client
}

/// All that was answered to a step, as far as it is compared in place, and the notices.
#[derive(Default)]
struct Heard {
    answers: Vec<Answer>,
    notices: Vec<String>,
    batches: usize,
}

impl Heard {
    fn add(&mut self, answer: Answer) {
        match answer.tag {
            b'S' => {}
            b'N' => {
                let notice = format!("{} {}", self.batches, essence(&answer));
                self.notices.push(notice);
            }
            tag => {
                self.batches += usize::from(tag == b'Z');
                self.answers.push(answer);
            }
        }
    }
}

impl<'a> Pair<'a> {
    pub(crate) fn new(number: usize, ports: Ports, gaps: &'a Gaps) -> Self {
        let database = crate::common::postgres::DATABASE;
        let mut pair = Self {
            number,
            ports,
            gaps,
            direct: login(ports.postgres, TWIN),
            pooled: login(ports.pooler, database),
            progress: Progress::new(),
            keepers: [login(ports.postgres, TWIN), login(ports.postgres, database)],
            is_littered: false,
            has_described: false,
        };
        pair.renew_tables();
        pair
    }

    fn renew_tables(&mut self) {
        let pair = self.number;
        let sql = format!(
            "drop table if exists t{pair}, u{pair}, u{pair}_more;
             create table t{pair} (id int primary key, v text);
             insert into t{pair} values (2, 'two');
             create table u{pair} (id int, v text);
             insert into u{pair} values (1, 'one')"
        );
        for keeper in &mut self.keepers {
            keeper.execute(&sql);
        }
    }

    fn renew_rows(&mut self) {
        let pair = self.number;
        let sql = format!("delete from t{pair}; insert into t{pair} values (2, 'two')");
        for keeper in &mut self.keepers {
            keeper.execute(&sql);
        }
    }

    /// Runs a script, whatever was before. Both sides are as new afterwards.
    pub(crate) fn run(&mut self, script: &Script) -> Result<(), Difference> {
        let outcome = self.converse(script);
        if outcome.is_err() {
            // PostgreSQL may have crashed. The old sessions go first: they may hold locks.
            self.reconnect();
            self.keepers = [TWIN, crate::common::postgres::DATABASE]
                .map(|database| login(self.ports.postgres, database));
            self.renew_tables();
        } else if self.progress.mode == Mode::Ended {
            self.reconnect();
        }
        let messages = || script.iter().flat_map(|step| &step.messages);
        let says = |what: &str| {
            messages()
                .filter_map(Message::sql)
                .any(|sql| sql.contains(what))
        };
        if says("{u}") {
            self.renew_tables();
        } else if says("{t}") {
            self.renew_rows();
        }
        outcome
    }

    fn reconnect(&mut self) {
        let database = crate::common::postgres::DATABASE;
        self.direct = login(self.ports.postgres, TWIN);
        self.pooled = login(self.ports.pooler, database);
        self.progress = Progress::new();
        self.is_littered = false;
        self.has_described = false;
    }

    fn converse(&mut self, script: &Script) -> Result<(), Difference> {
        self.has_described = false;
        for step in script {
            let is_copying = matches!(self.progress.mode, Mode::CopyIn { .. });
            let is_said = match step.when {
                When::Ready => !is_copying,
                When::InTransaction => !is_copying && self.progress.status == b'T',
                When::Always => true,
            };
            if is_said && self.progress.mode != Mode::Ended {
                let said = self
                    .gaps
                    .said(step, self.progress.status, self.has_described);
                self.has_described = gaps::has_described(&said, self.has_described);
                self.say(&said, &step.cuts, &step.to_string())?;
            }
        }
        if self.progress.mode == Mode::Ended {
            return Ok(());
        }
        self.put_right(script)
    }

    /// Ends what is open and forgets what is defined, on both sides.
    fn put_right(&mut self, script: &Script) -> Result<(), Difference> {
        let mut messages = Vec::new();
        if matches!(self.progress.mode, Mode::CopyIn { .. }) {
            messages.push(Message::CopyFail);
        }
        messages.push(Message::Sync);
        messages.push(Message::query("rollback"));
        for name in generator::ALL_NAMES {
            messages.push(Message::Close {
                kind: b'S',
                name: name.to_owned(),
            });
        }
        messages.push(Message::Sync);
        let all = script.iter().flat_map(|step| &step.messages);
        if all.filter_map(Message::sql).any(texts::sets) {
            messages.push(Message::query("reset all"));
        }
        self.say(&messages, &[], "the end")
    }

    /// Says it on both sides and compares what they answer.
    fn say(&mut self, messages: &[Message], cuts: &[usize], what: &str) -> Result<(), Difference> {
        let sql = messages.iter().filter_map(Message::sql);
        self.is_littered |= sql.clone().any(texts::litters);
        let encoded: Vec<_> = messages.iter().map(|one| one.bytes(self.number)).collect();
        let bytes = encoded.concat();
        // Fails only if the other side has closed, which reading shows.
        let _ = self.direct.try_send(&bytes);
        send_in_parts(&mut self.pooled, &bytes, cuts);
        let mut answers = Vec::new();
        for message in messages {
            let read = self.progress.read(message, &mut self.direct, &mut answers);
            read.map_err(|error| unforeseen(&error.to_string(), message, what, &answers))?;
            let is_told = message.ends() || answers.last().is_some_and(is_fatal);
            if self.progress.mode == Mode::Ended && !is_told {
                return Err(unforeseen("has ended", message, what, &answers));
            }
            if self.progress.mode == Mode::Ended {
                break;
            }
        }
        let mut direct = Heard::default();
        for answer in answers {
            direct.add(answer);
        }
        self.compare(&direct, messages, what)?;
        // Behind a Flush there is a transaction still, which sweeping would end.
        let is_over = messages.last().is_some_and(|one| one.tag() != b'H');
        let is_idle = self.progress.status == b'I' && self.progress.mode == Mode::Normal;
        if self.is_littered && is_over && is_idle {
            self.sweep();
        }
        Ok(())
    }

    /// Reads as much from the pooler as PostgreSQL has said.
    fn compare(
        &mut self,
        direct: &Heard,
        messages: &[Message],
        what: &str,
    ) -> Result<(), Difference> {
        let mut pooled = Heard::default();
        let differs = |at: usize, pooled: &Heard, error: Option<io::Error>| {
            difference(what, direct, pooled, at, error)
        };
        while pooled.answers.len() < direct.answers.len() {
            let at = pooled.answers.len();
            match self.pooled.try_receive() {
                Ok(answer) => pooled.add(answer),
                Err(error) => return Err(differs(at, &pooled, Some(error))),
            }
            if pooled.answers.len() == at {
                continue;
            }
            let ends = self.progress.mode == Mode::Ended && is_fatal(&pooled.answers[at]);
            if ends && is_wrong_length(messages) && is_lost(&direct.answers[at]) {
                return self.compare_end(messages, what);
            }
            if !are_equal(&direct.answers[at], &pooled.answers[at]) {
                return Err(differs(at, &pooled, None));
            }
        }
        if direct.notices != pooled.notices {
            return Err(other_difference(
                "notices",
                what,
                &format!("{:?}", direct.notices),
                &format!("{:?}", pooled.notices),
            ));
        }
        if self.progress.mode == Mode::Ended {
            return self.compare_end(messages, what);
        }
        if self.progress.mode == Mode::Normal && self.direct.parameters != self.pooled.parameters {
            let differing = |one: &Client, other: &Client| {
                let mut all = one.parameters.clone();
                all.retain(|name, value| other.parameters.get(name) != Some(value));
                format!("{all:?}")
            };
            return Err(other_difference(
                "parameters",
                what,
                &differing(&self.direct, &self.pooled),
                &differing(&self.pooled, &self.direct),
            ));
        }
        Ok(())
    }

    /// The pooler closes, too.
    fn compare_end(&mut self, messages: &[Message], what: &str) -> Result<(), Difference> {
        let has_wrong_length = is_wrong_length(messages);
        let mut rest = Vec::new();
        let end = loop {
            match self.pooled.try_receive() {
                Ok(answer) => rest.push(answer),
                Err(error) => break error,
            }
        };
        let says_why = has_wrong_length && rest.first().is_some_and(is_fatal);
        if client::is_close(&end) && (rest.is_empty() || says_why) {
            return Ok(());
        }
        let rest: Vec<_> = rest.iter().map(essence).collect();
        let got = format!("{rest:?}, then {end}");
        Err(other_difference("end", what, "closes", &got))
    }

    /// Removes from PostgreSQL's side what has ended with the transaction on the other.
    fn sweep(&mut self) {
        let mut bytes = Vec::new();
        for sql in SWEEP {
            bytes.extend(message::parse("sweep", sql));
            bytes.extend(message::bind("sweep", "sweep", &[]));
            bytes.extend(message::execute("sweep", 0));
            bytes.extend(message::sync());
            bytes.extend(message::close(b'S', "sweep"));
            bytes.extend(message::sync());
        }
        self.direct.send(&bytes);
        for _ in 0..2 * SWEEP.len() {
            self.direct.reply();
        }
        self.is_littered = false;
    }
}

/// True if one of the lengths cannot be.
fn is_wrong_length(messages: &[Message]) -> bool {
    let mut messages = messages.iter();
    messages.any(|message| matches!(message, Message::WrongLength { .. }))
}

/// PostgreSQL does not do what the test foresees.
fn unforeseen(how: &str, message: &Message, what: &str, answers: &[Answer]) -> Difference {
    let heard: Vec<_> = answers.iter().map(|one| brief(&essence(one))).collect();
    Difference {
        kind: "PostgreSQL fails".to_owned(),
        text: format!("PostgreSQL, at {message} in {what}: {how}, after {heard:?}"),
    }
}

/// Sends in one write, or in several that begin at `cuts`.
fn send_in_parts(client: &mut Client, bytes: &[u8], cuts: &[usize]) {
    let mut cuts: Vec<_> = cuts.iter().map(|at| at % bytes.len().max(1)).collect();
    cuts.sort_unstable();
    let mut sent = 0;
    for cut in cuts {
        // A closed connection is seen when the answer is read.
        let _ = client.try_send(&bytes[sent..cut]);
        sent = cut;
        // So that the parts do not arrive as one; if they do, less is tried.
        std::thread::sleep(Duration::from_micros(200));
    }
    let _ = client.try_send(&bytes[sent..]);
}

fn difference(
    what: &str,
    direct: &Heard,
    pooled: &Heard,
    at: usize,
    error: Option<io::Error>,
) -> Difference {
    let list = |heard: &Heard| {
        let lines = heard.answers.iter().map(|one| brief(&essence(one)));
        lines.collect::<Vec<_>>().join("\n      ")
    };
    let end = error.map_or_else(String::new, |error| format!("\n      ({error})"));
    let kind = format!(
        "{} in place of {}",
        kind(pooled.answers.get(at)),
        kind(direct.answers.get(at))
    );
    let text = format!(
        "{kind}\n  to {what}\n    PostgreSQL\n      {}\n    pooler\n      {}{end}",
        list(direct),
        list(pooled),
    );
    Difference { kind, text }
}

fn other_difference(kind: &str, what: &str, direct: &str, pooled: &str) -> Difference {
    Difference {
        kind: kind.to_owned(),
        text: format!(
            "{kind}\n  to {what}\n    PostgreSQL\n      {direct}\n    pooler\n      {pooled}"
        ),
    }
}
