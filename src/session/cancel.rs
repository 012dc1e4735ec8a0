//! Cancel requests of clients: whose statement is meant, and on which shard.
//!
//! **Owns:** where a key leads, passing it on to the shard of its session, how long a canceller
//! waits.
//! **Does not own:** the layout of keys (`protocol::cancel_key`), who has which server
//! (`registry`), the way to PostgreSQL (`server::cancel`), messages between shards (`app`).
//!
//! ```text
//!   canceller ──▶ shard of the connection ──▶ shard of the session ──▶ PostgreSQL
//!   canceller ◀── closes                  ◀── done                 ◀── closes
//! ```
//!
//! **Invariants**
//! 1. A canceller is never told anything: whatever comes of its request, its connection is closed.
//! 2. It is closed only after PostgreSQL has acted on the request, unless that takes too long.
//! 3. A key goes to at most two other shards: the one that gave it out, and the one where the session
//!    is if it has moved.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html` "Canceling Requests in Progress".

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::metrics::{Droppable, Fleet, ShardMetrics};
use crate::protocol::cancel_key::CancelKey;
use crate::protocol::startup::CancelKeyBytes;
use crate::server::Canceller;
use crate::transport::Stream;

use super::registry::{Lookup, Registry};

/// How long room in another shard's mailbox is waited for. A shard that does not read its messages
/// for so long has worse troubles than a lost cancel request.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(1);
/// The pause between two tries to send.
const ROOM_PAUSE: Duration = Duration::from_millis(1);

/// Stands for the control thread among the shards: it asks the process before this one.
pub const CONTROL: usize = usize::MAX;

/// A cancel request on its way to another shard.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded {
    /// The key that was given to the client.
    pub key: CancelKey,
    /// Where its session is said to be there, if it has logged in on another shard.
    pub slot: Option<u32>,
    /// When its canceller stops waiting, and with it everybody who waits for its sake.
    pub until: Instant,
}

/// Takes cancel requests to other shards.
pub trait Outbox {
    /// Asks shard `to` to run `request`, and to answer with `ticket` when it is over.
    ///
    /// # Errors
    ///
    /// The request, if there is no room at the moment.
    fn send_cancel(
        &self,
        to: usize,
        ticket: u32,
        request: Box<Forwarded>,
    ) -> Result<(), Box<Forwarded>>;
}

/// The place of a shard among all.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Counts this process among those that handed clients on to each other.
    pub generation: u8,
    /// Another process has handed clients on to this one.
    pub is_heir: bool,
    /// Number of this shard.
    pub index: usize,
    /// Number of shards.
    pub count: usize,
}

/// Who can judge a key.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    Here(CancelKey),
    There(usize, CancelKey),
    /// A process before this one.
    Before(CancelKey),
    Nowhere,
}

impl Place {
    fn route(self, bytes: &CancelKeyBytes) -> Route {
        let Some(key) = CancelKey::decode(bytes.pid, &bytes.secret) else {
            return Route::Nowhere;
        };
        let shard = usize::from(key.shard);
        if key.generation != self.generation && self.is_heir {
            Route::Before(key)
        } else if key.generation != self.generation || shard >= self.count {
            Route::Nowhere
        } else if shard == self.index {
            Route::Here(key)
        } else {
            Route::There(shard, key)
        }
    }
}

/// The cancel requests that a shard runs, and those that it has passed on.
pub struct Cancels {
    place: Place,
    registry: Rc<Registry>,
    canceller: Rc<Canceller>,
    fleet: Fleet,
    outbox: Box<dyn Outbox>,
    next_ticket: Cell<u32>,
    /// Passed on and not done yet.
    passed_on: RefCell<HashMap<u32, Option<Waker>>>,
}

/// A request that was passed on. Forgotten when dropped.
struct Ticket<'a>(&'a Cancels, u32);

impl Cancels {
    /// Nothing on its way yet. Keys of this shard are looked up in `registry`, others go through
    /// `outbox`.
    pub fn new(
        place: Place,
        registry: Rc<Registry>,
        canceller: Rc<Canceller>,
        fleet: Fleet,
        outbox: Box<dyn Outbox>,
    ) -> Self {
        Self {
            place,
            registry,
            canceller,
            fleet,
            outbox,
            next_ticket: Cell::new(0),
            passed_on: RefCell::default(),
        }
    }

    fn metrics(&self) -> &ShardMetrics {
        self.fleet.shard(self.place.index)
    }

    /// Sends the cancel requests of this shard to servers.
    pub const fn canceller(&self) -> &Rc<Canceller> {
        &self.canceller
    }

    /// Serves a connection that has brought a cancel request, to its end. Waits for the effect at
    /// most `limit`.
    pub async fn serve(&self, canceller: Stream, bytes: &CancelKeyBytes, limit: Duration) {
        self.metrics().cancels_received.add(1);
        close_in_order(&canceller);
        let until = Instant::now() + limit;
        let request = |key| Forwarded {
            key,
            slot: None,
            until,
        };
        match self.place.route(bytes) {
            Route::Nowhere => self.metrics().cancels_unknown.add(1),
            Route::Here(key) => {
                shards::until(until, self.run(&request(key))).await;
            }
            Route::There(shard, key) => self.pass_on(shard, request(key)).await,
            Route::Before(key) => self.run_before(&request(key), true).await,
        }
    }

    /// Runs a request of the process that takes over from this one, wherever its session is.
    pub async fn run_anywhere(&self, request: &Forwarded) {
        let key = request.key;
        let shard = usize::from(key.shard);
        if key.generation != self.place.generation {
            self.run_before(request, false).await;
        } else if shard == self.place.index {
            self.run(request).await;
        } else if shard < self.place.count {
            self.pass_on(shard, *request).await;
        }
    }

    /// Runs a request with a key of a process before this one: its session is on any shard, or still in
    /// that process if that is to be asked.
    async fn run_before(&self, request: &Forwarded, asks_back: bool) {
        for shard in 0..self.place.count {
            if shard == self.place.index {
                shards::until(request.until, self.run(request)).await;
            } else {
                self.pass_on(shard, *request).await;
            }
        }
        if asks_back {
            self.pass_on(CONTROL, *request).await;
        }
    }

    /// Runs a request for a session of this shard; returns when it is over. It goes on even if
    /// nobody waits any more.
    pub async fn run(&self, request: &Forwarded) {
        match self.registry.find(&request.key, request.slot) {
            // A second time only if the session has moved again in this moment.
            Lookup::Moved { .. } if request.slot.is_some() => {}
            Lookup::Moved { shard, slot } => {
                let request = Forwarded {
                    slot: Some(slot),
                    ..*request
                };
                self.pass_on(usize::from(shard), request).await;
            }
            // All shards are asked for a session of another process, and at most one has it.
            Lookup::Unknown if request.key.generation != self.place.generation => {}
            Lookup::Unknown => self.metrics().cancels_unknown.add(1),
            // Nothing of it runs on a server, as far as the client can know.
            Lookup::Idle => {}
            Lookup::Waiting(slot) => {
                // What the client is told of it is on its way before anything else of the session.
                if let Some(stream) = self.registry.dismiss(slot) {
                    shards::wake(stream);
                }
            }
            Lookup::Running(lease) => {
                if let Some(request) = self.canceller.cancel(&lease) {
                    lease.over(request).await;
                }
            }
        }
    }

    /// Sends a request to another shard and waits for its end, which is a message that may be lost.
    async fn pass_on(&self, shard: usize, request: Forwarded) {
        shards::until(request.until, self.ask(shard, request)).await;
    }

    async fn ask(&self, shard: usize, request: Forwarded) {
        let ticket = self.ticket();
        let give_up = Instant::now() + ROOM_WAIT_MAX;
        let mut request = Box::new(request);
        let mut is_delayed = false;
        while let Err(refused) = self.outbox.send_cancel(shard, ticket.1, request) {
            if Instant::now() >= give_up {
                self.metrics().dropped(Droppable::Cancel);
                return;
            }
            if !std::mem::replace(&mut is_delayed, true) {
                self.metrics().messages_delayed.add(1);
            }
            request = refused;
            shards::sleep(ROOM_PAUSE).await;
        }
        ticket.done().await;
    }

    fn ticket(&self) -> Ticket<'_> {
        let number = self.next_ticket.get();
        self.next_ticket.set(number.wrapping_add(1));
        self.passed_on.borrow_mut().insert(number, None);
        Ticket(self, number)
    }

    /// The other shard says that the request with `ticket` is over.
    pub fn done(&self, ticket: u32) {
        let waker = self.passed_on.borrow_mut().remove(&ticket).flatten();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Ticket<'_> {
    async fn done(&self) {
        poll_fn(|context| {
            let mut passed_on = self.0.passed_on.borrow_mut();
            match passed_on.get_mut(&self.1) {
                None => Poll::Ready(()),
                Some(waker) => {
                    *waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await;
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let waker = self.0.passed_on.borrow_mut().remove(&self.1);
        drop(waker);
    }
}

/// Has a connection closed, not reset, so that what was sent arrives: the listening socket hands down
/// options that are meant for sessions. A canceller that is reset may believe that its request has
/// failed; a client that is sent away at the end would not learn why.
pub(super) fn close_in_order(stream: &Stream) {
    let socket = SockRef::from(stream);
    // Both fail only where they mean nothing: on a Unix socket, or a connection that is gone.
    let _ = socket.set_linger(None);
    let _ = socket.set_tcp_nodelay(false);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::protocol::cancel_key::CancelSecret;
    use crate::session::resume::{Neighbours, Notice, SessionRecord};

    /// Neither a neighbour nor a way to one.
    pub(in crate::session) struct Nobody;

    impl Neighbours for Nobody {
        fn hand_over(&self, record: Box<SessionRecord>) -> Result<(), Box<SessionRecord>> {
            Err(record)
        }

        fn emigrate(&self, _: Box<SessionRecord>) {}

        fn tell(&self, _: u16, _: Notice) {}
    }

    impl Outbox for Nobody {
        fn send_cancel(
            &self,
            _: usize,
            _: u32,
            request: Box<Forwarded>,
        ) -> Result<(), Box<Forwarded>> {
            Err(request)
        }
    }

    const KEY: CancelKey = CancelKey {
        generation: 3,
        shard: 1,
        slot: 0,
        secret: CancelSecret::Short([7; 4]),
    };

    fn bytes(key: &CancelKey) -> CancelKeyBytes {
        CancelKeyBytes {
            pid: key.pid().expect("all fields fit"),
            secret: key.secret.as_bytes().to_vec(),
        }
    }

    const fn place(index: usize) -> Place {
        Place {
            generation: 3,
            is_heir: false,
            index,
            count: 2,
        }
    }

    #[test]
    fn a_key_leads_to_the_shard_that_gave_it_out() {
        assert_eq!(place(1).route(&bytes(&KEY)), Route::Here(KEY));
        assert_eq!(place(0).route(&bytes(&KEY)), Route::There(1, KEY));
    }

    #[test]
    fn a_key_of_another_process_shard_or_length_leads_nowhere() {
        for key in [
            CancelKey {
                generation: 2,
                ..KEY
            },
            CancelKey { shard: 2, ..KEY },
        ] {
            assert_eq!(place(0).route(&bytes(&key)), Route::Nowhere);
        }
        let mut long = bytes(&KEY);
        long.secret.push(0);
        assert_eq!(place(1).route(&long), Route::Nowhere);
        let nobody = CancelKeyBytes {
            pid: 0,
            ..bytes(&KEY)
        };
        assert_eq!(place(1).route(&nobody), Route::Nowhere);
    }

    #[test]
    fn wrong_secrets_are_counted_and_nothing_is_sent() {
        let fleet = Fleet::new(2);
        let registry = Registry::new((1, 3), Rc::new(Nobody), Instant::now());
        let (slot, secret) = registry.enter(false);
        let cancels = Cancels::new(
            place(1),
            registry,
            Canceller::new(fleet.clone(), 1),
            fleet.clone(),
            Box::new(Nobody),
        );
        let right = CancelKey {
            slot: slot.number(),
            secret,
            ..KEY
        };
        let mut wrong = right;
        if let CancelSecret::Short(bytes) = &mut wrong.secret {
            bytes[3] ^= 1;
        }
        let unknown = || fleet.shard(1).cancels_unknown.get();
        let run = |key: &CancelKey| {
            let mut context = std::task::Context::from_waker(Waker::noop());
            let request = Forwarded {
                key: *key,
                slot: None,
                until: Instant::now(),
            };
            let run = std::pin::pin!(cancels.run(&request));
            assert!(run.poll(&mut context).is_ready());
        };
        run(&wrong);
        assert_eq!(unknown(), 1);
        run(&right);
        assert_eq!(unknown(), 1, "known, and nothing of it runs");
        drop(slot);
        run(&right);
        assert_eq!(unknown(), 2, "a session that has gone");
        assert_eq!(fleet.shard(1).cancels_sent.get(), 0);
    }

    /// Takes requests and never answers: the word that they are over is lost.
    struct Silent;

    impl Outbox for Silent {
        fn send_cancel(&self, _: usize, _: u32, _: Box<Forwarded>) -> Result<(), Box<Forwarded>> {
            Ok(())
        }
    }

    #[test]
    fn the_shard_of_the_login_does_not_wait_for_ever_for_the_one_that_has_the_session() {
        shards::run_one(|| async {
            let fleet = Fleet::new(2);
            let registry = Registry::new((1, 3), Rc::new(Nobody), Instant::now());
            let (slot, secret) = registry.enter(false);
            let key = CancelKey {
                slot: slot.number(),
                secret,
                ..KEY
            };
            let identity = slot.depart();
            let moved = Notice::Moved {
                slot: key.slot,
                life: identity.life,
                moves: 1,
                slot_there: 0,
            };
            registry.notice(0, moved);
            let canceller = Canceller::new(fleet.clone(), 1);
            let cancels = Cancels::new(place(1), registry, canceller, fleet, Box::new(Silent));
            let request = Forwarded {
                key,
                slot: None,
                until: Instant::now() + Duration::from_millis(20),
            };
            let limit = Instant::now() + Duration::from_secs(5);
            assert!(shards::until(limit, cancels.run(&request)).await.is_some());
            assert!(cancels.passed_on.borrow().is_empty());
        })
        .unwrap();
    }
}
