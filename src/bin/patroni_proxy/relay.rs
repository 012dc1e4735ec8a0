//! Bytes between two sockets.
//!
//! **Owns:** backpressure, half-closed connections, when a connection is over.
//! **Does not own:** the sockets' bytes, which it never looks at.
//!
//! One direction:
//!
//! ```text
//!            end or failure of the source            all has left: write side shut
//!   Open ─────────────────────────────────▶ Flushing ─────────────────────────────▶ Done
//!     └────────── the target takes nothing any more ──────────────────────────────────▲
//! ```
//!
//! **Invariant:** no more than [`WINDOW_BYTES`] and one chunk wait for a slow reader.

use std::future::poll_fn;
use std::net::Shutdown;
use std::task::{Context, Poll};

use pg_doorman::metrics::Counter;
use shards::Stream;
use socket2::SockRef;

/// Bytes that may wait for a slow reader before its peer is not read any more.
const WINDOW_BYTES: usize = 256 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Flushing,
    Done,
}

/// One direction.
struct Direction<'a> {
    state: State,
    bytes: &'a Counter,
}

impl Direction<'_> {
    /// Moves what there is. False if `from` has failed, so that it takes nothing any more either.
    fn advance(&mut self, from: &mut Stream, to: &mut Stream, context: &mut Context<'_>) -> bool {
        let mut is_sound = true;
        if self.state == State::Open {
            is_sound = self.forward(from, to, context);
        }
        if self.state == State::Flushing {
            self.flush(to, context);
        }
        is_sound
    }

    fn forward(&mut self, from: &mut Stream, to: &mut Stream, context: &mut Context<'_>) -> bool {
        while to.queued_bytes() < WINDOW_BYTES {
            match from.poll_receive(context) {
                Poll::Ready(Ok(Some(chunk))) => {
                    self.bytes.add(chunk.len() as u64);
                    to.send(chunk);
                }
                Poll::Ready(Ok(None)) => {
                    self.state = State::Flushing;
                    return true;
                }
                Poll::Ready(Err(_)) => {
                    self.state = State::Flushing;
                    return false;
                }
                Poll::Pending => {
                    // Also tells of a target that has failed meanwhile.
                    if to.send_error().is_some() {
                        self.state = State::Done;
                    }
                    return true;
                }
            }
        }
        from.pause();
        // Notes who is to be woken; the receive goes on with the next call.
        if let Poll::Ready(Err(_)) = to.poll_sent(WINDOW_BYTES / 2, context) {
            self.state = State::Done;
        }
        true
    }

    fn flush(&mut self, to: &mut Stream, context: &mut Context<'_>) {
        match to.poll_sent(0, context) {
            Poll::Pending => {}
            Poll::Ready(outcome) => {
                self.state = State::Done;
                if outcome.is_ok() {
                    // Who has closed already is told nothing.
                    let _ = SockRef::from(&*to).shutdown(Shutdown::Write);
                }
            }
        }
    }
}

/// Forwards in both directions until both have ended.
pub(crate) async fn join(
    near: &mut Stream,
    far: &mut Stream,
    (from_near, from_far): (&Counter, &Counter),
) {
    let direction = |bytes| Direction {
        state: State::Open,
        bytes,
    };
    let (mut out, mut back) = (direction(from_near), direction(from_far));
    poll_fn(|context| {
        if !out.advance(near, far, context) {
            back.state = State::Done;
        }
        if !back.advance(far, near, context) {
            out.state = State::Done;
        }
        if out.state == State::Done && back.state == State::Done {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}
