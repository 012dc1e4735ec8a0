//! Borrowed views of the messages clients send.
//!
//! **Owns:** decoding a body of a known tag into named fields, without copying.
//! **Does not own:** where a body begins and ends (`framer`), the untagged startup packet
//! (`startup`), the meaning of a query text.
//! **Invariants:** nothing is allocated; every malformed body is an error and never a panic; query
//! texts and names stay bytes, because their encoding is the client's business.
//!
//! Source: PostgreSQL documentation, `protocol-message-formats.html`. What counts as malformed
//! follows the server: a missing terminator and bytes behind the last field are refused.

use super::error::DecodeError;
use super::reader::Reader;

/// Simple query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// The text, without its terminator; possibly several statements, possibly empty.
    pub text: &'a [u8],
}

impl<'a> Query<'a> {
    /// Decodes the body of a `Q` message.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the text is not exactly one zero-terminated string.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        only_string(body).map(|text| Self { text })
    }
}

/// Creates a prepared statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The statement's name; empty for the unnamed statement.
    pub name: &'a [u8],
    /// The query text.
    pub query: &'a [u8],
    /// How many parameter types are given; may be fewer than the statement has parameters.
    pub parameter_type_count: u16,
    /// The parameter type OIDs as they were on the wire: four bytes each, big endian.
    pub rest: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Decodes the body of a `P` message.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if a field is missing or the type list does not end with the body.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let name = reader.cstr()?;
        let query = reader.cstr()?;
        let parameter_type_count = reader.u16()?;
        let rest = reader.rest();
        match rest.len().cmp(&(usize::from(parameter_type_count) * 4)) {
            std::cmp::Ordering::Less => Err(DecodeError::InsufficientData),
            std::cmp::Ordering::Greater => Err(DecodeError::TrailingBytes),
            std::cmp::Ordering::Equal => Ok(Self {
                name,
                query,
                parameter_type_count,
                rest,
            }),
        }
    }

    /// The parameter type OIDs; 0 leaves the type to the server.
    pub fn parameter_types(&self) -> impl Iterator<Item = u32> + 'a {
        self.rest.chunks_exact(4).map(|oid| {
            oid.iter()
                .fold(0, |number, byte| (number << 8) | u32::from(*byte))
        })
    }
}

/// Binds parameters to a statement, creating a portal.
///
/// Formats and values stay undecoded: the pooler only needs the names, and the server checks the
/// remainder anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal's name; empty for the unnamed portal.
    pub portal: &'a [u8],
    /// The statement's name; empty for the unnamed statement.
    pub statement: &'a [u8],
    /// Parameter formats, values and result formats as they were on the wire.
    pub rest: &'a [u8],
}

impl<'a> Bind<'a> {
    /// Decodes the body of a `B` message up to the names.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if one of the names has no terminator.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let portal = reader.cstr()?;
        let statement = reader.cstr()?;
        Ok(Self {
            portal,
            statement,
            rest: reader.rest(),
        })
    }
}

/// What Describe and Close are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `P`
    Portal,
    /// `S`
    Statement,
}

impl Target {
    /// The byte on the wire.
    pub const fn as_byte(self) -> u8 {
        match self {
            Self::Portal => b'P',
            Self::Statement => b'S',
        }
    }
}

/// Asks for the description of a statement or portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Describe<'a> {
    /// Statement or portal.
    pub kind: Target,
    /// Its name; empty for the unnamed one.
    pub name: &'a [u8],
}

impl<'a> Describe<'a> {
    /// Decodes the body of a `D` message.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the kind is unknown or the name is not the rest of the body.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        target_and_name(body, "DESCRIBE").map(|(kind, name)| Self { kind, name })
    }
}

/// Closes a statement or portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close<'a> {
    /// Statement or portal.
    pub kind: Target,
    /// Its name; empty for the unnamed one.
    pub name: &'a [u8],
}

impl<'a> Close<'a> {
    /// Decodes the body of a `C` message.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the kind is unknown or the name is not the rest of the body.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        target_and_name(body, "CLOSE").map(|(kind, name)| Self { kind, name })
    }
}

/// Runs a portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execute<'a> {
    /// The portal's name; empty for the unnamed portal.
    pub portal: &'a [u8],
    /// Most rows to return; zero and negative numbers mean all of them.
    pub max_rows: i32,
}

impl<'a> Execute<'a> {
    /// Decodes the body of an `E` message.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if a field is missing or bytes follow.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let portal = reader.cstr()?;
        let max_rows = reader.i32()?;
        reader.finish()?;
        Ok(Self { portal, max_rows })
    }
}

/// The answer to a clear-text or md5 challenge.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PasswordMessage<'a> {
    /// The password, token or md5 answer.
    pub password: &'a [u8],
}

impl<'a> PasswordMessage<'a> {
    /// Decodes the body of a `p` message that answers a password challenge.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if it is not exactly one zero-terminated string.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        only_string(body).map(|password| Self { password })
    }
}

impl std::fmt::Debug for PasswordMessage<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordMessage(..)")
    }
}

/// The first answer to a SASL challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaslInitialResponse<'a> {
    /// The mechanism the client chose.
    pub mechanism: &'a [u8],
    /// The mechanism's first message; `None` if the client sent none.
    pub response: Option<&'a [u8]>,
}

impl<'a> SaslInitialResponse<'a> {
    /// Decodes the body of a `p` message that answers `AuthenticationSASL`.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if a field is missing or the response's length disagrees with the body.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mechanism = reader.cstr()?;
        let length = reader.i32()?;
        if length == -1 {
            reader.finish()?;
            return Ok(Self {
                mechanism,
                response: None,
            });
        }
        let Ok(expected) = usize::try_from(length) else {
            let field = "SASL initial response";
            return Err(DecodeError::InvalidLength {
                field,
                length: i64::from(length),
            });
        };
        let response = reader.rest();
        match response.len().cmp(&expected) {
            std::cmp::Ordering::Less => Err(DecodeError::InsufficientData),
            std::cmp::Ordering::Greater => Err(DecodeError::TrailingBytes),
            std::cmp::Ordering::Equal => Ok(Self {
                mechanism,
                response: Some(response),
            }),
        }
    }
}

/// A later answer in a SASL exchange.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SaslResponse<'a>(
    /// The mechanism's message: the whole body.
    pub &'a [u8],
);

impl<'a> SaslResponse<'a> {
    /// Decodes the body of a `p` message that answers `AuthenticationSASLContinue`.
    ///
    /// # Errors
    ///
    /// None today: every body is a response. The signature is that of the other messages.
    pub const fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        Ok(Self(body))
    }
}

impl std::fmt::Debug for SaslResponse<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A proof can be attacked offline, so it does not belong in a log.
        f.write_str("SaslResponse(..)")
    }
}

fn only_string(body: &[u8]) -> Result<&[u8], DecodeError> {
    let mut reader = Reader::new(body);
    let text = reader.cstr()?;
    reader.finish()?;
    Ok(text)
}

fn target_and_name<'a>(
    body: &'a [u8],
    message: &'static str,
) -> Result<(Target, &'a [u8]), DecodeError> {
    let mut reader = Reader::new(body);
    let kind = match reader.u8()? {
        b'P' => Target::Portal,
        b'S' => Target::Statement,
        subtype => return Err(DecodeError::InvalidSubtype { message, subtype }),
    };
    let name = reader.cstr()?;
    reader.finish()?;
    Ok((kind, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parse_without_a_type_count_is_refused() {
        assert_eq!(
            Parse::decode(b"s\0select 1\0"),
            Err(DecodeError::InsufficientData)
        );
        assert_eq!(
            Parse::decode(b"s\0select 1"),
            Err(DecodeError::UnterminatedString)
        );
        assert_eq!(Parse::decode(b""), Err(DecodeError::UnterminatedString));
        assert_eq!(
            Parse::decode(b"\0\0\0\x01\0\0\0"),
            Err(DecodeError::InsufficientData)
        );
        assert_eq!(Parse::decode(b"\0\0\0\0x"), Err(DecodeError::TrailingBytes));
    }

    #[test]
    fn empty_bodies_are_refused_where_a_field_is_due() {
        assert!(Query::decode(b"").is_err());
        assert!(Bind::decode(b"").is_err());
        assert!(Bind::decode(b"portal").is_err());
        assert!(Describe::decode(b"").is_err());
        assert!(Close::decode(b"").is_err());
        assert!(Execute::decode(b"").is_err());
        assert!(PasswordMessage::decode(b"").is_err());
        assert!(SaslInitialResponse::decode(b"").is_err());
    }

    #[test]
    fn an_unknown_describe_subtype_is_reported_as_the_server_does() {
        let error = Describe::decode(b"Xname\0").unwrap_err();
        assert_eq!(error.to_string(), "invalid DESCRIBE message subtype 88");
        assert_eq!(error.sqlstate(), "08P01");
    }

    #[test]
    fn a_sasl_response_length_must_agree_with_the_body() {
        let decode = |tail: &[u8]| SaslInitialResponse::decode(&[b"M\0", tail].concat()).is_ok();
        assert!(decode(b"\xff\xff\xff\xff"));
        assert!(decode(b"\0\0\0\x01x"));
        assert!(!decode(b"\0\0\0\x02x"));
        assert!(!decode(b"\0\0\0\0x"));
        assert!(!decode(b"\xff\xff\xff\xffx"));
        assert!(!decode(b"\xff\xff\xff\xfe"));
        assert!(!decode(b"\x7f\xff\xff\xff"));
    }

    #[test]
    fn a_password_is_not_printed() {
        let message = PasswordMessage::decode(b"hunter2\0").unwrap();
        assert!(!format!("{message:?}").contains("hunter2"));
    }
}
