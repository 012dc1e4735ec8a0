//! What the control thread does with sessions and servers that leave, and with those that come back.
//!
//! **Owns:** writing them and giving them to the conversation.
//! **Does not own:** what is kept until it is confirmed (`transit`), when they leave (`departure`).
//!
//! **Invariant:** whoever has heard of a change in a database gets no statement of the time before: the other
//! process hears of the change first.

use std::time::Instant;

use crate::metrics::pool::Leave;
use crate::server::passport::ServerRecord;
use crate::session::passport;
use crate::session::resume::SessionRecord;

use super::super::control::Control;
use super::super::mailbox::Pair;
use super::steps::Phase;
use super::transit::Written;
use super::word::{decode_pair, encode_pair, kind};

impl Control {
    /// A session leaves this process.
    pub(in crate::app) async fn emigrate(&mut self, record: Box<SessionRecord>) {
        let Phase::Departing { .. } = &self.succession.phase else {
            // The heir has gone meanwhile.
            self.settle(record).await;
            return;
        };
        let (bytes, socket, connection) = passport::write(*record, &self.clock());
        self.send_session(Written {
            kind: kind::SESSION,
            bytes,
            sockets: vec![socket],
            connection,
        });
    }

    /// A session leaves this process with its server.
    pub(in crate::app) async fn emigrate_pair(&mut self, (session, server): Pair, leave: Leave) {
        let Phase::Departing { .. } = &self.succession.phase else {
            self.settle_pair((session, server)).await;
            return;
        };
        let (session, socket, connection) = passport::write(session, &self.clock());
        let (server, to_server) = server.write(Instant::now());
        self.send_session(Written {
            kind: kind::PAIR,
            bytes: encode_pair(&session, &server),
            sockets: vec![socket, to_server],
            connection,
        });
        drop(leave);
    }

    fn send_session(&mut self, written: Written) {
        let succession = &mut self.succession;
        let Phase::Departing { donor, .. } = &succession.phase else {
            return;
        };
        let changes = self.fleet.changes().total();
        if std::mem::replace(&mut succession.changes_told, changes) != changes {
            donor.send(kind::CHANGED, Vec::new(), Vec::new());
        }
        succession.transit.send(donor, written);
    }

    /// A server leaves this process.
    pub(in crate::app) fn emigrate_server(&self, record: ServerRecord, leave: Leave) {
        if let Phase::Departing { donor, .. } = &self.succession.phase {
            let (bytes, socket) = record.write(Instant::now());
            donor.send(kind::SERVER, bytes, vec![socket]);
        }
        drop(leave);
    }

    /// Sessions come back that the heir, which has ended, has not confirmed.
    pub(super) async fn take_back(&mut self, back: Vec<Written>) {
        for written in back {
            let Written {
                kind,
                bytes,
                sockets,
                connection,
            } = written;
            let mut sockets = sockets.into_iter();
            let (Some(socket), to_server) = (sockets.next(), sockets.next()) else {
                continue;
            };
            let clock = self.clock();
            let outcome = match to_server {
                Some(to_server) if kind == kind::PAIR => decode_pair(&bytes).and_then(|pair| {
                    let session = passport::read(pair.0, socket, connection, &clock)?;
                    let server = ServerRecord::read(pair.1, to_server, clock.now)?;
                    Ok((session, Some(server)))
                }),
                _ => passport::read(&bytes, socket, connection, &clock)
                    .map(|session| (session, None)),
            };
            match outcome {
                Ok((session, None)) => self.settle(Box::new(session)).await,
                Ok((session, Some(server))) => self.settle_pair((session, server)).await,
                Err(error) => tracing::error!(%error, "a client is lost"),
            }
        }
    }
}
