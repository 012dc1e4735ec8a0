//! The untagged packets a connection begins with.
//!
//! **Owns:** recognising and decoding `StartupMessage`, `SSLRequest`, `GSSENCRequest` and
//! `CancelRequest`; splitting the `options` parameter into settings.
//! **Does not own:** what is answered (`writer` has the bytes, the session decides), which
//! parameters are honoured.
//! **Invariants:** a packet is judged by its declared length before its body is awaited, so a peer
//! that speaks another protocol is refused after four bytes; nothing is allocated from a length
//! alone.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html` ("Start-up", "Canceling Requests in
//! Progress"), `protocol-message-formats.html`; for `options`, `libpq-connect.html` and
//! `app-postgres.html`.

use std::fmt;
use std::ops::RangeInclusive;

use super::error::StartupError;
use super::reader::Reader;

/// Lengths, in bytes, the first packet of a connection may declare, whatever it asks for. The
/// declared length counts its own four bytes.
///
/// The lower end is the header alone, which is all that `SSLRequest` and `GSSENCRequest` have. The
/// upper end bounds what a peer that has not authenticated can make us keep; the server draws its
/// line at the same number, without counting the length field.
pub const STARTUP_PACKET_BYTES: RangeInclusive<usize> = 8..=10_000;
/// Lengths, in bytes, the secret of a cancel key may have: exactly 4 in protocol 3.0, up to 256
/// since 3.2.
pub const CANCEL_SECRET_BYTES: RangeInclusive<usize> = 4..=256;
/// Lengths, in bytes, the secret of a cancel key has in protocol 3.0.
pub const CANCEL_SECRET_BYTES_3_0: RangeInclusive<usize> = 4..=4;
/// The major protocol version spoken here.
pub const PROTOCOL_MAJOR: u16 = 3;
/// The newest minor protocol version spoken here.
pub const PROTOCOL_MINOR_MAX: u16 = 2;

// Request codes stand where a `StartupMessage` has its version. Their high half is 1234, which no
// major version will ever be.

/// Marks a `CancelRequest`.
pub(super) const CANCEL_REQUEST_CODE: u32 = 80_877_102;
/// Marks an `SSLRequest`.
pub(super) const SSL_REQUEST_CODE: u32 = 80_877_103;
/// Marks a `GSSENCRequest`.
pub(super) const GSS_ENC_REQUEST_CODE: u32 = 80_877_104;

/// Length field and request code or version, in bytes.
const HEADER_BYTES: usize = 8;
/// Prefix of the parameters that negotiate protocol extensions.
const PROTOCOL_OPTION_PREFIX: &str = "_pq_.";

/// The first packet of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartupPacket {
    /// Cancel the query somebody else is running.
    Cancel(CancelKeyBytes),
    /// Switch to GSSAPI encryption.
    GssEnc,
    /// Switch to TLS.
    Ssl,
    /// Open a session.
    Startup(StartupMessage),
}

/// The key of a cancel request, not yet interpreted.
#[derive(Clone, PartialEq, Eq)]
pub struct CancelKeyBytes {
    /// The number given as process id in `BackendKeyData`.
    pub pid: i32,
    /// The secret given with it: 4 to 256 bytes.
    pub secret: Vec<u8>,
}

impl fmt::Debug for CancelKeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelKeyBytes")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// A request to open a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupMessage {
    /// The requested major protocol version: always [`PROTOCOL_MAJOR`].
    pub major: u16,
    /// The requested minor protocol version; may be newer than [`PROTOCOL_MINOR_MAX`].
    pub minor: u16,
    /// The user to log in as; not empty.
    pub user: String,
    /// The database; the user's name if the client named none.
    pub database: String,
    /// All parameters without a field of their own, in the client's order, repetitions included.
    pub parameters: Vec<(String, String)>,
    /// The `replication` parameter as sent.
    pub replication: Option<String>,
    /// The `options` parameter as sent; see [`parse_options`].
    pub options: Option<String>,
    /// Names beginning with `_pq_.`. None of these extensions is supported.
    pub unsupported_protocol_options: Vec<String>,
}

impl StartupMessage {
    /// The minor version both sides speak from now on.
    pub fn negotiated_minor(&self) -> u16 {
        self.minor.min(PROTOCOL_MINOR_MAX)
    }

    /// Whether `NegotiateProtocolVersion` must be sent before authentication goes on.
    pub const fn needs_negotiation(&self) -> bool {
        self.minor > PROTOCOL_MINOR_MAX || !self.unsupported_protocol_options.is_empty()
    }
}

/// Decodes the packet at the start of `input`, the bytes received so far.
///
/// Returns the packet and the number of bytes it occupies, or `Ok(None)` when more bytes are
/// needed. Bytes behind the packet are left alone; behind an `SSLRequest` there must be none, which
/// the caller checks because only the caller knows what it has received.
///
/// # Errors
///
/// [`StartupError`]; the connection cannot continue.
pub fn parse_first_packet(input: &[u8]) -> Result<Option<(StartupPacket, usize)>, StartupError> {
    let Some(&[l0, l1, l2, l3]) = input.first_chunk() else {
        return Ok(None);
    };
    let declared = u32::from_be_bytes([l0, l1, l2, l3]);
    let length = usize::try_from(declared)
        .ok()
        .filter(|length| STARTUP_PACKET_BYTES.contains(length))
        .ok_or(StartupError::InvalidLength { length: declared })?;
    // The whole packet is awaited even when its first bytes already condemn it: an answer sent
    // while input is unread may be discarded by the reset that follows the close.
    let Some(body) = input.get(HEADER_BYTES..length) else {
        return Ok(None);
    };
    let Some(&[_, _, _, _, m0, m1, n0, n1]) = input.first_chunk() else {
        return Ok(None);
    };
    let packet = match u32::from_be_bytes([m0, m1, n0, n1]) {
        CANCEL_REQUEST_CODE => StartupPacket::Cancel(cancel_key(body, declared)?),
        SSL_REQUEST_CODE if body.is_empty() => StartupPacket::Ssl,
        GSS_ENC_REQUEST_CODE if body.is_empty() => StartupPacket::GssEnc,
        SSL_REQUEST_CODE | GSS_ENC_REQUEST_CODE => {
            return Err(StartupError::InvalidLength { length: declared });
        }
        _ => {
            let major = u16::from_be_bytes([m0, m1]);
            let minor = u16::from_be_bytes([n0, n1]);
            if major != PROTOCOL_MAJOR {
                return Err(StartupError::UnsupportedVersion { major, minor });
            }
            StartupPacket::Startup(startup_message(minor, body)?)
        }
    };
    Ok(Some((packet, length)))
}

fn cancel_key(body: &[u8], length: u32) -> Result<CancelKeyBytes, StartupError> {
    let mut reader = Reader::new(body);
    let pid = reader
        .i32()
        .map_err(|_| StartupError::InvalidCancelRequest { length })?;
    let secret = reader.rest();
    if !CANCEL_SECRET_BYTES.contains(&secret.len()) {
        return Err(StartupError::InvalidCancelRequest { length });
    }
    Ok(CancelKeyBytes {
        pid,
        secret: secret.to_vec(),
    })
}

fn startup_message(minor: u16, body: &[u8]) -> Result<StartupMessage, StartupError> {
    let mut user = String::new();
    let mut database = String::new();
    let mut message = StartupMessage {
        major: PROTOCOL_MAJOR,
        minor,
        user: String::new(),
        database: String::new(),
        parameters: Vec::new(),
        replication: None,
        options: None,
        unsupported_protocol_options: Vec::new(),
    };
    let mut reader = Reader::new(body);
    loop {
        let name = text(&mut reader)?;
        if name.is_empty() {
            break;
        }
        let value = text(&mut reader)?;
        match name.as_str() {
            "user" => user = value,
            "database" => database = value,
            "replication" => message.replication = Some(value),
            "options" => message.options = Some(value),
            _ if name.starts_with(PROTOCOL_OPTION_PREFIX) => {
                message.unsupported_protocol_options.push(name);
            }
            _ => message.parameters.push((name, value)),
        }
    }
    reader.finish().map_err(|_| StartupError::InvalidLayout)?;
    if user.is_empty() {
        return Err(StartupError::MissingUser);
    }
    message.database = if database.is_empty() {
        user.clone()
    } else {
        database
    };
    message.user = user;
    Ok(message)
}

fn text(reader: &mut Reader<'_>) -> Result<String, StartupError> {
    let bytes = reader.cstr().map_err(|_| StartupError::InvalidLayout)?;
    let text = str::from_utf8(bytes).map_err(|_| StartupError::InvalidUtf8)?;
    Ok(text.to_owned())
}

/// Splits the `options` parameter into settings.
///
/// Understands `-c name=value`, `-cname=value` and `--name=value`; dashes in names become
/// underscores. Words are separated by white space; a backslash makes the next character part of
/// the word. Names are not checked here.
///
/// # Errors
///
/// [`StartupError::InvalidOption`] for any other word, which PostgreSQL could understand as another
/// switch of its server program; [`StartupError::OptionWithoutValue`] for a setting without `=`.
pub fn parse_options(options: &str) -> Result<Vec<(String, String)>, StartupError> {
    let mut settings = Vec::new();
    let mut words = split_options(options).into_iter();
    while let Some(word) = words.next() {
        let (prefix, setting) = if word == "-c" {
            let Some(setting) = words.next() else {
                return Err(StartupError::InvalidOption { argument: word });
            };
            ("-c ", setting)
        } else if let Some(setting) = word.strip_prefix("-c") {
            ("-c ", setting.to_owned())
        } else if let Some(setting) = word.strip_prefix("--") {
            ("--", setting.to_owned())
        } else {
            return Err(StartupError::InvalidOption { argument: word });
        };
        match setting.split_once('=') {
            Some(("", _)) => return Err(StartupError::InvalidOption { argument: word }),
            None if setting.is_empty() => {
                return Err(StartupError::InvalidOption { argument: word });
            }
            None => {
                let argument = format!("{prefix}{setting}");
                return Err(StartupError::OptionWithoutValue { argument });
            }
            Some((name, value)) => settings.push((name.replace('-', "_"), value.to_owned())),
        }
    }
    Ok(settings)
}

/// Splits at unescaped white space and removes one level of backslashes.
fn split_options(options: &str) -> Vec<String> {
    // The white space of C's isspace(), which includes the vertical tab.
    let is_space = |c: char| matches!(c, ' ' | '\t'..='\r');
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        if is_space(character) {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_default();
        match character {
            // A backslash at the very end escapes nothing and disappears.
            '\\' => word.extend(characters.next()),
            _ => word.push(character),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(8 + body.len()).unwrap();
        [&length.to_be_bytes()[..], &code.to_be_bytes(), body].concat()
    }

    fn startup(body: &[u8]) -> Result<StartupMessage, StartupError> {
        match parse_first_packet(&packet(196_610, body))?
            .expect("complete")
            .0
        {
            StartupPacket::Startup(message) => Ok(message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn parameters_keep_their_order_and_may_be_empty() {
        let body =
            "user\0jürgen\0application_name\0\0TimeZone\0UTC\0_pq_.x\0on\0options\0-c a=b\0\0";
        let message = startup(body.as_bytes()).unwrap();
        assert_eq!(
            (message.user.as_str(), message.database.as_str()),
            ("jürgen", "jürgen")
        );
        let expected = [("application_name", ""), ("TimeZone", "UTC")];
        assert_eq!(
            message.parameters,
            expected.map(|(n, v)| (n.to_owned(), v.to_owned()))
        );
        assert_eq!(message.options.as_deref(), Some("-c a=b"));
        assert_eq!(message.unsupported_protocol_options, ["_pq_.x"]);
        assert!(message.needs_negotiation());
    }

    #[test]
    fn a_bad_layout_is_refused_in_the_servers_words() {
        let bodies: [&[u8]; 6] = [
            b"",
            b"user",
            b"user\0bob",
            b"user\0bob\0",
            b"user\0bob\0x\0",
            b"user\0bob\0\0\0",
        ];
        for body in bodies {
            let error = startup(body).unwrap_err();
            assert_eq!(
                error,
                StartupError::InvalidLayout,
                "{}",
                body.escape_ascii()
            );
            assert_eq!(error.sqlstate(), "08P01");
        }
        assert_eq!(startup(b"\0").unwrap_err(), StartupError::MissingUser);
        assert_eq!(startup(b"user\0\0\0").unwrap_err().sqlstate(), "28000");
        assert_eq!(
            startup(b"user\0b\xff\0\0").unwrap_err(),
            StartupError::InvalidUtf8
        );
    }

    #[test]
    fn other_versions_are_named_in_the_error() {
        for (code, version) in [
            (131_072, "2.0"),
            (0x0004_0001, "4.1"),
            (80_877_105, "1234.5681"),
        ] {
            let error = parse_first_packet(&packet(code, b"\0")).unwrap_err();
            assert_eq!(error.sqlstate(), "0A000");
            let expected =
                format!("unsupported frontend protocol {version}: server supports 3.0 to 3.2");
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn lengths_out_of_range_are_refused_after_four_bytes() {
        for length in [0_u32, 7, 10_001, u32::MAX, u32::from_be_bytes(*b"GET ")] {
            let error = parse_first_packet(&length.to_be_bytes()).unwrap_err();
            assert_eq!(error, StartupError::InvalidLength { length });
        }
        assert_eq!(parse_first_packet(&10_000_u32.to_be_bytes()), Ok(None));
    }

    #[test]
    fn requests_have_their_exact_lengths() {
        let parse = |code, len: usize| parse_first_packet(&packet(code, &vec![1; len]));
        assert_eq!(
            parse(SSL_REQUEST_CODE, 0),
            Ok(Some((StartupPacket::Ssl, 8)))
        );
        assert_eq!(
            parse(GSS_ENC_REQUEST_CODE, 0),
            Ok(Some((StartupPacket::GssEnc, 8)))
        );
        assert!(parse(SSL_REQUEST_CODE, 1).is_err() && parse(GSS_ENC_REQUEST_CODE, 1).is_err());
        for (secret_bytes, valid) in [(0, false), (3, false), (4, true), (256, true), (257, false)]
        {
            let found = parse(CANCEL_REQUEST_CODE, 4 + secret_bytes);
            assert_eq!(found.is_ok(), valid, "{secret_bytes}");
        }
        assert!(parse(CANCEL_REQUEST_CODE, 0).is_err(), "no key at all");
    }

    #[test]
    fn options_are_split_and_unescaped() {
        let parse = |options| parse_options(options).map_err(|error| error.to_string());
        let pairs = |list: &[(&str, &str)]| {
            Ok(list
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect::<Vec<_>>())
        };
        let found = parse("  -c geqo=off\t-cwork_mem=4MB --search-path=a,\\ b=c\\\\ --x= \\");
        assert_eq!(
            found,
            Err("invalid command-line argument for server process: ".to_owned())
        );
        let found = parse("-c geqo=off\t-cwork_mem=4MB --search-path=a,\\ b=c\\\\ --x=");
        let expected = [
            ("geqo", "off"),
            ("work_mem", "4MB"),
            ("search_path", "a, b=c\\"),
            ("x", ""),
        ];
        assert_eq!(found, pairs(&expected));
        assert_eq!(parse(" \x0b"), pairs(&[]));
        assert_eq!(parse("-c geqo"), Err("-c geqo requires a value".to_owned()));
        assert_eq!(parse("--geqo"), Err("--geqo requires a value".to_owned()));
        for bad in ["-c", "--", "-F", "geqo=off", "-c =1", "--=1", "-"] {
            assert!(parse(bad).is_err(), "{bad}");
            assert_eq!(parse_options(bad).unwrap_err().sqlstate(), "42601", "{bad}");
        }
    }
}
