//! Messages on their way through: what the pooler has to know of them.
//!
//! **Owns:** looking at each message while its bytes are forwarded as they came.
//! **Does not own:** when bytes move (`client`), what is owed (`server::sync`).
//!
//! **Invariants**
//! 1. A chunk is forwarded without a copy, unless messages in it are rewritten (`rewrite`) or are
//!    replies to the pooler's own; the part behind a good-bye or a fault is cut off.
//! 2. Nothing is forwarded from a server that is out of step.
//! 3. What the pooler asks on its own never reaches the client, but for an error of what it asks for the
//!    client's sake in the midst of the client's messages.

use std::rc::Rc;

use shards::Chunk;

use crate::pool::cleaner::note_parameter;
use crate::protocol::backend::{ErrorFields, ParameterStatus, ReadyForQuery, TransactionStatus};
use crate::protocol::{sqlstate, writer};
use crate::server::ServerConnection;
use crate::server::baits::Baits;
use crate::server::parameters::{ParameterSet, is_report};
use crate::server::reset::Leftovers;
use crate::server::statements::Statements;
use crate::server::statements::kind::Kind;
use crate::server::statements::power::Power;
use crate::server::sync::{Noted, Owner, Reply, Sync};
use crate::transport::Stream;

use super::client::Session;
use super::ending::Ending;
use super::guard;
use super::heal;
use super::held::names_statement;
use super::prepared::Prepared;
use super::report::Failure;
use super::rewrite::{Rewritten, note_cut_query};
use super::slow::CutRow;
use super::splice::Splice;

impl Session {
    /// Passes client messages to the server. False when the client is not to be served any more.
    pub(super) fn forward(&mut self, server: &mut ServerConnection, chunk: Chunk) -> bool {
        let manages = self.pool.settings.manages_statements();
        if manages {
            server.statements.trust.meet(self.pool.generation());
        }
        self.note_question(server, &chunk);
        let mut splice = Splice::of(&chunk);
        let mut position = 0;
        let mut is_cut = false;
        let mut is_flushed = false;
        let mut is_waiting = false;
        let mut last_tag = 0;
        loop {
            let place = (&chunk, position);
            let noted = match self.begin_message(server, &mut splice, place, last_tag) {
                Rewritten::Passes(by) => by,
                Rewritten::IsHeld | Rewritten::Asks => break,
                Rewritten::Refused => return false,
                Rewritten::Waits => {
                    is_waiting = true;
                    break;
                }
            };
            let part = match self.framer.next(&chunk[position..]) {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(error) => {
                    let text = error.to_string();
                    self.fail(&Failure::new(sqlstate::PROTOCOL_VIOLATION, text));
                    return false;
                }
            };
            if part.is_first {
                if part.tag == b'X' {
                    self.is_leaving = true;
                    self.ending = Ending::GoodBye;
                    break;
                }
                if let Some(failure) = odd_beginning(&[part.tag]) {
                    self.fail(&failure);
                    return false;
                }
            }
            if part.is_last {
                let is_long = !part.is_first;
                let is_cut_query = manages && is_long && part.tag == b'Q';
                let noted = note_cut(is_cut_query, noted, self.prepared.as_deref_mut(), server);
                note_whole(server, (part.tag, part.body), noted, (manages, is_long));
                if part.tag == b'H' {
                    self.card.note_flush();
                    is_flushed = manages;
                }
                // The next one that is cut claims for itself.
                self.claim = None;
            }
            is_cut = !part.is_last;
            last_tag = part.tag;
            position += part.len;
        }
        if !self.claim_rest(is_cut) {
            return false;
        }
        self.card.sent(&server.card, position);
        let rest = is_waiting.then(|| chunk.slice(position..chunk.len()));
        splice.finish(chunk, position, &mut server.stream);
        if let Some(rest) = rest {
            self.wait_for_answers(server, rest);
        }
        // Once for all of the chunk: replies may come early, and many small pieces are slow.
        if is_flushed && server.framer.is_at_boundary() {
            deliver_promised(server, &mut self.client, self.prepared.as_deref_mut());
        }
        true
    }

    /// Deals with a message that may begin at a place in a chunk, behind one with the tag `before`.
    fn begin_message(
        &mut self,
        server: &mut ServerConnection,
        splice: &mut Splice,
        (chunk, at): (&Chunk, usize),
        before: u8,
    ) -> Rewritten {
        if !self.framer.is_at_boundary() {
            return Rewritten::Passes(Noted::BY_NOBODY);
        }
        if Self::waits_to_end(server, &chunk[at..], before) {
            return Rewritten::Waits;
        }
        if !self.pool.settings.manages_statements() {
            return Rewritten::Passes(Noted::BY_NOBODY);
        }
        self.rewrite(server, splice, chunk, at)
    }

    /// Claims memory for the rest of a message that is cut. False if there is none.
    fn claim_rest(&mut self, is_cut: bool) -> bool {
        if !is_cut {
            self.framer.free_collected();
            return true;
        }
        let left = self.framer.missing_bytes() as usize;
        left == 0 || self.claim_memory(left)
    }

    /// Passes server messages to the client. False when the server is out of step.
    pub(super) fn relay(&mut self, server: &mut ServerConnection, chunk: Chunk) -> bool {
        let mut splice = Splice::of(&chunk);
        let (mut position, mut row) = (0, CutRow::default());
        let in_step = loop {
            let part = match server.framer.next(&chunk[position..]) {
                Ok(Some(part)) => part,
                Ok(None) => break true,
                Err(_) => break false,
            };
            let end = position + part.len;
            if part.is_first && !matches!(part.tag, b'N' | b'A' | b'S') {
                let place = (&chunk, position);
                insert_promised(&mut server.sync, &mut splice, place, &mut self.client);
            }
            let is_own = server.sync.is_own(part.tag);
            if is_own || server.sync.is_refusal(part.tag) {
                splice.keep(&chunk, position, &mut self.client);
                splice.skip(end);
                if !is_own && part.is_last {
                    guard::write_refusal(splice.out(), part.body);
                }
            }
            if part.tag == b'D' {
                row.note(&part);
            }
            if part.is_last {
                match server.sync.received(part.tag) {
                    Reply::Of(Owner::Client) | Reply::Unasked => {}
                    // What the pooler has asked for the client's sake fails for the client.
                    Reply::Of(Owner::Pooler) if is_own || part.tag == b'E' => {}
                    Reply::Of(Owner::Pooler) | Reply::OutOfStep => break false,
                }
                let lists = (&mut server.statements, &mut server.baits);
                let (place, prepared) = ((&chunk, end), self.prepared.as_deref_mut());
                let to_client = (&mut splice, place, &mut self.client);
                let reply = (part.tag, part.body);
                follow_reply(&mut server.sync, lists, prepared, reply, to_client);
            }
            // Only the last part of a message has a body.
            match (part.tag, part.body) {
                (b'Z', Some(body)) => {
                    if let Ok(ready) = ReadyForQuery::decode(body) {
                        server.status = ready.status;
                    }
                    self.note_answer(server);
                }
                (b'C', Some(body)) => {
                    let lists = (&mut server.statements, &mut server.baits);
                    self.note_completion(&mut server.leftovers, lists, body);
                }
                (b'S', Some(body)) => {
                    note_parameter(&server.base, &self.pool, &mut server.applied, body);
                    server.statements.trust.reported();
                    note_wanted(self, &server.base, body, (&mut splice, &chunk, end));
                }
                (b'E', body) if part.is_last => {
                    self.card.note_error();
                    self.has_farewell |= body.is_some_and(is_fatal);
                    let leftovers = &mut server.leftovers;
                    heal::heal(&mut server.sync, &mut server.statements, leftovers, body);
                }
                _ => {}
            }
            position = end;
        };
        self.note_row(row, server.framer.missing_bytes());
        self.card.received(&server.card, position);
        splice.finish(chunk, position, &mut self.client);
        if !in_step {
            self.report_out_of_step(server);
        }
        in_step
    }

    /// The server is ready for more: a query has been answered.
    fn note_answer(&mut self, server: &mut ServerConnection) {
        let owed = server.sync.owed_count();
        let took = self.card.answered(&server.card, server.status, owed);
        self.note_time(server, took);
        self.has_reset = false;
        self.note_ready(server);
    }

    /// Notes that a command has been completed.
    fn note_completion(
        &mut self,
        leftovers: &mut Leftovers,
        (statements, baits): (&mut Statements, &mut Baits),
        body: &[u8],
    ) {
        let tag = body.strip_suffix(b"\0").unwrap_or(body);
        if statements.trust.completed(tag) {
            self.pool.objects_changed();
        }
        leftovers.note_tag(tag);
        // It may have reset parameters to their defaults.
        self.has_reset |= matches!(tag, b"RESET" | b"DISCARD ALL");
        forget_statements((statements, baits), self.prepared.as_deref_mut(), tag);
    }

    fn report_out_of_step(&mut self, server: &ServerConnection) {
        tracing::error!(
            pid = server.pid(),
            "server out of step with the protocol, closed"
        );
        self.ending = Ending::Told(sqlstate::PROTOCOL_VIOLATION);
        if server.framer.is_at_boundary() {
            let text = "the server sent a message that does not belong here";
            self.fail(&Failure::new(sqlstate::PROTOCOL_VIOLATION, text));
        }
    }

    /// Reads the reply to the statement that applies the client's settings. False when the server is
    /// of no further use. `failed` is set, and the client told, when PostgreSQL refuses them.
    pub(super) fn read_preparation(
        &mut self,
        server: &mut ServerConnection,
        chunk: &[u8],
        failed: &mut bool,
    ) -> bool {
        let mut position = 0;
        loop {
            let part = match server.framer.next(&chunk[position..]) {
                Ok(Some(part)) => part,
                Ok(None) => return true,
                Err(_) => return false,
            };
            position += part.len;
            if !part.is_last {
                continue;
            }
            match server.sync.received(part.tag) {
                Reply::Of(Owner::Pooler) | Reply::Unasked => {}
                Reply::Of(Owner::Client) | Reply::OutOfStep => return false,
            }
            let Some(body) = part.body else { continue };
            match part.tag {
                b'Z' => {
                    if let Ok(ready) = ReadyForQuery::decode(body) {
                        server.status = ready.status;
                    }
                }
                b'S' => {
                    note_parameter(&server.base, &self.pool, &mut server.applied, body);
                    // What an earlier statement of the preparation sets is not what comes of it.
                    if server.sync.owed_count() == 1 {
                        self.correct_wanted(body);
                    }
                }
                // The server's farewell, not a word about the settings.
                b'E' if is_fatal(body) => return false,
                b'E' if !*failed => {
                    *failed = true;
                    self.has_farewell = true;
                    self.fail(&refused_settings(body));
                }
                _ => {}
            }
        }
    }

    /// The server has a canonical form of a value that the client wants, or announces a new one.
    fn correct_wanted(&mut self, body: &[u8]) {
        let Some((name, value)) = ParameterStatus::text(body) else {
            return;
        };
        if self.wanted.get(name).is_some_and(|wanted| wanted != value) {
            let mut wanted = (*self.wanted).clone();
            wanted.set(name, value);
            self.wanted = self.pool.intern(wanted);
            let mut out = Vec::new();
            writer::parameter_status(&mut out, name.as_bytes(), value.as_bytes());
            self.client.send(out);
        }
    }
}

/// By whom the end of a message is noted; a query that came in pieces is looked at only now.
fn note_cut(
    is_query: bool,
    noted: Noted,
    prepared: Option<&mut Prepared>,
    server: &mut ServerConnection,
) -> Noted {
    if is_query {
        return note_cut_query(prepared, server);
    }
    noted
}

/// A message that a client may send after its login.
pub(super) const fn is_request(tag: u8) -> bool {
    matches!(
        tag,
        b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'S' | b'H' | b'd' | b'c' | b'f' | b'F' | b'X'
    )
}

/// What is wrong with `bytes` already, however their message goes on.
pub(super) fn odd_beginning(bytes: &[u8]) -> Option<Failure> {
    let tag = bytes.first().filter(|tag| !is_request(**tag))?;
    Some(unknown_request(*tag))
}

/// In PostgreSQL's words. The server would end its connection over such a message.
pub(super) fn unknown_request(tag: u8) -> Failure {
    let text = format!("invalid frontend message type {tag}");
    Failure::new(sqlstate::PROTOCOL_VIOLATION, text)
}

/// As [`note_request`], unless the message names a statement and `rewrite` has noted it.
fn note_whole(
    server: &mut ServerConnection,
    (tag, body): (u8, Option<&[u8]>),
    noted: Noted,
    (manages, is_long): (bool, bool),
) {
    if !(manages && names_statement(tag)) {
        note_request(server, tag, body, noted);
    } else if tag == b'P' && is_long {
        note_long_parse(&mut server.leftovers, body);
    }
}

/// Accounts for a whole client message that is sent to a server.
fn note_request(server: &mut ServerConnection, tag: u8, body: Option<&[u8]>, noted: Noted) {
    let first = body.and_then(|body| body.first());
    // A query may be skipped if what was sent before it fails.
    let is_sure = !server.has_unnamed || server.sync.is_settled();
    let describes_statement = tag == b'D' && first == Some(&b'S');
    server
        .sync
        .sent_noted(tag, describes_statement, Owner::Client, noted);
    match (tag, body) {
        (b'Q', Some(text)) => {
            server.has_unnamed &= !is_sure;
            let leftovers = Leftovers::of_text(text);
            server.leftovers.add(leftovers);
            let is_several = memchr::memchr(b';', text).is_some();
            server.statements.outlook.segment_ends(is_several);
            server.statements.outlook.add(Kind::of_query(text));
            let power = Power::of_query(text, leftovers);
            server.statements.trust.runs(power);
        }
        (b'E', _) => server.statements.trust.executes(),
        (b'P', Some(text)) => {
            server.leftovers.note_text(text);
            if first == Some(&0) {
                server.has_unnamed = true;
            } else {
                server.leftovers.add(Leftovers::STATEMENTS);
            }
        }
        // Too long to look into: it may have left anything that no tag tells of.
        (b'Q' | b'P', None) => {
            server.has_unnamed = true;
            server.leftovers.add(Leftovers::TEMPORARY);
            server.leftovers.add(Leftovers::LOCKS);
            server.leftovers.add(Leftovers::SETTINGS);
            server.leftovers.add(Leftovers::STATEMENTS);
            server.statements.trust.runs(Power::UNSEEN);
            server.statements.outlook.segment_ends(true);
            server.statements.outlook.add(Kind::UNSEEN);
        }
        (b'S', _) => {
            server.statements.sync_sent();
            server.statements.outlook.segment_ends(false);
            let is_end = server.status == TransactionStatus::Idle;
            server.statements.trust.syncs(is_end);
        }
        // It may fail a transaction that is not known to have begun.
        (b'F', _) => server.statements.outlook.segment_ends(false),
        _ => {}
    }
}

/// Inserts the replies that are due, to requests which the server did not get, at a place in a chunk.
fn insert_promised(
    sync: &mut Sync,
    splice: &mut Splice,
    (chunk, at): (&Chunk, usize),
    client: &mut Stream,
) {
    while let Some(tag) = sync.take_promised() {
        splice.keep(chunk, at, client);
        splice.out().extend_from_slice(&bare(tag));
    }
}

/// Follows commands that make PostgreSQL forget prepared statements.
fn forget_statements(
    (statements, baits): (&mut Statements, &mut Baits),
    mut prepared: Option<&mut Prepared>,
    tag: &[u8],
) {
    if tag == b"DEALLOCATE" {
        baits.completed();
        if prepared.as_deref_mut().is_some_and(Prepared::has_forgotten) {
            baits.taken(1);
        }
    }
    if !matches!(tag, b"DEALLOCATE ALL" | b"DISCARD ALL") {
        return;
    }
    statements.forgotten();
    if let Some(prepared) = prepared {
        prepared.forget_all();
    }
}

/// Sends the replies that are due to requests which the server did not get.
pub(super) fn deliver_promised(
    server: &mut ServerConnection,
    client: &mut Stream,
    prepared: Option<&mut Prepared>,
) {
    let mut out = Vec::new();
    while let Some(tag) = server.sync.take_promised() {
        out.extend_from_slice(&bare(tag));
    }
    if !out.is_empty() {
        client.send(out);
    }
    let lists = (&mut server.statements, &mut server.baits);
    apply_outcomes(&mut server.sync, lists, prepared, OWN_REPLY);
}

/// A reply has been noted: tells the journals, and the client what is due behind it.
fn follow_reply(
    sync: &mut Sync,
    (statements, baits): (&mut Statements, &mut Baits),
    mut prepared: Option<&mut Prepared>,
    reply: (u8, Option<&[u8]>),
    (splice, place, client): (&mut Splice, (&Chunk, usize), &mut Stream),
) {
    // Before those of the promised ones: what fails is counted behind what is done.
    apply_outcomes(sync, (statements, baits), prepared.as_deref_mut(), reply);
    insert_promised(sync, splice, place, client);
    apply_outcomes(sync, (statements, baits), prepared, OWN_REPLY);
}

/// No reply of the server's.
const OWN_REPLY: (u8, Option<&[u8]>) = (0, None);

/// Tells the journals what has become of requests, with the tag and the body of the reply.
fn apply_outcomes(
    sync: &mut Sync,
    (statements, baits): (&mut Statements, &mut Baits),
    prepared: Option<&mut Prepared>,
    reply: (u8, Option<&[u8]>),
) {
    if let Some(outcomes) = sync.take_outcomes() {
        statements.apply(outcomes.server);
        if let Some(prepared) = prepared {
            guard::learn(prepared, statements, outcomes.telling, reply);
            baits.taken(prepared.apply(outcomes));
        }
    }
}

/// Notes the text of an unnamed statement that did not come in one piece.
fn note_long_parse(leftovers: &mut Leftovers, text: Option<&[u8]>) {
    if let Some(text) = text {
        leftovers.note_text(text);
        return;
    }
    leftovers.add(Leftovers::TEMPORARY);
    leftovers.add(Leftovers::LOCKS);
    leftovers.add(Leftovers::SETTINGS);
}

/// A message without a body.
pub(super) const fn bare(tag: u8) -> [u8; 5] {
    [tag, 0, 0, 0, 4]
}

/// Follows a parameter that the client has changed. Tells it, at a place in a chunk, if the value is to
/// be another one than the server has.
fn note_wanted(
    session: &mut Session,
    base: &ParameterSet,
    body: &[u8],
    (splice, chunk, at): (&mut Splice, &Chunk, usize),
) {
    let Some((name, value)) = ParameterStatus::text(body) else {
        return;
    };
    session.tell_parameter(name, value);
    if is_report(name) {
        return;
    }
    let is_default = base.get(name) == Some(value);
    let asked = session
        .asked
        .get(name)
        .filter(|_| is_default && session.has_reset);
    let mut wanted = (*session.wanted).clone();
    match asked {
        // The client's own default is what it asked for at login.
        Some(asked) => wanted.set(name, asked),
        None if is_default => wanted.remove(name),
        None => wanted.set(name, value),
    }
    if let Some(asked) = asked.filter(|asked| *asked != value) {
        splice.keep(chunk, at, &mut session.client);
        writer::parameter_status(splice.out(), name.as_bytes(), asked.as_bytes());
    }
    session.wanted = Rc::clone(&session.pool.intern(wanted));
}

fn is_fatal(body: &[u8]) -> bool {
    ErrorFields::decode(body)
        .is_ok_and(|fields| matches!(fields.severity(), Some(b"FATAL" | b"PANIC")))
}

fn refused_settings(body: &[u8]) -> Failure {
    let fields = ErrorFields::decode(body).ok();
    let text = |field: Option<&[u8]>| field.map(|text| String::from_utf8_lossy(text).into_owned());
    let message = text(fields.as_ref().and_then(ErrorFields::message)).unwrap_or_default();
    let sqlstate = text(fields.as_ref().and_then(ErrorFields::sqlstate));
    let mut failure = Failure::new(sqlstate::CONNECTION_FAILURE, message);
    if let Some(sqlstate) = sqlstate {
        failure.sqlstate = sqlstate.into();
    }
    failure
}
