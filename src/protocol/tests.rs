//! Properties of the whole floor: what is written can be read, and nothing that is read panics.
//!
//! **Owns:** round trips through `writer` and the views, truncation and noise.
//! **Does not own:** single facts about one file, which are tested in that file.
//!
//! The runner prints the failing input and its seed.

use proptest::collection::vec;
use proptest::prelude::*;

use super::backend::{
    Authentication, BackendKeyData, CommandComplete, ErrorFields, NegotiateProtocolVersion,
    ParameterStatus, ReadyForQuery, TransactionStatus,
};
use super::frontend::{
    Bind, Close, Describe, Execute, Parse, PasswordMessage, Query, SaslInitialResponse,
    SaslResponse, Target,
};
use super::writer::{self, Report, Severity};
use super::*;

/// Writes one tagged message, checks its header and returns the body.
fn body_of(tag: u8, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    assert_eq!(out[0], tag);
    let length = u32::from_be_bytes(out[1..5].try_into().unwrap());
    assert_eq!(length as usize, out.len() - 1);
    out.split_off(5)
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    vec(1_u8.., 0..40)
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![Just(Target::Portal), Just(Target::Statement)]
}

/// Runs every view over `body`, to the end of its iterators.
fn decode_all(body: &[u8]) {
    let _ = Query::decode(body);
    let _ = Parse::decode(body).map(|parse| parse.parameter_types().count());
    let _ = Bind::decode(body);
    let _ = Describe::decode(body);
    let _ = Close::decode(body);
    let _ = Execute::decode(body);
    let _ = PasswordMessage::decode(body);
    let _ = SaslInitialResponse::decode(body);
    let _ = SaslResponse::decode(body);
    let _ = ErrorFields::decode(body).map(|fields| format!("{fields:?}"));
    let _ = ParameterStatus::decode(body);
    let _ = BackendKeyData::decode(body);
    let _ = ReadyForQuery::decode(body);
    let _ = CommandComplete::decode(body);
    let _ = NegotiateProtocolVersion::decode(body).map(|message| message.options().count());
    if let Ok(Authentication::Sasl(mechanisms)) = Authentication::decode(body) {
        assert!(mechanisms.iter().all(|name| !name.is_empty()));
    }
}

proptest! {
    #[test]
    fn any_body_gives_a_value_or_an_error(body in vec(any::<u8>(), 0..200)) {
        decode_all(&body);
    }

    #[test]
    fn any_body_made_of_likely_bytes_gives_a_value_or_an_error(
        body in vec(prop_oneof![Just(0_u8), Just(1), Just(4), Just(10), Just(b'S'), Just(255)], 0..60),
    ) {
        decode_all(&body);
    }

    #[test]
    fn any_first_packet_gives_a_value_or_an_error(
        length in 0_u32..300,
        code in prop_oneof![Just(196_608_u32), Just(196_610), 80_877_100_u32..80_877_110, any::<u32>()],
        body in vec(prop_oneof![Just(0_u8), any::<u8>()], 0..300),
    ) {
        let packet = [&length.to_be_bytes()[..], &code.to_be_bytes(), &body].concat();
        if let Ok(Some((_, used))) = parse_first_packet(&packet) {
            prop_assert_eq!(used, length as usize);
        }
    }

    #[test]
    fn any_options_text_gives_a_value_or_an_error(options in r"[-c=\\ a-z\t]*|.*") {
        let _ = parse_options(&options);
    }

    #[test]
    fn settings_survive_quoting(
        settings in vec(("[a-z_][a-z_.]{0,10}", "[^\u{0}]{0,12}"), 0..5),
        long in any::<bool>(),
    ) {
        let quote = |value: &str| value.chars().flat_map(|c| ['\\', c]).collect::<String>();
        let prefix = if long { "--" } else { "-c " };
        let words: Vec<String> = settings
            .iter()
            .map(|(name, value)| format!("{prefix}{name}={}", quote(value)))
            .collect();
        let options = words.join(" ");
        prop_assert_eq!(parse_options(&options), Ok(settings));
    }

    #[test]
    fn a_startup_message_is_read_as_it_was_written(
        minor in 0..5_u16,
        user in "[^\u{0}]{1,20}",
        parameters in vec(("[a-z.]{1,5}_[a-z]", "[^\u{0}]{0,20}"), 0..6),
    ) {
        let mut packet = Vec::new();
        let pairs = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        writer::startup_message(&mut packet, minor, [("user", user.as_str())].into_iter().chain(pairs));
        for cut in 0..packet.len() {
            prop_assert_eq!(parse_first_packet(&packet[..cut]), Ok(None), "cut at {}", cut);
        }
        let expected = StartupMessage {
            major: 3,
            minor,
            database: user.clone(),
            user,
            parameters,
            replication: None,
            options: None,
            unsupported_protocol_options: vec![],
        };
        let length = packet.len();
        packet.extend_from_slice(b"more");
        let found = parse_first_packet(&packet);
        prop_assert_eq!(found, Ok(Some((StartupPacket::Startup(expected), length))));
    }

    #[test]
    fn a_startup_message_shortened_with_its_length_is_refused(
        parameters in vec(("[a-z]{1,5}", "[a-z]{0,5}"), 0..4),
    ) {
        let mut packet = Vec::new();
        let pairs = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        writer::startup_message(&mut packet, 0, [("user", "u")].into_iter().chain(pairs));
        for cut in 8..packet.len() {
            let length = u32::try_from(cut).unwrap();
            packet[..4].copy_from_slice(&length.to_be_bytes());
            prop_assert!(parse_first_packet(&packet[..cut]).is_err(), "cut at {}", cut);
        }
    }

    #[test]
    fn a_cancel_request_is_read_as_it_was_written(pid: i32, secret in vec(any::<u8>(), 4..=256)) {
        let mut packet = Vec::new();
        writer::cancel_request(&mut packet, pid, &secret);
        let length = packet.len();
        let expected = StartupPacket::Cancel(startup::CancelKeyBytes { pid, secret });
        prop_assert_eq!(parse_first_packet(&packet), Ok(Some((expected, length))));
    }

    #[test]
    fn frontend_messages_are_read_as_they_were_written(
        a in text(),
        b in text(),
        rest in vec(any::<[u8; 4]>(), 0..5).prop_map(|oids| oids.concat()),
        kind in target(),
        number in any::<i32>(),
    ) {
        let body = body_of(b'Q', |out| writer::query(out, &a));
        prop_assert_eq!(Query::decode(&body), Ok(Query { text: &a }));
        let body = body_of(b'P', |out| writer::parse(out, &a, &b, &rest));
        let parameter_type_count = u16::try_from(rest.len() / 4).unwrap();
        let parse = Parse { name: &a, query: &b, parameter_type_count, rest: &rest };
        prop_assert_eq!(Parse::decode(&body), Ok(parse));
        let oids: Vec<u8> = parse.parameter_types().flat_map(u32::to_be_bytes).collect();
        prop_assert_eq!(&oids, &rest);
        for cut in 0..body.len() {
            prop_assert!(Parse::decode(&body[..cut]).is_err());
        }
        let body = body_of(b'B', |out| writer::bind(out, &a, &b, &rest));
        prop_assert_eq!(Bind::decode(&body), Ok(Bind { portal: &a, statement: &b, rest: &rest }));
        let body = body_of(b'D', |out| writer::describe(out, kind, &a));
        prop_assert_eq!(Describe::decode(&body), Ok(Describe { kind, name: &a }));
        let body = body_of(b'C', |out| writer::close(out, kind, &a));
        prop_assert_eq!(Close::decode(&body), Ok(Close { kind, name: &a }));
        let body = body_of(b'E', |out| writer::execute(out, &a, number));
        prop_assert_eq!(Execute::decode(&body), Ok(Execute { portal: &a, max_rows: number }));
        for cut in 0..body.len() {
            prop_assert!(Execute::decode(&body[..cut]).is_err());
        }
        let body = body_of(b'p', |out| writer::password_message(out, &a));
        prop_assert_eq!(PasswordMessage::decode(&body), Ok(PasswordMessage { password: &a }));
    }

    #[test]
    fn sasl_messages_are_read_as_they_were_written(
        mechanism in "[A-Z0-9-]{1,20}",
        response in proptest::option::of(vec(any::<u8>(), 0..50)),
        salt in any::<[u8; 4]>(),
    ) {
        let response = response.as_deref();
        let body = body_of(b'p', |out| writer::sasl_initial_response(out, &mechanism, response));
        let expected = SaslInitialResponse { mechanism: mechanism.as_bytes(), response };
        prop_assert_eq!(SaslInitialResponse::decode(&body), Ok(expected));
        for cut in 0..body.len() {
            prop_assert!(SaslInitialResponse::decode(&body[..cut]).is_err());
        }
        let body = body_of(b'R', |out| writer::authentication_sasl(out, &[&mechanism, "X"]));
        let Ok(Authentication::Sasl(mechanisms)) = Authentication::decode(&body) else {
            return Err(TestCaseError::fail("not SASL"));
        };
        let names: Vec<_> = mechanisms.iter().collect();
        prop_assert_eq!(names, [mechanism.as_bytes(), b"X"]);
        for cut in 0..body.len() {
            prop_assert!(Authentication::decode(&body[..cut]).is_err());
        }
        let bytes = response.unwrap_or_default();
        let body = body_of(b'R', |out| writer::authentication_sasl_continue(out, bytes));
        prop_assert_eq!(Authentication::decode(&body), Ok(Authentication::SaslContinue(bytes)));
        let body = body_of(b'R', |out| writer::authentication_sasl_final(out, bytes));
        prop_assert_eq!(Authentication::decode(&body), Ok(Authentication::SaslFinal(bytes)));
        let body = body_of(b'R', |out| writer::authentication_md5_password(out, salt));
        prop_assert_eq!(Authentication::decode(&body), Ok(Authentication::Md5Password { salt }));
    }

    #[test]
    fn backend_messages_are_read_as_they_were_written(
        name in text(),
        value in text(),
        pid: i32,
        secret in vec(any::<u8>(), 4..=256),
        newest_minor: u16,
        options in vec("[a-z_.]{0,9}", 0..4),
    ) {
        let body = body_of(b'S', |out| writer::parameter_status(out, &name, &value));
        let expected = ParameterStatus { name: &name, value: &value };
        prop_assert_eq!(ParameterStatus::decode(&body), Ok(expected));
        for cut in 0..body.len() {
            prop_assert!(ParameterStatus::decode(&body[..cut]).is_err());
        }
        let body = body_of(b'K', |out| writer::backend_key_data(out, pid, &secret));
        prop_assert_eq!(BackendKeyData::decode(&body), Ok(BackendKeyData { pid, secret: &secret }));
        let body = body_of(b'C', |out| writer::command_complete(out, &name));
        prop_assert_eq!(CommandComplete::decode(&body), Ok(CommandComplete { tag: &name }));
        let body = body_of(b'v', |out| {
            writer::negotiate_protocol_version(out, newest_minor, &options);
        });
        let message = NegotiateProtocolVersion::decode(&body).unwrap();
        prop_assert_eq!(message.newest_minor, newest_minor);
        prop_assert!(message.options().eq(options.iter().map(String::as_bytes)));
        for cut in 0..body.len() {
            prop_assert!(NegotiateProtocolVersion::decode(&body[..cut]).is_err());
        }
    }

    #[test]
    fn reports_are_read_as_they_were_written(
        message in "[^\u{0}]{0,40}",
        detail in proptest::option::of("[^\u{0}]{0,40}"),
        hint in proptest::option::of("[^\u{0}]{0,40}"),
    ) {
        let (detail, hint) = (detail.as_deref(), hint.as_deref());
        let report =
            Report { severity: Severity::Error, sqlstate: "22023", message: &message, detail, hint };
        let body = body_of(b'E', |out| writer::error_response(out, &report));
        let fields = ErrorFields::decode(&body).unwrap();
        prop_assert_eq!(fields.severity(), Some(&b"ERROR"[..]));
        prop_assert_eq!(fields.sqlstate(), Some(&b"22023"[..]));
        prop_assert_eq!(fields.message(), Some(message.as_bytes()));
        prop_assert_eq!(fields.field(b'D'), detail.map(str::as_bytes));
        prop_assert_eq!(fields.field(b'H'), hint.map(str::as_bytes));
        for cut in 0..body.len() {
            prop_assert!(ErrorFields::decode(&body[..cut]).is_err());
        }
    }
}

#[test]
fn the_transaction_status_is_read_as_it_was_written() {
    use TransactionStatus::{Failed, Idle, InTransaction};
    for status in [Failed, Idle, InTransaction] {
        let body = body_of(b'Z', |out| writer::ready_for_query(out, status));
        assert_eq!(ReadyForQuery::decode(&body), Ok(ReadyForQuery { status }));
    }
    assert!(ReadyForQuery::decode(b"").is_err());
    assert!(ReadyForQuery::decode(b"II").is_err());
    assert!(ReadyForQuery::decode(b"X").is_err());
}

#[test]
fn sqlstates_have_five_characters() {
    let listed = include_str!("sqlstate.rs")
        .lines()
        .filter_map(|line| line.split_once("SqlState = \"")?.1.strip_suffix("\";"));
    let mut count = 0;
    for code in listed {
        count += 1;
        assert!(
            code.len() == 5
                && code
                    .bytes()
                    .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        );
    }
    assert!(count > 20);
}
