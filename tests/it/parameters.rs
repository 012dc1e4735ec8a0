//! Session parameters of clients that share servers: nobody sees those of another.
//!
//! Source: protocol-flow.html (ParameterStatus), sql-set.html, runtime-config-client.html.

use crate::common::message::{message, text};
use crate::common::{
    Client, Config, Postgres, Target, User, at_once, everywhere, with_one_and_two_shards,
};

everywhere!(
    startup_parameters_of_two_clients_do_not_mix,
    set_outside_a_transaction_stays_with_its_client,
    set_in_a_committed_transaction_stays_with_its_client,
    set_in_a_rolled_back_transaction_is_undone,
    set_local_ends_with_its_transaction,
    change_is_reported_to_its_client,
    rollback_of_a_change_is_reported_to_its_client,
    client_encodings_of_two_clients_do_not_mix,
    settings_beyond_ascii_survive_other_encodings,
    backslashes_mean_what_the_client_has_chosen,
    odd_values_are_not_taken_as_sql,
    names_of_parameters_ignore_case,
    impossible_startup_value_harms_nobody,
);

with_one_and_two_shards!(
    parameters_of_many_clients_on_few_servers_do_not_mix,
    parameters_survive_the_end_of_their_server,
    role_of_one_client_is_not_told_to_another,
);

fn show(client: &mut Client, name: &str) -> String {
    client.value(&format!("show {name}"))
}

fn startup_parameters_of_two_clients_do_not_mix(target: &Target) {
    let one = [
        ("client_encoding", "LATIN1"),
        ("DateStyle", "SQL, DMY"),
        ("TimeZone", "Asia/Tokyo"),
        ("application_name", "one"),
        ("standard_conforming_strings", "off"),
    ];
    let two = [
        ("client_encoding", "UTF8"),
        ("DateStyle", "German, DMY"),
        ("TimeZone", "Europe/Paris"),
        ("application_name", "two"),
        ("standard_conforming_strings", "on"),
    ];
    let login = |list: &[(&str, &str)]| {
        let start = target.login();
        list.iter()
            .fold(start, |login, (name, value)| login.parameter(name, value))
            .connect()
    };
    let mut clients = [(login(&one), one), (login(&two), two)];
    for _ in 0..4 {
        for (client, list) in &mut clients {
            for (name, value) in list {
                assert_eq!(show(client, name), *value);
                assert_eq!(client.parameters[*name], *value);
            }
        }
    }
    let mut plain = target.connect();
    assert_eq!(show(&mut plain, "DateStyle"), "ISO, MDY");
    assert_eq!(show(&mut plain, "standard_conforming_strings"), "on");
    assert_ne!(show(&mut plain, "TimeZone"), "Asia/Tokyo");
}

/// A client in Tokyo and one in Paris.
fn two(target: &Target) -> (Client, Client) {
    let login = |zone| target.login().parameter("TimeZone", zone).connect();
    (login("Asia/Tokyo"), login("Europe/Paris"))
}

fn set_outside_a_transaction_stays_with_its_client(target: &Target) {
    let (mut one, mut two) = two(target);
    one.execute("set timezone = 'America/Lima'");
    for _ in 0..4 {
        assert_eq!(show(&mut two, "timezone"), "Europe/Paris");
        assert_eq!(show(&mut one, "timezone"), "America/Lima");
    }
}

fn set_in_a_committed_transaction_stays_with_its_client(target: &Target) {
    let (mut one, mut two) = two(target);
    one.execute("begin");
    one.execute("set timezone = 'America/Lima'");
    assert_eq!(show(&mut two, "timezone"), "Europe/Paris");
    one.execute("commit");
    for _ in 0..4 {
        assert_eq!(show(&mut two, "timezone"), "Europe/Paris");
        assert_eq!(show(&mut one, "timezone"), "America/Lima");
    }
}

fn set_in_a_rolled_back_transaction_is_undone(target: &Target) {
    let (mut one, mut two) = two(target);
    one.execute("begin");
    one.execute("set timezone = 'America/Lima'");
    assert_eq!(show(&mut one, "timezone"), "America/Lima");
    one.execute("rollback");
    for _ in 0..4 {
        assert_eq!(show(&mut two, "timezone"), "Europe/Paris");
        assert_eq!(show(&mut one, "timezone"), "Asia/Tokyo");
    }
}

fn set_local_ends_with_its_transaction(target: &Target) {
    let (mut one, mut two) = two(target);
    one.execute("begin");
    one.execute("set local timezone = 'America/Lima'");
    assert_eq!(show(&mut one, "timezone"), "America/Lima");
    one.execute("commit");
    assert_eq!(show(&mut two, "timezone"), "Europe/Paris");
    assert_eq!(show(&mut one, "timezone"), "Asia/Tokyo");
}

fn change_is_reported_to_its_client(target: &Target) {
    let (mut one, mut two) = two(target);
    assert_eq!(one.parameters["TimeZone"], "Asia/Tokyo");
    let reply = one.query("set timezone = 'America/Lima'");
    assert_eq!(reply.tags.replace('S', ""), "CZ");
    assert_eq!(one.parameters["TimeZone"], "America/Lima");
    two.execute("select 1");
    assert_eq!(two.parameters["TimeZone"], "Europe/Paris");
}

fn rollback_of_a_change_is_reported_to_its_client(target: &Target) {
    let (mut one, _two) = two(target);
    one.execute("begin");
    one.execute("set timezone = 'America/Lima'");
    assert_eq!(one.parameters["TimeZone"], "America/Lima");
    one.execute("rollback");
    assert_eq!(one.parameters["TimeZone"], "Asia/Tokyo");
}

fn client_encodings_of_two_clients_do_not_mix(target: &Target) {
    let login = |name| target.login().parameter("client_encoding", name).connect();
    let mut latin = login("LATIN1");
    let mut utf8 = login("UTF8");
    for _ in 0..4 {
        for (client, letter) in [(&mut latin, &b"\xe9"[..]), (&mut utf8, "é".as_bytes())] {
            let sql = [b"select 'caf", letter, b"', ascii('", letter, b"')\0"].concat();
            client.send(&message(b'Q', &sql));
            let columns = client.expect_tags("TDCZ")[1].columns();
            assert_eq!(columns[0].as_deref(), Some(&[b"caf", letter].concat()[..]));
            assert_eq!(columns[1].as_deref(), Some(&b"233"[..]));
        }
    }
}

/// Goal: settings that are not ASCII are read in the encoding in which they were sent.
/// Method: clients with an encoding in which the byte before a quote may swallow it take turns.
fn settings_beyond_ascii_survive_other_encodings(target: &Target) {
    let value = "あ' テスト \\' é";
    let mut utf8 = target.login().parameter("my.setting", value).connect();
    let mut sjis = target
        .login()
        .parameter("client_encoding", "SJIS")
        .connect();
    for _ in 0..4 {
        assert_eq!(sjis.value("show client_encoding"), "SJIS");
        assert_eq!(utf8.value("select current_setting('my.setting')"), value);
        assert_eq!(utf8.value("show client_encoding"), "UTF8");
    }
}

fn backslashes_mean_what_the_client_has_chosen(target: &Target) {
    let login = |value| {
        target
            .login()
            .parameter("standard_conforming_strings", value)
            .connect()
    };
    let mut off = login("off");
    let mut on = login("on");
    for _ in 0..4 {
        assert_eq!(off.value(r"select length('\\')"), "1");
        assert_eq!(on.value(r"select length('\\')"), "2");
    }
}

fn odd_values_are_not_taken_as_sql(target: &Target) {
    let values = [
        "it's",
        "'; set work_mem = '9MB'; --",
        r"back\slash \' quote",
        "\"double\" $$dollar$$",
        "x', 'y",
    ];
    for value in values {
        let mut other = target
            .login()
            .parameter("application_name", "other")
            .connect();
        for conforming in ["on", "off"] {
            let login = target.login().parameter("application_name", value);
            let login = login.parameter("standard_conforming_strings", conforming);
            let mut client = login.connect();
            assert_eq!(show(&mut client, "application_name"), value);
            assert_eq!(show(&mut client, "work_mem"), "4MB");
            assert_eq!(show(&mut other, "application_name"), "other");
            assert_eq!(show(&mut other, "work_mem"), "4MB");
        }
    }
}

fn names_of_parameters_ignore_case(target: &Target) {
    let login = target
        .login()
        .parameter("timezone", "Asia/Tokyo")
        .parameter("DATESTYLE", "German");
    let mut client = login.connect();
    for _ in 0..2 {
        assert_eq!(show(&mut client, "TimeZone"), "Asia/Tokyo");
        assert!(show(&mut client, "datestyle").starts_with("German"));
    }
}

fn impossible_startup_value_harms_nobody(target: &Target) {
    for (name, value) in [
        ("client_encoding", "NONSENSE"),
        ("TimeZone", "Nowhere/Land"),
        ("DateStyle", "Stone Age"),
    ] {
        // PostgreSQL refuses the login; a pooler may find out only at the first query.
        if let Ok(mut client) = target.login().parameter(name, value).attempt() {
            client.send(&message(b'Q', &text("select 1")));
            if let Ok(reply) = client.try_receive() {
                assert_eq!(reply.tag, b'E', "{reply:?}");
            }
        }
        for _ in 0..3 {
            target.assert_serves();
        }
    }
}

fn parameters_of_many_clients_on_few_servers_do_not_mix(shards: usize) {
    const ZONES: [&str; 4] = ["Asia/Tokyo", "Europe/Paris", "America/Lima", "Africa/Cairo"];
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .pool_size(2)
        .start();
    at_once(12, |number| {
        let mut zone = ZONES[number % 4];
        let name = format!("client {number}");
        let login = doorman.login().parameter("TimeZone", zone);
        let mut client = login.parameter("application_name", &name).connect();
        for round in 0..30 {
            let row = &client
                .rows("select current_setting('timezone'), current_setting('application_name')")[0];
            assert_eq!(row, &[Some(zone.to_owned()), Some(name.clone())]);
            if round % 10 == number % 10 {
                zone = ZONES[(number + round) % 4];
                client.execute(&format!("set timezone = '{zone}'"));
            }
        }
    });
}

fn parameters_survive_the_end_of_their_server(shards: usize) {
    let postgres = Postgres::shared();
    let doorman = Config::new(postgres)
        .shards(shards)
        .pool_size(shards)
        .start();
    let mut client = doorman
        .login()
        .parameter("TimeZone", "Asia/Tokyo")
        .connect();
    assert_eq!(show(&mut client, "timezone"), "Asia/Tokyo");
    // Whoever renames a server by its application_name must not hide it from this search.
    let pid = client.backend_pid();
    postgres.sql(&format!("select pg_terminate_backend({pid}, 5000)"));
    let shown = client.try_query("show timezone");
    let shown = shown.map(|reply| reply.value().to_owned());
    assert_eq!(
        shown.expect("an idle client survives the end of a server"),
        "Asia/Tokyo"
    );
}

/// `is_superuser` is reported like what a server is, but a client changes it for its own session.
fn role_of_one_client_is_not_told_to_another(shards: usize) {
    let users = vec![User::new("app", 1).server("postgres", "")];
    let config = Config::new(Postgres::shared()).users(users);
    let doorman = config.shards(shards).start();
    let mut client = doorman.connect();
    assert_eq!(client.parameters["is_superuser"], "on");
    client.execute("begin");
    client.execute("set local role app");
    assert_eq!(client.parameters["is_superuser"], "off");
    for _ in 0..4 * shards {
        assert_eq!(doorman.connect().parameters["is_superuser"], "on");
    }
    client.execute("rollback");
    assert_eq!(client.parameters["is_superuser"], "on");
}
