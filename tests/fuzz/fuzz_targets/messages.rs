//! Arbitrary bytes as the body of every message that is decoded.
//!
//! **Owns:** no panic in any view or its iterators; what a view accepts can be written back to the
//! same bytes, for the messages that have a writer.
//! **Does not own:** framing.
//!
//! Run: `cargo +nightly fuzz run --fuzz-dir tests/fuzz messages`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_doorman::protocol::backend::{
    Authentication, BackendKeyData, CommandComplete, ErrorFields, NegotiateProtocolVersion,
    ParameterStatus, ReadyForQuery,
};
use pg_doorman::protocol::frontend::{
    Bind, Close, Describe, Execute, Parse, PasswordMessage, Query, SaslInitialResponse,
    SaslResponse,
};
use pg_doorman::protocol::writer;

/// Tag and length.
const HEADER_BYTES: usize = 5;

fn same(body: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
    let mut out = Vec::new();
    write(&mut out);
    assert_eq!(&out[HEADER_BYTES..], body);
}

fn frontend(body: &[u8]) {
    if let Ok(message) = Query::decode(body) {
        same(body, |out| writer::query(out, message.text));
    }
    if let Ok(message) = Parse::decode(body) {
        assert_eq!(
            message.parameter_types().count(),
            usize::from(message.parameter_type_count)
        );
        same(body, |out| {
            writer::parse(out, message.name, message.query, message.rest)
        });
    }
    if let Ok(message) = Bind::decode(body) {
        same(body, |out| {
            writer::bind(out, message.portal, message.statement, message.rest)
        });
    }
    if let Ok(message) = Describe::decode(body) {
        same(body, |out| {
            writer::describe(out, message.kind, message.name)
        });
    }
    if let Ok(message) = Close::decode(body) {
        same(body, |out| writer::close(out, message.kind, message.name));
    }
    if let Ok(message) = Execute::decode(body) {
        same(body, |out| {
            writer::execute(out, message.portal, message.max_rows)
        });
    }
    if let Ok(message) = PasswordMessage::decode(body) {
        same(body, |out| writer::password_message(out, message.password));
    }
    if let Ok(message) = SaslInitialResponse::decode(body) {
        assert!(message.mechanism.len() < body.len());
    }
    let _ = SaslResponse::decode(body);
}

fn backend(body: &[u8]) {
    if let Ok(fields) = ErrorFields::decode(body) {
        let bytes: usize = fields.fields().map(|(_, text)| text.len() + 2).sum();
        assert_eq!(bytes + 1, body.len());
    }
    if let Ok(message) = ParameterStatus::decode(body) {
        same(body, |out| {
            writer::parameter_status(out, message.name, message.value)
        });
    }
    if let Ok(message) = BackendKeyData::decode(body) {
        same(body, |out| {
            writer::backend_key_data(out, message.pid, message.secret)
        });
    }
    if let Ok(message) = CommandComplete::decode(body) {
        same(body, |out| writer::command_complete(out, message.tag));
    }
    if let Ok(message) = ReadyForQuery::decode(body) {
        same(body, |out| writer::ready_for_query(out, message.status));
    }
    if let Ok(message) = NegotiateProtocolVersion::decode(body) {
        let _ = message.options().count();
    }
    if let Ok(Authentication::Sasl(mechanisms)) = Authentication::decode(body) {
        assert!(mechanisms.iter().all(|name| !name.is_empty()));
    }
}

fuzz_target!(|body: &[u8]| {
    frontend(body);
    backend(body);
});
