//! Values of the keys about listening: several addresses, and the rights of a socket file.
//!
//! ```text
//!  host  = text | [ text, … ]        each text is names and addresses with "," between them
//!  mode  = text of three or four octal digits
//! ```
//!
//! **Owns:** this grammar and its error texts.
//! **Does not own:** looking names up and binding (`app::listen`).
//! **Invariant:** a mode gives no rights beyond reading and writing by owner, group and others, as a
//! socket needs no others.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// The addresses to listen on, as written: joined by `,` if they were a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostList(pub(crate) String);

impl<'de> Deserialize<'de> for HostList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HostListVisitor)
    }
}

struct HostListVisitor;

impl<'de> Visitor<'de> for HostListVisitor {
    type Value = HostList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address, or a list of addresses")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<HostList, E> {
        Ok(HostList(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<HostList, A::Error> {
        let mut hosts = Vec::new();
        while let Some(host) = seq.next_element::<String>()? {
            hosts.push(host);
        }
        Ok(HostList(hosts.join(", ")))
    }
}

/// The single names and addresses of `general.host`.
pub fn hosts(written: &str) -> impl Iterator<Item = &str> {
    written
        .split(',')
        .map(str::trim)
        .filter(|host| !host.is_empty())
}

/// The rights of a socket file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileMode(pub(crate) u32);

impl FileMode {
    fn parse(text: &str) -> Option<Self> {
        let is_octal = text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        let mode = u32::from_str_radix(text, 8).ok()?;
        (is_octal && (3..=4).contains(&text.len()) && mode <= 0o777).then_some(Self(mode))
    }
}

impl<'de> Deserialize<'de> for FileMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            Error::custom(format!(
                "invalid mode: '{text}'. Expected octal digits as in \"0770\""
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_digits() {
        for (text, expected) in [
            ("0600", Some(0o600)),
            ("777", Some(0o777)),
            ("0000", Some(0)),
            ("1777", None),
            ("0o77", None),
            ("+777", None),
            ("0888", None),
            ("77", None),
            ("", None),
        ] {
            assert_eq!(FileMode::parse(text).map(|mode| mode.0), expected, "{text}");
        }
    }

    #[test]
    fn addresses_stand_between_commas() {
        let found = |text| hosts(text).collect::<Vec<_>>();
        assert_eq!(found("0.0.0.0"), ["0.0.0.0"]);
        assert_eq!(
            found(" ::1 ,[::],db.example,"),
            ["::1", "[::]", "db.example"]
        );
        assert_eq!(found(" , "), [""; 0]);
    }
}
