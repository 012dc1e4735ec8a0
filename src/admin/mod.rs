//! The console: what can be asked over a connection to `pgdoorman` or `pgbouncer`.
//!
//! **Owns:** the commands as words, the results of `SHOW`, the errors, as functions from values to
//! messages.
//! **Does not own:** the connection (`session::console`), running commands (`session::commands`), what
//! is shown (`metrics`, `config`).
//!
//! ```text
//!   text ──command::parse──▶ Command ──▶ Subject ──table──▶ Table ──▶ messages
//!                               └─▶ others: run by the session, answered by their names
//! ```
//!
//! A new `SHOW` is a [`Subject`], a row in [`command::SUBJECTS`], and a function that makes a
//! [`Table`]; what it shows comes in through [`View`]. `SHOW HELP` lists it by itself, and a test wants
//! it and its columns in `docs/admin.md`.

pub mod command;
pub mod help;
pub mod settings;
pub mod show;
pub mod show_shards;
pub mod show_statements;
pub mod sockets;
pub mod table;
pub mod view;

use crate::protocol::sqlstate::{self, SqlState};
use crate::protocol::writer::{self, Report, Severity};

pub use command::{Command, CommandError, Subject, When};
pub use sockets::Sockets;
pub use table::{Column, ColumnType, Table};
pub use view::{ClientRow, Listening, ServerRow, View};

/// The databases that are the console. A pool with such a name cannot be reached.
pub const DATABASES: [&str; 2] = ["pgdoorman", "pgbouncer"];

/// Whether a client that asks for `database` wants the console. Case matters.
pub fn is_console(database: &str) -> bool {
    DATABASES.contains(&database)
}

/// What is shown for a subject.
pub fn table(subject: Subject, view: &View<'_>) -> Table {
    match subject {
        Subject::Help => help::table(),
        Subject::Config => show::config(view),
        Subject::Databases => show::databases(view),
        Subject::Pools => show::pools(view),
        Subject::PoolsExtended => show::pools_extended(view),
        Subject::PoolsMemory => show::pools_memory(view),
        Subject::PreparedStatements => show_statements::table(view.statements),
        Subject::Clients => show::clients(view),
        Subject::Servers => show::servers(view),
        Subject::Users => show::users(view),
        Subject::Version => show::version(view.version),
        Subject::Lists => show::lists(view),
        Subject::Connections => show::connections(view),
        Subject::Stats => show::stats(view, true, true),
        Subject::StatsTotals => show::stats(view, true, false),
        Subject::StatsAverages => show::stats(view, false, true),
        Subject::Sockets => show::sockets(view.sockets),
        Subject::Shards => show_shards::table(view.fleet),
        Subject::Listen => show::listen(view.listening),
    }
}

/// Why a command has failed. The session goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// SQLSTATE.
    pub sqlstate: SqlState,
    /// What it is.
    pub message: String,
    /// What to do about it.
    pub hint: Option<&'static str>,
    /// It is called fatal, as clients of earlier versions know it.
    pub sounds_fatal: bool,
}

impl Refusal {
    /// An error that earlier versions did not know.
    pub fn new(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self {
            sqlstate,
            message: message.into(),
            hint: None,
            sounds_fatal: false,
        }
    }

    /// An error of the system, as earlier versions tell it.
    pub fn system(message: impl Into<String>) -> Self {
        Self {
            sounds_fatal: true,
            ..Self::new(sqlstate::SYSTEM_ERROR, message)
        }
    }

    /// Appends its message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let severity = if self.sounds_fatal {
            Severity::Fatal
        } else {
            Severity::Error
        };
        let report = Report {
            hint: self.hint,
            ..Report::new(severity, self.sqlstate, &self.message)
        };
        writer::error_response(out, &report);
    }
}

impl From<CommandError> for Refusal {
    fn from(error: CommandError) -> Self {
        let message = error.to_string();
        match error {
            CommandError::Unknown | CommandError::ShowWhat | CommandError::UnknownSubject => Self {
                hint: Some("SHOW HELP lists the commands."),
                ..Self::system(message)
            },
            CommandError::OpenQuote | CommandError::Usage(_) => {
                Self::new(sqlstate::SYNTAX_ERROR, message)
            }
        }
    }
}

#[cfg(test)]
mod tests;
