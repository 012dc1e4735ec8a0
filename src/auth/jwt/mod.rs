//! Signed tokens: those that clients send as passwords, and those that we send to servers.
//!
//! **Owns:** reading keys, verifying and making tokens, the rules about their claims.
//! **Does not own:** files and the clock, which are arguments.
//! **Invariants:** a key decides the algorithm, the token does not: a token that names another one, or
//! none, is refused before anything is computed. A token without an end is refused. What is wrong
//! with a token is for the log; the client is told one sentence.
//!
//! Verifying costs 20 µs (RSA) to 80 µs (P-256), which a shard does itself, one a turn. Signing with
//! RSA costs a third of a millisecond and is an errand.
//!
//! Source: RFC 7515, RFC 7517, RFC 7519, RFC 8725.

use std::fmt;

use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[cfg(test)]
pub(super) mod tests;

/// The most keys of a set.
const KEYS_MAX: usize = 64;
/// The most keys that are tried for a token that does not name its key.
const TRIES_MAX: usize = 4;
/// How long a token for a server is good, in seconds.
pub const SERVER_TOKEN_SECONDS: u64 = 120;

/// Why a file with keys cannot be used. Blame the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyError(String);

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for KeyError {}

/// Why a token was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenError {
    /// It names an algorithm that no key is for, or none.
    Algorithm,
    /// It is for somebody else.
    Audience,
    /// A claim is missing or of a wrong type.
    Claim(&'static str),
    /// Its time is over.
    Expired,
    /// It comes from somebody else.
    Issuer,
    /// It is not a signed token.
    Malformed,
    /// Its time has not come.
    NotYetValid,
    /// No key has made its signature.
    Signature,
    /// It names a key that is not known.
    UnknownKey,
    /// It is another user's.
    User {
        /// Whose.
        named: String,
    },
}

impl TokenError {
    /// What the client is told, who wants to be `user`.
    pub fn client_message(&self, user: &str) -> String {
        match self {
            Self::User { named } => format!(
                "JWT token username mismatch. Token contains username '{named}' but you're trying \
                 to connect as '{user}'."
            ),
            _ => "JWT token validation failed. Please provide a valid token.".to_owned(),
        }
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Algorithm => f.write_str("the token names an algorithm that no key is for"),
            Self::Audience => f.write_str("the token is for another audience"),
            Self::Claim(name) => write!(f, "the token has no valid claim '{name}'"),
            Self::Expired => f.write_str("the token has expired"),
            Self::Issuer => f.write_str("the token comes from another issuer"),
            Self::Malformed => f.write_str("this is not a signed token"),
            Self::NotYetValid => f.write_str("the token is not valid yet"),
            Self::Signature => f.write_str("the signature of the token is wrong"),
            Self::UnknownKey => f.write_str("the token names an unknown key"),
            Self::User { .. } => f.write_str("the token is for another user"),
        }
    }
}

impl std::error::Error for TokenError {}

/// What is asked of every token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenRules<'a> {
    /// One of its audiences, if configured.
    pub audience: Option<&'a str>,
    /// Its issuer, if configured.
    pub issuer: Option<&'a str>,
    /// Now, in seconds since 1970.
    pub now: u64,
}

/// One public key.
#[derive(Clone)]
struct PublicKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// Public keys that tokens are checked with.
#[derive(Clone)]
pub struct TokenKeys(Vec<PublicKey>);

impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKeys({})", self.0.len())
    }
}

/// Claims that every token has.
#[derive(Debug, Deserialize)]
struct TimeClaims {
    exp: Option<f64>,
    nbf: Option<f64>,
    iss: Option<String>,
    aud: Option<OneOrMore>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Debug, Deserialize)]
struct Claims<T> {
    #[serde(flatten)]
    time: TimeClaims,
    #[serde(flatten)]
    own: T,
}

#[derive(Debug, Deserialize)]
struct UserClaims {
    preferred_username: Option<String>,
}

impl TokenKeys {
    /// Reads a public key in PEM, or a set of keys in JSON. Keys of a set that are for other
    /// purposes or algorithms are left out.
    ///
    /// # Errors
    ///
    /// [`KeyError`]: there is no key that can be used.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.trim_start().starts_with('{') {
            return Self::parse_set(text);
        }
        let pem = text.as_bytes();
        let rsa = DecodingKey::from_rsa_pem(pem).map(|key| (Algorithm::RS256, key));
        let found =
            rsa.or_else(|_| DecodingKey::from_ec_pem(pem).map(|key| (Algorithm::ES256, key)));
        let (algorithm, key) =
            found.map_err(|_| KeyError("no public key of RSA or of the curve P-256".to_owned()))?;
        Ok(Self(vec![PublicKey {
            id: None,
            algorithm,
            key,
        }]))
    }

    fn parse_set(text: &str) -> Result<Self, KeyError> {
        let set: JwkSet = serde_json::from_str(text)
            .map_err(|error| KeyError(format!("not a set of keys: {error}")))?;
        if set.keys.len() > KEYS_MAX {
            return Err(KeyError(format!("more than {KEYS_MAX} keys")));
        }
        let keys: Vec<PublicKey> = set.keys.iter().filter_map(PublicKey::of_set).collect();
        if keys.is_empty() {
            return Err(KeyError("no key for RS256 or ES256".to_owned()));
        }
        Ok(Self(keys))
    }

    /// Checks a token that says that its bearer is `user`.
    ///
    /// # Errors
    ///
    /// [`TokenError`].
    pub fn check_user(
        &self,
        token: &str,
        user: &str,
        rules: &TokenRules<'_>,
    ) -> Result<(), TokenError> {
        let claims: UserClaims = self.check(token, rules)?;
        match claims.preferred_username {
            None => Err(TokenError::Claim("preferred_username")),
            Some(named) if named != user => Err(TokenError::User { named }),
            Some(_) => Ok(()),
        }
    }

    /// Checks a token and returns its other claims.
    pub(super) fn check<T: DeserializeOwned>(
        &self,
        token: &str,
        rules: &TokenRules<'_>,
    ) -> Result<T, TokenError> {
        let header = header(token)?;
        let fitting = self.0.iter().filter(|key| key.algorithm == header.alg);
        let mut candidates: Vec<&PublicKey> = fitting.collect();
        if candidates.is_empty() {
            return Err(TokenError::Algorithm);
        }
        if let Some(id) = &header.kid {
            candidates.retain(|key| key.id.as_ref().is_none_or(|known| known == id));
        }
        if candidates.is_empty() {
            return Err(TokenError::UnknownKey);
        }
        let mut outcome = Err(TokenError::Signature);
        for key in candidates.into_iter().take(TRIES_MAX) {
            outcome = key.open::<Claims<T>>(token);
            if outcome != Err(TokenError::Signature) {
                break;
            }
        }
        let claims = outcome?;
        claims.time.check(rules)?;
        Ok(claims.own)
    }
}

/// Equal only in how they have failed.
impl<T> PartialEq for Claims<T> {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl PublicKey {
    fn of_set(jwk: &Jwk) -> Option<Self> {
        if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
            return None;
        }
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
                Algorithm::ES256
            }
            _ => return None,
        };
        let is_meant = match jwk.common.key_algorithm {
            None => true,
            Some(KeyAlgorithm::RS256) => algorithm == Algorithm::RS256,
            Some(KeyAlgorithm::ES256) => algorithm == Algorithm::ES256,
            Some(_) => false,
        };
        let key = DecodingKey::from_jwk(jwk).ok().filter(|_| is_meant)?;
        let id = jwk.common.key_id.clone();
        Some(Self { id, algorithm, key })
    }

    /// Verifies the signature. Times are looked at later, against the caller's clock.
    fn open<T: DeserializeOwned>(&self, token: &str) -> Result<T, TokenError> {
        use jsonwebtoken::errors::ErrorKind;

        let mut validation = Validation::new(self.algorithm);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let opened = jsonwebtoken::decode::<T>(token, &self.key, &validation);
        opened
            .map(|data| data.claims)
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidAlgorithm => TokenError::Algorithm,
                ErrorKind::Json(_) => TokenError::Claim("(of a wrong type)"),
                ErrorKind::Base64(_) | ErrorKind::InvalidToken | ErrorKind::Utf8(_) => {
                    TokenError::Malformed
                }
                _ => TokenError::Signature,
            })
    }
}

/// What a token says of itself. Nothing of it is believed but the choice among known keys.
pub(super) fn header(token: &str) -> Result<Header, TokenError> {
    let header = jsonwebtoken::decode_header(token).map_err(|error| {
        use jsonwebtoken::errors::ErrorKind;
        match error.kind() {
            // Also `none`, which the type does not have.
            ErrorKind::Json(_) | ErrorKind::InvalidAlgorithmName => TokenError::Algorithm,
            _ => TokenError::Malformed,
        }
    })?;
    // An extension that must be understood, and none is.
    if header.crit.is_some() {
        return Err(TokenError::Malformed);
    }
    Ok(header)
}

impl TimeClaims {
    fn check(&self, rules: &TokenRules<'_>) -> Result<(), TokenError> {
        let now = rules.now as f64;
        match self.exp {
            None => return Err(TokenError::Claim("exp")),
            Some(exp) if exp.is_nan() || now > exp => return Err(TokenError::Expired),
            Some(_) => {}
        }
        if self.nbf.is_some_and(|nbf| nbf.is_nan() || now < nbf) {
            return Err(TokenError::NotYetValid);
        }
        if let Some(wanted) = rules.issuer
            && self.iss.as_deref() != Some(wanted)
        {
            return Err(TokenError::Issuer);
        }
        if let Some(wanted) = rules.audience {
            let is_named = match &self.aud {
                None => false,
                Some(OneOrMore::One(name)) => name == wanted,
                Some(OneOrMore::More(names)) => names.iter().any(|name| name == wanted),
            };
            if !is_named {
                return Err(TokenError::Audience);
            }
        }
        Ok(())
    }
}

/// The private key that tokens for servers are signed with.
#[derive(Clone)]
pub struct SigningKey {
    algorithm: Algorithm,
    key: EncodingKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

#[derive(Serialize)]
struct ServerClaims<'a> {
    preferred_username: &'a str,
    exp: u64,
}

impl SigningKey {
    /// Reads a private key in PEM.
    ///
    /// # Errors
    ///
    /// [`KeyError`]: it is no key of RSA or of the curve P-256.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let pem = text.as_bytes();
        let rsa = EncodingKey::from_rsa_pem(pem).map(|key| (Algorithm::RS256, key));
        let found =
            rsa.or_else(|_| EncodingKey::from_ec_pem(pem).map(|key| (Algorithm::ES256, key)));
        let (algorithm, key) = found
            .map_err(|_| KeyError("no private key of RSA or of the curve P-256".to_owned()))?;
        let key = Self { algorithm, key };
        // A file may look right and hold nonsense.
        key.sign("", 0)?;
        Ok(key)
    }

    /// A token that says that its bearer is `user`, from `now` on, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// [`KeyError`]: the key cannot sign.
    pub fn sign(&self, user: &str, now: u64) -> Result<String, KeyError> {
        let claims = ServerClaims {
            preferred_username: user,
            exp: now + SERVER_TOKEN_SECONDS,
        };
        jsonwebtoken::encode(&Header::new(self.algorithm), &claims, &self.key)
            .map_err(|_| KeyError("the private key cannot sign".to_owned()))
    }
}
