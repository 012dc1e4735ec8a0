//! Clients: they think, ask, wait, work, leave.
//!
//! Owns: what each client is doing, and what it does next.
//! Does not own: servers that nobody uses (`world`).
//! Invariants: a client uses one server at most; whoever leaves gives up its wait or its server.
//! Source: none.

use std::rc::Rc;
use std::time::Duration;

use pg_doorman::pool::state::Ticket;

use crate::events::{Event, Server};
use crate::world::World;

/// What a client is doing.
#[derive(Debug)]
enum Doing {
    Thinks,
    Uses(Server),
    Waits(Ticket),
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) shard: usize,
    doing: Doing,
    /// Counts what it has done; older plans of it are void.
    step: u32,
}

impl Client {
    pub(crate) fn on(shard: usize) -> Self {
        Self {
            shard,
            doing: Doing::Thinks,
            step: 0,
        }
    }

    pub(crate) fn is_thinking(&self) -> bool {
        matches!(self.doing, Doing::Thinks)
    }
}

impl World {
    fn next_step(&mut self, client: usize, doing: Doing) -> (Doing, u32) {
        let client = &mut self.clients[client];
        client.step += 1;
        (std::mem::replace(&mut client.doing, doing), client.step)
    }

    /// `driver::Pool::acquire`.
    pub(crate) fn ask(&mut self, client: usize) {
        if self.is_ending || !self.clients[client].is_thinking() {
            return;
        }
        let shard = self.clients[client].shard;
        let now = self.now();
        while let Some((server, idle_since)) = self.shards[shard].part.checkout() {
            let has_expired = server.expires.is_some_and(|end| end <= self.clock.now());
            if has_expired || self.trouble() {
                self.discard(shard, server);
                continue;
            }
            let limit = self.plan.check_after;
            if !limit.is_zero() && now.saturating_duration_since(idle_since) > limit {
                self.try_out(shard, server);
                continue;
            }
            self.served_here(shard, Duration::ZERO);
            self.begin(client, server);
            return;
        }
        let deadline = self.clock.now() + self.plan.wait_max;
        let until = self.instant(deadline);
        let ticket = self.shards[shard].part.wait(client, now, until);
        self.open_more(shard);
        self.alarm_for_wait(shard);
        let (_, step) = self.next_step(client, Doing::Waits(ticket));
        // Alarm and task may both be late.
        let overdue = deadline + self.plan.lateness * 2 + Duration::from_nanos(1);
        self.clock.plan(overdue, Event::Overdue(client, step));
        if self.dice.one_in(20) {
            let at = self.clock.now() + self.dice.micros(1.0, 1e6);
            self.clock.plan(at, Event::Leave(client, step));
        }
    }

    fn try_out(&mut self, shard: usize, server: Server) {
        let at = self.clock.now() + self.dice.micros(50.0, 5000.0);
        let is_fit = !self.trouble();
        let event = Event::Tried {
            shard,
            server,
            is_fit,
        };
        self.clock.plan(at, event);
    }

    fn begin(&mut self, client: usize, server: Server) {
        server.lease.lend();
        let number = server.number;
        let (_, step) = self.next_step(client, Doing::Uses(server));
        if self.users.insert(number, (client, step)).is_some() {
            self.watch
                .complain(format!("server {number} is lent twice"));
        }
        if self.dice.one_in(10) {
            for _ in 0..self.dice.biased(1, 6) {
                let asked = self.clock.now() + self.dice.micros(1.0, self.plan.use_time.1);
                self.clock.plan(asked, Event::CancelAsked(client));
            }
        }
        let (low, high) = self.plan.use_time;
        let at = self.clock.now() + self.dice.micros(low, high);
        if self.dice.one_in(100) {
            let leaves = self.clock.now() + self.dice.up_to(at.saturating_sub(self.clock.now()));
            self.clock.plan(leaves, Event::Leave(client, step));
        }
        self.clock.plan(at, Event::Done(client, step));
    }

    fn think(&mut self, client: usize) {
        self.next_step(client, Doing::Thinks);
        if !self.is_ending {
            let (low, high) = self.plan.think_time;
            let at = self.clock.now() + self.dice.micros(low, high);
            self.clock.plan(at, Event::Ask(client));
        }
    }

    /// `driver::Pool::give_back` and `quarantine::wait`.
    pub(crate) fn give_back(&mut self, shard: usize, server: Server) {
        self.users.remove(&server.number);
        server.lease.give_back();
        if server.lease.is_broken() || self.trouble() {
            self.discard(shard, server);
        } else if server.lease.is_quarantined() {
            self.kept_back.push((shard, server));
        } else if self.dice.one_in(50) {
            self.try_out(shard, server);
        } else {
            self.check_in(shard, server);
        }
    }

    pub(crate) fn cancel_asked(&mut self, client: usize) {
        let asked = &self.clients[client];
        if let Doing::Uses(server) = &asked.doing {
            // What has become of the statement meanwhile is not known to who asks.
            let server = (server.number, Rc::clone(&server.lease));
            let meant = (client, asked.step);
            self.ask_cancel(server, meant);
        }
    }

    pub(crate) fn done(&mut self, client: usize, step: u32) {
        if self.clients[client].step != step {
            return;
        }
        let (doing, _) = self.next_step(client, Doing::Thinks);
        if let Doing::Uses(server) = doing {
            self.give_back(self.clients[client].shard, server);
        }
        self.think(client);
    }

    pub(crate) fn leave(&mut self, client: usize, step: u32) {
        if self.clients[client].step != step {
            return;
        }
        let shard = self.clients[client].shard;
        let (doing, _) = self.next_step(client, Doing::Thinks);
        match doing {
            Doing::Thinks => {}
            Doing::Uses(server) => {
                // In the middle of a query: no use for anybody else.
                if self.dice.one_in(2) {
                    self.users.remove(&server.number);
                    self.discard(shard, server);
                } else {
                    self.give_back(shard, server);
                }
            }
            Doing::Waits(ticket) => self.give_up(shard, ticket),
        }
        // Another one comes in its place.
        self.think(client);
    }

    /// `driver::Pool::give_up`.
    fn give_up(&mut self, shard: usize, ticket: Ticket) {
        let now = self.now();
        let (server, _waker) = self.shards[shard].part.cancel(ticket, now);
        self.act(shard);
        if let Some(server) = server {
            self.give_back(shard, server);
        }
    }

    pub(crate) fn wake(&mut self, client: usize) {
        let Doing::Waits(ticket) = self.clients[client].doing else {
            return;
        };
        let shard = self.clients[client].shard;
        match self.shards[shard].part.collect(ticket) {
            None => {
                let _ = self.shards[shard].part.rewake(ticket, client);
            }
            Some(Ok(server)) => self.begin(client, server),
            Some(Err(_)) => self.think(client),
        }
    }

    pub(crate) fn overdue(&mut self, client: usize, step: u32) {
        let client_now = &self.clients[client];
        if client_now.step == step && !client_now.is_thinking() {
            let shard = client_now.shard;
            self.watch.complain(format!(
                "client {client} of shard {shard} waits beyond its deadline"
            ));
        }
    }
}
