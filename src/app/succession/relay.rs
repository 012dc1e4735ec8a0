//! What stays of an encrypted client whose session is in another process.
//!
//! **Owns:** moving bytes between the client, in records of TLS, and its session, in clear.
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

use std::future::poll_fn;
use std::task::{Context, Poll};

use rustix::net::{Shutdown, shutdown};

use crate::transport::Stream;

/// Bytes that may wait for one side of a relay.
const WINDOW_BYTES: usize = 256 * 1024;

/// Moves bytes until the session has ended, or nothing can be delivered to one side any more. What is queued
/// for the client leaves when its stream is dropped.
pub async fn relay(mut client: Stream, mut session: Stream) {
    let mut request = Request::Open;
    poll_fn(|context| {
        loop {
            let there = request.step(&mut client, &mut session, context);
            let back = step(&mut session, &mut client, context);
            match (there, back) {
                (Step::End, _) | (_, Step::End) => return Poll::Ready(()),
                (Step::Wait, Step::Wait) => return Poll::Pending,
                _ => {}
            }
        }
    })
    .await;
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
        context: &mut Context<'_>,
    ) -> Step {
        match self {
            Self::Open => match step(client, session, context) {
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

fn step(from: &mut Stream, to: &mut Stream, context: &mut Context<'_>) -> Step {
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
            to.send(chunk);
            Step::Again
        }
        Poll::Ready(Ok(None) | Err(_)) => Step::End,
    }
}
