//! What stays of an encrypted client whose session is in another process.
//!
//! **Owns:** moving bytes between the client, in records of TLS, and its session, in clear; the end of a relay
//! whose time is over.
//! **Does not own:** when a client is divided (`departure`), how many relays there are (`metrics`).
//!
//! ```text
//!   client ── TLS ──▶ │ window │ ── a pair of sockets ──▶ session
//!          ◀── TLS ── │ window │ ◀──
//!   the client sends no more:   the session is told, and what it still says is delivered
//!   the session has ended:      so does the client's connection, when all is delivered
//! ```
//!
//! **Invariants**
//! 1. No side is read while more than a window waits for the other one.
//! 2. What was read is delivered before the other side is closed.
//! 3. A relay whose time is over ends between two transactions, and its client is told.

use std::future::{Future as _, pending, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rand::Rng as _;
use rustix::net::{Shutdown, shutdown};
use shards::sleep_until;

use crate::protocol::framer::{BODY_BYTES_MAX, Framer, Interest};
use crate::protocol::sqlstate;
use crate::session::report::Failure;
use crate::transport::Stream;

/// Messages to the client whose bodies are looked into.
static INTEREST: Interest = Interest::of(b"Z");
/// The tag of `ReadyForQuery`.
const READY: u8 = b'Z';

/// Bytes that may wait for one side of a relay.
const WINDOW_BYTES: usize = 256 * 1024;

/// What is watched of a client whose relay ends at some time.
#[derive(Debug)]
pub struct Term {
    ends: Instant,
    framer: Framer,
    /// The client has been told that no transaction is open, and has asked for nothing since.
    is_between: bool,
}

impl Term {
    /// A relay that ends after this time, or up to a fifth earlier, so that not all clients come back at once;
    /// zero = never. `is_between`: the client is between two transactions.
    pub fn after(lifetime: Duration, is_between: bool) -> Option<Self> {
        let lifetime = lifetime.mul_f64(rand::rng().random_range(0.8..=1.0));
        (!lifetime.is_zero()).then(|| Self {
            ends: shards::now() + lifetime,
            framer: Framer::new(&INTEREST, BODY_BYTES_MAX),
            is_between,
        })
    }

    /// Looks for the ends of transactions in what goes to the client.
    fn note_answer(&mut self, mut bytes: &[u8]) {
        while let Ok(Some(part)) = self.framer.next(bytes) {
            if part.is_last && part.tag == READY {
                self.is_between = part.body == Some(b"I");
            } else if !matches!(part.tag, b'A' | b'N' | b'S') {
                self.is_between = false;
            }
            bytes = &bytes[part.len..];
        }
    }
}

/// Moves bytes until the session has ended, or nothing can be delivered to one side any more, or the `term` is
/// over. What is queued for the client leaves when its stream is dropped.
pub async fn relay(client: Stream, session: Stream, term: Option<Term>) {
    let ends = term.as_ref().map(|term| term.ends);
    let mut alarm = pin!(async {
        match ends {
            Some(at) => sleep_until(at).await,
            None => pending().await,
        }
    });
    let mut relay = Relay {
        client,
        session,
        request: Request::Open,
        term,
        is_due: false,
    };
    poll_fn(|context| {
        relay.is_due = relay.is_due || alarm.as_mut().poll(context).is_ready();
        relay.poll(context)
    })
    .await;
}

struct Relay {
    client: Stream,
    session: Stream,
    request: Request,
    term: Option<Term>,
    is_due: bool,
}

impl Relay {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Self {
            client,
            session,
            request,
            ..
        } = self;
        loop {
            let there = request.step(client, session, &mut self.term, context);
            let back = step(session, client, context, |bytes| {
                if let Some(term) = &mut self.term {
                    term.note_answer(bytes);
                }
            });
            let is_between = self.term.as_ref().is_some_and(|term| term.is_between);
            if self.is_due && is_between {
                let text = "terminating connection due to administrator command";
                client.send(Failure::new(sqlstate::ADMIN_SHUTDOWN, text).to_bytes());
                return Poll::Ready(());
            }
            match (there, back) {
                (Step::End, _) | (_, Step::End) => return Poll::Ready(()),
                (Step::Wait, Step::Wait) => return Poll::Pending,
                _ => {}
            }
        }
    }
}

/// The way from the client to its session.
#[derive(Clone, Copy, Debug)]
enum Request {
    Open,
    /// The client sends no more; what it has sent is on its way.
    Ending,
    /// The session knows.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Again,
    Wait,
    End,
}

impl Request {
    fn step(
        &mut self,
        client: &mut Stream,
        session: &mut Stream,
        term: &mut Option<Term>,
        context: &mut Context<'_>,
    ) -> Step {
        let asks = |_: &[u8]| {
            if let Some(term) = term {
                term.is_between = false;
            }
        };
        match self {
            Self::Open => match step(client, session, context, asks) {
                Step::End if session.send_error().is_none() => {
                    *self = Self::Ending;
                    Step::Again
                }
                other => other,
            },
            Self::Ending => match session.poll_sent(0, context) {
                Poll::Pending => Step::Wait,
                Poll::Ready(Err(_)) => Step::End,
                Poll::Ready(Ok(())) => {
                    *self = Self::Ended;
                    // If it fails, the session has gone, which is read from it.
                    let _ = shutdown(&*session, Shutdown::Write);
                    Step::Wait
                }
            },
            Self::Ended => Step::Wait,
        }
    }
}

fn step(
    from: &mut Stream,
    to: &mut Stream,
    context: &mut Context<'_>,
    mut note: impl FnMut(&[u8]),
) -> Step {
    if to.send_error().is_some() {
        return Step::End;
    }
    if to.queued_bytes() > WINDOW_BYTES {
        from.pause();
        if to.poll_sent(WINDOW_BYTES / 2, context).is_pending() {
            return Step::Wait;
        }
    }
    match from.poll_receive(context) {
        Poll::Pending => Step::Wait,
        Poll::Ready(Ok(Some(chunk))) => {
            note(&chunk);
            to.send(chunk);
            Step::Again
        }
        Poll::Ready(Ok(None) | Err(_)) => Step::End,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_between_transactions_when_it_has_been_told_so() {
        shards::run_one(|| async {
            assert!(Term::after(Duration::ZERO, true).is_none());
            let mut term = Term::after(Duration::from_secs(9), false).unwrap();
            let mut after = |bytes: &[u8]| {
                term.note_answer(bytes);
                term.is_between
            };
            assert!(!after(b"C\0\0\0\x0aBEGIN\0Z\0\0\0\x05T"));
            assert!(!after(b"C\0\0\0\x0bCOMMIT\0Z\0\0\0"));
            assert!(after(b"\x05I"));
            // Unasked.
            assert!(after(b"N\0\0\0\x05\0"));
            assert!(!after(b"D\0\0\0\x06\0\0"));
        })
        .unwrap();
    }
}
