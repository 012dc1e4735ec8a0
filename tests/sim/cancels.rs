//! Cancel requests: asked for at any time, sent and noticed late.
//!
//! Owns: requests on their way, servers kept back because of them, whose statement each one hits.
//! Does not own: when a request may be sent and when a server may be lent (`server::lease`).
//! Invariants: PostgreSQL acts on a request before it closes the connection that brought it.
//! Source: protocol-flow.html "Canceling Requests in Progress".

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use pg_doorman::config::{Endpoint, ServerTls};
use pg_doorman::server::TcpOptions;
use pg_doorman::server::connection::Socket;
use pg_doorman::server::lease::{Asked, CancelTarget, Lease, Request};
use pg_doorman::server::secure::Security;
use pg_doorman::server::version::Version;
use pg_doorman::tls::{Keyring, Material};

use crate::events::{Event, Server};
use crate::world::World;

/// A cancel request on its way.
#[derive(Clone, Debug)]
pub(crate) struct Cancel {
    lease: Rc<Lease>,
    request: Request,
    /// The server it goes to, and the client and the step of it whose statement is meant.
    number: u32,
    meant: (usize, u32),
}

/// A lease whose server can be reached, as far as this simulation knows.
pub(crate) fn new_lease() -> Rc<Lease> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 5432));
    let socket = Socket {
        clear_anywhere: false,
        endpoint: Endpoint::Tcp {
            host: address.ip().to_string(),
            port: address.port(),
        },
        tcp: TcpOptions::default(),
        unix_buffer_bytes: 0,
        security: Security::new(&ServerTls::default(), Keyring::new(Material::none()), "sim"),
        version: Version::default(),
    };
    Rc::new(Lease::of(Some(CancelTarget {
        pid: 1,
        secret: Box::from([0; 4]),
        socket: Rc::new(socket),
        peer: Some(address),
        is_tls: false,
        timeout: Duration::from_secs(1),
    })))
}

impl World {
    /// Somebody asks to cancel what a client does with `server`.
    pub(crate) fn ask_cancel(&mut self, server: (u32, Rc<Lease>), meant: (usize, u32)) {
        let (number, lease) = server;
        let Asked::First(request) = lease.ask() else {
            return;
        };
        let cancel = Cancel {
            lease,
            request,
            number,
            meant,
        };
        let at = self.clock.now() + self.dice.micros(20.0, 5000.0);
        self.clock.plan(at, Event::CancelSent(cancel));
    }

    /// The connection for a request stands.
    pub(crate) fn cancel_sent(&mut self, cancel: Cancel) {
        if self.dice.one_in(10) {
            cancel.lease.withdraw(cancel.request);
            return;
        }
        if cancel.lease.send(cancel.request) {
            let at = self.clock.now() + self.dice.micros(20.0, 50_000.0);
            self.clock.plan(at, Event::CancelActs(cancel));
        }
    }

    /// PostgreSQL interrupts what runs on the server.
    pub(crate) fn cancel_acts(&mut self, cancel: Cancel) {
        let user = self.users.get(&cancel.number).copied();
        if user.is_some_and(|user| user != cancel.meant) {
            self.watch.complain(format!(
                "a cancel request meant for {:?} hits {user:?} on server {}",
                cancel.meant, cancel.number
            ));
        }
        self.cancelled += 1;
        let at = self.clock.now() + self.dice.micros(5.0, 2000.0);
        self.clock.plan(at, Event::CancelEnds(cancel));
    }

    /// The connection that brought a request has been closed, or has been lost.
    pub(crate) fn cancel_ends(&mut self, cancel: &Cancel) {
        if self.trouble() {
            cancel.lease.fail(cancel.request);
        } else {
            cancel.lease.close(cancel.request);
        }
        if cancel.lease.is_quarantined() {
            return;
        }
        let back = self
            .kept_back
            .extract_if(.., |(_, server)| Rc::ptr_eq(&server.lease, &cancel.lease));
        let back: Vec<(usize, Server)> = back.collect();
        for (shard, server) in back {
            self.give_back(shard, server);
        }
    }
}
