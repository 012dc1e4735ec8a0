//! Messages about prepared statements, in transaction mode.
//!
//! **Owns:** what a server gets instead of a client's Parse, Bind, Describe and Close.
//! **Does not own:** holding such a message until enough of it is there (`held`), what a server has
//! (`server::statements`), what a client calls it (`prepared`), the order of replies (`server::sync`).
//!
//! ```text
//!   client            server that has the statement     server that lacks it
//!   Parse a           (ParseComplete is promised)       Parse PGD_…
//!   Bind a            Bind PGD_…                        Parse PGD_… (own), Bind PGD_…
//!   Describe a        Describe PGD_…                    Parse PGD_… (own), Describe PGD_…
//!   Close a           (CloseComplete is promised: the server keeps it)
//! ```
//!
//! Errors are PostgreSQL's own. A name that the client has not defined goes through as it is: no
//! server has it. A name that is defined a second time, or that a DEALLOCATE names, is made known to
//! the server first, with an empty statement, so that PostgreSQL finds what it would have found.
//!
//! **Invariant:** whatever the client sends in one write is answered in PostgreSQL's order, errors
//! included.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html`, "Extended Query";
//! `protocol-message-formats.html`.

use shards::Chunk;

use crate::protocol::backend::TransactionStatus;
use crate::protocol::framer::HEADER_BYTES;
use crate::protocol::frontend::{Bind, Close, Execute, Parse, Target};
use crate::protocol::writer;
use crate::server::ServerConnection;
use crate::server::reset::Leftovers;
use crate::server::statements::kind::{self, Kind};
use crate::server::statements::power::Power;
use crate::server::statements::text::{self, Effect};
use crate::server::statements::trust::Asker;
use crate::server::sync::{Noted, Owner};

use super::client::Session;
use super::guard::Verdict;
use super::held::{is_long_unnamed, missing_bytes, names_statement};
use super::prepared::Prepared;
use super::provide::{
    SPARE_NAME, lay_bait, may_promise, name_for, note_use, provide, take_snapshot, use_statement,
    write_parse,
};
use super::splice::Splice;

/// A name that no server has, for clients that ask for one of the pooler's.
const NOBODYS_NAME: &[u8] = b"PGD_?";

/// What becomes of the next message.
pub(super) enum Rewritten {
    /// It goes to the server, as it is or replaced; a journal has it, or none.
    Passes(Noted),
    /// The server gets nothing of it yet.
    IsHeld,
    /// As `IsHeld`, and nothing behind it either: the server has been asked something first. It is what
    /// the client has sent next.
    Asks,
    /// It cannot be held: the session has failed.
    Refused,
    /// It is to be looked at again when everything before it has been answered.
    Waits,
}

impl Session {
    /// Deals with the message at `at`. One that names a statement is noted as sent here, and replaced
    /// if need be.
    pub(super) fn rewrite(
        &mut self,
        server: &mut ServerConnection,
        splice: &mut Splice,
        chunk: &Chunk,
        at: usize,
    ) -> Rewritten {
        let rest = chunk.get(at..).unwrap_or_default();
        if missing_bytes(rest, self.sees_executes()) == 0 {
            if self.hangs_on_answers(server, rest) {
                return Rewritten::Waits;
            }
            let rewritten = self.rewrite_whole(server, splice, chunk, at);
            if matches!(rewritten, Rewritten::Asks) {
                self.input = Some(chunk.slice(at..chunk.len()));
            }
            return rewritten;
        }
        if self.hold_part(rest) {
            Rewritten::IsHeld
        } else {
            Rewritten::Refused
        }
    }

    /// As [`Session::rewrite`], for a message of which enough is there.
    fn rewrite_whole(
        &mut self,
        server: &mut ServerConnection,
        splice: &mut Splice,
        chunk: &Chunk,
        at: usize,
    ) -> Rewritten {
        let Some((&[tag, l0, l1, l2, l3], body)) = chunk
            .get(at..)
            .and_then(|bytes| bytes.split_first_chunk::<HEADER_BYTES>())
        else {
            return Rewritten::Passes(Noted::BY_NOBODY);
        };
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        let is_seen = match tag {
            b'Q' => true,
            b'E' => self.sees_executes(),
            _ => names_statement(tag),
        };
        if !is_seen || length < 4 {
            return Rewritten::Passes(Noted::BY_NOBODY);
        }
        let whole = body.get(..length as usize - 4);
        let message = Message {
            chunk,
            at,
            length,
            body: whole.unwrap_or(body),
        };
        if server.sync.ignores_requests() {
            if names_statement(tag) {
                let describes_statement = tag == b'D' && body.first() == Some(&b'S');
                server.sync.sent(tag, describes_statement, Owner::Client);
            }
            return Rewritten::Passes(Noted::BY_NOBODY);
        }
        if server.statements.awaits_answers() && !server.sync.owes_replies() {
            server.statements.answered(server.sync.is_settled());
        }
        match tag {
            b'P' => self.rewrite_parse(server, splice, &message),
            b'B' => return self.rewrite_bind(server, splice, &message),
            b'D' | b'C' => return self.rewrite_target(server, splice, &message, tag),
            b'E' => {
                let noted = self.note_execute(server, splice, &message, whole);
                return Rewritten::Passes(noted);
            }
            _ => return Rewritten::Passes(self.note_query(server, splice, &message, whole)),
        }
        Rewritten::Passes(Noted::BY_NOBODY)
    }

    fn rewrite_parse(
        &mut self,
        server: &mut ServerConnection,
        splice: &mut Splice,
        message: &Message<'_>,
    ) {
        if is_long_unnamed(message.length, message.body) {
            self.pass_unnamed(server, message.body);
            return;
        }
        let Ok(parse) = Parse::decode(message.body) else {
            server.sync.sent(b'P', false, Owner::Client);
            return;
        };
        let keeps_unnamed = self.pool.settings.prepare_unnamed;
        if parse.name.is_empty() && !keeps_unnamed && Effect::of(parse.query) == Effect::None {
            self.pass_unnamed(server, parse.query);
            return;
        }
        let directory = self.shard.directory();
        let names_max = directory
            .config
            .general
            .client_prepared_statements_cache_size;
        let definition = message.body.get(parse.name.len() + 1..);
        let definition = definition.unwrap_or_default();
        let prepared = self.prepared.get_or_insert_default();
        prepared.generation = server.statements.trust.generation();
        message.keep_before(splice, server);
        if parse.name.is_empty() && server.has_unnamed {
            // What the server has by no name is not what the client means from now on.
            server.has_unnamed = !server.sync.is_settled();
            writer::close(splice.out(), Target::Statement, b"");
            server.sync.sent(b'C', false, Owner::Pooler);
        }
        let segment = server.statements.segment();
        if prepared.is_taken(parse.name, segment) && !server.statements.is_doubtful() {
            // PostgreSQL refuses it in its own words, behind what else it finds wrong.
            lay_bait(server, splice, parse.name, Noted::BY_NOBODY);
            server.sync.sent(b'P', false, Owner::Client);
            return;
        }
        let known = prepared.unnamed_as(definition);
        let statement = known.unwrap_or_else(|| self.pool.intern_statement(definition));
        statement.used(&self.pool.label, &self.pool.metrics, 0);
        // What is on its way may end, or fail, the transaction.
        let may_be_refused = match server.status {
            TransactionStatus::Idle => {
                server.statements.outlook.may_have_failed() && server.sync.owes_ready()
            }
            TransactionStatus::InTransaction => server.sync.owes_ready(),
            TransactionStatus::Failed => server.sync.owes_ready() || !server.sync.owes_execution(),
        };
        if may_be_refused || !may_promise(server) {
            // PostgreSQL refuses all but the end of the transaction, whether it knows them or not.
            writer::close(splice.out(), Target::Statement, SPARE_NAME);
            server.sync.sent(b'C', false, Owner::Pooler);
            write_parse(splice.out(), SPARE_NAME, definition);
            let noted = Noted::BY_CLIENT;
            server.sync.sent_noted(b'P', false, Owner::Client, noted);
            server.statements.outlook.parsed(statement.kind);
            let key = statement.key_with(prepared.salt(&self.wanted));
            server.statements.outdate(key);
            prepared.define(parse.name, statement, segment, names_max);
            splice.skip(message.end());
            return;
        }
        let key = statement.key_with(prepared.salt(&self.wanted));
        let named = (key, &*statement);
        provide(server, splice.out(), named, Asker::Parse, &self.pool);
        prepared.define(parse.name, statement, segment, names_max);
        splice.skip(message.end());
    }

    /// The Parse of an unnamed statement that is not to be kept passes as it is.
    fn pass_unnamed(&mut self, server: &mut ServerConnection, query: &[u8]) {
        let mut noted = Noted::BY_NOBODY;
        if let Some(prepared) = self.prepared.as_mut().filter(|one| one.has_unnamed()) {
            prepared.undefine(b"", server.statements.segment(), false);
            noted = Noted::BY_CLIENT;
        }
        let leftovers = Leftovers::of_text(query);
        server.leftovers.add(leftovers);
        let power = Power::of_command(query, leftovers);
        server.statements.trust.parses_unnamed(power);
        server.statements.outlook.add(Kind::of(query));
        server.statements.outlook.parsed(Kind::READS);
        server.has_unnamed = true;
        server.sync.sent_noted(b'P', false, Owner::Client, noted);
    }

    fn rewrite_bind(
        &mut self,
        server: &mut ServerConnection,
        splice: &mut Splice,
        message: &Message<'_>,
    ) -> Rewritten {
        let Ok(bind) = Bind::decode(message.body) else {
            server.sync.sent(b'B', false, Owner::Client);
            return Rewritten::Passes(Noted::BY_NOBODY);
        };
        if let Some(prepared) = self.prepared.as_mut().filter(|one| one.has_deallocations()) {
            prepared.portal_bound(bind.portal, &Effect::None);
        }
        let found = self.prepared.as_mut();
        let found = found.and_then(|one| one.find(bind.statement, &self.wanted));
        let Some((prepared, statement, key)) = found else {
            if bind.statement.starts_with(text::PREFIX) {
                message.keep_before(splice, server);
                message.rename_bind(splice, &bind, NOBODYS_NAME);
            }
            server.statements.trust.binds(bind.portal, None);
            server.sync.sent(b'B', false, Owner::Client);
            return Rewritten::Passes(Noted::BY_NOBODY);
        };
        message.keep_before(splice, server);
        let about = (b'B', bind.statement, key);
        let bearing = match use_statement(prepared, (server, splice), about, &statement, &self.pool)
        {
            Verdict::Passes(bearing) => bearing,
            Verdict::Waits => return Rewritten::Asks,
        };
        if statement.effect != Effect::None {
            prepared.portal_bound(bind.portal, &statement.effect);
        }
        if statement.kind.has(Kind::SETS_UP) {
            take_snapshot(server, splice);
        }
        server.statements.outlook.add(statement.kind);
        server.statements.outlook.parsed(statement.kind);
        statement.used(&self.pool.label, &self.pool.metrics, 1);
        message.rename_bind(splice, &bind, name_for(&text::name(key), bearing));
        note_use(server, b'B', bearing);
        let power = Some(statement.power);
        server.statements.trust.binds(bind.portal, power);
        server.leftovers.add(statement.leftovers);
        Rewritten::Passes(Noted::BY_NOBODY)
    }

    /// Describe and Close.
    fn rewrite_target(
        &mut self,
        server: &mut ServerConnection,
        splice: &mut Splice,
        message: &Message<'_>,
        tag: u8,
    ) -> Rewritten {
        let Ok(Close {
            kind: Target::Statement,
            name,
        }) = Close::decode(message.body)
        else {
            let describes_statement = tag == b'D' && message.body.first() == Some(&b'S');
            server.sync.sent(tag, describes_statement, Owner::Client);
            return Rewritten::Passes(Noted::BY_NOBODY);
        };
        let found = self.prepared.as_mut();
        let found = found.and_then(|one| one.find(name, &self.wanted));
        let is_ours = name.starts_with(text::PREFIX);
        match (tag, found) {
            (b'D', Some((prepared, statement, key))) => {
                message.keep_before(splice, server);
                let (about, pool) = ((b'D', name, key), &self.pool);
                let bearing =
                    match use_statement(prepared, (server, splice), about, &statement, pool) {
                        Verdict::Passes(bearing) => bearing,
                        Verdict::Waits => return Rewritten::Asks,
                    };
                let name = text::name(key);
                writer::describe(splice.out(), Target::Statement, name_for(&name, bearing));
                splice.skip(message.end());
                note_use(server, b'D', bearing);
            }
            (b'D', None) => {
                if is_ours {
                    message.keep_before(splice, server);
                    writer::describe(splice.out(), Target::Statement, NOBODYS_NAME);
                    splice.skip(message.end());
                }
                server.sync.sent(b'D', true, Owner::Client);
            }
            (_, found) => {
                let is_known = found.is_some();
                if let Some((prepared, ..)) = found {
                    prepared.undefine(name, server.statements.segment(), false);
                }
                let noted = if is_known {
                    Noted::BY_CLIENT
                } else {
                    Noted::BY_NOBODY
                };
                // A bait of this name, or a statement of PREPARE, must go.
                let may_be_there = !is_known
                    || server.leftovers.contains(Leftovers::STATEMENTS)
                    || server.baits.may_be_there()
                    || (name.is_empty() && server.has_unnamed);
                if may_be_there && !is_ours {
                    server.sync.sent_noted(b'C', false, Owner::Client, noted);
                    return Rewritten::Passes(Noted::BY_NOBODY);
                }
                message.keep_before(splice, server);
                splice.skip(message.end());
                if may_promise(server) {
                    server.sync.promised(b'C', noted);
                } else {
                    writer::close(splice.out(), Target::Statement, SPARE_NAME);
                    server.sync.sent_noted(b'C', false, Owner::Client, noted);
                }
            }
        }
        Rewritten::Passes(Noted::BY_NOBODY)
    }

    /// A simple query passes as it is. Returns who has a record of it.
    fn note_query(
        &mut self,
        server: &mut ServerConnection,
        splice: &mut Splice,
        message: &Message<'_>,
        text: Option<&[u8]>,
    ) -> Noted {
        let segment = server.statements.segment();
        let mut noted = Noted::BY_NOBODY;
        // What is cut is noted when the rest is there (`note_cut_query`).
        let Some(text) = text else { return noted };
        if let Some(prepared) = self.prepared.as_mut().filter(|one| one.has_unnamed()) {
            prepared.undefine(b"", segment, false);
            noted = Noted::BY_CLIENT;
        }
        if server.statements.outlook.is_spared() && Kind::of_query(text).has(Kind::SETS_UP) {
            message.keep_before(splice, server);
            take_snapshot(server, splice);
        }
        match Effect::of(text.strip_suffix(b"\0").unwrap_or(text)) {
            Effect::None => {
                if Kind::of_query(text).has(Kind::FORGETS) {
                    self.forget_among_others(server, splice, message, text);
                }
            }
            Effect::ForgetsAll => server.statements.doubt(),
            Effect::Forgets(name) => {
                if let Some(prepared) = &mut self.prepared
                    && prepared.is_taken(&name, segment)
                {
                    message.keep_before(splice, server);
                    // The query is read if the bait is, so that has the record of the unnamed one.
                    lay_bait(server, splice, &name, noted);
                    prepared.undefine(&name, segment, true);
                    // If the query fails, nothing behind it is skipped.
                    server.statements.sync_sent();
                    return Noted::BY_CLIENT;
                }
            }
        }
        noted
    }

    /// A query of several commands deallocates: nobody knows which of them will be run, so what is
    /// sent behind it waits, and the command tags tell.
    fn forget_among_others(
        &mut self,
        server: &mut ServerConnection,
        splice: &mut Splice,
        message: &Message<'_>,
        text: &[u8],
    ) {
        let segment = server.statements.segment();
        server.statements.doubt();
        let Some(prepared) = &mut self.prepared else {
            return;
        };
        let text = text.strip_suffix(b"\0").unwrap_or(text);
        for command in kind::commands(text) {
            let Effect::Forgets(name) = Effect::of(command) else {
                continue;
            };
            if prepared.is_taken(&name, segment) {
                message.keep_before(splice, server);
                lay_bait(server, splice, &name, Noted::BY_NOBODY);
            }
            prepared.will_forget(name);
        }
    }

    /// An Execute passes as it is. Returns who has a record of it.
    fn note_execute(
        &mut self,
        server: &mut ServerConnection,
        splice: &mut Splice,
        message: &Message<'_>,
        body: Option<&[u8]>,
    ) -> Noted {
        let Some(prepared) = &mut self.prepared else {
            return Noted::BY_NOBODY;
        };
        let Some(Ok(execute)) = body.map(Execute::decode) else {
            return Noted::BY_NOBODY;
        };
        let segment = server.statements.segment();
        match prepared.portal_run(execute.portal) {
            Effect::Forgets(name) if prepared.is_taken(&name, segment) => {
                message.keep_before(splice, server);
                lay_bait(server, splice, &name, Noted::BY_NOBODY);
                prepared.undefine(&name, segment, true);
                return Noted::BY_CLIENT;
            }
            Effect::ForgetsAll => server.statements.doubt(),
            Effect::None | Effect::Forgets(_) => {}
        }
        Noted::BY_NOBODY
    }
}

/// A simple query that came in pieces is whole. Returns who has a record of it.
pub(super) fn note_cut_query(prepared: Option<&mut Prepared>, server: &ServerConnection) -> Noted {
    let known = prepared.filter(|one| one.has_unnamed());
    match known {
        // Unless the server skips it.
        Some(prepared) if !server.sync.ignores_requests() => {
            prepared.undefine(b"", server.statements.segment(), false);
            Noted::BY_CLIENT
        }
        _ => Noted::BY_NOBODY,
    }
}

/// A client message that may be rewritten.
struct Message<'a> {
    chunk: &'a Chunk,
    /// Where it begins.
    at: usize,
    /// Its length as its header has it.
    length: u32,
    /// Its body, as far as it is there.
    body: &'a [u8],
}

impl Message<'_> {
    fn end(&self) -> usize {
        self.at + HEADER_BYTES + self.body.len()
    }

    /// What is before it is to be sent before anything that is written now.
    fn keep_before(&self, splice: &mut Splice, server: &mut ServerConnection) {
        splice.keep(self.chunk, self.at, &mut server.stream);
    }

    /// Replaces a Bind's header and names; its parameters stay.
    fn rename_bind(&self, splice: &mut Splice, bind: &Bind<'_>, name: &[u8]) {
        let length = self.length - bind.statement.len() as u32 + name.len() as u32;
        let out = splice.out();
        out.push(b'B');
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(bind.portal);
        out.push(0);
        out.extend_from_slice(name);
        out.push(0);
        let names_bytes = bind.portal.len() + bind.statement.len() + 2;
        splice.skip(self.at + HEADER_BYTES + names_bytes);
    }
}
