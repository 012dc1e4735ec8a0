//! Letters, permits and servers on their way between the shards.
//!
//! **Owns:** carrying out what a [`Part`](super::part::Part) has decided: sending its letters, taking
//! servers off this shard and putting them on, closing what is to be closed.
//! **Does not own:** the decisions (`part`), the mailboxes ([`Mail`] is made in `app`).
//!
//! **Invariants**
//! 1. A server leaves clean and settled, or not at all; then its permit travels without it.
//! 2. What a server has said while it was under way is read before it is lent.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use shards::spawn;

use crate::metrics::pool::Leave;
use crate::protocol::backend::TransactionStatus;
use crate::server::baits::Baits;
use crate::server::connection::Companion;
use crate::server::credentials::LearnedKeys;
use crate::server::detach::Travelling;
use crate::server::lease::CancelTarget;
use crate::server::parameters::ParameterSet;
use crate::server::passport::ServerRecord;
use crate::server::reset::Leftovers;
use crate::server::sync::Sync;
use crate::server::{Lease, ServerCard, ServerConnection};
use crate::transport::Stream;

use super::cleaner;
use super::driver::{Pool, PoolId};
use super::letter;

/// A letter as it travels.
pub type Letter = letter::Letter<Box<Travelling>>;

/// How long the kernel may take to let go of a socket.
pub(super) const DETACH_MAX: Duration = Duration::from_secs(1);

/// Takes letters to other shards. None is lost; those to one shard arrive in order.
pub trait Mail {
    /// Sends `letter` to pool `id` on shard `to`.
    fn send(&self, to: usize, id: PoolId, letter: Letter);

    /// Sends a server to the process that takes over. One that nobody takes is closed.
    fn emigrate(&self, server: Box<ServerRecord>, leave: Leave) {
        drop((server, leave));
    }
}

impl Pool {
    /// Carries out what the part has decided.
    pub(super) fn act(self: &Rc<Self>) {
        self.renew_claim();
        let (post, closing, wakers, tally, (mut leaves, lent_out)) = {
            let mut part = self.part.borrow_mut();
            // Before they cease to count.
            let leaves = self.leaves(part.closing_count());
            self.note_numbers(&part);
            if let Some(at) = part.review_at() {
                self.host.plan_review(self);
                self.host.reviews.at_most(at);
            }
            if !part.has_effects() {
                return;
            }
            (
                part.take_post(),
                part.take_closing(),
                part.take_wakers(),
                part.take_tally(),
                (leaves, part.take_lent_out()),
            )
        };
        let metrics = self.host.metrics();
        metrics.wants.add(tally.wants);
        metrics.wants_granted.add(tally.granted);
        metrics
            .wants_wait_us
            .add(u64::try_from(tally.waited.as_micros()).unwrap_or(u64::MAX));
        metrics.waits_beside_idle.add(tally.beside_idle);
        metrics.reserves_used.add(tally.reserve);
        for waker in wakers {
            waker.wake();
        }
        for server in closing {
            match leaves.pop() {
                Some(leave) => self.emigrate(server, leave),
                None => self.close(server),
            }
        }
        for (to, letter) in post {
            self.send(to, letter);
        }
        for server in lent_out {
            self.give_to_companion(server);
        }
    }

    fn send(self: &Rc<Self>, to: usize, letter: letter::Letter<Box<ServerConnection>>) {
        let (letter, server) = letter.take_server();
        match server {
            Some(server) => spawn(send_server(Rc::clone(self), to, letter, server)),
            None => self.host.mail.send(to, self.id, letter),
        }
    }

    /// Takes a letter of the same pool on shard `from`.
    pub(super) fn receive(self: &Rc<Self>, from: usize, letter: Letter) {
        if self.is_retired() {
            self.host.lose(&letter);
            return;
        }
        if let Letter::Base(base) = letter {
            self.base.learn(&self.intern(*base));
            return;
        }
        let letter = match letter {
            Letter::MakeRoom => return self.asked_for_room(),
            Letter::Room => return self.has_room(),
            Letter::Keys(keys) => {
                self.learned.learn(*keys);
                return;
            }
            letter => letter,
        };
        let (letter, travelling) = letter.take_server();
        let server = travelling.and_then(|travelling| self.unpack(*travelling));
        let expires = server.as_ref().and_then(|server| server.expires);
        let letter = letter.with_server(server);
        let now = shards::now();
        self.part.borrow_mut().receive(from, letter, expires, now);
        self.open_more();
    }

    /// A new server reports `base`. If that is news, the other shards are told.
    pub(super) fn learn_base(&self, base: &Rc<ParameterSet>) {
        if !self.base.learn(base) || self.is_retired() {
            return;
        }
        for shard in (0..self.host.count).filter(|shard| *shard != self.host.here) {
            let letter = Letter::Base(Box::new((**base).clone()));
            self.host.mail.send(shard, self.id, letter);
        }
    }

    /// A client has shown that it has these keys. If that is news, the other shards are told.
    pub fn learn_keys(&self, keys: &LearnedKeys) {
        if !self.learned.learn(keys.clone()) || self.is_retired() {
            return;
        }
        for shard in (0..self.host.count).filter(|shard| *shard != self.host.here) {
            let letter = Letter::Keys(Box::new(keys.clone()));
            self.host.mail.send(shard, self.id, letter);
        }
    }

    pub(super) fn review(self: &Rc<Self>) {
        let now = shards::now();
        {
            let mut part = self.part.borrow_mut();
            if part.review_at().is_some_and(|at| at <= now) {
                part.review(now);
            }
        }
        self.open_more();
    }

    /// Gives permits back that this shard has not needed for a while.
    pub fn settle(self: &Rc<Self>) {
        if !self.is_retired() {
            self.part.borrow_mut().settle(shards::now());
            self.act();
        }
    }

    /// Takes a clean server off this shard; `None` if it is of no further use.
    pub(super) async fn pack(&self, mut server: Box<ServerConnection>) -> Option<Box<Travelling>> {
        let deadline = shards::now() + DETACH_MAX;
        let quiescent = poll_fn(|context| server.stream.poll_quiescent(context));
        let has_let_go = shards::until(deadline, quiescent).await.is_some();
        let is_fit = has_let_go && cleaner::read_unasked(self, &mut server) && server.is_clean();
        if !is_fit || self.is_outdated(&server) {
            self.close(server);
            return None;
        }
        Some(self.take_off(server).await)
    }

    /// Takes a server of which the kernel has let go off this shard, whatever it has said.
    pub(super) async fn take_off(&self, server: Box<ServerConnection>) -> Box<Travelling> {
        self.host.free_number(server.number);
        self.host.metrics().servers_moved_out.add(1);
        let server = *server;
        let target = server.lease.target();
        let key = target.map(|target| (target.pid, target.secret.clone()));
        let peer = target.and_then(|target| target.peer);
        Box::new(Travelling {
            detached: server.stream.detach().await,
            framer: server.framer,
            right: server.right,
            base: (*server.base).clone(),
            applied: (*server.applied).clone(),
            has_unnamed: server.has_unnamed,
            statements: server.statements,
            key,
            peer,
            tally: server.card.tally.get(),
            born: server.born,
            expires: server.expires,
        })
    }

    /// Puts a server on this shard; `None` if it has ended on its way.
    pub(super) fn unpack(self: &Rc<Self>, travelling: Travelling) -> Option<Box<ServerConnection>> {
        let (mut server, unread) = self.put_on(travelling);
        let is_fit = unread.is_none_or(|chunk| cleaner::read_own_replies(self, &mut server, chunk));
        if is_fit && server.is_clean() && !self.is_outdated(&server) {
            server.stream.watch(server.number);
            Some(server)
        } else {
            self.close(server);
            None
        }
    }

    /// Puts a server on this shard, with what it has said on its way.
    pub(super) fn put_on(self: &Rc<Self>, travelling: Travelling) -> Companion {
        let (stream, unread) = Stream::attach(travelling.detached);
        let base = self.intern(travelling.base);
        // What it said at its own login is old by now.
        if self.base.get().is_none() {
            self.base.learn(&base);
        }
        let target = travelling.key.map(|(pid, secret)| CancelTarget {
            pid,
            secret,
            socket: Rc::clone(&self.settings.socket.borrow()),
            peer: travelling.peer,
            is_tls: stream.is_tls(),
            timeout: self.settings.connect_timeout.get(),
        });
        let lease = Rc::new(Lease::of(target));
        let pid = lease.target().map_or(0, |target| target.pid);
        let (born, tally) = (travelling.born, travelling.tally);
        let card = ServerCard::new(Rc::clone(&self.metrics), pid, born, tally);
        card.is_lent.set(false);
        let server = Box::new(ServerConnection {
            stream,
            right: travelling.right,
            framer: travelling.framer,
            sync: Sync::default(),
            status: TransactionStatus::Idle,
            leftovers: Leftovers::default(),
            baits: Baits::default(),
            has_unnamed: travelling.has_unnamed,
            statements: travelling.statements,
            base,
            applied: self.intern(travelling.applied),
            lease,
            number: self.host.number(self, &card),
            card,
            born,
            expires: travelling.expires,
            awaited: None,
        });
        self.host.metrics().servers_moved_in.add(1);
        (server, unread)
    }
}

async fn send_server(pool: Rc<Pool>, to: usize, letter: Letter, server: Box<ServerConnection>) {
    let travelling = pool.pack(server).await;
    let letter = letter.with_server(travelling);
    pool.host.mail.send(to, pool.id, letter);
}
