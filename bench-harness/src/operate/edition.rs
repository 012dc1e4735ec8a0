//! A configuration that changes, one thing at a time.
//!
//! Owns: the first configuration, the list of changes, writing a file in one step.
//! Does not own: telling the pooler (`doorman.rs`).
//! Invariants: a change made twice is no change; each edition differs from the one before in one
//! setting and in `max_connections`, which holds its number and so tells which one is in use.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use toml::{Table, Value};

/// The database whose pool no change is about, and its user at PostgreSQL.
pub(crate) const KEPT: (&str, &str) = ("postgres", "kept_user");
/// The database whose pool is changed, and its user at PostgreSQL.
pub(crate) const CHANGED: (&str, &str) = ("changed", "changed_user");

/// The certificate for clients, a file.
pub(crate) const CERTIFICATE: &str = "server.crt";

/// `max_connections` of edition 0.
const NUMBER_BASE: u64 = 20_000;

/// The first edition; `{…}` are as in the files of a target.
const FIRST: &str = r#"
[general]
host = "127.0.0.1"
port = {port}
admin_username = "admin"
admin_password = "admin"
worker_threads = {shards}
query_wait_timeout = "30s"
tls_certificate = "server.crt"
tls_private_key = "server.key"
pg_hba.content = "host all all 127.0.0.1/32 trust"

[pools.postgres]
server_host = "127.0.0.1"
server_port = {server_port}
users = [{ username = "postgres", password = "", pool_size = 20, server_username = "kept_user", server_password = "none" }]

[pools.changed]
server_host = "127.0.0.1"
server_port = {server_port}
server_database = "postgres"
users = [{ username = "postgres", password = "", pool_size = 5, server_username = "changed_user", server_password = "none" }]

[pools.spare]
server_host = "127.0.0.1"
server_port = {server_port}
server_database = "postgres"
users = [{ username = "postgres", password = "", pool_size = 2 }]
"#;

/// One thing that is sometimes so and sometimes otherwise.
#[derive(Debug)]
pub(crate) struct Change {
    /// The place in the document, with dots; or the name of a file beside it.
    pub(crate) place: &'static str,
    /// The value once it is made, in TOML; the other one is that of the first edition.
    value: &'static str,
    /// A database and user that can log in only while it is made.
    pub(crate) admits: Option<(&'static str, &'static str)>,
}

impl Change {
    /// Whether it is a file beside the configuration that changes.
    pub(crate) fn is_file(&self) -> bool {
        self.place == CERTIFICATE
    }
}

const fn set(place: &'static str, value: &'static str) -> Change {
    Change {
        place,
        value,
        admits: None,
    }
}

/// All of them.
pub(crate) const CHANGES: [Change; 32] = [
    // Sizes, and what rebuilds a pool.
    set(
        "pools.changed.users",
        r#"[{ username = "postgres", password = "", pool_size = 9, server_username = "changed_user", server_password = "none" }]"#,
    ),
    set("pools.changed.application_name", "\"renamed\""),
    set("pools.changed.server_host", "\"localhost\""),
    set("pools.changed.server_lifetime", "600000"),
    set("pools.changed.cleanup_server_connections", "false"),
    set("pools.changed.max_db_connections", "30"),
    // Users and pools that come and go.
    Change {
        place: "pools.spare.users",
        value: r#"[{ username = "postgres", password = "", pool_size = 2 }, { username = "guest", password = "", pool_size = 2, server_username = "postgres", server_password = "none" }]"#,
        admits: Some(("spare", "guest")),
    },
    Change {
        place: "pools.another",
        value: r#"{ server_host = "127.0.0.1", server_port = {server_port}, server_database = "postgres", users = [{ username = "postgres", password = "", pool_size = 3 }] }"#,
        admits: Some(("another", "postgres")),
    },
    // Rules and certificates.
    set(
        "general.pg_hba",
        r#"{ content = "host all stranger all reject\nhost all all 127.0.0.1/32 trust" }"#,
    ),
    set(CERTIFICATE, ""),
    set("general.tls_min_version", "\"TLSv1.3\""),
    // Times.
    set("general.query_wait_timeout", "\"40s\""),
    set("general.server_lifetime", "\"20m\""),
    set("general.idle_timeout", "\"30m\""),
    set("general.connect_timeout", "\"7s\""),
    set("general.server_idle_check_timeout", "\"9s\""),
    set("general.client_idle_timeout", "\"1h\""),
    set("general.transaction_timeout", "\"1h\""),
    set("general.query_timeout", "\"1h\""),
    set("general.tcp_keepalives_idle", "9"),
    // Limits.
    set("general.max_db_connections", "60"),
    set("general.max_db_client_connections", "5000"),
    set("general.max_user_client_connections", "6000"),
    set("general.max_concurrent_creates", "8"),
    set("general.max_memory_usage", "\"128MB\""),
    set("general.reserve_pool_size", "2"),
    set("general.prepared_statements_cache_size", "4096"),
    set("general.client_prepared_statements_cache_size", "64"),
    // What is told, and habits.
    set("general.log_level", "\"warn\""),
    set("general.log_client_connections", "true"),
    set("general.log_min_duration", "\"20s\""),
    set("general.server_round_robin", "true"),
];

/// A configuration.
#[derive(Debug, Clone)]
pub(crate) struct Edition {
    document: Table,
    first: Table,
    /// What stands for `{…}`.
    values: Vec<(&'static str, String)>,
    number: u64,
}

fn parse(text: &str) -> Result<Table> {
    text.parse().context("the configuration is no TOML")
}

impl Edition {
    /// Edition 0, for two shards.
    ///
    /// # Errors
    /// None that depends on the caller.
    pub(crate) fn first(server_port: u16) -> Result<Self> {
        let values = vec![
            ("{server_port}", server_port.to_string()),
            ("{shards}", "2".to_owned()),
            // Not known yet, and a number until it is.
            ("{port}", "1".to_owned()),
        ];
        let first = parse(&fill(FIRST, &values))?;
        let mut edition = Self {
            document: first.clone(),
            first,
            values,
            number: 0,
        };
        edition.count();
        Ok(edition)
    }

    /// Sets where the pooler listens.
    ///
    /// # Errors
    /// None that depends on the caller.
    pub(crate) fn listen(&mut self, port: u16) -> Result<()> {
        self.put("general.port", &port.to_string())
    }

    /// Moves the pool that is kept to another server.
    ///
    /// # Errors
    /// None that depends on the caller.
    pub(crate) fn move_kept(&mut self, host: &str, port: u16) -> Result<()> {
        self.number += 1;
        self.count();
        self.put("pools.postgres.server_host", &format!("\"{host}\""))?;
        self.put("pools.postgres.server_port", &port.to_string())
    }

    /// Makes a change, or takes it back when it is made.
    ///
    /// # Errors
    /// None that depends on the caller.
    pub(crate) fn toggle(&mut self, change: &Change) -> Result<()> {
        self.number += 1;
        self.count();
        if change.is_file() {
            return Ok(());
        }
        let original = at(&self.first, change.place).cloned();
        if at(&self.document, change.place) == original.as_ref() {
            return self.put(change.place, &fill(change.value, &self.values));
        }
        let (table, key) = parent(&mut self.document, change.place)?;
        match original {
            Some(value) => table.insert(key, value),
            None => table.remove(&key),
        };
        Ok(())
    }

    /// Whether a change is made.
    pub(crate) fn has(&self, change: &Change) -> bool {
        at(&self.document, change.place) != at(&self.first, change.place)
    }

    /// `max_connections`, by which the edition is known.
    pub(crate) fn mark(&self) -> u64 {
        NUMBER_BASE + self.number
    }

    /// The file.
    pub(crate) fn text(&self) -> String {
        self.document.to_string()
    }

    fn count(&mut self) {
        let mark = Value::Integer(self.mark() as i64);
        if let Some(Value::Table(general)) = self.document.get_mut("general") {
            general.insert("max_connections".to_owned(), mark);
        }
    }

    fn put(&mut self, place: &str, value: &str) -> Result<()> {
        let value = parse(&format!("value = {value}"))?.remove("value");
        let (table, key) = parent(&mut self.document, place)?;
        table.insert(key, value.context("no value")?);
        Ok(())
    }
}

fn fill(text: &str, values: &[(&str, String)]) -> String {
    let replace = |text: String, (name, value): &(&str, String)| text.replace(name, value);
    values.iter().fold(text.to_owned(), replace)
}

/// The value at a place.
fn at<'a>(document: &'a Table, place: &str) -> Option<&'a Value> {
    let mut words = place.split('.');
    let first = document.get(words.next()?);
    words.try_fold(first?, |value, word| value.get(word))
}

/// The table that a place is in, and the last word of it.
fn parent<'a>(document: &'a mut Table, place: &str) -> Result<(&'a mut Table, String)> {
    let (path, key) = place.rsplit_once('.').context("a place with a dot")?;
    let mut table = document;
    for word in path.split('.') {
        let value = table.get_mut(word).and_then(Value::as_table_mut);
        table = value.with_context(|| format!("{place}: no such table"))?;
    }
    Ok((table, key.to_owned()))
}

/// Replaces a file in one step: whoever reads it finds the old or the new one.
///
/// # Errors
/// It cannot be written.
pub(crate) fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_changes_something_and_is_taken_back() {
        let mut edition = Edition::first(5432).expect("valid");
        let first = edition.document.clone();
        for (number, change) in CHANGES.iter().enumerate() {
            edition.toggle(change).expect("a place that exists");
            let is_file = change.is_file();
            assert_eq!(edition.has(change), !is_file, "{}", change.place);
            let mark = edition.mark();
            assert_eq!(mark, NUMBER_BASE + 2 * number as u64 + 1);
            assert!(edition.text().contains(&mark.to_string()));
            edition.toggle(change).expect("a place that exists");
            assert!(!edition.has(change));
        }
        edition.number = 0;
        edition.count();
        assert_eq!(edition.document, first);
    }

    #[test]
    fn the_kept_pool_moves() {
        let mut edition = Edition::first(5432).expect("valid");
        edition.listen(77).expect("a place that exists");
        edition.move_kept("localhost", 5433).expect("valid");
        let at = |place| at(&edition.document, place).map(ToString::to_string);
        assert_eq!(at("general.port").as_deref(), Some("77"));
        assert_eq!(at("pools.postgres.server_port").as_deref(), Some("5433"));
        assert_eq!(at("pools.changed.server_port").as_deref(), Some("5432"));
    }
}
