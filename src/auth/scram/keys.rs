//! The keys of SCRAM-SHA-256 and what is computed with them.
//!
//! **Owns:** key derivation, proofs and signatures, the textual form of a stored secret.
//! **Does not own:** messages (`message`), caching derived keys, threads for the derivation.
//! **Invariants:** secrets are not printed; comparisons take the same time wherever the values
//! differ.
//!
//! ```text
//!   SaltedPassword = PBKDF2(password, salt, iterations)          slow on purpose
//!   ClientKey      = HMAC(SaltedPassword, "Client Key")
//!   ServerKey      = HMAC(SaltedPassword, "Server Key")
//!   StoredKey      = SHA-256(ClientKey)                          what a server keeps
//!   proof          = ClientKey XOR HMAC(StoredKey, exchange)
//!   signature      = HMAC(ServerKey, exchange)
//! ```
//!
//! Source: RFC 5802, section 3; RFC 7677; PostgreSQL documentation, `catalog-pg-authid.html`.

use std::borrow::Cow;
use std::fmt;

use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, ZeroizeOnDrop};

use super::message::{self, ITERATIONS, KEY_BYTES, MECHANISM};
use crate::auth::error::{ScramError, VerifierError};

/// What a client needs to prove that it knows a password, without the password.
///
/// Valid for one salt and one iteration count.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct ScramKeys {
    /// `ClientKey`: as good as the password, for servers that store it with the same salt.
    pub client_key: [u8; KEY_BYTES],
    /// `ServerKey`: recognises the server.
    pub server_key: [u8; KEY_BYTES],
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramKeys(..)")
    }
}

impl ScramKeys {
    /// The proof for an exchange.
    pub(super) fn proof(&self, exchange: &[u8]) -> [u8; KEY_BYTES] {
        xor(
            self.client_key,
            hmac(&sha256(&self.client_key), &[exchange]),
        )
    }

    /// Whether `signature` shows that the server knows `ServerKey`.
    pub(super) fn is_server_signature(&self, exchange: &[u8], signature: &[u8; KEY_BYTES]) -> bool {
        hmac(&self.server_key, &[exchange]).ct_eq(signature).into()
    }
}

/// Derives keys from a password.
///
/// Costs two SHA-256 compressions an iteration: about a millisecond for PostgreSQL's 4096
/// iterations and seconds for the largest count, so never call it on a shard.
///
/// # Errors
///
/// [`ScramError::IterationsOutOfRange`].
pub fn derive_keys(password: &str, salt: &[u8], iterations: u32) -> Result<ScramKeys, ScramError> {
    if !ITERATIONS.contains(&iterations) {
        return Err(ScramError::IterationsOutOfRange { iterations });
    }
    let normalized = normalize(password);
    let mut salted: [u8; KEY_BYTES] =
        pbkdf2::pbkdf2_hmac_array::<Sha256, KEY_BYTES>(normalized.as_bytes(), salt, iterations);
    let keys = ScramKeys {
        client_key: hmac(&salted, &[b"Client Key"]),
        server_key: hmac(&salted, &[b"Server Key"]),
    };
    salted.zeroize();
    Ok(keys)
}

/// Prepares a password as PostgreSQL does: `SASLprep`, but a password that `SASLprep` refuses is
/// used as it is, and so is all of ASCII including control characters.
fn normalize(password: &str) -> Cow<'_, str> {
    if password.is_ascii() {
        return Cow::Borrowed(password);
    }
    match stringprep::saslprep(password) {
        // A password of nothing but ignorable characters is refused by the server's rules as well.
        Ok(prepared) if !prepared.is_empty() => prepared,
        Ok(_) | Err(_) => Cow::Borrowed(password),
    }
}

/// A stored secret: recognises a password without containing it.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct ScramVerifier {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: [u8; KEY_BYTES],
    pub(super) server_key: [u8; KEY_BYTES],
}

impl ScramVerifier {
    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, with base64 throughout.
    ///
    /// # Errors
    ///
    /// [`VerifierError`]: the text is a configuration mistake.
    pub fn parse(text: &str) -> Result<Self, VerifierError> {
        let verifier = Self::split(text).ok_or(VerifierError::Malformed)?;
        if !ITERATIONS.contains(&verifier.iterations) {
            return Err(VerifierError::IterationsOutOfRange);
        }
        Ok(verifier)
    }

    fn split(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(MECHANISM)?.strip_prefix('$')?;
        let (parameters, keys) = rest.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        Some(Self {
            iterations: message::iterations(iterations)?,
            salt: message::decode(salt).filter(|salt| !salt.is_empty())?,
            stored_key: message::key(stored_key)?,
            server_key: message::key(server_key)?,
        })
    }

    /// The stored secret for derived keys.
    ///
    /// # Errors
    ///
    /// [`VerifierError`] if salt or iteration count could not be offered to a client.
    pub fn from_keys(
        keys: &ScramKeys,
        salt: &[u8],
        iterations: u32,
    ) -> Result<Self, VerifierError> {
        if !ITERATIONS.contains(&iterations) {
            return Err(VerifierError::IterationsOutOfRange);
        }
        if salt.is_empty() {
            return Err(VerifierError::Malformed);
        }
        Ok(Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: sha256(&keys.client_key),
            server_key: keys.server_key,
        })
    }

    /// The text [`Self::parse`] reads. A secret; not for logs.
    pub fn to_secret_text(&self) -> String {
        format!(
            "{MECHANISM}${}:{}${}:{}",
            self.iterations,
            message::encode(&self.salt),
            message::encode(&self.stored_key),
            message::encode(&self.server_key),
        )
    }

    /// The salt a client has to use.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// The iteration count a client has to use.
    pub const fn iterations(&self) -> u32 {
        self.iterations
    }

    /// Whether these keys belong to the password this secret was made from.
    pub fn is_made_from(&self, keys: &ScramKeys) -> bool {
        let stored = sha256(&keys.client_key).ct_eq(&self.stored_key);
        (stored & keys.server_key.ct_eq(&self.server_key)).into()
    }

    /// Recovers `ClientKey` from a proof, or `None` if the proof is wrong.
    pub(super) fn check_proof(
        &self,
        exchange: &[u8],
        proof: [u8; KEY_BYTES],
    ) -> Option<[u8; KEY_BYTES]> {
        let client_key = xor(proof, hmac(&self.stored_key, &[exchange]));
        bool::from(sha256(&client_key).ct_eq(&self.stored_key)).then_some(client_key)
    }

    /// The signature that shows a client that we know `ServerKey`.
    pub(super) fn server_signature(&self, exchange: &[u8]) -> [u8; KEY_BYTES] {
        hmac(&self.server_key, &[exchange])
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramVerifier")
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

/// HMAC-SHA-256 over the concatenation of `parts`.
pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; KEY_BYTES] {
    let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(key)
        .expect("HMAC is defined for keys of every length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn sha256(bytes: &[u8]) -> [u8; KEY_BYTES] {
    Sha256::digest(bytes).into()
}

fn xor(mut a: [u8; KEY_BYTES], b: [u8; KEY_BYTES]) -> [u8; KEY_BYTES] {
    for (a, b) in a.iter_mut().zip(b) {
        *a ^= b;
    }
    a
}
