//! Maps from names of the system, or of certificates, to names of users.
//!
//! ```text
//!  line = MAP SYSTEM-NAME USER comment?
//!  SYSTEM-NAME = name | /regular expression      USER = name | all | "\1" for what the group has matched
//! ```
//!
//! **Owns:** this syntax, and what a map says of two names.
//! **Does not own:** where names come from (`session::proofs`).
//! **Invariants:** a line that cannot be read is an error; without a map the names must be equal.
//!
//! Source: PostgreSQL manual `auth-username-maps.html`.

use std::fmt;

use regex_lite::{Regex, RegexBuilder};

use super::hba::{HbaNote, split_fields};

/// The largest compiled expression, in bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// All maps of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IdentMaps {
    lines: Vec<IdentLine>,
}

#[derive(Clone, Debug, PartialEq)]
struct IdentLine {
    map: String,
    system: SystemName,
    user: UserName,
}

#[derive(Clone)]
enum SystemName {
    Exact(String),
    Pattern(Regex),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum UserName {
    All,
    Exact(String),
    /// The text around what the expression's first group matches.
    Group(String, String),
}

impl fmt::Debug for SystemName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Pattern(regex) => write!(f, "/{}", regex.as_str()),
        }
    }
}

impl PartialEq for SystemName {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(one), Self::Exact(two)) => one == two,
            (Self::Pattern(one), Self::Pattern(two)) => one.as_str() == two.as_str(),
            _ => false,
        }
    }
}

impl IdentMaps {
    /// Reads all lines of `text`.
    ///
    /// # Errors
    ///
    /// The first line that cannot be read.
    pub fn parse(text: &str) -> Result<Self, HbaNote> {
        let mut lines = Vec::new();
        for (line, fields) in split_fields(text)? {
            let note = |reason: String| HbaNote { line, reason };
            match fields.as_slice() {
                [] => {}
                [map, system, user] => {
                    lines.push(IdentLine::new(map, system, user).map_err(note)?);
                }
                _ => return Err(note("3 fields expected: map, system name, user".to_owned())),
            }
        }
        Ok(Self { lines })
    }

    /// True if `map` says that whoever is `system` may log in as `user`. Without a map: if the two
    /// are equal.
    pub fn allows(&self, map: Option<&str>, system: &str, user: &str) -> bool {
        let Some(map) = map else {
            return system == user;
        };
        let mut lines = self.lines.iter().filter(|line| line.map == map);
        lines.any(|line| line.allows(system, user))
    }

    /// True if there is a line of `map`.
    pub fn contains(&self, map: &str) -> bool {
        self.lines.iter().any(|line| line.map == map)
    }
}

impl IdentLine {
    fn new(map: &str, system: &str, user: &str) -> Result<Self, String> {
        let system = match system.strip_prefix('/') {
            None => SystemName::Exact(system.to_owned()),
            Some(pattern) => {
                let regex = RegexBuilder::new(pattern)
                    .size_limit(REGEX_BYTES_MAX)
                    .build();
                let regex = regex.map_err(|error| format!("'/{pattern}': {error}"))?;
                SystemName::Pattern(regex)
            }
        };
        if user.starts_with(['/', '+']) {
            return Err(format!("'{user}': the user is a name or 'all'"));
        }
        let user = match (&system, user.split_once("\\1")) {
            (SystemName::Pattern(regex), Some((before, after))) => {
                if regex.captures_len() < 2 {
                    return Err(format!("'{user}' needs a group in the expression"));
                }
                UserName::Group(before.to_owned(), after.to_owned())
            }
            _ if user == "all" => UserName::All,
            _ => UserName::Exact(user.to_owned()),
        };
        Ok(Self {
            map: map.to_owned(),
            system,
            user,
        })
    }

    fn allows(&self, system: &str, user: &str) -> bool {
        let group = match &self.system {
            SystemName::Exact(name) if name == system => "",
            SystemName::Exact(_) => return false,
            SystemName::Pattern(regex) => match regex.captures(system) {
                None => return false,
                Some(found) => found.get(1).map_or("", |group| group.as_str()),
            },
        };
        match &self.user {
            UserName::All => true,
            UserName::Exact(name) => name == user,
            UserName::Group(before, after) => user
                .strip_prefix(before.as_str())
                .and_then(|rest| rest.strip_suffix(after.as_str()))
                .is_some_and(|rest| rest == group),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn maps() -> IdentMaps {
        IdentMaps::parse(
            "# comment\nm  root  app\nm root postgres\nall root all\n\
             r /^(.*)@example\\.com$ \\1\nr /^(.*)@guest$ guest_\\1\nr \"a b\" \"c d\"",
        )
        .unwrap()
    }

    #[test]
    fn a_map_lets_in_whom_it_names() {
        let maps = maps();
        for (map, system, user, expected) in [
            (None, "app", "app", true),
            (None, "app", "App", false),
            (Some("m"), "root", "app", true),
            (Some("m"), "root", "postgres", true),
            (Some("m"), "root", "root", false),
            (Some("m"), "app", "app", false),
            (Some("none"), "app", "app", false),
            (Some("all"), "root", "anybody", true),
            (Some("r"), "bob@example.com", "bob", true),
            (Some("r"), "bob@example.com", "alice", false),
            (Some("r"), "bob@example.com.evil", "bob", false),
            (Some("r"), "bob@guest", "guest_bob", true),
            (Some("r"), "bob@guest", "bob", false),
            (Some("r"), "a b", "c d", true),
        ] {
            assert_eq!(
                maps.allows(map, system, user),
                expected,
                "{map:?} {system} {user}"
            );
        }
        assert!(maps.contains("r") && !maps.contains("x"));
    }

    #[test]
    fn a_line_that_cannot_be_read_is_an_error() {
        for text in [
            "m root",
            "m root app more",
            "m /( app",
            "m /^x$ \\1",
            "m root +app",
            "m root \"app",
        ] {
            let error = IdentMaps::parse(&format!("\n{text}")).unwrap_err();
            assert_eq!(error.line, 2, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_maps_or_an_error(text: String, system: String, user: String) {
            if let Ok(maps) = IdentMaps::parse(&text) {
                maps.allows(Some("m"), &system, &user);
            }
        }
    }
}
