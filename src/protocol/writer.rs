//! Appends messages to a buffer.
//!
//! **Owns:** the bytes of every message the pooler writes of its own accord, to clients and to
//! servers.
//! **Does not own:** forwarded messages, when something is sent, buffers.
//! **Invariants:** what was in the buffer stays; the length field is patched after the body, so it
//! always agrees with it; a string with an embedded zero byte is cut there, so no argument can
//! forge another field or message.
//!
//! Source: PostgreSQL documentation, `protocol-message-formats.html`, `protocol-error-fields.html`.

use super::backend::TransactionStatus;
use super::frontend::Target;
use super::startup::{CANCEL_REQUEST_CODE, GSS_ENC_REQUEST_CODE, PROTOCOL_MAJOR, SSL_REQUEST_CODE};
use super::tag::{BackendTag, FrontendTag};

/// How bad a report is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Severity {
    /// The statement failed; the session goes on.
    Error,
    /// The session ends.
    Fatal,
    /// For notices only.
    Notice,
    /// For notices only.
    Warning,
}

impl Severity {
    /// The English word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Notice => "NOTICE",
            Self::Warning => "WARNING",
        }
    }
}

/// The content of an `ErrorResponse` or `NoticeResponse`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report<'a> {
    /// How bad it is.
    pub severity: Severity,
    /// What it is, for programs.
    pub sqlstate: &'a str,
    /// What it is, for people.
    pub message: &'a str,
    /// More facts.
    pub detail: Option<&'a str>,
    /// What to do about it.
    pub hint: Option<&'a str>,
}

impl<'a> Report<'a> {
    /// A report without detail and hint.
    pub const fn new(severity: Severity, sqlstate: &'a str, message: &'a str) -> Self {
        Self {
            severity,
            sqlstate,
            message,
            detail: None,
            hint: None,
        }
    }
}

/// A column of a result the pooler makes itself; always sent in text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    /// The heading.
    pub name: &'a str,
    /// OID of the column's type.
    pub type_oid: u32,
    /// The type's size in bytes; negative for types of varying size.
    pub type_size: i16,
}

impl<'a> Column<'a> {
    /// A column of type `text`.
    pub const fn text(name: &'a str) -> Self {
        Self {
            name,
            type_oid: 25,
            type_size: -1,
        }
    }

    /// A column of type `int4`.
    pub const fn int4(name: &'a str) -> Self {
        Self {
            name,
            type_oid: 23,
            type_size: 4,
        }
    }

    /// A column of type `int8`.
    pub const fn int8(name: &'a str) -> Self {
        Self {
            name,
            type_oid: 20,
            type_size: 8,
        }
    }
}

// ---- to clients -------------------------------------------------------------------------------

/// Authenticated.
pub fn authentication_ok(out: &mut Vec<u8>) {
    authentication(out, 0, |_| ());
}

/// Asks for the password as it is.
pub fn authentication_cleartext_password(out: &mut Vec<u8>) {
    authentication(out, 3, |_| ());
}

/// Asks for the md5 of the stored hash and `salt`.
pub fn authentication_md5_password(out: &mut Vec<u8>, salt: [u8; 4]) {
    authentication(out, 5, |out| out.extend_from_slice(&salt));
}

/// Offers SASL mechanisms, best first. Empty names would end the list and are left out.
pub fn authentication_sasl(out: &mut Vec<u8>, mechanisms: &[&str]) {
    authentication(out, 10, |out| {
        for mechanism in mechanisms.iter().filter(|name| !name.is_empty()) {
            put_cstr(out, mechanism.as_bytes());
        }
        out.push(0);
    });
}

/// The SASL mechanism's next message.
pub fn authentication_sasl_continue(out: &mut Vec<u8>, message: &[u8]) {
    authentication(out, 11, |out| out.extend_from_slice(message));
}

/// The SASL mechanism's last message.
pub fn authentication_sasl_final(out: &mut Vec<u8>, message: &[u8]) {
    authentication(out, 12, |out| out.extend_from_slice(message));
}

/// Tells the client the value of a setting.
pub fn parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    message(out, BackendTag::PARAMETER_STATUS.0, |out| {
        put_cstr(out, name);
        put_cstr(out, value);
    });
}

/// Gives the client its cancel key. The secret must be 4 bytes long below protocol 3.2 and may have
/// up to 256 bytes since.
pub fn backend_key_data(out: &mut Vec<u8>, pid: i32, secret: &[u8]) {
    message(out, BackendTag::BACKEND_KEY_DATA.0, |out| {
        put_i32(out, pid);
        out.extend_from_slice(secret);
    });
}

/// The client may send its next query.
pub fn ready_for_query(out: &mut Vec<u8>, status: TransactionStatus) {
    message(out, BackendTag::READY_FOR_QUERY.0, |out| {
        out.push(status.as_byte());
    });
}

/// Something failed.
pub fn error_response(out: &mut Vec<u8>, report: &Report<'_>) {
    message(out, BackendTag::ERROR.0, |out| put_report(out, report));
}

/// Something is worth knowing.
pub fn notice_response(out: &mut Vec<u8>, report: &Report<'_>) {
    message(out, BackendTag::NOTICE.0, |out| put_report(out, report));
}

/// A statement has finished; `tag` is for example `SHOW`.
pub fn command_complete(out: &mut Vec<u8>, tag: &[u8]) {
    message(out, BackendTag::COMMAND_COMPLETE.0, |out| {
        put_cstr(out, tag);
    });
}

/// The query text was empty; stands in for `CommandComplete`.
pub fn empty_query_response(out: &mut Vec<u8>) {
    message(out, BackendTag::EMPTY_QUERY.0, |_| ());
}

/// A Parse has succeeded.
pub fn parse_complete(out: &mut Vec<u8>) {
    message(out, BackendTag::PARSE_COMPLETE.0, |_| ());
}

/// A Close has succeeded.
pub fn close_complete(out: &mut Vec<u8>) {
    message(out, BackendTag::CLOSE_COMPLETE.0, |_| ());
}

/// Tells the client which minor version is spoken and which `_pq_.` options are not known.
///
/// The version is written whole (major in the upper half), which is what servers send and libpq
/// compares.
pub fn negotiate_protocol_version<S: AsRef<str>>(
    out: &mut Vec<u8>,
    newest_minor: u16,
    unsupported_options: &[S],
) {
    message(out, BackendTag::NEGOTIATE_PROTOCOL_VERSION.0, |out| {
        put_version(out, newest_minor);
        put_u32(out, unsupported_options.len() as u32);
        for option in unsupported_options {
            put_cstr(out, option.as_ref().as_bytes());
        }
    });
}

/// The columns of the rows that follow. At most 32 767 columns, the manual's limit for a count.
pub fn row_description(out: &mut Vec<u8>, columns: &[Column<'_>]) {
    debug_assert!(i16::try_from(columns.len()).is_ok(), "too many columns");
    message(out, BackendTag::ROW_DESCRIPTION.0, |out| {
        put_u16(out, columns.len() as u16);
        for column in columns {
            put_cstr(out, column.name.as_bytes());
            // No table, no attribute number: the column is not a column of a table.
            put_u32(out, 0);
            put_u16(out, 0);
            put_u32(out, column.type_oid);
            out.extend_from_slice(&column.type_size.to_be_bytes());
            // No type modifier, text format.
            put_i32(out, -1);
            put_u16(out, 0);
        }
    });
}

/// A row in text format; `None` is NULL.
pub fn data_row<'a>(out: &mut Vec<u8>, values: impl IntoIterator<Item = Option<&'a [u8]>>) {
    message(out, BackendTag::DATA_ROW.0, |out| {
        let count_at = out.len();
        put_u16(out, 0);
        let mut count: u16 = 0;
        for value in values {
            count = count.wrapping_add(1);
            match value {
                None => put_i32(out, -1),
                Some(value) => {
                    put_u32(out, value.len() as u32);
                    out.extend_from_slice(value);
                }
            }
        }
        patch(out, count_at, count.to_be_bytes());
    });
}

// ---- to servers -------------------------------------------------------------------------------

/// Opens a session with protocol 3.`minor`. A pair with an empty name would end the list and is
/// left out; `user` must be among the parameters.
pub fn startup_message<'a>(
    out: &mut Vec<u8>,
    minor: u16,
    parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
) {
    untagged(out, |out| {
        put_version(out, minor);
        for (name, value) in parameters {
            if !name.is_empty() && !name.starts_with('\0') {
                put_cstr(out, name.as_bytes());
                put_cstr(out, value.as_bytes());
            }
        }
        out.push(0);
    });
}

/// Asks for TLS; the answer is one untagged byte.
pub fn ssl_request(out: &mut Vec<u8>) {
    untagged(out, |out| put_u32(out, SSL_REQUEST_CODE));
}

/// Asks for GSSAPI encryption; the answer is one untagged byte.
pub fn gss_enc_request(out: &mut Vec<u8>) {
    untagged(out, |out| put_u32(out, GSS_ENC_REQUEST_CODE));
}

/// Asks to cancel what the server process `pid` is running.
pub fn cancel_request(out: &mut Vec<u8>, pid: i32, secret: &[u8]) {
    untagged(out, |out| {
        put_u32(out, CANCEL_REQUEST_CODE);
        put_i32(out, pid);
        out.extend_from_slice(secret);
    });
}

/// Answers a clear-text or md5 challenge.
pub fn password_message(out: &mut Vec<u8>, password: &[u8]) {
    message(out, FrontendTag::PASSWORD.0, |out| put_cstr(out, password));
}

/// Chooses a SASL mechanism and sends its first message.
pub fn sasl_initial_response(out: &mut Vec<u8>, mechanism: &str, response: Option<&[u8]>) {
    message(out, FrontendTag::PASSWORD.0, |out| {
        put_cstr(out, mechanism.as_bytes());
        match response {
            None => put_i32(out, -1),
            Some(response) => {
                put_u32(out, response.len() as u32);
                out.extend_from_slice(response);
            }
        }
    });
}

/// The SASL mechanism's next message.
pub fn sasl_response(out: &mut Vec<u8>, response: &[u8]) {
    message(out, FrontendTag::PASSWORD.0, |out| {
        out.extend_from_slice(response);
    });
}

/// Simple query.
pub fn query(out: &mut Vec<u8>, text: &[u8]) {
    message(out, FrontendTag::QUERY.0, |out| put_cstr(out, text));
}

/// Creates a prepared statement. `parameter_types` is the raw list: four bytes an OID, big endian.
pub fn parse(out: &mut Vec<u8>, name: &[u8], query: &[u8], parameter_types: &[u8]) {
    debug_assert!(
        parameter_types.len().is_multiple_of(4),
        "type OIDs have four bytes each"
    );
    message(out, FrontendTag::PARSE.0, |out| {
        put_cstr(out, name);
        put_cstr(out, query);
        put_u16(out, (parameter_types.len() / 4) as u16);
        out.extend_from_slice(parameter_types);
    });
}

/// Binds parameters. `rest` is everything behind the names, as it came from a client.
pub fn bind(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], rest: &[u8]) {
    message(out, FrontendTag::BIND.0, |out| {
        put_cstr(out, portal);
        put_cstr(out, statement);
        out.extend_from_slice(rest);
    });
}

/// Asks for the description of a statement or portal.
pub fn describe(out: &mut Vec<u8>, kind: Target, name: &[u8]) {
    message(out, FrontendTag::DESCRIBE.0, |out| {
        out.push(kind.as_byte());
        put_cstr(out, name);
    });
}

/// Closes a statement or portal.
pub fn close(out: &mut Vec<u8>, kind: Target, name: &[u8]) {
    message(out, FrontendTag::CLOSE.0, |out| {
        out.push(kind.as_byte());
        put_cstr(out, name);
    });
}

/// Runs a portal; 0 rows means all of them.
pub fn execute(out: &mut Vec<u8>, portal: &[u8], max_rows: i32) {
    message(out, FrontendTag::EXECUTE.0, |out| {
        put_cstr(out, portal);
        put_i32(out, max_rows);
    });
}

/// Ends an extended-query batch.
pub fn sync(out: &mut Vec<u8>) {
    message(out, FrontendTag::SYNC.0, |_| ());
}

/// Asks for the replies so far.
pub fn flush(out: &mut Vec<u8>) {
    message(out, FrontendTag::FLUSH.0, |_| ());
}

/// Aborts a COPY from the client with a reason for the server's error message.
pub fn copy_fail(out: &mut Vec<u8>, reason: &str) {
    message(out, FrontendTag::COPY_FAIL.0, |out| {
        put_cstr(out, reason.as_bytes());
    });
}

/// Says goodbye.
pub fn terminate(out: &mut Vec<u8>) {
    message(out, FrontendTag::TERMINATE.0, |_| ());
}

// ---- fields -----------------------------------------------------------------------------------

fn message(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    untagged(out, body);
}

fn untagged(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let length_at = out.len();
    put_u32(out, 0);
    body(out);
    let length = out.len() - length_at;
    debug_assert!(
        i32::try_from(length).is_ok(),
        "a length must stay positive as Int32"
    );
    patch(out, length_at, (length as u32).to_be_bytes());
}

fn authentication(out: &mut Vec<u8>, code: u32, body: impl FnOnce(&mut Vec<u8>)) {
    message(out, BackendTag::AUTHENTICATION.0, |out| {
        put_u32(out, code);
        body(out);
    });
}

fn put_report(out: &mut Vec<u8>, report: &Report<'_>) {
    let severity = report.severity.as_str();
    let mut field = |code, text: Option<&str>| {
        if let Some(text) = text {
            out.push(code);
            put_cstr(out, text.as_bytes());
        }
    };
    field(b'S', Some(severity));
    field(b'V', Some(severity));
    field(b'C', Some(report.sqlstate));
    field(b'M', Some(report.message));
    field(b'D', report.detail);
    field(b'H', report.hint);
    out.push(0);
}

fn put_version(out: &mut Vec<u8>, minor: u16) {
    put_u16(out, PROTOCOL_MAJOR);
    put_u16(out, minor);
}

fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_i32(out: &mut Vec<u8>, value: i32) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Writes `text` up to its first zero byte, and the terminator.
fn put_cstr(out: &mut Vec<u8>, text: &[u8]) {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    out.extend_from_slice(text.get(..end).unwrap_or_default());
    out.push(0);
}

fn patch<const N: usize>(out: &mut [u8], at: usize, bytes: [u8; N]) {
    if let Some(place) = out.get_mut(at..at + N) {
        place.copy_from_slice(&bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = b"before".to_vec();
        write(&mut out);
        assert_eq!(&out[..6], b"before");
        out.split_off(6)
    }

    #[test]
    fn messages_have_the_bytes_of_the_manual() {
        assert_eq!(written(authentication_ok), b"R\0\0\0\x08\0\0\0\0");
        assert_eq!(written(ssl_request), b"\0\0\0\x08\x04\xd2\x16\x2f");
        assert_eq!(written(gss_enc_request), b"\0\0\0\x08\x04\xd2\x16\x30");
        assert_eq!(written(sync), b"S\0\0\0\x04");
        assert_eq!(
            written(|out| cancel_request(out, 1, b"abcd")),
            b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01abcd"
        );
        assert_eq!(
            written(|out| ready_for_query(out, TransactionStatus::Idle)),
            b"Z\0\0\0\x05I"
        );
        assert_eq!(
            written(|out| data_row(out, [Some(&b"ab"[..]), None])),
            b"D\0\0\0\x10\0\x02\0\0\0\x02ab\xff\xff\xff\xff"
        );
        assert_eq!(
            written(|out| row_description(out, &[Column::text("a")])),
            b"T\0\0\0\x1a\0\x01a\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0"
        );
        assert_eq!(
            written(|out| negotiate_protocol_version(out, 2, &["_pq_.a"])),
            b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.a\0"
        );
    }

    #[test]
    fn an_error_has_severity_twice_and_only_the_fields_that_are_set() {
        let report = Report::new(Severity::Fatal, "53300", "sorry, too many clients already");
        assert_eq!(
            written(|out| error_response(out, &report)),
            b"E\0\0\0\x3bSFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0\0"
        );
    }

    #[test]
    fn a_zero_byte_in_an_argument_cannot_forge_a_field() {
        assert_eq!(written(|out| query(out, b"a\0bX")), b"Q\0\0\0\x06a\0");
        let packet = written(|out| startup_message(out, 0, [("\0user", "x"), ("a", "b\0user")]));
        assert_eq!(packet, b"\0\0\0\x0d\0\x03\0\0a\0b\0\0");
    }
}
