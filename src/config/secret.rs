//! A string that must not appear in logs.
//!
//! **Owns:** hiding the text from `Debug`, wiping its memory at the end.
//! **Does not own:** comparing secrets in constant time (`auth`).
//! **Invariant:** the only way to the text is [`Secret::expose`], which is easy to search for.

use std::fmt;

use serde::Deserialize;
use zeroize::Zeroize as _;

/// A password or a verifier. `Debug` prints `***`; there is no `Display`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Callers take care that it does not reach a log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_hides_the_text() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
        assert_eq!(Secret::new("hunter2").expose(), "hunter2");
    }
}
