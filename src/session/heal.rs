//! What a server's replies tell of its prepared statements.
//!
//! **Owns:** keeping the list of a server true when an error, or the end of a transaction, says more
//! than the queue of replies does.
//! **Does not own:** the list (`server::statements`), whom a reply belongs to (`server::sync`).
//!
//! **Invariants**
//! 1. A statement that could not be bound or described is closed and parsed again before its next use,
//!    in the same transaction too. So an error that a new Parse would not have caused comes once.
//! 2. What an error says of the list is believed only if PostgreSQL's own routine for prepared
//!    statements has raised it. A function may raise any text with any code.
//!
//! Source: PostgreSQL documentation, `protocol-error-fields.html`, `errcodes-appendix.html`.

use crate::protocol::backend::{ErrorFields, TransactionStatus};
use crate::server::ServerConnection;
use crate::server::reset::Leftovers;
use crate::server::statements::{Statements, text};
use crate::server::sync::Sync;

use super::client::Session;

/// Learns from an error; `body` is there unless it was too long.
pub(super) fn heal(
    sync: &mut Sync,
    statements: &mut Statements,
    leftovers: &mut Leftovers,
    body: Option<&[u8]>,
) {
    let blamed = sync.take_blamed();
    statements.trust.failed();
    let fields = body.and_then(|body| ErrorFields::decode(body).ok());
    let sqlstate = fields.as_ref().and_then(ErrorFields::sqlstate);
    // In a failed transaction everything is refused, whatever it is.
    if let Some(wanted) = blamed
        && sqlstate != Some(b"25P02")
    {
        statements.distrust(wanted);
    }
    let Some(fields) = fields else { return };
    let exists = match (sqlstate, fields.field(b'R')) {
        (Some(b"26000"), Some(b"FetchPreparedStatement")) => false,
        (Some(b"42P05"), Some(b"StorePreparedStatement")) => true,
        _ => return,
    };
    if let Some(key) = fields.message().and_then(text::named_in) {
        statements.correct(key, exists);
        // It has gone unseen, as in a DO block; so may others have.
        leftovers.add_if(!exists, Leftovers::STATEMENTS);
    }
}

impl Session {
    /// The server is ready for more.
    pub(super) fn note_ready(&mut self, server: &mut ServerConnection) {
        let is_idle = server.status == TransactionStatus::Idle;
        let is_settled = server.sync.is_settled();
        if server.statements.trust.ready(is_idle, is_settled) {
            self.pool.objects_changed();
        }
        if !is_settled {
            return;
        }
        let is_odd = server.baits.settle() && self.pool.settings.manages_statements();
        server.leftovers.add_if(is_odd, Leftovers::STATEMENTS);
        if is_idle {
            server.statements.outlook.settled();
        }
        if let Some(prepared) = &mut self.prepared {
            prepared.settled();
            if is_idle {
                prepared.portals_closed();
            }
        }
    }
}
