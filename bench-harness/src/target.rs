//! What is measured against what: the descriptions of the targets.
//!
//! Owns: the TOML format of a target, inheritance between targets, placeholders, versions.
//! Does not own: running a target (`pooler.rs`).
//! Invariants: braces that are no known placeholder stay as they are, so that configuration
//! formats with braces need no escapes.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::child;
use crate::scenario::{Kind, Protocol, Scenario};

const BUILT_IN: &str = include_str!("targets.toml");

/// One target as described in TOML.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) description: String,
    /// The program: a path, or a name searched in `PATH` and the directories of system programs.
    #[serde(default)]
    pub(crate) binary: String,
    /// Command that prints the version.
    #[serde(default)]
    version: Vec<String>,
    /// Command that starts one process of the pooler; empty for PostgreSQL itself.
    #[serde(default)]
    pub(crate) command: Vec<String>,
    /// How many processes share the port.
    #[serde(default = "one")]
    pub(crate) processes: u16,
    /// Whether it refuses to run as root.
    #[serde(default)]
    pub(crate) as_server_user: bool,
    #[serde(default = "many")]
    pub(crate) clients_max: u32,
    /// Clients come over TLS; `server.crt` and `server.key` are made in its directory.
    #[serde(default)]
    pub(crate) tls: bool,
    /// Clients prove this password by SCRAM-SHA-256.
    #[serde(default)]
    pub(crate) password: Option<String>,
    /// The first version with protocol-level prepared statements in transaction mode; absent when
    /// all have them.
    prepared_since: Option<String>,
    /// The value of `{prepared_lines}` when the version has them.
    #[serde(default)]
    prepared_lines: String,
    /// Further placeholders; their values may hold the standard ones.
    #[serde(default)]
    values: BTreeMap<String, String>,
    /// Files written before the start, by name.
    #[serde(default)]
    pub(crate) files: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) environment: BTreeMap<String, String>,
    /// Value of `{shards}`.
    #[serde(skip)]
    pub(crate) shards: u16,
    /// What the version command printed.
    #[serde(skip)]
    pub(crate) version_text: String,
}

fn one() -> u16 {
    1
}

fn many() -> u32 {
    11_000
}

/// All targets that can be named.
#[derive(Debug)]
pub(crate) struct Catalogue {
    tables: Vec<toml::Table>,
}

impl Catalogue {
    /// The built-in targets and those of `files`; a later one of the same name replaces.
    ///
    /// # Errors
    /// A file cannot be read or is not a list of `[[target]]`.
    pub(crate) fn load(files: &[PathBuf]) -> Result<Self> {
        let mut catalogue = Self { tables: Vec::new() };
        catalogue.add(BUILT_IN).context("built-in targets")?;
        for file in files {
            let text = fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            catalogue
                .add(&text)
                .with_context(|| format!("{}", file.display()))?;
        }
        Ok(catalogue)
    }

    fn add(&mut self, text: &str) -> Result<()> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            target: Vec<toml::Table>,
        }
        let file: File = toml::from_str(text)?;
        for mut table in file.target {
            let name = table
                .get("name")
                .and_then(toml::Value::as_str)
                .context("target without name")?;
            let name = name.to_owned();
            if let Some(base) = table.remove("like") {
                let base = self
                    .table(base.as_str().context("`like` names a target")?)?
                    .clone();
                table = merge(base, table);
            }
            self.tables
                .retain(|other| other.get("name") != table.get("name"));
            // Checked here, so that an error names the target even when it is not used.
            parse(&table).with_context(|| format!("target {name}"))?;
            self.tables.push(table);
        }
        Ok(())
    }

    fn table(&self, name: &str) -> Result<&toml::Table> {
        let found = self
            .tables
            .iter()
            .find(|t| t.get("name").and_then(toml::Value::as_str) == Some(name));
        found.with_context(|| {
            format!(
                "no target is called {name:?}; there are {}",
                self.names().join(", ")
            )
        })
    }

    /// The names of all targets.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.tables
            .iter()
            .filter_map(|t| t.get("name")?.as_str())
            .collect()
    }

    /// Adds a target that is another build of `base`.
    ///
    /// # Errors
    /// `base` is not known.
    pub(crate) fn add_build(&mut self, name: &str, base: &str, binary: &Path) -> Result<()> {
        let mut table = self.table(base)?.clone();
        table.insert("name".into(), name.into());
        table.insert(
            "description".into(),
            format!("{base} as {}", binary.display()).into(),
        );
        table.insert("binary".into(), binary.display().to_string().into());
        self.tables
            .retain(|other| other.get("name") != table.get("name"));
        self.tables.push(table);
        Ok(())
    }

    /// Sets the program of every target that uses the program `name`.
    pub(crate) fn set_binary(&mut self, name: &str, path: &Path) {
        for table in &mut self.tables {
            if table.get("binary").and_then(toml::Value::as_str) == Some(name) {
                table.insert("binary".into(), path.display().to_string().into());
            }
        }
    }

    /// Looks up `NAME` or `NAME@SHARDS` and makes it ready: finds the program, asks its version.
    ///
    /// # Errors
    /// Unknown name, program not found, or it does not run.
    pub(crate) fn target(&self, word: &str, shards: u16) -> Result<Target> {
        let (name, own_shards) = match word.split_once('@') {
            Some((name, count)) => (
                name,
                Some(count.parse().context("NAME@SHARDS wants a number")?),
            ),
            None => (word, None),
        };
        let mut target = parse(self.table(name)?)?;
        word.clone_into(&mut target.name);
        target.shards = own_shards.unwrap_or(shards);
        if own_shards.is_some() && !target.uses("{shards}") {
            bail!("{name} has no {{shards}} in its configuration");
        }
        if !target.binary.is_empty() {
            let binary = find_program(&target.binary).with_context(|| format!("target {name}"))?;
            target.binary = binary.display().to_string();
        }
        let version: Vec<String> = target
            .version
            .iter()
            .map(|part| part.replace("{binary}", &target.binary))
            .collect();
        if !version.is_empty() {
            // A program that cannot tell its version may still be measured.
            let text = child::output(&version, None, Path::new("/")).unwrap_or_default();
            text.lines()
                .next()
                .unwrap_or_default()
                .clone_into(&mut target.version_text);
        }
        Ok(target)
    }
}

/// A target checked by serde.
fn parse(table: &toml::Table) -> Result<Target> {
    Ok(toml::Value::Table(table.clone()).try_into()?)
}

/// `derived` on top of `base`; tables are merged key by key.
fn merge(mut base: toml::Table, derived: toml::Table) -> toml::Table {
    for (key, value) in derived {
        match (base.remove(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(value)) => {
                base.insert(key, merge(inner, value).into());
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
    base
}

/// The absolute path of a program given as path or name.
fn find_program(name: &str) -> Result<PathBuf> {
    if name.contains('/') {
        return fs::canonicalize(name)
            .with_context(|| format!("{name} does not exist; is it built?"));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("program {name} is not installed"))
}

impl Target {
    /// Whether clients connect to PostgreSQL itself.
    pub(crate) fn is_direct(&self) -> bool {
        self.command.is_empty()
    }

    /// Whether this version can do named statements in transaction mode.
    pub(crate) fn has_prepared(&self) -> bool {
        let Some(since) = self.prepared_since.as_deref().and_then(version_of) else {
            return true;
        };
        version_of(&self.version_text).is_some_and(|version| version >= since)
    }

    /// Why the scenario cannot be measured on this target, if so.
    pub(crate) fn lacks(&self, scenario: &Scenario) -> Option<String> {
        match scenario.kind {
            Kind::IdleMemory | Kind::IdleCpu if self.is_direct() => Some("no pooler".into()),
            Kind::Pgbench(load) if load.protocol == Protocol::Prepared && !self.has_prepared() => {
                let since = self.prepared_since.as_deref().unwrap_or_default();
                Some(format!(
                    "no prepared statements in transaction mode before {since}"
                ))
            }
            _ if scenario.clients() > self.clients_max => {
                Some(format!("takes at most {} clients", self.clients_max))
            }
            _ => None,
        }
    }

    fn uses(&self, placeholder: &str) -> bool {
        self.files
            .values()
            .chain(&self.command)
            .any(|text| text.contains(placeholder))
    }

    /// Fills the placeholders of a text: the target's own values first, as they may hold
    /// standard ones.
    pub(crate) fn fill(&self, text: &str, standard: &BTreeMap<&str, String>) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.values {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        let prepared_lines = if self.has_prepared() {
            self.prepared_lines.as_str()
        } else {
            ""
        };
        text = text
            .replace("{prepared_lines}", prepared_lines)
            .replace("{binary}", &self.binary)
            .replace("{shards}", &self.shards.to_string())
            .replace("{clients_max}", &self.clients_max.to_string());
        for (name, value) in standard {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        text
    }
}

/// The first `major.minor` in a text.
fn version_of(text: &str) -> Option<(u32, u32)> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .find_map(|word| {
            let mut numbers = word.split('.');
            Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue(text: &str) -> Result<Catalogue> {
        let mut catalogue = Catalogue::load(&[])?;
        catalogue.add(text)?;
        Ok(catalogue)
    }

    #[test]
    fn built_in_targets_are_understood() {
        let names = Catalogue::load(&[]).expect("built-in targets");
        assert!(
            names
                .names()
                .starts_with(&["direct", "pg_doorman", "pg_doorman-unix"])
        );
    }

    #[test]
    fn derived_target_keeps_what_it_does_not_replace() {
        let catalogue = Catalogue::load(&[]).expect("built-in targets");
        let derived = parse(catalogue.table("pgbouncer-unix").expect("known")).expect("valid");
        let base = parse(catalogue.table("pgbouncer").expect("known")).expect("valid");
        assert_eq!(derived.files, base.files);
        assert_eq!(derived.values["server"], "{server_socket_dir}");
        assert_eq!(base.values["server"], "127.0.0.1");
    }

    #[test]
    fn misspelt_key_is_an_error_that_names_the_target() {
        let error = catalogue("[[target]]\nname='mine'\ncomand=['x']").expect_err("a typo");
        assert!(format!("{error:#}").contains("target mine"), "{error:#}");
        assert!(catalogue("[[target]]\nname='mine'\nlike='nobody'").is_err());
    }

    #[test]
    fn placeholders_are_filled_and_other_braces_stay() {
        let catalogue = Catalogue::load(&[]).expect("built-in targets");
        let mut target = parse(catalogue.table("pgbouncer-unix").expect("known")).expect("valid");
        target.shards = 3;
        let standard = BTreeMap::from([("server_socket_dir", "/tmp/x".to_owned())]);
        assert_eq!(
            target.fill(
                "storage { host \"{server}\" } {shards} {unknown}",
                &standard
            ),
            "storage { host \"/tmp/x\" } 3 {unknown}"
        );
    }

    #[test]
    fn version_decides_on_prepared_statements() {
        let catalogue = Catalogue::load(&[]).expect("built-in targets");
        let mut target = parse(catalogue.table("pgbouncer").expect("known")).expect("valid");
        target.version_text = "PgBouncer 1.18.0".into();
        assert!(!target.has_prepared());
        target.version_text = "PgBouncer 1.25.1".into();
        assert!(target.has_prepared());
    }

    #[test]
    fn shards_of_a_target_without_shards_are_refused() {
        let catalogue = Catalogue::load(&[]).expect("built-in targets");
        assert!(catalogue.target("direct@2", 1).is_err());
        assert!(catalogue.target("direct", 1).is_ok());
    }
}
