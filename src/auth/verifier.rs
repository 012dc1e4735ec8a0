//! What is stored for a user, and which method follows from its form.
//!
//! **Owns:** telling the forms of a configured password apart.
//! **Does not own:** reading files, verifying anything (`scram`, `md5`).
//! **Invariants:** every text has a form; no `Debug` or `Display` shows a secret.
//!
//! Source: PostgreSQL documentation, `catalog-pg-authid.html` (`rolpassword`).

use std::fmt;
use std::path::PathBuf;

use zeroize::ZeroizeOnDrop;

use super::error::VerifierError;
use super::md5::Md5Secret;
use super::scram::{MECHANISM, ScramVerifier};

const JWT_PUBLIC_KEY_PREFIX: &str = "jwt-pkey-fpath:";

/// A configured password, by form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredPassword {
    /// Nothing: only `trust` lets this user in.
    Empty,
    /// Meant as a SCRAM secret, but unusable. Such a user cannot log in with a password.
    InvalidScram(VerifierError),
    /// The "password" a client sends is a token, checked with the public key in this file.
    JwtPublicKey(PathBuf),
    /// An md5 secret.
    Md5(Md5Secret),
    /// Anything else, presumably a password in clear, which is not supported for clients.
    Other(PlainPassword),
    /// A SCRAM secret.
    Scram(ScramVerifier),
}

impl StoredPassword {
    /// Recognises the form of `text`.
    pub fn parse(text: &str) -> Self {
        if text.is_empty() {
            Self::Empty
        } else if text.starts_with(MECHANISM) {
            ScramVerifier::parse(text).map_or_else(Self::InvalidScram, Self::Scram)
        } else if let Some(path) = text.strip_prefix(JWT_PUBLIC_KEY_PREFIX) {
            Self::JwtPublicKey(PathBuf::from(path))
        } else if let Some(secret) = Md5Secret::parse(text) {
            Self::Md5(secret)
        } else {
            Self::Other(PlainPassword(text.to_owned()))
        }
    }
}

/// A password in clear; prints as dots.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct PlainPassword(String);

impl PlainPassword {
    /// The password. The name is long so that a reviewer stops here.
    pub fn expose_secret(&self) -> &str {
        &self.0
    }
}

impl From<String> for PlainPassword {
    fn from(password: String) -> Self {
        Self(password)
    }
}

impl fmt::Debug for PlainPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainPassword(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAM: &str = "SCRAM-SHA-256$4096:ql5yHK9m4GoQsKuKdUKR7Q==$\
        2B4RQVJjF9JDqaEJ8ARwpfFq95f+8qAvfVN1alCEjL4=:jjPCIQ4UDZqT0m5pfmop7rT6RPJB7acLnyugxHY9r+Q=";
    const MD5: &str = "md58bbf3f45673bf67d02e4214911f3417f";

    #[test]
    fn every_form_is_recognised() {
        assert!(matches!(StoredPassword::parse(""), StoredPassword::Empty));
        assert!(matches!(
            StoredPassword::parse(SCRAM),
            StoredPassword::Scram(_)
        ));
        assert!(matches!(StoredPassword::parse(MD5), StoredPassword::Md5(_)));
        assert!(matches!(
            StoredPassword::parse("md5"),
            StoredPassword::Other(_)
        ));
        assert!(matches!(
            StoredPassword::parse("secret"),
            StoredPassword::Other(_)
        ));
        assert!(matches!(
            StoredPassword::parse("SCRAM-SHA-256$4096"),
            StoredPassword::InvalidScram(VerifierError::Malformed)
        ));
        let jwt = StoredPassword::parse("jwt-pkey-fpath:/etc/key.pem");
        assert_eq!(
            jwt,
            StoredPassword::JwtPublicKey(PathBuf::from("/etc/key.pem"))
        );
    }

    #[test]
    fn no_secret_is_printed() {
        for (text, secret) in [
            (SCRAM, "2B4RQ"),
            (SCRAM, "ql5y"),
            (MD5, "8bbf"),
            ("pencil", "penc"),
        ] {
            let printed = format!("{:?}", StoredPassword::parse(text));
            assert!(!printed.contains(secret), "{printed}");
        }
        let keys = super::super::scram::derive_keys("pencil", b"salt", 1).unwrap();
        assert_eq!(format!("{keys:?}"), "ScramKeys(..)");
    }
}
