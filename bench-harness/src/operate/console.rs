//! What psql is told by a pooler or by PostgreSQL.
//!
//! Owns: starting psql, its output as rows.
//! Does not own: what is asked.
//! Invariants: every question is a connection of its own and has an end; nobody is asked for a password.
//! Source: app-psql.html, timeout(1).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, anyhow};

use crate::child;
use crate::postgres::Postgres;

/// The database of the admin console.
const CONSOLE: &str = "pgdoorman";
/// Seconds that an answer may take.
const LIMIT_S: &str = "60";
/// What separates columns.
const SEPARATOR: &str = "|";

/// Somebody who answers SQL.
#[derive(Debug)]
pub(crate) struct Oracle {
    psql: String,
    address: SocketAddr,
}

/// Rows of text columns.
pub(crate) type Rows = Vec<Vec<String>>;

impl Oracle {
    /// Whoever listens at `address`; psql is the one of `server`'s installation.
    pub(crate) fn new(server: &Postgres, address: SocketAddr) -> Self {
        Self {
            psql: server.psql(),
            address,
        }
    }

    /// Runs a statement as `user` in `database`.
    ///
    /// # Errors
    /// The login or the statement fails; psql's last words are in the message.
    pub(crate) fn ask(&self, (database, user): (&str, &str), sql: &str) -> Result<Rows> {
        let url = format!(
            "postgresql://{user}@{}/{database}?sslmode=disable&gssencmode=disable&connect_timeout=10",
            self.address
        );
        let words = [
            "timeout", LIMIT_S, &self.psql, "-X", "-A", "-t", "-F", SEPARATOR, "-c", sql, &url,
        ]
        .map(str::to_owned);
        let text = child::output(&words, None, Path::new("/")).map_err(|error| {
            let text = format!("{error:#}");
            let last = text.trim_end().lines().last().unwrap_or_default();
            anyhow!("{sql}: {last}")
        })?;
        Ok(rows(&text))
    }

    /// Runs a statement as the superuser in database `postgres`.
    ///
    /// # Errors
    /// As for [`Self::ask`].
    pub(crate) fn superuser(&self, sql: &str) -> Result<Rows> {
        self.ask(("postgres", "postgres"), sql)
    }

    /// The only number of a result.
    ///
    /// # Errors
    /// As for [`Self::ask`], or it is no number.
    pub(crate) fn number(&self, sql: &str) -> Result<u64> {
        let rows = self.superuser(sql)?;
        let value = rows.first().and_then(|row| row.first());
        value
            .and_then(|value| value.parse().ok())
            .with_context(|| format!("{sql}: no number"))
    }

    /// Gives a command to the admin console.
    ///
    /// # Errors
    /// As for [`Self::ask`].
    pub(crate) fn command(&self, command: &str) -> Result<Rows> {
        self.ask((CONSOLE, "admin"), command)
    }

    /// The ids of the clients of these databases.
    ///
    /// # Errors
    /// As for [`Self::ask`].
    pub(crate) fn clients(&self, databases: &[&str]) -> Result<BTreeSet<String>> {
        let rows = self.command("SHOW CLIENTS")?;
        Ok(rows
            .into_iter()
            .filter(|row| row.len() > 1 && databases.contains(&row[1].as_str()))
            .map(|mut row| row.swap_remove(0))
            .collect())
    }

    /// A value of `SHOW CONFIG`; `None` when there is no such key.
    ///
    /// # Errors
    /// As for [`Self::ask`].
    pub(crate) fn setting(&self, key: &str) -> Result<Option<String>> {
        let rows = self.command("SHOW CONFIG")?;
        let row = rows.into_iter().find(|row| row[0] == key);
        Ok(row.and_then(|row| row.into_iter().nth(1)))
    }

    /// The process ids of PostgreSQL's sessions of `user`.
    ///
    /// # Errors
    /// As for [`Self::ask`].
    pub(crate) fn sessions_of(&self, user: &str) -> Result<BTreeSet<String>> {
        let sql = format!("select pid from pg_stat_activity where usename = '{user}'");
        let rows = self.superuser(&sql)?;
        Ok(rows.into_iter().flatten().collect())
    }
}

fn rows(text: &str) -> Rows {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| line.split(SEPARATOR).map(str::to_owned).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_psql_is_cut_into_rows_and_columns() {
        assert_eq!(rows("a|1\nb|\n"), [["a", "1"], ["b", ""]]);
        assert!(rows("\n").is_empty());
    }
}
