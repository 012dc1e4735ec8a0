//! What a server is given so that it has a statement when it reads the next message.
//!
//! **Owns:** the pooler's own Parse and Close before a client's message, baits, snapshots that were spared.
//! **Does not own:** which messages need it (`rewrite`), what the server has (`server::statements`).
//!
//! **Invariants**
//! 1. Whatever is written here is noted in `server::sync` as the pooler's, but for the Parse that a client
//!    wants the reply of.
//! 2. Nothing is promised that the server might refuse.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html`, "Extended Query".

use crate::pool::Pool;
use crate::protocol::backend::TransactionStatus;
use crate::protocol::frontend::Target;
use crate::protocol::writer;
use crate::server::ServerConnection;
use crate::server::statements::kind::Kind;
use crate::server::statements::text::{self, EMPTY_DEFINITION, Key, Statement};
use crate::server::statements::trust::Asker;
use crate::server::statements::{Need, Statements};
use crate::server::sync::{Bearing, Noted, Owner};

use super::guard::{self, Verdict};
use super::prepared::Prepared;
use super::splice::Splice;

/// The name of a statement that is parsed only to see whether PostgreSQL lets it.
pub(super) const SPARE_NAME: &[u8] = b"PGD_!";

/// The definition of a statement for which PostgreSQL takes a snapshot, and nothing else.
const READING_DEFINITION: &[u8] = b"select\0\0\0";

/// True if the client's own Parse, sent and not answered, decides whether there is such a statement.
fn hangs_on(prepared: &Prepared, statements: &mut Statements, name: &[u8], key: Key) -> bool {
    prepared.is_pending(name) && statements.is_pending(key)
}

/// Makes the server have the statement for a Bind or Describe (its tag, the client's name, the key), and
/// judges that.
pub(super) fn use_statement(
    prepared: &mut Prepared,
    (server, splice): (&mut ServerConnection, &mut Splice),
    (tag, name, key): (u8, &[u8], Key),
    statement: &Statement,
    pool: &Pool,
) -> Verdict {
    let (since, told) = prepared.known(name);
    if let Some(result) = prepared.take_awaited() {
        // The message comes a second time; the server has it now.
        server.statements.want_again(result);
    } else if !hangs_on(prepared, &mut server.statements, name, key) {
        let asker = Asker::Holder(since);
        provide(server, splice.out(), (key, statement), asker, pool);
    }
    if !statement.may_change {
        return Verdict::Passes(Bearing::None);
    }
    guard::judge(prepared, server, splice.out(), (tag, name, key), told)
}

/// What a message that uses a statement calls it.
pub(super) const fn name_for(name: &[u8], bearing: Bearing) -> &[u8] {
    match bearing {
        Bearing::Refuses => guard::CHANGED_NAME,
        Bearing::None | Bearing::Tells => name,
    }
}

/// A Bind or Describe of the statement that was wanted last is sent.
pub(super) fn note_use(server: &mut ServerConnection, tag: u8, bearing: Bearing) {
    let wanted = server.statements.last_wanted();
    match bearing {
        // It is not the statement's fault.
        Bearing::Refuses => server.sync.sent(tag, tag == b'D', Owner::Client),
        _ => server.sync.sent_about(tag, Noted::BY_NOBODY, wanted),
    }
    if bearing != Bearing::None {
        server.sync.bears(bearing);
    }
}

/// Makes the server have a statement when it reads the next message. A client that parses wants the
/// reply.
pub(super) fn provide(
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
            let segment = server.statements.segment();
            server.statements.outlook.spared(statement.kind, segment);
            metrics.parses_saved.add(1);
            server.sync.promised(b'P', Noted::BY_CLIENT);
        }
        return;
    }
    if need == Need::CloseAndParse {
        close(server, out, key);
    }
    write_parse(out, &text::name(key), &statement.definition);
    server.statements.outlook.parsed(statement.kind);
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
pub(super) fn lay_bait(
    server: &mut ServerConnection,
    splice: &mut Splice,
    name: &[u8],
    noted: Noted,
) {
    server.baits.lay(name);
    writer::close(splice.out(), Target::Statement, name);
    server.sync.sent(b'C', false, Owner::Pooler);
    write_parse(splice.out(), name, EMPTY_DEFINITION);
    server.sync.sent_noted(b'P', false, Owner::Pooler, noted);
}

/// True if a reply that does not come from the server is the one that it would give.
pub(super) fn may_promise(server: &ServerConnection) -> bool {
    server.sync.may_promise() && server.statements.outlook.may_promise()
}

/// Makes the server take the snapshot that it would have taken for a Parse which it was spared.
pub(super) fn take_snapshot(server: &mut ServerConnection, splice: &mut Splice) {
    let in_transaction = server.status == TransactionStatus::InTransaction;
    let is_failed = server.status == TransactionStatus::Failed;
    let segment = server.statements.segment();
    let outlook = &mut server.statements.outlook;
    if is_failed || !outlook.lacks_snapshot(in_transaction, segment) {
        return;
    }
    outlook.parsed(Kind::READS);
    writer::close(splice.out(), Target::Statement, SPARE_NAME);
    server.sync.sent(b'C', false, Owner::Pooler);
    write_parse(splice.out(), SPARE_NAME, READING_DEFINITION);
    server.sync.sent(b'P', false, Owner::Pooler);
}

pub(super) fn write_parse(out: &mut Vec<u8>, name: &[u8], definition: &[u8]) {
    let length = 4 + name.len() + 1 + definition.len();
    out.reserve(1 + length);
    out.push(b'P');
    out.extend_from_slice(&(length as u32).to_be_bytes());
    out.extend_from_slice(name);
    out.push(0);
    out.extend_from_slice(definition);
}
