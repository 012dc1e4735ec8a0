//! Who may use a server connection now, and which cancel requests for it are on their way.
//!
//! **Owns:** whether a client uses the server, the cancel requests asked for during that use, the
//! quarantine behind it, and what a canceller must know to reach the server's process.
//! **Does not own:** sending the requests (`cancel`), keeping the server back (`pool::quarantine`),
//! finding the lease of a client (`session::registry`).
//!
//! ```text
//!   ┌──────┐ lend     ┌──────┐ ── give_back, nothing out ──▶ Idle
//!   │ Idle │ ───────▶ │ Lent │
//!   └──────┘          └──────┘ ── give_back, requests out ──▶ ┌─────────────┐
//!       ▲                                                     │ Quarantined │
//!       └────────────── the last request has closed ───────── └─────────────┘
//!   any ── a request may still arrive, nobody knows when ──▶ Broken (stays)
//!
//!   one request:   ask ──▶ waits ── send ──▶ out ── close, fail ──▶ over
//!                            └── withdraw, or the server is given back ──▶ over, never sent
//! ```
//!
//! A cancel request names a process of PostgreSQL, not a statement. If the server were lent again
//! before PostgreSQL has acted on the request, it would hit the next client's statement, or the
//! pooler's own cleaning. PostgreSQL closes the connection that brought the request after it has
//! signalled the process, so the close is the sign to wait for.
//!
//! **Invariants**
//! 1. A request is sent only during the use that it was asked for.
//! 2. At most one request waits to be sent: who asks meanwhile joins it.
//! 3. A broken lease never becomes whole: the server is closed when it comes back.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html` "Canceling Requests in Progress".

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::SockRef;

use crate::transport::Stream;

use super::connection::Socket;

/// Names one cancel request of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request(u32);

/// What comes of asking for a cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A request of one's own, to be sent.
    First(Request),
    /// Somebody has asked before and it is not sent yet: the same one will do.
    Joined(Request),
    /// Nobody uses the server: there is nothing to cancel.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Broken,
    Idle,
    Lent,
    Quarantined,
}

/// The decisions, without sockets and wakers.
#[derive(Debug)]
struct Machine {
    state: State,
    last: u32,
    /// Waits to be sent.
    waiting: Option<Request>,
    /// Sent, and PostgreSQL has not closed yet.
    out: Vec<Request>,
}

impl Machine {
    const fn new() -> Self {
        Self {
            state: State::Idle,
            last: 0,
            waiting: None,
            out: Vec::new(),
        }
    }

    fn lend(&mut self) {
        self.state = match self.state {
            State::Idle => State::Lent,
            state @ (State::Lent | State::Quarantined | State::Broken) => {
                debug_assert_eq!(state, State::Broken, "lent twice");
                State::Broken
            }
        };
    }

    fn give_back(&mut self) {
        self.waiting = None;
        self.state = match self.state {
            State::Lent if self.out.is_empty() => State::Idle,
            State::Lent => State::Quarantined,
            // An idle one has been prepared for a client and not used.
            state @ (State::Idle | State::Quarantined | State::Broken) => state,
        };
    }

    fn ask(&mut self) -> Asked {
        match (self.state, self.waiting) {
            (State::Lent, Some(request)) => Asked::Joined(request),
            (State::Lent, None) => {
                self.last = self.last.wrapping_add(1);
                let request = Request(self.last);
                self.waiting = Some(request);
                Asked::First(request)
            }
            (State::Idle | State::Quarantined | State::Broken, _) => Asked::Refused,
        }
    }

    fn is_waiting(&self, request: Request) -> bool {
        self.waiting == Some(request)
    }

    fn send(&mut self, request: Request) -> bool {
        let is_wanted = self.is_waiting(request);
        if is_wanted {
            self.waiting = None;
            self.out.push(request);
        }
        is_wanted
    }

    fn withdraw(&mut self, request: Request) {
        if self.is_waiting(request) {
            self.waiting = None;
        }
    }

    fn close(&mut self, request: Request) {
        self.out.retain(|other| *other != request);
        self.state = match self.state {
            State::Quarantined if self.out.is_empty() => State::Idle,
            state @ (State::Idle | State::Lent | State::Quarantined | State::Broken) => state,
        };
    }

    fn fail(&mut self, request: Request) {
        self.out.retain(|other| *other != request);
        self.state = State::Broken;
    }

    fn is_over(&self, request: Request) -> bool {
        !self.is_waiting(request) && !self.out.contains(&request)
    }
}

/// How to reach the process behind a server connection.
pub struct CancelTarget {
    /// Process id as the server told it.
    pub pid: i32,
    /// The secret as the server told it, of any length.
    pub secret: Box<[u8]>,
    /// How connections to this server are made.
    pub socket: Rc<Socket>,
    /// The address that the connection has: one of several that its name may stand for. None on a
    /// Unix socket.
    pub peer: Option<SocketAddr>,
    /// The connection is encrypted: so are its cancel requests.
    pub is_tls: bool,
    /// Bound on connecting, and again on the answer.
    pub timeout: Duration,
}

impl fmt::Debug for CancelTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelTarget")
            .field("pid", &self.pid)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Whether a client uses a server connection, and what is on its way to cancel.
#[derive(Debug)]
pub struct Lease {
    target: Option<CancelTarget>,
    machine: RefCell<Machine>,
    wakers: RefCell<Vec<Waker>>,
}

impl Lease {
    /// The lease of a new connection `stream` made with `socket`. Without the server's `key` nothing
    /// on it can be cancelled. `timeout` bounds connecting, and again the answer.
    pub fn new(
        key: Option<(i32, Box<[u8]>)>,
        stream: &Stream,
        socket: &Rc<Socket>,
        timeout: Duration,
    ) -> Rc<Self> {
        let target = key.map(|(pid, secret)| CancelTarget {
            pid,
            secret,
            socket: Rc::clone(socket),
            peer: peer(stream).ok().flatten(),
            is_tls: stream.is_tls(),
            timeout,
        });
        Rc::new(Self::of(target))
    }

    /// The lease of a server that is reached by `target`.
    pub const fn of(target: Option<CancelTarget>) -> Self {
        Self {
            target,
            machine: RefCell::new(Machine::new()),
            wakers: RefCell::new(Vec::new()),
        }
    }

    /// How to reach the server's process; none if the server gave no key.
    pub const fn target(&self) -> Option<&CancelTarget> {
        self.target.as_ref()
    }

    /// A client begins to use the server.
    pub fn lend(&self) {
        self.machine.borrow_mut().lend();
    }

    /// The client does not use the server any more; what was not sent is not sent any more.
    pub fn give_back(&self) {
        self.machine.borrow_mut().give_back();
        self.wake();
    }

    /// Asks for a cancel of what runs now.
    pub fn ask(&self) -> Asked {
        if self.target.is_none() {
            return Asked::Refused;
        }
        self.machine.borrow_mut().ask()
    }

    /// True as long as `request` is wanted and not sent.
    pub fn is_waiting(&self, request: Request) -> bool {
        self.machine.borrow().is_waiting(request)
    }

    /// The request is about to be sent; false if it is not wanted any more.
    #[must_use = "a request that is not wanted must not be sent"]
    pub fn send(&self, request: Request) -> bool {
        self.machine.borrow_mut().send(request)
    }

    /// The request will not be sent.
    pub fn withdraw(&self, request: Request) {
        self.machine.borrow_mut().withdraw(request);
        self.wake();
    }

    /// PostgreSQL has closed the connection that brought the request: it has had its effect.
    pub fn close(&self, request: Request) {
        self.machine.borrow_mut().close(request);
        self.wake();
    }

    /// The request may have been sent, and nobody knows when it arrives.
    pub fn fail(&self, request: Request) {
        self.machine.borrow_mut().fail(request);
        self.wake();
    }

    /// True while a request is out that was sent for a client who has given the server back.
    pub fn is_quarantined(&self) -> bool {
        self.machine.borrow().state == State::Quarantined
    }

    /// True if the server must be closed instead of lent.
    pub fn is_broken(&self) -> bool {
        self.machine.borrow().state == State::Broken
    }

    /// True when `request` has ended, however it did.
    pub fn is_over(&self, request: Request) -> bool {
        self.machine.borrow().is_over(request)
    }

    /// Waits until `request` is over, however it ended.
    pub async fn over(&self, request: Request) {
        poll_fn(|context| self.poll(context, |machine| machine.is_over(request))).await;
    }

    /// Waits for the end of the quarantine.
    pub async fn released(&self) {
        poll_fn(|context| self.poll(context, |machine| machine.state != State::Quarantined)).await;
    }

    fn poll(&self, context: &Context<'_>, is_ready: impl Fn(&Machine) -> bool) -> Poll<()> {
        if is_ready(&self.machine.borrow()) {
            return Poll::Ready(());
        }
        let mut wakers = self.wakers.borrow_mut();
        if !wakers.iter().any(|known| known.will_wake(context.waker())) {
            wakers.push(context.waker().clone());
        }
        Poll::Pending
    }

    fn wake(&self) {
        if self.wakers.borrow().is_empty() {
            return;
        }
        for waker in self.wakers.take() {
            waker.wake();
        }
    }
}

/// The address at the other end; none on a Unix socket.
fn peer(stream: &Stream) -> io::Result<Option<SocketAddr>> {
    Ok(SockRef::from(stream).peer_addr()?.as_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(machine: &mut Machine) -> Request {
        match machine.ask() {
            Asked::First(request) => request,
            other @ (Asked::Joined(_) | Asked::Refused) => panic!("{other:?}"),
        }
    }

    fn lent() -> Machine {
        let mut machine = Machine::new();
        machine.lend();
        machine
    }

    #[test]
    fn nothing_is_cancelled_on_a_server_that_nobody_uses() {
        let mut machine = Machine::new();
        assert_eq!(machine.ask(), Asked::Refused);
        machine.lend();
        machine.give_back();
        assert_eq!(
            (machine.ask(), machine.state),
            (Asked::Refused, State::Idle)
        );
    }

    #[test]
    fn server_is_quarantined_until_the_last_request_has_closed() {
        let mut machine = lent();
        let first = asked(&mut machine);
        assert!(machine.send(first));
        let second = asked(&mut machine);
        assert!(machine.send(second));
        machine.give_back();
        assert_eq!(machine.state, State::Quarantined);
        assert_eq!(machine.ask(), Asked::Refused);
        machine.close(second);
        assert_eq!(machine.state, State::Quarantined);
        assert!(machine.is_over(second) && !machine.is_over(first));
        machine.close(first);
        assert_eq!(machine.state, State::Idle);
        machine.lend();
        assert_eq!(machine.state, State::Lent);
    }

    #[test]
    fn request_that_closes_during_the_use_leaves_no_trace() {
        let mut machine = lent();
        let request = asked(&mut machine);
        assert!(machine.send(request));
        machine.close(request);
        assert_eq!(machine.state, State::Lent);
        machine.give_back();
        assert_eq!(machine.state, State::Idle);
    }

    #[test]
    fn request_that_is_not_sent_when_the_server_comes_back_is_never_sent() {
        let mut machine = lent();
        let request = asked(&mut machine);
        machine.give_back();
        assert!(machine.is_over(request));
        assert!(!machine.send(request));
        assert_eq!(machine.state, State::Idle);
        // Nor is it sent to the next client's statement.
        machine.lend();
        assert!(!machine.send(request));
        assert!(!machine.is_waiting(request));
        assert_ne!(machine.ask(), Asked::Joined(request));
    }

    #[test]
    fn who_asks_before_the_request_is_sent_joins_it() {
        let mut machine = lent();
        let request = asked(&mut machine);
        assert_eq!(machine.ask(), Asked::Joined(request));
        assert!(machine.send(request));
        assert!(!machine.send(request), "sent once");
        assert_ne!(machine.ask(), Asked::Joined(request));
    }

    #[test]
    fn withdrawn_request_is_over_and_the_server_unharmed() {
        let mut machine = lent();
        let request = asked(&mut machine);
        machine.withdraw(request);
        assert!(machine.is_over(request) && !machine.send(request));
        machine.give_back();
        assert_eq!(machine.state, State::Idle);
    }

    #[test]
    fn failed_request_breaks_the_lease_for_good() {
        for is_back in [false, true] {
            let mut machine = lent();
            let (request, other) = (asked(&mut machine), Request(77));
            assert!(machine.send(request));
            if is_back {
                machine.give_back();
            }
            machine.fail(request);
            assert_eq!(machine.state, State::Broken);
            assert!(machine.is_over(request));
            machine.give_back();
            machine.close(other);
            machine.lend();
            assert_eq!(
                (machine.ask(), machine.state),
                (Asked::Refused, State::Broken)
            );
        }
    }

    #[test]
    fn server_without_a_key_cannot_be_asked() {
        let lease = Lease::of(None);
        lease.lend();
        assert_eq!(lease.ask(), Asked::Refused);
        lease.give_back();
        assert!(!lease.is_quarantined() && !lease.is_broken());
    }
}
