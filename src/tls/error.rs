//! Why keys and certificates cannot be used.
//!
//! **Owns:** the reasons and their texts, which name the key of the configuration and the file.
//! **Does not own:** failures of single connections (`transport`).

use std::fmt;
use std::path::{Path, PathBuf};

/// What is wrong with a file or a setting. Blame: configuration. Retry: after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    /// The key of the configuration.
    pub key: String,
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// What is wrong.
    pub reason: String,
}

impl TlsError {
    pub(super) fn new(key: &str, file: Option<&Path>, reason: impl fmt::Display) -> Self {
        Self {
            key: key.to_owned(),
            file: file.map(Path::to_owned),
            reason: reason.to_string(),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tls is incorrectly configured: {}", self.key)?;
        if let Some(file) = &self.file {
            write!(f, " ({})", file.display())?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for TlsError {}
