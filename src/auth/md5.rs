//! The md5 password method.
//!
//! **Owns:** the stored md5 form and the answer to a challenge.
//! **Does not own:** the salt's randomness, messages.
//! **Invariants:** the stored form is as good as the password and is never printed; answers are
//! compared in constant time.
//!
//! ```text
//!   stored form   "md5" hex(md5(password user))
//!   answer        "md5" hex(md5(hex(md5(password user)) salt))
//! ```
//!
//! Source: PostgreSQL documentation, `protocol-flow.html` (`AuthenticationMD5Password`),
//! `catalog-pg-authid.html`.

use std::fmt;

use md5::{Digest as _, Md5};
use subtle::ConstantTimeEq as _;
use zeroize::ZeroizeOnDrop;

use crate::config::Secret;

const PREFIX: &str = "md5";
const DIGEST_BYTES: usize = 16;

/// A stored md5 secret.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct Md5Secret {
    digest: [u8; DIGEST_BYTES],
}

impl Md5Secret {
    /// The secret of `user` with this password.
    pub fn from_password(password: &str, user: &str) -> Self {
        Self {
            digest: digest(&[password.as_bytes(), user.as_bytes()]),
        }
    }

    /// Whether this is what is stored of `user` with this password.
    pub fn is_of(&self, password: &Secret, user: &str) -> bool {
        let given = Self::from_password(password.expose(), user);
        given.digest.ct_eq(&self.digest).into()
    }

    /// Reads `md5` and 32 hexadecimal digits; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?.as_bytes();
        let mut digest = [0; DIGEST_BYTES];
        if digits.len() != 2 * DIGEST_BYTES {
            return None;
        }
        for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
            for digit in pair {
                *byte = *byte << 4 | char::from(*digit).to_digit(16)? as u8;
            }
        }
        Some(Self { digest })
    }

    /// The text [`Self::parse`] reads. A secret; not for logs.
    pub fn to_secret_text(&self) -> String {
        format!("{PREFIX}{}", hex(&self.digest))
    }

    /// The answer to a challenge with `salt`. A server accepts it from whoever knows the stored
    /// form, so the password itself is not needed to log in.
    pub fn response(&self, salt: [u8; 4]) -> String {
        format!(
            "{PREFIX}{}",
            hex(&digest(&[hex(&self.digest).as_bytes(), &salt]))
        )
    }

    /// Whether `response` answers the challenge with `salt`.
    pub fn verify(&self, salt: [u8; 4], response: &[u8]) -> bool {
        self.response(salt).as_bytes().ct_eq(response).into()
    }
}

impl fmt::Debug for Md5Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Secret(..)")
    }
}

fn digest(parts: &[&[u8]]) -> [u8; DIGEST_BYTES] {
    let mut hasher = Md5::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Written by PostgreSQL 15 for `create role m password 'pencil'`.
    const FROM_SERVER: &str = "md58bbf3f45673bf67d02e4214911f3417f";

    #[test]
    fn the_stored_form_is_the_servers() {
        let secret = Md5Secret::from_password("pencil", "m");
        assert_eq!(secret.to_secret_text(), FROM_SERVER);
        assert_eq!(Md5Secret::parse(FROM_SERVER), Some(secret.clone()));
        assert_eq!(
            Md5Secret::parse(&FROM_SERVER.replace("bbf", "BBF")),
            Some(secret)
        );
    }

    #[test]
    fn only_the_answer_to_this_salt_is_right() {
        let secret = Md5Secret::from_password("pencil", "m");
        let response = secret.response(*b"salt");
        assert_eq!(response.len(), 35);
        assert!(secret.verify(*b"salt", response.as_bytes()));
        assert!(!secret.verify(*b"SALT", response.as_bytes()));
        assert!(!secret.verify(*b"salt", &response.as_bytes()[..34]));
        assert!(!secret.verify(*b"salt", b""));
        assert!(!secret.verify(*b"salt", FROM_SERVER.as_bytes()));
    }

    proptest! {
        #[test]
        fn a_stored_form_reads_back(password: String, user: String) {
            let secret = Md5Secret::from_password(&password, &user);
            prop_assert_eq!(Md5Secret::parse(&secret.to_secret_text()), Some(secret));
        }

        #[test]
        fn any_text_parses_or_not(text in "md5[0-9a-fA-Fxé]{31,33}|.*") {
            let valid = text.len() == 35
                && text.starts_with("md5")
                && text[3..].bytes().all(|b| b.is_ascii_hexdigit());
            prop_assert_eq!(Md5Secret::parse(&text).is_some(), valid);
        }
    }
}
