//! From the first byte to the first ReadyForQuery.
//!
//! Source: protocol-flow.html (start-up, SSL and GSSAPI encryption), protocol-message-formats.html.

use crate::common::client::{Client, Message};
use crate::common::login::PROTOCOL_3_0;
use crate::common::postgres::UTF8_USER;
use crate::common::{
    Config, Login, Postgres, Refusal, Target, everywhere, message, with_one_and_two_shards,
};

everywhere!(
    ssl_request_is_refused_and_the_startup_goes_on,
    startup_cut_into_single_bytes_is_understood,
    unknown_minor_version_and_options_are_negotiated_down,
    known_version_is_not_negotiated,
    protocol_2_is_refused,
    startup_without_user_is_refused,
    unknown_database_is_refused_with_3d000,
    database_defaults_to_the_user,
    options_of_the_startup_packet_are_applied,
    setting_named_in_the_startup_packet_is_applied,
    empty_startup_value_is_accepted,
    user_name_may_hold_letters_outside_ascii,
    startup_reports_the_parameters_and_a_cancel_key,
    terminate_right_after_startup_closes,
    client_that_vanishes_during_startup_harms_nobody,
    query_sent_with_the_startup_packet_is_answered,
);

// PostgreSQL itself may be willing to speak GSSAPI.
with_one_and_two_shards!(
    gssenc_request_is_refused_and_the_startup_goes_on,
    gssenc_and_then_ssl_request_are_both_refused,
);

fn ssl_request_is_refused_and_the_startup_goes_on(target: &Target) {
    refuses_and_goes_on(target, &[message::ssl_request()]);
}

fn gssenc_request_is_refused_and_the_startup_goes_on(shards: usize) {
    refuses_and_goes_on(&Target::pooled(shards), &[message::gssenc_request()]);
}

fn gssenc_and_then_ssl_request_are_both_refused(shards: usize) {
    let requests = [message::gssenc_request(), message::ssl_request()];
    refuses_and_goes_on(&Target::pooled(shards), &requests);
}

fn refuses_and_goes_on(target: &Target, requests: &[Vec<u8>]) {
    let mut client = Client::dial(target.port());
    for request in requests {
        client.send(request);
        assert_eq!(client.receive_byte(), b'N');
    }
    let (mut client, _) = target.login().attempt_on(client).unwrap();
    assert_eq!(client.value("select 1"), "1");
}

fn startup_cut_into_single_bytes_is_understood(target: &Target) {
    let mut client = Client::dial(target.port());
    // The user of whom no password is asked.
    let login = if target.is_pooled() {
        target.login()
    } else {
        target.login().user("app_trust")
    };
    for byte in login.startup_packet() {
        client.send(&[byte]);
    }
    client.reply();
    for byte in message::query("select 'cut'") {
        client.send(&[byte]);
    }
    assert_eq!(client.reply().value(), "cut");
}

fn unknown_minor_version_and_options_are_negotiated_down(target: &Target) {
    let login = target
        .login()
        .protocol(PROTOCOL_3_0 + 9999)
        .parameter("_pq_.test_protocol_negotiation", "on")
        .parameter("_pq_.other", "");
    let (mut client, messages) = login.attempt_on(Client::dial(target.port())).unwrap();
    let negotiation = &messages[0];
    assert_eq!(negotiation.tag, b'v', "{messages:?}");
    assert_eq!(
        messages
            .iter()
            .filter(|message| message.tag == b'v')
            .count(),
        1
    );
    let (version, options) = negotiated(negotiation);
    assert_eq!(options, ["_pq_.test_protocol_negotiation", "_pq_.other"]);
    if target.is_pooled() {
        assert_eq!(version, PROTOCOL_3_0 + 2);
    } else {
        assert!(version >= PROTOCOL_3_0, "{version:x}");
    }
    assert_eq!(client.value("select 1"), "1");
}

/// The version and the unknown options of a `NegotiateProtocolVersion`.
fn negotiated(message: &Message) -> (u32, Vec<String>) {
    let number = |at: usize| u32::from_be_bytes(message.body[at..at + 4].try_into().unwrap());
    let options = Message {
        tag: b'v',
        body: message.body[8..].to_vec(),
    }
    .strings();
    assert_eq!(number(4) as usize, options.len());
    (number(0), options)
}

fn known_version_is_not_negotiated(target: &Target) {
    let (_, messages) = target
        .login()
        .attempt_on(Client::dial(target.port()))
        .unwrap();
    assert!(
        messages.iter().all(|message| message.tag != b'v'),
        "{messages:?}"
    );
}

fn protocol_2_is_refused(target: &Target) {
    let mut client = Client::dial(target.port());
    client.send(&target.login().protocol(0x0002_0000).startup_packet());
    // The error of a version 2 server has another form, so only its tag is looked at.
    assert!(client.first_byte_or_close().is_none_or(|byte| byte == b'E'));
    target.assert_serves();
}

fn startup_without_user_is_refused(target: &Target) {
    assert!(target.login().without("user").attempt().is_err());
    target.assert_serves();
}

fn unknown_database_is_refused_with_3d000(target: &Target) {
    let refusal = target.login().database("nowhere").refusal();
    assert_eq!(refusal.sqlstate(), "3D000", "{refusal:?}");
    target.assert_serves();
}

fn database_defaults_to_the_user(target: &Target) {
    let mut client = target.login().without("database").connect();
    assert_eq!(client.value("select current_database()"), "app");
}

fn options_of_the_startup_packet_are_applied(target: &Target) {
    let login = target
        .login()
        .parameter("options", "-c statement_timeout=1234");
    assert_eq!(login.connect().value("show statement_timeout"), "1234ms");
    assert_eq!(target.connect().value("show statement_timeout"), "0");
}

fn setting_named_in_the_startup_packet_is_applied(target: &Target) {
    let login = target.login().parameter("extra_float_digits", "2");
    assert_eq!(login.connect().value("show extra_float_digits"), "2");
    assert_eq!(target.connect().value("show extra_float_digits"), "1");
}

fn empty_startup_value_is_accepted(target: &Target) {
    let mut client = target.login().parameter("application_name", "").connect();
    assert_eq!(client.value("select 1"), "1");
    let mut client = target.login().parameter("options", "").connect();
    assert_eq!(client.value("select 2"), "2");
}

fn user_name_may_hold_letters_outside_ascii(target: &Target) {
    let mut client = target.login().user(UTF8_USER).connect();
    assert_eq!(client.value("select 1"), "1");
    let refusal = target.login().user("žofia").database("nowhere").refusal();
    assert!(matches!(refusal, Refusal::Error(_)), "{refusal:?}");
}

fn startup_reports_the_parameters_and_a_cancel_key(target: &Target) {
    let (client, messages) = target
        .login()
        .attempt_on(Client::dial(target.port()))
        .unwrap();
    assert_eq!(
        messages
            .iter()
            .filter(|message| message.tag == b'K')
            .count(),
        1
    );
    assert_eq!(client.key.len(), 8);
    for name in [
        "server_version",
        "server_encoding",
        "client_encoding",
        "application_name",
        "DateStyle",
        "IntervalStyle",
        "TimeZone",
        "integer_datetimes",
        "standard_conforming_strings",
        "is_superuser",
    ] {
        assert!(
            client.parameters.contains_key(name),
            "{name} in {:?}",
            client.parameters
        );
    }
    assert_eq!(client.parameters["server_encoding"], "UTF8");
    let other = target.connect();
    assert_ne!(client.key, other.key, "two clients with one cancel key");
}

fn terminate_right_after_startup_closes(target: &Target) {
    target.connect().terminate();
}

fn client_that_vanishes_during_startup_harms_nobody(target: &Target) {
    let packet = target.login().startup_packet();
    for length in 0..packet.len() {
        let mut client = Client::dial(target.port());
        client.send(&packet[..length]);
        if length % 2 == 0 {
            client.abort();
        }
    }
    target.assert_serves();
}

fn query_sent_with_the_startup_packet_is_answered(target: &Target) {
    // Only where no password is asked may a client talk on before it is let in.
    let login = if target.is_pooled() {
        target.login()
    } else {
        target.login().user("app_trust")
    };
    let mut client = Client::dial(target.port());
    client.send_all(&[login.startup_packet(), message::query("select 'early'")]);
    assert_eq!(client.reply().status, 'I');
    assert_eq!(client.reply().value(), "early");
}

#[test]
fn unknown_database_is_named_in_the_refusal() {
    let doorman = Config::new(Postgres::shared()).start();
    let refusal = doorman.login().database("nowhere").refusal();
    let wanted = "No connection pool configured for database: nowhere, user: app";
    assert!(refusal.message().starts_with(wanted), "{refusal:?}");
}

#[test]
fn client_silent_at_login_is_closed_after_the_login_timeout() {
    let config = Config::new(Postgres::shared()).general("client_login_timeout", "1s");
    let doorman = config.start();
    let mut silent = Client::dial(doorman.port());
    let mut half = Client::dial(doorman.port());
    half.send(&doorman.login().startup_packet()[..20]);
    assert!(is_ended(&mut silent));
    assert!(is_ended(&mut half));
    doorman.assert_serves();
}

#[test]
fn client_silent_at_its_password_is_closed_after_the_login_timeout() {
    let postgres = Postgres::shared();
    let user = crate::common::User::new("app", 2).secret(&postgres.verifier("app"));
    let doorman = Config::new(postgres)
        .general("client_login_timeout", "1s")
        .hba("host all all 127.0.0.1/32 scram-sha-256")
        .users(vec![user])
        .start();
    let mut client = Client::dial(doorman.port());
    client.send(&doorman.login().startup_packet());
    client.expect('R');
    assert!(is_ended(&mut client));
    doorman.assert_serves();
}

#[test]
fn logged_in_client_outlives_the_login_timeout() {
    let config = Config::new(Postgres::shared()).general("client_login_timeout", "1s");
    let doorman = config.start();
    let mut early = doorman.connect();
    let mut silent = Client::dial(doorman.port());
    // The end of the silent one shows that the time has passed.
    assert!(is_ended(&mut silent));
    assert_eq!(early.value("select 'still here'"), "still here");
}

/// Whether the peer closes, with or without an `ErrorResponse` before.
fn is_ended(client: &mut Client) -> bool {
    match client.try_receive() {
        Ok(message) => message.tag == b'E' && client.is_closed(),
        Err(error) => crate::common::client::is_close(&error),
    }
}

#[test]
fn clients_beyond_max_connections_are_refused_with_53300() {
    let config = Config::new(Postgres::shared()).general("max_connections", 3_i64);
    let doorman = config.start();
    let mut clients = Vec::new();
    let refusal = loop {
        match doorman.login().attempt() {
            Ok(client) => clients.push(client),
            Err(refusal) => break refusal,
        }
        assert!(clients.len() <= 4, "more clients than max_connections");
    };
    assert!(
        clients.len() >= 2,
        "refused after {} clients",
        clients.len()
    );
    assert_eq!(refusal.sqlstate(), "53300");
    assert_eq!(refusal.message(), "sorry, too many clients already");
    clients.pop().unwrap().terminate();
    crate::common::eventually("room for one more", || doorman.login().attempt().is_ok());
    for client in &mut clients {
        assert_eq!(client.value("select 1"), "1");
    }
}

#[test]
fn every_kind_of_password_works_directly() {
    let port = Postgres::shared().port();
    for user in ["app", "app_md5", "app_clear", "app_trust"] {
        let mut client = Login::new(port).user(user).connect();
        assert_eq!(client.value("select current_user"), user);
    }
}

#[test]
fn second_process_on_the_same_address_is_refused() {
    let doorman = Config::new(Postgres::shared()).start();
    let output = doorman.run_a_second_time();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("Address already in use"), "{said}");
    doorman.assert_serves();
}
