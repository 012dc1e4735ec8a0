//! Why a configuration was refused.
//!
//! **Owns:** [`ConfigError`], and `KeyPath`, the place of a value in the merged document.
//! **Does not own:** the texts of the rules (`validate`).
//! **Invariant:** an error names a file, a key and a reason, never the value of a secret.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

/// The first fault found in a configuration.
///
/// Cause: the operator's file. Recovery: keep the running configuration, or exit with code 78 when
/// there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file that holds the value: the main file or an included one.
    pub file: PathBuf,
    /// Where in the file: a key such as `general.port`, `line 3`, or nothing for the whole file.
    pub key: String,
    /// What is wrong, as one sentence without a final stop.
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Configuration error: {} (", self.reason)?;
        if !self.key.is_empty() {
            write!(f, "{} in ", self.key)?;
        }
        write!(f, "{})", self.file.display())
    }
}

impl Error for ConfigError {}

/// One step from a value to a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// The way from the root of the document to a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyPath(Vec<Step>);

impl KeyPath {
    pub(crate) fn of(keys: &[&str]) -> Self {
        Self(
            keys.iter()
                .map(|key| Step::Key((*key).to_owned()))
                .collect(),
        )
    }

    pub(crate) fn key(&self, key: &str) -> Self {
        self.step(Step::Key(key.to_owned()))
    }

    pub(crate) fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.0
    }

    fn step(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl FromIterator<Step> for KeyPath {
    fn from_iter<I: IntoIterator<Item = Step>>(steps: I) -> Self {
        Self(steps.into_iter().collect())
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    if position > 0 {
                        f.write_str(".")?;
                    }
                    // A pool may be called `a.b`; quotes keep the path readable.
                    let quote = if key.contains('.') { "\"" } else { "" };
                    write!(f, "{quote}{key}{quote}")?;
                }
            }
        }
        Ok(())
    }
}

/// A fault whose file is not known yet: the rules see only the merged document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) path: KeyPath,
    pub(crate) reason: String,
}

impl Fault {
    pub(crate) fn new(path: KeyPath, reason: impl Into<String>) -> Self {
        Self {
            path,
            reason: reason.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_reason_key_and_file() {
        let path = KeyPath::of(&["pools", "a.b", "users"])
            .index(2)
            .key("pool_size");
        let error = ConfigError {
            file: "x.toml".into(),
            key: path.to_string(),
            reason: "bad".into(),
        };
        let text = error.to_string();
        assert_eq!(
            text,
            "Configuration error: bad (pools.\"a.b\".users[2].pool_size in x.toml)"
        );
        let error = ConfigError {
            key: String::new(),
            ..error
        };
        assert_eq!(error.to_string(), "Configuration error: bad (x.toml)");
    }
}
