//! Borrowed views of the messages PostgreSQL servers send.
//!
//! **Owns:** decoding the backend messages the pooler looks at, without copying.
//! **Does not own:** messages that are only forwarded (rows, descriptions, COPY).
//! **Invariants:** nothing is allocated; every malformed body is an error and never a panic; a view
//! that offers an iterator has been checked to its end by `decode`.
//!
//! Source: PostgreSQL documentation, `protocol-message-formats.html`, `protocol-error-fields.html`.

use std::fmt;

use super::error::DecodeError;
use super::reader::Reader;
use super::startup::CANCEL_SECRET_BYTES;

/// The fields of an `ErrorResponse` or `NoticeResponse`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ErrorFields<'a> {
    body: &'a [u8],
}

impl<'a> ErrorFields<'a> {
    /// Checks the body of an `E` or `N` message.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the list of fields is not well formed and terminated.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        while reader.u8()? != 0 {
            reader.cstr()?;
        }
        reader.finish()?;
        Ok(Self { body })
    }

    /// The fields in wire order: code and text.
    pub fn fields(&self) -> impl Iterator<Item = (u8, &'a [u8])> + 'a {
        let mut reader = Reader::new(self.body);
        std::iter::from_fn(move || match reader.u8() {
            Ok(0) | Err(_) => None,
            Ok(code) => reader.cstr().ok().map(|text| (code, text)),
        })
    }

    /// The first field with this code.
    pub fn field(&self, code: u8) -> Option<&'a [u8]> {
        self.fields()
            .find_map(|(found, text)| (found == code).then_some(text))
    }

    /// The severity in English (`V`), or, from servers before 9.6, the localised one (`S`).
    pub fn severity(&self) -> Option<&'a [u8]> {
        self.field(b'V').or_else(|| self.field(b'S'))
    }

    /// The SQLSTATE.
    pub fn sqlstate(&self) -> Option<&'a [u8]> {
        self.field(b'C')
    }

    /// The primary message, in the server's language and the client's encoding.
    pub fn message(&self) -> Option<&'a [u8]> {
        self.field(b'M')
    }
}

impl fmt::Debug for ErrorFields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let printable = |(code, text): (u8, &[u8])| {
            (char::from(code), String::from_utf8_lossy(text).into_owned())
        };
        f.debug_map().entries(self.fields().map(printable)).finish()
    }
}

/// The server reports the value of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterStatus<'a> {
    /// The setting.
    pub name: &'a [u8],
    /// Its value now.
    pub value: &'a [u8],
}

impl<'a> ParameterStatus<'a> {
    /// Name and value of a message's body as text; `None` if it is malformed or not UTF-8.
    pub fn text(body: &'a [u8]) -> Option<(&'a str, &'a str)> {
        let status = Self::decode(body).ok()?;
        let name = str::from_utf8(status.name).ok()?;
        Some((name, str::from_utf8(status.value).ok()?))
    }

    /// Decodes the body of an `S` message.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the body is not two zero-terminated strings.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let name = reader.cstr()?;
        let value = reader.cstr()?;
        reader.finish()?;
        Ok(Self { name, value })
    }
}

/// What a cancel request to this server process must contain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BackendKeyData<'a> {
    /// The server process.
    pub pid: i32,
    /// The secret: 4 bytes up to protocol 3.1, up to 256 bytes since 3.2.
    pub secret: &'a [u8],
}

impl<'a> BackendKeyData<'a> {
    /// Decodes the body of a `K` message.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the secret is not 4 to 256 bytes long.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let pid = reader.i32()?;
        let secret = reader.rest();
        if !CANCEL_SECRET_BYTES.contains(&secret.len()) {
            let length = i64::try_from(secret.len()).unwrap_or(i64::MAX);
            return Err(DecodeError::InvalidLength {
                field: "cancel secret",
                length,
            });
        }
        Ok(Self { pid, secret })
    }
}

impl fmt::Debug for BackendKeyData<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendKeyData")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// What the server wants next during authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Authentication<'a> {
    /// The password as it is.
    CleartextPassword,
    /// `md5(md5(password, user), salt)`.
    Md5Password {
        /// Chosen by the server for this login.
        salt: [u8; 4],
    },
    /// Authenticated.
    Ok,
    /// A request this crate does not decode (GSSAPI, SSPI, Kerberos, SCM credentials).
    Other(i32),
    /// One of these SASL mechanisms.
    Sasl(SaslMechanisms<'a>),
    /// The mechanism's next message.
    SaslContinue(&'a [u8]),
    /// The mechanism's last message.
    SaslFinal(&'a [u8]),
}

impl<'a> Authentication<'a> {
    /// Decodes the body of an `R` message.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if a known request has a malformed body.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let request = match reader.i32()? {
            0 => Self::Ok,
            3 => Self::CleartextPassword,
            5 => Self::Md5Password {
                salt: reader.bytes4()?,
            },
            10 => return SaslMechanisms::decode(reader.rest()).map(Self::Sasl),
            11 => return Ok(Self::SaslContinue(reader.rest())),
            12 => return Ok(Self::SaslFinal(reader.rest())),
            other => return Ok(Self::Other(other)),
        };
        reader.finish()?;
        Ok(request)
    }
}

/// The mechanisms a server offers, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaslMechanisms<'a> {
    list: &'a [u8],
}

impl<'a> SaslMechanisms<'a> {
    fn decode(list: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(list);
        while !reader.cstr()?.is_empty() {}
        reader.finish()?;
        Ok(Self { list })
    }

    /// The names in wire order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + 'a {
        let mut reader = Reader::new(self.list);
        std::iter::from_fn(move || reader.cstr().ok().filter(|name| !name.is_empty()))
    }
}

/// What the server's session is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// `E`: in a transaction that can only be rolled back.
    Failed,
    /// `I`: not in a transaction.
    Idle,
    /// `T`: in a transaction.
    InTransaction,
}

impl TransactionStatus {
    /// The byte on the wire.
    pub const fn as_byte(self) -> u8 {
        match self {
            Self::Failed => b'E',
            Self::Idle => b'I',
            Self::InTransaction => b'T',
        }
    }
}

/// The server waits for the next query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyForQuery {
    /// Whether a transaction is open.
    pub status: TransactionStatus,
}

impl ReadyForQuery {
    /// Decodes the body of a `Z` message.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the body is not one known status byte.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let status = match reader.u8()? {
            b'E' => TransactionStatus::Failed,
            b'I' => TransactionStatus::Idle,
            b'T' => TransactionStatus::InTransaction,
            status => return Err(DecodeError::InvalidTransactionStatus { status }),
        };
        reader.finish()?;
        Ok(Self { status })
    }
}

/// A statement has finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandComplete<'a> {
    /// The command tag, for example `SELECT 3`.
    pub tag: &'a [u8],
}

impl<'a> CommandComplete<'a> {
    /// Decodes the body of a `C` message.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the body is not exactly one zero-terminated string.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let tag = reader.cstr()?;
        reader.finish()?;
        Ok(Self { tag })
    }
}

/// The server speaks less than it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NegotiateProtocolVersion<'a> {
    /// The newest minor version of major version 3 the server speaks.
    pub newest_minor: u16,
    options: &'a [u8],
    option_count: u32,
}

impl<'a> NegotiateProtocolVersion<'a> {
    /// Decodes the body of a `v` message.
    ///
    /// Servers send the whole version number (major in the upper half), while the manual speaks of
    /// the minor version; both readings are accepted.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the version is not of major 3 or the option list disagrees with its count.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let version = reader.i32()?;
        let [m0, m1, n0, n1] = version.to_be_bytes();
        if !matches!(u16::from_be_bytes([m0, m1]), 0 | 3) {
            let field = "protocol version";
            return Err(DecodeError::InvalidLength {
                field,
                length: i64::from(version),
            });
        }
        let count = reader.i32()?;
        let Ok(option_count) = u32::try_from(count) else {
            let field = "option list";
            return Err(DecodeError::InvalidLength {
                field,
                length: i64::from(count),
            });
        };
        let options = reader.rest();
        for _ in 0..option_count {
            reader.cstr()?;
        }
        reader.finish()?;
        Ok(Self {
            newest_minor: u16::from_be_bytes([n0, n1]),
            options,
            option_count,
        })
    }

    /// Names of the protocol options the server did not recognise.
    pub fn options(&self) -> impl Iterator<Item = &'a [u8]> + 'a {
        let mut reader = Reader::new(self.options);
        (0..self.option_count).map_while(move |_| reader.cstr().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severity_prefers_the_field_that_is_not_localised() {
        let fields = ErrorFields::decode(b"SFEHLER\0VERROR\0C57014\0Mabgebrochen\0\0").unwrap();
        assert_eq!(fields.severity(), Some(&b"ERROR"[..]));
        assert_eq!(fields.sqlstate(), Some(&b"57014"[..]));
        assert_eq!(fields.message(), Some(&b"abgebrochen"[..]));
        assert_eq!(fields.fields().count(), 4);
        let old = ErrorFields::decode(b"SFEHLER\0\0").unwrap();
        assert_eq!(old.severity(), Some(&b"FEHLER"[..]));
    }

    #[test]
    fn error_fields_must_be_terminated_and_nothing_may_follow() {
        assert!(ErrorFields::decode(b"").is_err());
        assert!(ErrorFields::decode(b"SERROR\0").is_err());
        assert!(ErrorFields::decode(b"SERROR").is_err());
        assert!(ErrorFields::decode(b"SERROR\0\0x").is_err());
    }

    #[test]
    fn sasl_mechanisms_are_listed_in_order() {
        let body = b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
        let Ok(Authentication::Sasl(mechanisms)) = Authentication::decode(body) else {
            panic!("not SASL");
        };
        let names: Vec<_> = mechanisms.iter().collect();
        assert_eq!(names, [&b"SCRAM-SHA-256-PLUS"[..], b"SCRAM-SHA-256"]);
        assert!(Authentication::decode(b"\0\0\0\x0aSCRAM-SHA-256\0").is_err());
    }

    #[test]
    fn unknown_authentication_requests_are_values() {
        assert_eq!(
            Authentication::decode(b"\0\0\0\x07"),
            Ok(Authentication::Other(7))
        );
        assert!(Authentication::decode(b"\0\0\0\x05abc").is_err());
        assert!(Authentication::decode(b"\0\0\0").is_err());
    }

    #[test]
    fn an_option_count_beyond_the_body_is_refused() {
        let body = b"\0\x03\0\x02\0\0\0\x02_pq_.a\0";
        assert!(NegotiateProtocolVersion::decode(body).is_err());
        assert!(NegotiateProtocolVersion::decode(b"\0\x03\0\x02\x7f\xff\xff\xff").is_err());
        assert!(NegotiateProtocolVersion::decode(b"\0\x02\0\x00\0\0\0\0").is_err());
    }

    #[test]
    fn a_cancel_secret_has_four_to_256_bytes() {
        let decode = |len: usize| BackendKeyData::decode(&vec![0; 4 + len]).is_ok();
        assert!(!decode(3) && decode(4) && decode(256) && !decode(257));
    }
}
