//! The grammar of the four SCRAM messages.
//!
//! **Owns:** splitting messages into attributes and checking their order and alphabet.
//! **Does not own:** keys and proofs (`keys`), the order of messages (`server`, `client`).
//! **Invariants:** borrowed where possible; anything that is not exactly the grammar is an error;
//! optional extensions are skipped, mandatory ones (`m=`) refused.
//!
//! ```text
//!   client-first   n,,n=user,r=CNONCE            GS2 header, then the "bare" part
//!   server-first   r=CNONCE SNONCE,s=SALT,i=ITERATIONS
//!   client-final   c=biws,r=CNONCE SNONCE,p=PROOF
//!   server-final   v=SIGNATURE  or  e=ERROR
//! ```
//!
//! Source: RFC 5802, section 7 (formal syntax).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::auth::error::{ScramError, ScramMessage};

/// The name of the mechanism.
pub const MECHANISM: &str = "SCRAM-SHA-256";

/// The name of the mechanism with channel binding.
pub const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// The GS2 flag of the one kind of channel binding that PostgreSQL knows.
pub(super) const END_POINT_FLAG: &str = "p=tls-server-end-point";

/// Size of every key, signature and proof: that of a SHA-256 digest.
pub const KEY_BYTES: usize = 32;

/// Iteration counts that are accepted. The upper bound keeps one login below a few seconds of
/// computing; PostgreSQL's default is 4096.
pub const ITERATIONS: std::ops::RangeInclusive<u32> = 1..=10_000_000;

/// The client's first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientFirst<'a> {
    /// What it says of channel binding: `n`, `y` or [`END_POINT_FLAG`].
    pub(super) flag: &'a str,
    /// GS2 header with its final comma.
    pub(super) gs2_header: &'a str,
    /// Everything behind the header.
    pub(super) bare: &'a str,
    /// The client's nonce.
    pub(super) nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        const KIND: ScramMessage = ScramMessage::ClientFirst;
        let message = text(message, KIND)?;
        let malformed = ScramError::Malformed { message: KIND };
        let mut parts = message.splitn(3, ',');
        let (Some(flag), Some(authzid), Some(bare)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed);
        };
        let is_bound = flag == END_POINT_FLAG;
        if flag.starts_with("p=") && !is_bound {
            return Err(ScramError::ChannelBindingRequested);
        }
        // An authorization identity is tolerated and ignored, like the name in `n=`: the user was
        // named in the startup packet.
        if !(is_bound || matches!(flag, "n" | "y"))
            || !(authzid.is_empty() || authzid.starts_with("a="))
        {
            return Err(malformed);
        }
        let gs2_header = message
            .get(..message.len() - bare.len())
            .unwrap_or_default();
        let mut attributes = Attributes::new(bare, KIND);
        attributes.refuse_mandatory_extension()?;
        attributes.value('n')?;
        let nonce = nonce(attributes.value('r')?, KIND)?;
        attributes.skip_extensions()?;
        Ok(Self {
            flag,
            gs2_header,
            bare,
            nonce,
        })
    }
}

/// The client's second message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientFinal<'a> {
    /// The message up to the comma before the proof.
    pub(super) without_proof: &'a str,
    /// The GS2 header as the client repeats it, base64 undone.
    pub(super) channel_binding: Vec<u8>,
    /// Both nonces.
    pub(super) nonce: &'a str,
    /// The proof.
    pub(super) proof: [u8; KEY_BYTES],
}

impl<'a> ClientFinal<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        const KIND: ScramMessage = ScramMessage::ClientFinal;
        let message = text(message, KIND)?;
        let malformed = ScramError::Malformed { message: KIND };
        let Some((without_proof, last)) = message.rsplit_once(',') else {
            return Err(malformed);
        };
        let proof = key(Attributes::new(last, KIND).value('p')?).ok_or(malformed.clone())?;
        let mut attributes = Attributes::new(without_proof, KIND);
        let channel_binding = BASE64
            .decode(attributes.value('c')?)
            .map_err(|_| malformed.clone())?;
        let nonce = nonce(attributes.value('r')?, KIND)?;
        attributes.skip_extensions()?;
        Ok(Self {
            without_proof,
            channel_binding,
            nonce,
            proof,
        })
    }
}

/// The server's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerFirst<'a> {
    /// Both nonces.
    pub(super) nonce: &'a str,
    /// The salt; not empty.
    pub(super) salt: Vec<u8>,
    /// Within [`ITERATIONS`].
    pub(super) iterations: u32,
}

impl<'a> ServerFirst<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        const KIND: ScramMessage = ScramMessage::ServerFirst;
        let message = text(message, KIND)?;
        let malformed = ScramError::Malformed { message: KIND };
        let mut attributes = Attributes::new(message, KIND);
        attributes.refuse_mandatory_extension()?;
        let nonce = nonce(attributes.value('r')?, KIND)?;
        let salt = BASE64
            .decode(attributes.value('s')?)
            .map_err(|_| malformed.clone())?;
        let iterations = iterations(attributes.value('i')?).ok_or(malformed.clone())?;
        attributes.skip_extensions()?;
        if salt.is_empty() {
            return Err(malformed);
        }
        if !ITERATIONS.contains(&iterations) {
            return Err(ScramError::IterationsOutOfRange { iterations });
        }
        Ok(Self {
            nonce,
            salt,
            iterations,
        })
    }
}

/// The signature in the server's second message.
pub(super) fn parse_server_final(message: &[u8]) -> Result<[u8; KEY_BYTES], ScramError> {
    const KIND: ScramMessage = ScramMessage::ServerFinal;
    let message = text(message, KIND)?;
    if let Some(reason) = message.strip_prefix("e=") {
        return Err(ScramError::ServerRefused {
            reason: reason.to_owned(),
        });
    }
    let mut attributes = Attributes::new(message, KIND);
    let signature = key(attributes.value('v')?).ok_or(ScramError::Malformed { message: KIND })?;
    attributes.skip_extensions()?;
    Ok(signature)
}

/// Whether `nonce` may stand in a message: printable ASCII without the comma, not empty.
pub(super) fn is_nonce(nonce: &str) -> bool {
    !nonce.is_empty()
        && nonce
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b',')
}

/// Decodes a base64 key of exactly [`KEY_BYTES`].
pub(super) fn key(base64: &str) -> Option<[u8; KEY_BYTES]> {
    BASE64.decode(base64).ok()?.try_into().ok()
}

/// Reads an iteration count as the grammar has it: digits without sign or leading zero. Counts
/// beyond 32 bits become `u32::MAX`, which is out of range as well.
pub(super) fn iterations(digits: &str) -> Option<u32> {
    if digits.starts_with('0') || digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u32::MAX))
}

/// Encodes bytes for a message.
pub(super) fn encode(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Decodes bytes of a message.
pub(super) fn decode(base64: &str) -> Option<Vec<u8>> {
    BASE64.decode(base64).ok()
}

fn text(message: &[u8], kind: ScramMessage) -> Result<&str, ScramError> {
    str::from_utf8(message)
        .ok()
        .filter(|text| !text.contains('\0'))
        .ok_or(ScramError::Malformed { message: kind })
}

fn nonce(value: &str, kind: ScramMessage) -> Result<&str, ScramError> {
    if is_nonce(value) {
        Ok(value)
    } else {
        Err(ScramError::Malformed { message: kind })
    }
}

/// Takes `x=value` attributes off a message from left to right.
struct Attributes<'a> {
    left: Option<&'a str>,
    kind: ScramMessage,
}

impl<'a> Attributes<'a> {
    const fn new(message: &'a str, kind: ScramMessage) -> Self {
        Self {
            left: Some(message),
            kind,
        }
    }

    fn next(&mut self) -> Result<(char, &'a str), ScramError> {
        let malformed = ScramError::Malformed { message: self.kind };
        let left = self.left.ok_or(malformed.clone())?;
        let (attribute, rest) = match left.split_once(',') {
            Some((attribute, rest)) => (attribute, Some(rest)),
            None => (left, None),
        };
        self.left = rest;
        let mut characters = attribute.chars();
        match (characters.next(), characters.next()) {
            (Some(name), Some('=')) if name.is_ascii_alphabetic() => {
                Ok((name, characters.as_str()))
            }
            _ => Err(malformed),
        }
    }

    /// The value of the next attribute, which must have this name.
    fn value(&mut self, expected: char) -> Result<&'a str, ScramError> {
        let (name, value) = self.next()?;
        if name == expected {
            Ok(value)
        } else {
            Err(ScramError::Malformed { message: self.kind })
        }
    }

    fn refuse_mandatory_extension(&self) -> Result<(), ScramError> {
        if self.left.is_some_and(|left| left.starts_with("m=")) {
            return Err(ScramError::MandatoryExtension { message: self.kind });
        }
        Ok(())
    }

    /// Checks that nothing but optional extensions follows.
    fn skip_extensions(&mut self) -> Result<(), ScramError> {
        while self.left.is_some() {
            self.refuse_mandatory_extension()?;
            self.next()?;
        }
        Ok(())
    }
}
