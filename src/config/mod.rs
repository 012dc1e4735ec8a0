//! Settings: from files on disk to one checked, immutable [`Config`].
//!
//! ```text
//!  main file ─┐ TOML or YAML
//!  includes ──┴─▶ tables ──merge──▶ one table ──▶ schema ──▶ rules ──▶ Config
//!                (load, yaml)      (load)        (schema)  (validate)  (checked)
//! ```
//!
//! **Owns:** the file formats, defaults, every rule about a value, the texts of the errors, what a
//! reload changes.
//! **Does not own:** when to reload, what to do about a change, key material (only looked at).
//! **Invariants:** a [`Config`] that exists satisfies every rule; it is plain data without
//! interior mutability; no error, warning or `Debug` output contains a password or a line of a file.
//!
//! Source: TOML 1.0 specification; YAML 1.2 core schema; PostgreSQL manual `auth-pg-hba-conf.html`.

pub mod auth_query;
pub mod checked;
pub mod diff;
pub mod draft;
pub mod error;
pub mod hba;
pub mod ident;
pub mod keys;
mod keys_ru;
pub mod limits;
pub mod listening;
mod load;
pub mod reference;
pub mod schema;
pub mod secret;
mod tls;
pub mod units;
mod unknown;
mod validate;
mod yaml;

#[cfg(test)]
mod tests;

pub use auth_query::{AuthQuery, Origin};
pub use checked::{
    Config, Endpoint, General, PasswordCommand, PoolConfig, Prometheus, Talos, TlsMode, UserConfig,
};
pub use diff::ConfigDiff;
pub use error::ConfigError;
pub use limits::Limits;
pub use schema::PoolMode;
pub use secret::Secret;
pub use tls::{ServerTls, ServerTlsMode, TlsProtocol, TlsVersion};

use std::io;
use std::path::Path;

/// A configuration and what is worth telling the operator about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The checked settings.
    pub config: Config,
    /// One sentence each; nothing here prevents a start.
    pub warnings: Vec<String>,
}

/// Reads, merges and checks the configuration file at `path` and the files it includes.
///
/// Relative paths, also those inside the files, are relative to the working directory of the
/// process. Blocks on file IO: call it at start and from the control thread only.
///
/// # Errors
///
/// [`ConfigError`] for the first fault: an unreadable file, a syntax error, a wrong type or a
/// value that breaks a rule. The operator must edit the file; retrying does not help.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    load::load_with(path, &read_file)
}

/// As [`load`], but what is in the file at `path` is `text`.
///
/// # Errors
///
/// As [`load`].
pub fn load_text(path: &Path, text: &str, read: ReadFile<'_>) -> Result<Loaded, ConfigError> {
    load::load_with(path, &|other| {
        if other == path {
            Ok(text.as_bytes().to_vec())
        } else {
            read(other)
        }
    })
}

/// What stands in the file at `path`, for a program with keys of its own: YAML if its name ends so,
/// otherwise TOML. Blocks on file IO.
///
/// # Errors
///
/// An unreadable file or a syntax error.
pub fn document(path: &Path) -> Result<toml::Table, ConfigError> {
    load::read_table(path, &read_file)
}

/// Shards of a process, at most.
pub const WORKER_THREADS_MAX: usize = 1024;

/// How this module reaches files. Everything but [`read_file`] is pure.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path)
}
