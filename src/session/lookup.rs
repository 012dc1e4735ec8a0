//! Asking the server for the secret of a user who is not in the file.
//!
//! **Owns:** one question a user at a time, what was answered and when, and the question itself.
//! **Does not own:** what an answer means (`auth::lookup`), who keeps the users that were found
//! (`app::guests`), the pool that is asked through.
//! **Invariants:** the path on which names are searched is fixed before each question, so nobody can
//! put a table of their own in front. An answer that is not understood lets nobody in. What is
//! remembered of users who do not exist is bounded.
//!
//! ```text
//!   unknown ──ask──▶ asking ──found──▶ known ──too old, or a wrong password──▶ asking
//!                      └────nobody──▶ nobody ──too old──▶ asking
//! ```
//!
//! Source: PostgreSQL documentation, `protocol-flow.html` "Extended Query"; CVE-2025-12819 and
//! CVE-2025-2291 of PgBouncer for what must not happen.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::auth::lookup::{Found, Row, judge};
use crate::config::AuthQuery;
use crate::pool::{Acquired, Pool, Ticket};
use crate::protocol::framer::{Framer, Interest};
use crate::protocol::frontend::Target;
use crate::protocol::writer;
use crate::server::ServerConnection;
use crate::server::sync::{Owner, Reply};

/// Replies that are read.
static INTEREST: Interest = Interest::of(b"DETZ");
/// The largest reply, in bytes.
const REPLY_BYTES_MAX: u32 = 64 * 1024;
/// The most rows that are read; one is right.
const ROWS_MAX: usize = 2;
/// Users whose answers are remembered on a shard.
const KNOWN_MAX: usize = 10_000;
/// What must not depend on who asks.
const PIN: &str =
    "SET search_path = pg_catalog, pg_temp; SET DateStyle = 'ISO'; SET TimeZone = 'UTC'";

/// Database and user.
type Name = (String, String);

/// What this shard knows from answers.
#[derive(Debug, Default)]
pub struct Lookups(RefCell<HashMap<Name, Known>>);

#[derive(Debug)]
enum Known {
    /// Somebody asks; these wait.
    Asking(Vec<Waker>),
    /// There is nobody.
    Nobody(Instant),
    /// There is somebody.
    Somebody {
        at: Instant,
        /// Its secret is good so long, if not for ever.
        left: Option<Duration>,
        /// A proof was wrong: the password may have changed.
        is_doubtful: bool,
    },
}

/// What to do about a user.
#[derive(Debug)]
pub enum Verdict<'a> {
    /// Ask; whoever else wants to know waits until this is dropped.
    Ask(Asking<'a>),
    /// What is known is good enough.
    Fresh,
    /// There is nobody.
    Nobody,
}

/// The right to ask for one user.
#[derive(Debug)]
pub struct Asking<'a> {
    lookups: &'a Lookups,
    name: Name,
    outcome: Option<Known>,
}

impl Lookups {
    /// Whether a user has to be asked for. Waits while somebody else asks.
    pub async fn consult(&self, database: &str, user: &str, query: &AuthQuery) -> Verdict<'_> {
        let name = (database.to_owned(), user.to_owned());
        poll_fn(|context| self.poll(&name, query, context.waker())).await
    }

    fn poll(&self, name: &Name, query: &AuthQuery, waker: &Waker) -> Poll<Verdict<'_>> {
        let mut known = self.0.borrow_mut();
        let now = shards::now();
        let age = |at: &Instant| now.saturating_duration_since(*at);
        match known.get_mut(name) {
            Some(Known::Asking(wakers)) => {
                wakers.push(waker.clone());
                return Poll::Pending;
            }
            Some(Known::Nobody(at)) if age(at) < query.cache_failure_ttl => {
                return Poll::Ready(Verdict::Nobody);
            }
            Some(Known::Somebody {
                at,
                left,
                is_doubtful,
            }) => {
                let limit = if *is_doubtful {
                    query.min_interval
                } else {
                    query.cache_ttl
                };
                let limit = left.map_or(limit, |left| left.min(limit));
                if age(at) < limit {
                    return Poll::Ready(Verdict::Fresh);
                }
            }
            Some(Known::Nobody(_)) | None => {}
        }
        if known.len() >= KNOWN_MAX {
            known.retain(|_, known| match known {
                Known::Asking(_) => true,
                Known::Nobody(_) => false,
                Known::Somebody { at, .. } => age(at) < query.cache_ttl,
            });
        }
        known.insert(name.clone(), Known::Asking(Vec::new()));
        Poll::Ready(Verdict::Ask(Asking {
            lookups: self,
            name: name.clone(),
            outcome: None,
        }))
    }

    /// What is known of this user is not good any more.
    pub fn forget(&self, database: &str, user: &str) {
        let name = (database.to_owned(), user.to_owned());
        let mut known = self.0.borrow_mut();
        if matches!(known.get(&name), Some(Known::Somebody { .. })) {
            known.remove(&name);
        }
    }

    /// A proof of this user was wrong.
    pub fn doubt(&self, database: &str, user: &str) {
        let name = (database.to_owned(), user.to_owned());
        if let Some(Known::Somebody { is_doubtful, .. }) = self.0.borrow_mut().get_mut(&name) {
            *is_doubtful = true;
        }
    }
}

impl Asking<'_> {
    /// There is nobody. Without an answer, the next one asks again.
    pub fn found_nobody(mut self) {
        self.outcome = Some(Known::Nobody(shards::now()));
    }

    /// There is somebody, whose secret is good for what is `left`.
    pub fn found_somebody(mut self, left: Option<Duration>) {
        self.outcome = Some(Known::Somebody {
            at: shards::now(),
            left,
            is_doubtful: false,
        });
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut known = self.lookups.0.borrow_mut();
        let before = match self.outcome.take() {
            Some(outcome) => known.insert(self.name.clone(), outcome),
            None => known.remove(&self.name),
        };
        drop(known);
        if let Some(Known::Asking(wakers)) = before {
            for waker in wakers {
                waker.wake();
            }
        }
    }
}

/// A place in the queue for a server, given up when dropped.
struct Waiting<'a>(&'a Rc<Pool>, Option<Ticket>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.1.take() {
            self.0.give_up(ticket);
        }
    }
}

/// A server that goes back when dropped.
struct Lent<'a>(&'a Rc<Pool>, Option<Box<ServerConnection>>);

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(server) = self.1.take() {
            self.0.give_back(server);
        }
    }
}

/// Why it is not known who a user is; for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupError {
    /// There is an answer, and it cannot be used.
    Answer(String),
    /// There is none.
    NoAnswer(String),
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Answer(reason) | Self::NoAnswer(reason)) = self;
        f.write_str(reason)
    }
}

impl std::error::Error for LookupError {}

/// Asks for the secret of `user` through `pool`.
///
/// # Errors
///
/// [`LookupError`].
pub async fn ask(pool: &Rc<Pool>, query: &AuthQuery, user: &str) -> Result<Found, LookupError> {
    let deadline = shards::now()
        + pool.settings.query_wait_timeout.get()
        + pool.settings.connect_timeout.get();
    let asking = async {
        let server = borrow(pool).await?;
        let mut lent = Lent(pool, Some(server));
        match &mut lent.1 {
            Some(server) => exchange(server, &query.query, user).await,
            None => Err("no server".to_owned()),
        }
    };
    let answer = shards::until(deadline, asking).await;
    let answer = answer.unwrap_or_else(|| Err("no answer in time".to_owned()));
    let (columns, rows) = answer.map_err(LookupError::NoAnswer)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(Duration::MAX, |time| time).as_secs();
    judge(user, &columns, &rows, now).map_err(|error| LookupError::Answer(error.to_string()))
}

async fn borrow(pool: &Rc<Pool>) -> Result<Box<ServerConnection>, String> {
    let mut waiting = Waiting(pool, None);
    let outcome = poll_fn(|context| {
        let outcome = match waiting.1 {
            Some(ticket) => pool.collect(ticket, context.waker()),
            None => match pool.acquire(context.waker()) {
                Acquired::Server(server) => return Poll::Ready(Ok(server)),
                Acquired::Waiting(ticket) => {
                    waiting.1 = Some(ticket);
                    None
                }
            },
        };
        match outcome {
            None => Poll::Pending,
            Some(outcome) => {
                waiting.1 = None;
                Poll::Ready(outcome)
            }
        }
    });
    let outcome = outcome.await;
    outcome.map_err(|error| error.to_string())
}

/// Names of columns, and rows.
type Answer = (Vec<String>, Vec<Row>);

/// Sends the question and reads its answer.
async fn exchange(
    server: &mut ServerConnection,
    query: &str,
    user: &str,
) -> Result<Answer, String> {
    server.send_own_query(PIN);
    let mut out = Vec::new();
    writer::parse(&mut out, b"", query.as_bytes(), &[]);
    // One parameter, as text; all results as text.
    let mut rest = vec![0, 0, 0, 1];
    rest.extend(u32::try_from(user.len()).unwrap_or(0).to_be_bytes());
    rest.extend(user.as_bytes());
    rest.extend([0, 0]);
    writer::bind(&mut out, b"", b"", &rest);
    writer::describe(&mut out, Target::Portal, b"");
    writer::execute(&mut out, b"", ROWS_MAX as i32);
    writer::sync(&mut out);
    for tag in *b"PBDES" {
        server.sync.sent(tag, false, Owner::Pooler);
    }
    server.stream.send(out);
    let mut framer = Framer::new(&INTEREST, REPLY_BYTES_MAX);
    let mut answer: Answer = Default::default();
    let mut refused = None;
    while !server.sync.is_settled() {
        let chunk = server.stream.receive().await;
        let mut chunk = chunk
            .map_err(|error| error.to_string())?
            .ok_or("connection closed")?;
        while let Some(part) = framer.next(&chunk).map_err(|error| error.to_string())? {
            if part.is_last {
                let understood = read(part.tag, part.body.unwrap_or_default(), &mut answer);
                if !understood {
                    refused = Some(refusal(part.tag, part.body.unwrap_or_default()));
                }
                if server.sync.received(part.tag) == Reply::OutOfStep {
                    return Err("unexpected message".to_owned());
                }
            }
            let used = part.len;
            chunk.advance(used);
        }
    }
    refused.map_or(Ok(answer), Err)
}

fn refusal(tag: u8, body: &[u8]) -> String {
    if tag == b'E' {
        return crate::server::handshake::refusal(body).to_string();
    }
    "the answer cannot be read".to_owned()
}

/// Takes one reply; false if it is an error or makes no sense.
fn read(tag: u8, body: &[u8], answer: &mut Answer) -> bool {
    match tag {
        b'E' => false,
        b'T' => {
            let columns = columns(body);
            answer.0 = columns.unwrap_or_default();
            !answer.0.is_empty()
        }
        b'D' if answer.1.len() < ROWS_MAX => match row(body) {
            Some(row) => {
                answer.1.push(row);
                true
            }
            None => false,
        },
        _ => true,
    }
}

/// The names in a `RowDescription`.
fn columns(body: &[u8]) -> Option<Vec<String>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut names = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let end = rest.iter().position(|byte| *byte == 0)?;
        names.push(String::from_utf8(rest[..end].to_vec()).ok()?);
        rest = rest.get(end + 1 + 18..)?;
    }
    Some(names)
}

/// The values of a `DataRow`.
fn row(body: &[u8]) -> Option<Row> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut values = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        let length = i32::from_be_bytes(*length);
        if length == -1 {
            values.push(None);
            rest = tail;
            continue;
        }
        let (value, tail) = tail.split_at_checked(usize::try_from(length).ok()?)?;
        values.push(Some(String::from_utf8(value.to_vec()).ok()?));
        rest = tail;
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn replies_are_read() {
        let mut body = vec![0, 2];
        for name in ["usename", "passwd"] {
            body.extend(name.as_bytes());
            body.push(0);
            body.extend([0; 18]);
        }
        assert_eq!(columns(&body).unwrap(), ["usename", "passwd"]);
        assert_eq!(columns(&body[..body.len() - 1]), None);
        let body = [&[0, 2, 0, 0, 0, 3][..], b"bob", &[255; 4]].concat();
        assert_eq!(row(&body).unwrap(), [Some("bob".to_owned()), None]);
        assert_eq!(row(&body[..7]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = (columns(&bytes), row(&bytes));
        }
    }
}
