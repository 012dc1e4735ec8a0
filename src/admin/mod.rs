//! The console: what can be asked over a connection to `pgdoorman` or `pgbouncer`.
//!
//! **Owns:** the commands, their results and their errors, as functions from text to messages.
//! **Does not own:** the connection (`session::console`), what is shown (`metrics`, `config`).
//!
//! ```text
//!   text ──command::parse──▶ Command ──respond──▶ Table ──encode──▶ messages
//!                                     ├─▶ Action::Reload: done by others, answered by `reloaded`
//!                                     └─▶ Action::AskStatements: likewise, by `statements`
//! ```
//!
//! A new `SHOW` is a [`Subject`], a row in [`command::SUBJECTS`], and a function that makes a
//! [`Table`]; what it shows comes in through [`View`]. `SHOW HELP` lists it by itself, and a test wants
//! it in `docs/admin.md`.
//!
//! **Invariant:** whatever the text is, the answer ends with `ReadyForQuery`.

pub mod command;
pub mod help;
pub mod show_shards;
pub mod show_statements;
pub mod table;

use crate::metrics::Fleet;
use crate::metrics::statements::StatementAccount;
use crate::protocol::backend::TransactionStatus;
use crate::protocol::sqlstate;
use crate::protocol::writer::{self, Report, Severity};

pub use command::{Command, CommandError, Subject};
pub use table::{Column, ColumnType, Table};

/// The databases that are the console. A pool with such a name cannot be reached.
pub const DATABASES: [&str; 2] = ["pgdoorman", "pgbouncer"];

/// Whether a client that asks for `database` wants the console. Case matters.
pub fn is_console(database: &str) -> bool {
    DATABASES.contains(&database)
}

/// What the commands show.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The version that runs.
    pub version: &'a str,
    /// The numbers of all shards.
    pub fleet: &'a Fleet,
}

/// What is to be done for a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send these messages.
    Send(Vec<u8>),
    /// Ask all shards for their prepared statements, and send what [`statements`] makes of the accounts.
    AskStatements,
    /// Read the configuration again, and send what [`reloaded`] makes of the outcome.
    Reload,
}

/// Answers one command.
pub fn respond(text: &[u8], view: &View<'_>) -> Action {
    let mut out = Vec::new();
    match command::parse(text) {
        Ok(Command::Empty) => writer::empty_query_response(&mut out),
        Ok(Command::Reload) => return Action::Reload,
        Ok(Command::Show(Subject::PreparedStatements)) => return Action::AskStatements,
        Ok(Command::Show(subject)) => {
            show(subject, view).encode(&mut out);
            writer::command_complete(&mut out, b"SHOW");
        }
        Err(error) => system_error(&mut out, &error.to_string()),
    }
    writer::ready_for_query(&mut out, TransactionStatus::Idle);
    Action::Send(out)
}

/// The answer to `RELOAD`, from its outcome.
pub fn reloaded(outcome: &Result<(), String>) -> Vec<u8> {
    let mut out = Vec::new();
    match outcome {
        Ok(()) => writer::command_complete(&mut out, b"RELOAD"),
        Err(reason) => system_error(&mut out, reason),
    }
    writer::ready_for_query(&mut out, TransactionStatus::Idle);
    out
}

/// The answer to `SHOW PREPARED_STATEMENTS`, from the accounts of all shards.
pub fn statements(accounts: Result<Vec<StatementAccount>, String>) -> Vec<u8> {
    let mut out = Vec::new();
    match accounts {
        Ok(accounts) => {
            show_statements::table(accounts).encode(&mut out);
            writer::command_complete(&mut out, b"SHOW");
        }
        Err(reason) => system_error(&mut out, &reason),
    }
    writer::ready_for_query(&mut out, TransactionStatus::Idle);
    out
}

fn show(subject: Subject, view: &View<'_>) -> Table {
    match subject {
        Subject::Help => help::table(),
        Subject::PreparedStatements => show_statements::table(Vec::new()),
        Subject::Shards => show_shards::table(view.fleet),
        Subject::Version => {
            let mut table = Table::new(vec![Column::text("version")]);
            table.push(vec![format!("PgDoorman {}", view.version)]);
            table
        }
    }
}

/// An error of a command. It is called fatal, as clients of earlier versions know it, and the
/// session goes on.
fn system_error(out: &mut Vec<u8>, text: &str) {
    let report = Report::new(Severity::Fatal, sqlstate::SYSTEM_ERROR, text);
    writer::error_response(out, &report);
}

#[cfg(test)]
mod tests;
