//! A client after login: the machine that gets it servers and forwards its messages.
//!
//! **Owns:** the phases of a session, holding messages until they are whole, the window of unsent
//! bytes in both directions.
//! **Does not own:** what replies mean (`relay`, `server::sync`), the pool's decisions (`pool`), what
//! becomes of one side when the other has gone (`parting`).
//!
//! ```text
//!            message that needs a server       settings differ
//!   ┌──────┐ ───────────────▶ ┌─────────┐ ──────────────▶ ┌───────────┐
//!   │ Idle │                  │ Waiting │                  │ Preparing │
//!   └──────┘                  └─────────┘                  └───────────┘
//!      ▲                           │ settings are the same     │ settings applied
//!      │ settled, transaction mode ▼                           │
//!      └──────────────────── ┌─────────┐ ◀────────────────────┘
//!                            │ Serving │ ──▶ client or server gone ──▶ done
//!                            └─────────┘
//! ```
//!
//! An idle session that is asked to goes to another shard (`Leaving`): its stream is taken off the
//! ring, and what the session is travels as a [`SessionRecord`](super::resume::SessionRecord).
//!
//! **Invariants**
//! 1. Only whole messages (or the start of one too long to hold) make a client take a server.
//! 2. A server that still owes something, or got only a part of a message, is closed when its client
//!    goes; otherwise it goes back to the pool.
//! 3. A side is not read while more than `WINDOW_BYTES` wait for the other side.
//! 4. An idle client owns no buffer.
//!
//! What a client without a server is told by the pooler itself is in `local`; a BEGIN that was put off
//! is the last step of `Preparing`.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use shards::Chunk;

use crate::config::PoolMode;
use crate::pool::{Acquired, Pool, Ticket};
use crate::protocol::backend::TransactionStatus;
use crate::protocol::framer::{BODY_BYTES_MAX, Framer, HEADER_BYTES, Interest};
use crate::server::ServerConnection;
use crate::server::parameters::{self, ParameterSet};
use crate::server::reset::Leftovers;
use crate::transport::Stream;

use super::budget::Claim;
use super::card::{Belongs, ClientCard, ClientTally};
use super::dismiss::Skip;
use super::ending::Ending;
use super::local::{Begun, Local};
use super::prepared::Prepared;
use super::registry::Slot;
use super::relay::odd_beginning;
use super::report::Failure;
use super::roster::Seated;
use super::shard::{Connection, Shard};

/// Bytes that may wait for one side before the other is not read any more.
pub(super) const WINDOW_BYTES: usize = 256 * 1024;
/// Messages up to this size are held until they are whole before a server is taken.
pub(super) const HELD_BYTES_MAX: usize = 64 * 1024;
/// Servers that a client may lose before its message has reached one.
const RETRIES_MAX: u8 = 3;
/// Steps of one session before the others get their turn.
const STEPS_MAX: usize = 64;

/// Client messages whose bodies are looked into.
pub(super) static INTEREST: Interest = Interest::of(b"QPD");

/// What a session is doing.
pub(super) enum Phase {
    /// Has no server and needs none.
    Idle,
    /// Stands in the pool's queue.
    Waiting(Ticket),
    /// Its server is being given the client's settings. `true`: that has failed.
    Preparing(Box<ServerConnection>, bool),
    /// Has a server.
    Serving(Box<ServerConnection>),
    /// Goes to another shard as soon as the kernel lets go of its stream.
    Leaving,
    /// Goes to another process with its server.
    LeavingTogether(Box<ServerConnection>),
}

/// What a step has led to.
pub(super) enum Step {
    /// Something changed: go on.
    Again,
    /// Nothing to do until somebody wakes the session.
    Wait,
    /// The session is over.
    End,
}

/// One client.
pub struct Session {
    pub(super) client: Stream,
    pub(super) framer: Framer,
    /// Received and not yet handled.
    pub(super) input: Option<Chunk>,
    pub(super) phase: Phase,
    pub(super) pool: Rc<Pool>,
    pub(super) shard: Rc<Shard>,
    /// What the client asked for at login.
    pub(super) asked: Rc<ParameterSet>,
    /// The settings that it wants now, as far as they differ from the servers' own.
    pub(super) wanted: Rc<ParameterSet>,
    /// The client has said good-bye behind messages that are still being answered.
    pub(super) is_leaving: bool,
    /// A `RESET` or `DISCARD ALL` was completed since the last `ReadyForQuery`.
    pub(super) has_reset: bool,
    /// The server has said farewell in words that the client has got.
    pub(super) has_farewell: bool,
    pub(super) claim: Option<Box<Claim>>,
    /// What it has sent last waits for the answers to what it has sent before.
    pub(super) is_waiting: bool,
    /// What is left of a request that has been cancelled before a server got it.
    pub(super) skip: Option<Box<Skip>>,
    /// The transaction that it has begun without a server.
    pub(super) begun: Begun,
    /// Servers in a row that went while they were being prepared.
    retries: u8,
    /// Its prepared statements, if it has or had any and its pool renames them.
    pub(super) prepared: Option<Box<Prepared>>,
    /// None only once the session has left.
    pub(super) slot: Option<Slot>,
    /// As `slot`.
    pub(super) connection: Option<Connection>,
    /// Why it ends, as far as that is known.
    pub(super) ending: Ending,
    /// What is told of it.
    pub(super) card: Seated,
}

impl Session {
    /// An idle session; `input` is what the client has sent already.
    pub(super) fn new(
        shard: Rc<Shard>,
        pool: Rc<Pool>,
        (client, input): (Stream, Option<Chunk>),
        (asked, wanted): (Rc<ParameterSet>, Rc<ParameterSet>),
        (slot, connection, tally): (Slot, Connection, ClientTally),
    ) -> Self {
        slot.set_stream(client.id());
        let belongs = Belongs::Pool(Rc::clone(&pool.metrics));
        let card = ClientCard::new(belongs, Rc::clone(&asked), client.id(), tally);
        let card = shard.roster.seat(card);
        card.close_if_wanted(&shard);
        Self {
            client,
            framer: Framer::new(&INTEREST, BODY_BYTES_MAX),
            input,
            phase: Phase::Idle,
            asked,
            wanted,
            pool,
            shard,
            is_leaving: false,
            has_reset: false,
            has_farewell: false,
            claim: None,
            is_waiting: false,
            skip: None,
            begun: Begun::None,
            retries: 0,
            prepared: None,
            slot: Some(slot),
            connection: Some(connection),
            ending: Ending::Lost,
            card,
        }
    }

    pub(super) fn step_on(&mut self, context: &mut Context<'_>) -> Step {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => self.idle(context),
            Phase::Waiting(ticket) => self.waiting(ticket, context),
            Phase::Preparing(server, failed) => self.preparing(server, failed, context),
            Phase::Serving(server) => {
                let step = self.serving(server, context);
                if !matches!(self.phase, Phase::Serving(_))
                    && let Some(slot) = &self.slot
                {
                    slot.rest();
                }
                step
            }
            Phase::Leaving => self.leaving(context),
            Phase::LeavingTogether(server) => self.leaving_together(server, context),
        }
    }

    /// Ends the session with an error.
    pub(super) fn fail(&mut self, failure: &Failure) {
        self.ending = Ending::told(failure);
        self.client.send(failure.to_bytes());
    }

    fn idle(&mut self, context: &mut Context<'_>) -> Step {
        if self.is_leaving {
            return Step::End;
        }
        // A slow reader is not served further before it has taken what it got.
        if self.client.queued_bytes() > WINDOW_BYTES {
            self.client.pause();
            if self
                .client
                .poll_sent(WINDOW_BYTES / 2, context)
                .is_pending()
            {
                return Step::Wait;
            }
        }
        let Some(mut chunk) = self.input.take() else {
            return match self.client.poll_receive(context) {
                Poll::Pending => self.stay_or_leave(context),
                Poll::Ready(Ok(Some(chunk))) => {
                    self.input = Some(chunk);
                    Step::Again
                }
                Poll::Ready(Ok(None) | Err(_)) => Step::End,
            };
        };
        if self.skip.is_some() && self.skip_over(&mut chunk) {
            return Step::Again;
        }
        loop {
            let Some(&[tag, l0, l1, l2, l3]) = chunk.first_chunk::<{ HEADER_BYTES }>() else {
                return self.hold(chunk, 0, context);
            };
            let length = u32::from_be_bytes([l0, l1, l2, l3]);
            if !(4..=BODY_BYTES_MAX + 4).contains(&length) {
                return self.invalid_length(tag, length);
            }
            let message_bytes = 1 + length as usize;
            if chunk.len() < message_bytes {
                return self.hold(chunk, message_bytes, context);
            }
            let is_last = chunk.len() == message_bytes;
            match self.handle_locally(&chunk[..message_bytes], is_last) {
                Local::Handled => {
                    self.claim = None;
                    self.card.note_local(self.begun != Begun::None);
                    chunk.advance(message_bytes);
                }
                Local::Leave => return Step::End,
                Local::NeedsServer => {
                    self.input = Some(chunk);
                    return self.acquire(context);
                }
            }
            if chunk.is_empty() {
                return Step::Again;
            }
        }
    }

    /// The message at the start of `chunk` is not whole. It is held until it is, unless it is long.
    fn hold(&mut self, chunk: Chunk, message_bytes: usize, context: &mut Context<'_>) -> Step {
        if let Some(failure) = odd_beginning(&chunk) {
            self.fail(&failure);
            return Step::End;
        }
        if message_bytes > 0 && !self.claim_memory(message_bytes) {
            return Step::End;
        }
        if message_bytes > HELD_BYTES_MAX {
            self.input = Some(chunk);
            return self.acquire(context);
        }
        match self.client.poll_receive(context) {
            Poll::Ready(Ok(Some(more))) => {
                self.card.note_rest();
                let mut held = Vec::with_capacity(message_bytes.max(chunk.len() + more.len()));
                held.extend_from_slice(&chunk);
                held.extend_from_slice(&more);
                self.input = Some(self.client.chunk_of(held));
                Step::Again
            }
            Poll::Ready(Ok(None) | Err(_)) => Step::End,
            Poll::Pending => {
                self.input = Some(chunk.release_if_scarce());
                Step::Wait
            }
        }
    }

    pub(super) fn acquire(&mut self, context: &mut Context<'_>) -> Step {
        if self.pool.is_retired() {
            self.change_pool();
        }
        if self.emigrates(context) {
            return Step::Again;
        }
        match self.pool.acquire(context.waker()) {
            Acquired::Server(server) => self.attach(server),
            Acquired::Waiting(ticket) => {
                self.input = self.input.take().map(Chunk::release_if_scarce);
                self.may_be_dismissed();
                self.phase = Phase::Waiting(ticket);
                Step::Again
            }
        }
    }

    /// A reload has replaced the pool: between two transactions the session goes on with the new one,
    /// if its database and user still exist.
    pub(super) fn change_pool(&mut self) {
        let directory = self.shard.directory();
        if let Some(tenant) = directory.tenant(&self.pool.key.database, &self.pool.key.user) {
            self.pool = Rc::clone(&tenant.pool);
        }
        if !self.pool.settings.manages_statements() {
            // Servers know the names from now on, and none of these.
            self.prepared = None;
        }
    }

    /// Gives a clean server the client's settings, if it has others, and takes away the unnamed
    /// statement of another client if this one does not replace it anyhow.
    pub(super) fn attach(&mut self, mut server: Box<ServerConnection>) -> Step {
        self.begin_anew();
        server.card.note_client(&self.asked);
        let mut text = String::new();
        if server.has_unnamed && !self.replaces_unnamed() {
            // Any simple query makes PostgreSQL forget the unnamed statement.
            server.has_unnamed = false;
            text.push(';');
        }
        if !Rc::ptr_eq(&self.wanted, &server.applied) {
            let difference = parameters::difference(&server.base, &server.applied, &self.wanted);
            text.extend(difference);
        }
        if !text.is_empty() {
            if let Some(first) = parameters::read_as_utf8(&mut text, &server.base, &self.wanted) {
                server.send_own_query(first);
            }
            server.send_own_query(&text);
            self.may_be_dismissed();
            self.phase = Phase::Preparing(server, false);
            return Step::Again;
        }
        self.serve(server)
    }

    /// The server is ready: the client's messages go to it from now on.
    fn serve(&mut self, mut server: Box<ServerConnection>) -> Step {
        server.applied = Rc::clone(&self.wanted);
        if self.is_dismissed() {
            self.pool.give_back(server);
            return self.dismissed();
        }
        if self.send_begin(&mut server) {
            self.phase = Phase::Preparing(server, false);
            return Step::Again;
        }
        if !self.has_begun(&server) {
            self.pool.discard(server);
            return Step::End;
        }
        if let Some(slot) = &self.slot {
            slot.serve(&server.lease);
        }
        self.phase = Phase::Serving(server);
        Step::Again
    }

    /// The next message is a query, or the Parse of an unnamed statement.
    fn replaces_unnamed(&self) -> bool {
        match self.input.as_deref() {
            Some([b'Q', ..] | [b'P', _, _, _, _, 0, ..]) => true,
            Some(_) | None => false,
        }
    }

    fn preparing(
        &mut self,
        mut server: Box<ServerConnection>,
        mut failed: bool,
        context: &mut Context<'_>,
    ) -> Step {
        let received = match server.stream.poll_receive(context) {
            Poll::Pending => {
                if self.client.poll_ended(context).is_ready() {
                    self.pool.discard(server);
                    return Step::End;
                }
                self.phase = Phase::Preparing(server, failed);
                return Step::Wait;
            }
            Poll::Ready(Ok(Some(chunk))) => self.read_preparation(&mut server, &chunk, &mut failed),
            Poll::Ready(Ok(None) | Err(_)) => false,
        };
        if !received && !failed && self.retries < RETRIES_MAX {
            // Nothing of the client has been sent yet: another server will do.
            self.retries += 1;
            self.pool.discard(server);
            return self.acquire(context);
        }
        if !received {
            self.server_gone(server);
            return Step::End;
        }
        if !server.is_settled() {
            self.phase = Phase::Preparing(server, failed);
            return Step::Again;
        }
        if failed {
            server.leftovers.add(Leftovers::SETTINGS);
            self.pool.give_back(server);
            return Step::End;
        }
        self.retries = 0;
        self.serve(server)
    }

    fn serving(&mut self, mut server: Box<ServerConnection>, context: &mut Context<'_>) -> Step {
        if !self.forward_input(&mut server, context) {
            self.client_gone(server);
            return Step::End;
        }
        let has_waited = self.awaits_description();
        loop {
            if self.client.queued_bytes() > WINDOW_BYTES {
                server.stream.pause();
                if self
                    .client
                    .poll_sent(WINDOW_BYTES / 2, context)
                    .is_pending()
                {
                    break;
                }
            }
            let chunk = match server.stream.poll_receive(context) {
                Poll::Pending => break,
                Poll::Ready(Ok(Some(chunk))) => chunk,
                Poll::Ready(Ok(None) | Err(_)) => return self.server_ended(server),
            };
            if !self.relay(&mut server, chunk) {
                self.pool.discard(server);
                return Step::End;
            }
            if server.is_settled() && self.may_release(&server) {
                self.take_back_part();
                self.pool.give_back(server);
                return if self.is_leaving {
                    Step::End
                } else {
                    Step::Again
                };
            }
        }
        let is_done = self.is_leaving && !server.sync.awaits_ready();
        if is_done || self.client.send_error().is_some() {
            self.client_gone(server);
            return Step::End;
        }
        // What PostgreSQL does not answer, such as COPY data behind a failed COPY, has gone through.
        if server.is_settled() && self.may_release(&server) {
            self.take_back_part();
            self.pool.give_back(server);
            return Step::Again;
        }
        let has_caught_up =
            self.has_caught_up(&server) || (has_waited && !self.awaits_description());
        if !has_caught_up && self.goes_with(&server, context) {
            self.phase = Phase::LeavingTogether(server);
            return Step::Again;
        }
        self.phase = Phase::Serving(server);
        if has_caught_up {
            Step::Again
        } else {
            Step::Wait
        }
    }

    pub(super) fn may_release(&self, server: &ServerConnection) -> bool {
        self.is_transaction_mode()
            && server.status == TransactionStatus::Idle
            && !self.is_message_cut()
            && !self.holds_long_part()
            && !self.has_farewell
    }

    /// The server has got only a part of a message.
    pub(super) const fn is_message_cut(&self) -> bool {
        // Of a good-bye it gets nothing.
        !self.is_leaving && !self.framer.is_at_boundary()
    }

    pub(super) fn is_transaction_mode(&self) -> bool {
        self.pool.settings.mode == PoolMode::Transaction
    }

    /// Forwards what the client has sent. False when the client has gone.
    fn forward_input(&mut self, server: &mut ServerConnection, context: &mut Context<'_>) -> bool {
        loop {
            if self.is_leaving {
                // It has said good-bye; what was asked before is still answered, unless PostgreSQL
                // waits for more itself.
                return server.sync.awaits_ready();
            }
            if self.awaits_description() {
                return !self.has_gone_waiting(context);
            }
            if self.is_ahead(server, context) {
                return true;
            }
            if server.stream.queued_bytes() > WINDOW_BYTES {
                self.client.pause();
                if server
                    .stream
                    .poll_sent(WINDOW_BYTES / 2, context)
                    .is_pending()
                {
                    return true;
                }
            }
            let chunk = match self.input.take() {
                Some(chunk) => chunk,
                None => match self.client.poll_receive(context) {
                    Poll::Pending => return true,
                    Poll::Ready(Ok(Some(chunk))) => chunk,
                    Poll::Ready(Ok(None) | Err(_)) => return false,
                },
            };
            if !self.forward_joined(server, chunk) || self.keeps_too_much(server) {
                return false;
            }
        }
    }
}

impl Future for Session {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        for _ in 0..STEPS_MAX {
            match self.step(context) {
                Step::Again => {}
                Step::Wait => return Poll::Pending,
                Step::End => return Poll::Ready(()),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle | Phase::Leaving => {}
            Phase::Waiting(ticket) => self.pool.give_up(ticket),
            Phase::Preparing(server, _) | Phase::LeavingTogether(server) => {
                self.pool.discard(server);
            }
            Phase::Serving(mut server) => {
                if self.is_message_cut() {
                    server.sync.cut_off();
                }
                self.pool.discard(server);
            }
        }
        self.log_end();
    }
}
