//! Tokens of Talos: a client is not a user of a database but has a role in it.
//!
//! **Owns:** the claims, and which role they give.
//! **Does not own:** signatures and times (`jwt`), who may send such a token (`hba`).
//! **Invariant:** a role that is not known gives nothing, not even if others are named with it.
//!
//! ```text
//!   resource_access = { "prefix:name": { "roles": [ role, … ] }, … }
//!   of the names that are configured, the highest role counts: owner > read_write > read_only
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

use crate::config;

use super::jwt::{KeyError, TokenError, TokenKeys, TokenRules, header};

/// The name of the user that stands for all clients with such tokens.
pub const USER: &str = "talos";

/// Keys by their ids, and the resources that count.
#[derive(Debug, Default)]
pub struct Talos {
    keys: BTreeMap<String, TokenKeys>,
    databases: Vec<String>,
}

/// What a client may do. The name is that of a user of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    ReadOnly,
    /// Look and change.
    ReadWrite,
    /// Everything.
    Owner,
}

impl Role {
    /// The name of the user that clients with this role become.
    pub const fn user(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::ReadOnly => "read_only",
            Self::ReadWrite => "read_write",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Owner, Self::ReadOnly, Self::ReadWrite]
            .into_iter()
            .find(|role| role.user() == name)
    }
}

/// Who has sent a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The name of the client, for statistics.
    pub client_id: String,
    /// What it may do.
    pub role: Role,
}

/// Why a token gives no role.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TalosError {
    /// It gives no role in a resource that counts.
    NoRole,
    /// The token is not acceptable.
    Token(TokenError),
    /// It names a role that does not exist.
    UnknownRole,
}

impl fmt::Display for TalosError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRole => f.write_str("the token gives no role in a database"),
            Self::Token(error) => error.fmt(f),
            Self::UnknownRole => f.write_str("the token names an unknown role"),
        }
    }
}

impl std::error::Error for TalosError {}

impl From<TokenError> for TalosError {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

#[derive(Debug, Deserialize)]
struct Claims {
    #[serde(rename = "clientId")]
    client_id: Option<String>,
    resource_access: Option<BTreeMap<String, Access>>,
}

#[derive(Debug, Deserialize)]
struct Access {
    #[serde(default)]
    roles: Vec<String>,
}

impl Talos {
    /// With keys as (id, text of the file), for these resources.
    ///
    /// # Errors
    ///
    /// [`KeyError`]: the first key that cannot be used.
    pub fn new<'a>(
        keys: impl Iterator<Item = (String, &'a str)>,
        databases: Vec<String>,
    ) -> Result<Self, KeyError> {
        let keys = keys.map(|(id, text)| Ok((id, TokenKeys::parse(text)?)));
        Ok(Self {
            keys: keys.collect::<Result<_, KeyError>>()?,
            databases,
        })
    }

    /// As the configuration says.
    ///
    /// # Errors
    ///
    /// [`KeyError`]: the first key that cannot be used.
    pub fn configured(config: &config::Talos) -> Result<Self, KeyError> {
        let id = |path: &PathBuf| {
            let stem = path.file_stem().unwrap_or_default();
            stem.to_string_lossy().into_owned()
        };
        let texts = config.key_texts.iter().map(|text| text.expose());
        Self::new(
            config.keys.iter().map(id).zip(texts),
            config.databases.clone(),
        )
    }

    /// Checks a token. Audience and issuer are not asked for.
    ///
    /// # Errors
    ///
    /// [`TalosError`].
    pub fn check(&self, token: &str, now: u64) -> Result<Bearer, TalosError> {
        let id = header(token)?.kid.ok_or(TokenError::UnknownKey)?;
        let keys = self.keys.get(&id).ok_or(TokenError::UnknownKey)?;
        let rules = TokenRules {
            now,
            ..TokenRules::default()
        };
        let claims: Claims = keys.check(token, &rules)?;
        let client_id = claims.client_id.ok_or(TokenError::Claim("clientId"))?;
        let access = claims.resource_access;
        let access = access.ok_or(TokenError::Claim("resource_access"))?;
        let counts = |resource: &str| {
            let name = resource.split_once(':').map(|(_, name)| name);
            name.is_some_and(|name| self.databases.iter().any(|database| database == name))
        };
        let mut highest = None;
        let named = access.iter().filter(|(resource, _)| counts(resource));
        for role in named.flat_map(|(_, access)| &access.roles) {
            let role = Role::parse(role).ok_or(TalosError::UnknownRole)?;
            highest = highest.max(Some(role));
        }
        let role = highest.ok_or(TalosError::NoRole)?;
        Ok(Bearer { client_id, role })
    }
}

#[cfg(test)]
mod tests {
    use super::super::jwt::tests::{RSA_PUBLIC, token_with};
    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn talos() -> Talos {
        let keys = [("key1".to_owned(), RSA_PUBLIC.as_str())];
        Talos::new(keys.into_iter(), vec!["db".to_owned(), "db:x".to_owned()]).unwrap()
    }

    fn check(kid: &str, access: &str) -> Result<Bearer, TalosError> {
        let header = format!("{{\"alg\":\"RS256\",\"kid\":\"{kid}\"}}");
        let claims = format!(
            "{{\"exp\":{},\"clientId\":\"svc\",\"resource_access\":{access}}}",
            NOW + 10
        );
        talos().check(&token_with(&header, &claims), NOW)
    }

    #[test]
    fn the_highest_role_in_a_configured_resource_counts() {
        for (access, role) in [
            (r#"{"pg:db":{"roles":["read_only"]}}"#, Role::ReadOnly),
            (
                r#"{"pg:db":{"roles":["read_only","owner","read_write"]}}"#,
                Role::Owner,
            ),
            (
                r#"{"pg:db":{"roles":["read_only"]},"x:db:x":{"roles":["read_write"]}}"#,
                Role::ReadWrite,
            ),
            (
                r#"{"pg:db":{"roles":["read_only"]},"pg:other":{"roles":["owner"]}}"#,
                Role::ReadOnly,
            ),
        ] {
            let bearer = check("key1", access).unwrap();
            assert_eq!(bearer.role, role, "{access}");
            assert_eq!(bearer.client_id, "svc");
        }
    }

    #[test]
    fn what_gives_no_role_is_refused() {
        for (access, error) in [
            ("{}", TalosError::NoRole),
            (r#"{"db":{"roles":["owner"]}}"#, TalosError::NoRole),
            (r#"{"pg:db":{"roles":[]}}"#, TalosError::NoRole),
            (r#"{"pg:db":{}}"#, TalosError::NoRole),
            (
                r#"{"pg:db":{"roles":["owner","god"]}}"#,
                TalosError::UnknownRole,
            ),
            ("null", TokenError::Claim("resource_access").into()),
        ] {
            assert_eq!(check("key1", access), Err(error), "{access}");
        }
        let unknown = Err(TokenError::UnknownKey.into());
        assert_eq!(check("key2", r#"{"pg:db":{"roles":["owner"]}}"#), unknown);
    }
}
