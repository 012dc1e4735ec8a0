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

use crate::pool::Pool;
use crate::protocol::backend::TransactionStatus;
use crate::protocol::framer::HEADER_BYTES;
use crate::protocol::frontend::{Bind, Close, Execute, Parse, Target};
use crate::protocol::writer;
use crate::server::ServerConnection;
use crate::server::reset::Leftovers;
use crate::server::statements::power::Power;
use crate::server::statements::text::{self, EMPTY_DEFINITION, Effect, Key, Statement};
use crate::server::statements::trust::Asker;
use crate::server::statements::{Need, Statements};
use crate::server::sync::{Noted, Owner};

use super::client::Session;
use super::held::{is_long_unnamed, missing_bytes, names_statement};
use super::prepared::Prepared;
use super::splice::Splice;

/// A name that no server has, for clients that ask for one of the pooler's.
const NOBODYS_NAME: &[u8] = b"PGD_?";

/// The name of a statement that is parsed only to see whether PostgreSQL lets it.
const SPARE_NAME: &[u8] = b"PGD_!";

/// What becomes of the next message.
pub(super) enum Rewritten {
    /// It goes to the server, as it is or replaced; a journal has it, or none.
    Passes(Noted),
    /// The server gets nothing of it yet.
    IsHeld,
    /// It cannot be held: the session has failed.
    Refused,
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
            return Rewritten::Passes(self.rewrite_whole(server, splice, chunk, at));
        }
        if self.hold_part(rest) {
            Rewritten::IsHeld
        } else {
            Rewritten::Refused
        }
    }

    /// As [`Session::rewrite`], for a message of which enough is there. Returns who has a record of a
    /// message that does not name a statement.
    fn rewrite_whole(
        &mut self,
        server: &mut ServerConnection,
        splice: &mut Splice,
        chunk: &Chunk,
        at: usize,
    ) -> Noted {
        let Some((&[tag, l0, l1, l2, l3], body)) = chunk
            .get(at..)
            .and_then(|bytes| bytes.split_first_chunk::<HEADER_BYTES>())
        else {
            return Noted::BY_NOBODY;
        };
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        let is_seen = match tag {
            b'Q' => true,
            b'E' => self.sees_executes(),
            _ => names_statement(tag),
        };
        if !is_seen || length < 4 {
            return Noted::BY_NOBODY;
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
            return Noted::BY_NOBODY;
        }
        if server.statements.awaits_answers() && server.sync.is_settled() {
            server.statements.settled();
        }
        match tag {
            b'P' => self.rewrite_parse(server, splice, &message),
            b'B' => self.rewrite_bind(server, splice, &message),
            b'D' | b'C' => self.rewrite_target(server, splice, &message, tag),
            b'E' => return self.note_execute(server, whole),
            _ => return self.note_query(server, splice, &message, whole),
        }
        Noted::BY_NOBODY
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
            TransactionStatus::Idle => false,
            TransactionStatus::InTransaction => server.sync.owes_ready(),
            TransactionStatus::Failed => server.sync.owes_ready() || !server.sync.owes_execution(),
        };
        if may_be_refused || !server.sync.may_promise() {
            // PostgreSQL refuses all but the end of the transaction, whether it knows them or not.
            writer::close(splice.out(), Target::Statement, SPARE_NAME);
            server.sync.sent(b'C', false, Owner::Pooler);
            write_parse(splice.out(), SPARE_NAME, definition);
            let noted = Noted::BY_CLIENT;
            server.sync.sent_noted(b'P', false, Owner::Client, noted);
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
        server.has_unnamed = true;
        server.sync.sent_noted(b'P', false, Owner::Client, noted);
    }

    fn rewrite_bind(
        &mut self,
        server: &mut ServerConnection,
        splice: &mut Splice,
        message: &Message<'_>,
    ) {
        let Ok(bind) = Bind::decode(message.body) else {
            server.sync.sent(b'B', false, Owner::Client);
            return;
        };
        if let Some(prepared) = self.prepared.as_mut().filter(|one| one.has_deallocations()) {
            prepared.portal_bound(bind.portal, None);
        }
        let found = self.prepared.as_mut().and_then(|prepared| {
            let statement = prepared.get(bind.statement).cloned()?;
            let key = statement.key_with(prepared.salt(&self.wanted));
            Some((prepared, statement, key))
        });
        let Some((prepared, statement, key)) = found else {
            if bind.statement.starts_with(text::PREFIX) {
                message.keep_before(splice, server);
                message.rename_bind(splice, &bind, NOBODYS_NAME);
            }
            server.statements.trust.binds(bind.portal, None);
            server.sync.sent(b'B', false, Owner::Client);
            return;
        };
        message.keep_before(splice, server);
        let named = (key, &*statement);
        if !hangs_on(prepared, &mut server.statements, bind.statement, key) {
            let asker = Asker::Holder(prepared.since(bind.statement));
            provide(server, splice.out(), named, asker, &self.pool);
        }
        if let Effect::Forgets(name) = &statement.effect
            && prepared.is_taken(name, server.statements.segment())
        {
            lay_bait(server, splice, name, Noted::BY_NOBODY);
            prepared.portal_bound(bind.portal, Some(name));
        }
        statement.used(&self.pool.label, &self.pool.metrics, 1);
        message.rename_bind(splice, &bind, &text::name(key));
        let wanted = server.statements.last_wanted();
        server.sync.sent_about(b'B', Noted::BY_NOBODY, wanted);
        let power = Some(statement.power);
        server.statements.trust.binds(bind.portal, power);
        server.leftovers.add(statement.leftovers);
        if statement.effect == Effect::ForgetsAll {
            server.statements.doubt();
        }
    }

    /// Describe and Close.
    fn rewrite_target(
        &mut self,
        server: &mut ServerConnection,
        splice: &mut Splice,
        message: &Message<'_>,
        tag: u8,
    ) {
        let Ok(Close {
            kind: Target::Statement,
            name,
        }) = Close::decode(message.body)
        else {
            let describes_statement = tag == b'D' && message.body.first() == Some(&b'S');
            server.sync.sent(tag, describes_statement, Owner::Client);
            return;
        };
        let found = self.prepared.as_mut().and_then(|prepared| {
            let statement = prepared.get(name).cloned()?;
            let key = statement.key_with(prepared.salt(&self.wanted));
            Some((prepared, statement, key))
        });
        let is_ours = name.starts_with(text::PREFIX);
        match (tag, found) {
            (b'D', Some((prepared, statement, key))) => {
                message.keep_before(splice, server);
                let named = (key, &*statement);
                if !hangs_on(prepared, &mut server.statements, name, key) {
                    let asker = Asker::Holder(prepared.since(name));
                    provide(server, splice.out(), named, asker, &self.pool);
                }
                writer::describe(splice.out(), Target::Statement, &text::name(key));
                splice.skip(message.end());
                let wanted = server.statements.last_wanted();
                server.sync.sent_about(b'D', Noted::BY_NOBODY, wanted);
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
                    return;
                }
                message.keep_before(splice, server);
                splice.skip(message.end());
                if server.sync.may_promise() {
                    server.sync.promised(b'C', noted);
                } else {
                    writer::close(splice.out(), Target::Statement, SPARE_NAME);
                    server.sync.sent_noted(b'C', false, Owner::Client, noted);
                }
            }
        }
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
        let Some(text) = text else {
            if let Some(prepared) = &mut self.prepared {
                prepared.forget_unnamed();
            }
            return noted;
        };
        if let Some(prepared) = self.prepared.as_mut().filter(|one| one.has_unnamed()) {
            prepared.undefine(b"", segment, false);
            noted = Noted::BY_CLIENT;
        }
        match Effect::of(text.strip_suffix(b"\0").unwrap_or(text)) {
            Effect::None => {}
            Effect::ForgetsAll => server.statements.doubt(),
            Effect::Forgets(name) => {
                if let Some(prepared) = &mut self.prepared
                    && prepared.is_taken(&name, segment)
                {
                    message.keep_before(splice, server);
                    // The query is read if the bait is, so that has the record of the unnamed one.
                    lay_bait(server, splice, &name, noted);
                    prepared.undefine(&name, segment, true);
                    return Noted::BY_CLIENT;
                }
            }
        }
        noted
    }

    /// An Execute passes as it is. Returns who has a record of it.
    fn note_execute(&mut self, server: &ServerConnection, body: Option<&[u8]>) -> Noted {
        if let Some(prepared) = &mut self.prepared
            && let Some(Ok(execute)) = body.map(Execute::decode)
            && let Some(name) = prepared.portal_run(execute.portal)
        {
            prepared.undefine(&name, server.statements.segment(), true);
            return Noted::BY_CLIENT;
        }
        Noted::BY_NOBODY
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

/// True if the client's own Parse, sent and not answered, decides whether there is such a statement.
fn hangs_on(prepared: &Prepared, statements: &mut Statements, name: &[u8], key: Key) -> bool {
    prepared.is_pending(name) && statements.is_pending(key)
}

/// Makes the server have a statement when it reads the next message. A client that parses wants the
/// reply.
fn provide(
    server: &mut ServerConnection,
    out: &mut Vec<u8>,
    (key, statement): (Key, &Statement),
    asker: Asker,
    pool: &Pool,
) {
    let need = server.statements.want(key, asker);
    server
        .card
        .wanted(need == Need::Nothing, server.statements.count());
    let is_clients = asker == Asker::Parse;
    let metrics = pool.metrics();
    if need == Need::Nothing {
        if is_clients {
            metrics.parses_saved.add(1);
            server.sync.promised(b'P', Noted::BY_CLIENT);
        }
        return;
    }
    if need == Need::CloseAndParse {
        close(server, out, key);
    }
    write_parse(out, &text::name(key), &statement.definition);
    let (owner, noted, counter) = if is_clients {
        (Owner::Client, Noted::BY_BOTH, &metrics.parses_sent)
    } else {
        (Owner::Pooler, Noted::BY_SERVER, &metrics.parses_repeated)
    };
    counter.add(1);
    server.sync.sent_noted(b'P', false, owner, noted);
    while let Some(old) = server.statements.evict(pool.settings.statements_max.get()) {
        metrics.statements_evicted.add(1);
        close(server, out, old);
    }
}

/// Closes a statement on the server; its list has a record of that.
fn close(server: &mut ServerConnection, out: &mut Vec<u8>, key: Key) {
    writer::close(out, Target::Statement, &text::name(key));
    let noted = Noted::BY_SERVER;
    server.sync.sent_noted(b'C', false, Owner::Pooler, noted);
}

/// Makes an empty statement of the client's name, in place of an earlier one. `noted` is who has a
/// record of it.
fn lay_bait(server: &mut ServerConnection, splice: &mut Splice, name: &[u8], noted: Noted) {
    server.baits.lay(name);
    writer::close(splice.out(), Target::Statement, name);
    server.sync.sent(b'C', false, Owner::Pooler);
    write_parse(splice.out(), name, EMPTY_DEFINITION);
    server.sync.sent_noted(b'P', false, Owner::Pooler, noted);
}

fn write_parse(out: &mut Vec<u8>, name: &[u8], definition: &[u8]) {
    let length = 4 + name.len() + 1 + definition.len();
    out.reserve(1 + length);
    out.push(b'P');
    out.extend_from_slice(&(length as u32).to_be_bytes());
    out.extend_from_slice(name);
    out.push(0);
    out.extend_from_slice(definition);
}
