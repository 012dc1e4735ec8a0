//! Transaction mode: what of its session a client finds again in its next transaction, and what not.
//!
//! Each line of the table in docs/transaction-mode.md has its test here, in `parameters` or in
//! `prepared`; that nobody finds what another has left is tested in `reset`.
//!
//! Source: protocol-flow.html (ParameterStatus), sql-set.html, sql-reset.html, sql-discard.html,
//! sql-listen.html, functions-sequence.html.

use crate::common::message::{bind, execute, parse};
use crate::common::{
    Client, Config, Doorman, Postgres, Target, everywhere, unique, with_one_and_two_shards,
};

everywhere!(
    startup_search_path_follows_its_client,
    startup_options_follow_their_client,
    reset_goes_back_to_what_was_asked_at_login,
    discard_all_goes_back_to_what_was_asked_at_login,
    state_of_a_transaction_is_there_in_it,
);

with_one_and_two_shards!(
    settings_that_are_not_reported_end_with_their_transaction,
    role_ends_with_its_transaction,
    temporary_tables_end_with_their_transaction,
    channels_end_with_their_transaction,
    advisory_locks_end_with_their_transaction,
    cursors_with_hold_end_with_their_transaction,
    statements_of_sql_end_with_their_transaction,
    names_of_statements_pass_in_session_mode,
);

/// A pooler with one server, and a client beside which another one uses that server, too.
struct Shared {
    doorman: Doorman,
    client: Client,
    other: Client,
}

impl Shared {
    fn new(shards: usize) -> Self {
        let doorman = Config::new(Postgres::shared())
            .shards(shards)
            .pool_size(1)
            .start();
        Self {
            client: doorman.connect(),
            other: doorman.connect(),
            doorman,
        }
    }

    /// Has the other client use the server.
    fn pass_on(&mut self) {
        assert_eq!(self.other.value("select 'other'"), "other");
    }
}

fn table_in_schema() -> (String, String) {
    let (schema, table) = (unique("state"), unique("only_there"));
    let mut superuser = Postgres::shared().superuser();
    superuser.execute(&format!("create schema {schema} authorization app"));
    superuser.execute(&format!("create table {schema}.{table} (a int)"));
    superuser.execute(&format!("alter table {schema}.{table} owner to app"));
    (schema, table)
}

fn startup_search_path_follows_its_client(target: &Target) {
    let mut plain = target.connect();
    let (schema, table) = table_in_schema();
    let path = format!("{schema}, public");
    let mut client = target.login().parameter("search_path", &path).connect();
    for _ in 0..5 {
        assert_eq!(client.value("show search_path"), path);
        assert_eq!(client.value(&format!("select count(*) from {table}")), "0");
        assert_eq!(plain.value("show search_path"), "\"$user\", public");
        let sql = format!("select count(*) from {table}");
        assert_eq!(plain.error(&sql).sqlstate, "42P01");
    }
    // A transaction that chooses another one does not change what the next begins with.
    client.execute("begin");
    client.execute("set local search_path = pg_catalog");
    client.execute("commit");
    assert_eq!(client.value("show search_path"), path);
}

fn startup_options_follow_their_client(target: &Target) {
    let options = "-c search_path=pg_catalog -c statement_timeout=54321 -c work_mem=5MB";
    let mut client = target.login().parameter("options", options).connect();
    let mut plain = target.connect();
    for _ in 0..5 {
        assert_eq!(client.value("show search_path"), "pg_catalog");
        assert_eq!(client.value("show statement_timeout"), "54321ms");
        assert_eq!(client.value("show work_mem"), "5MB");
        assert_eq!(plain.value("show statement_timeout"), "0");
    }
}

fn reset_goes_back_to_what_was_asked_at_login(target: &Target) {
    let login = target.login().parameter("TimeZone", "Asia/Tokyo");
    let mut client = login.parameter("statement_timeout", "54321").connect();
    let mut plain = target.connect();
    for reset in ["reset timezone", "reset all"] {
        client.execute("set timezone = 'America/Lima'");
        assert_eq!(client.value("show timezone"), "America/Lima");
        client.execute(reset);
        for _ in 0..3 {
            assert_eq!(client.value("show timezone"), "Asia/Tokyo", "{reset}");
            assert_eq!(client.value("show statement_timeout"), "54321ms");
            assert_eq!(client.parameters["TimeZone"], "Asia/Tokyo");
            assert_ne!(plain.value("show timezone"), "Asia/Tokyo");
        }
    }
}

fn discard_all_goes_back_to_what_was_asked_at_login(target: &Target) {
    let login = target.login().parameter("TimeZone", "Asia/Tokyo");
    let mut client = login.parameter("search_path", "pg_catalog").connect();
    let mut plain = target.connect();
    for _ in 0..3 {
        client.execute("set timezone = 'America/Lima'");
        assert_eq!(client.batch(&[parse("gone", "select 1")]).tags, "1Z");
        client.execute("discard all");
        assert_eq!(client.value("show timezone"), "Asia/Tokyo");
        assert_eq!(client.value("show search_path"), "pg_catalog");
        assert_eq!(client.parameters["TimeZone"], "Asia/Tokyo");
        let run = [bind("", "gone", &[]), execute("", 0)];
        assert_eq!(client.batch(&run).sqlstate(), "26000");
        assert_ne!(plain.value("show timezone"), "Asia/Tokyo");
    }
}

/// All that ends with the transaction works as long as it lasts.
fn state_of_a_transaction_is_there_in_it(target: &Target) {
    let mut client = target.connect();
    let name = unique("state");
    client.execute(&format!("create sequence {name}"));
    let mut other = target.connect();
    for _ in 0..3 {
        client.execute("begin");
        client.execute("set role app_md5");
        assert_eq!(client.value("select current_user"), "app_md5");
        client.execute("reset role");
        client.execute("set work_mem = '9MB'");
        client.execute(&format!(
            "create temp table {name}_t (a int) on commit drop"
        ));
        assert_eq!(client.value(&format!("select count(*) from {name}_t")), "0");
        let next = client.value(&format!("select nextval('{name}')"));
        assert_eq!(other.value("select 'between'"), "between");
        assert_eq!(client.value(&format!("select currval('{name}')")), next);
        assert_eq!(client.value("select lastval()"), next);
        client.execute("select pg_advisory_xact_lock(4711)");
        client.execute("declare c cursor for select 5");
        assert_eq!(client.value("fetch c"), "5");
        assert_eq!(client.value("show work_mem"), "9MB");
        client.execute("reset work_mem");
        client.execute("commit");
    }
}

fn settings_that_are_not_reported_end_with_their_transaction(shards: usize) {
    let mut shared = Shared::new(shards);
    let reports_path = shared.client.parameters.contains_key("search_path");
    let client = &mut shared.client;
    client.execute("set work_mem = '9MB'");
    client.execute("set search_path = pg_catalog");
    client.execute("select set_config('my.own', 'x', false)");
    shared.pass_on();
    let client = &mut shared.client;
    assert_eq!(client.value("show work_mem"), "4MB");
    let path = client.value("show search_path");
    assert_eq!(path == "pg_catalog", reports_path, "{path}");
    let own = client.value("select coalesce(nullif(current_setting('my.own', true), ''), 'none')");
    assert_eq!(own, "none");
}

fn role_ends_with_its_transaction(shards: usize) {
    let mut shared = Shared::new(shards);
    shared.client.execute("set role app_md5");
    shared.pass_on();
    assert_eq!(shared.client.value("select current_user"), "app");
    shared.client.execute("begin");
    shared.client.execute("set local role app_md5");
    assert_eq!(shared.client.value("select current_user"), "app_md5");
    shared.client.execute("commit");
    assert_eq!(shared.client.value("select current_user"), "app");
    assert_eq!(shared.other.value("select session_user"), "app");
}

fn temporary_tables_end_with_their_transaction(shards: usize) {
    let mut shared = Shared::new(shards);
    let table = unique("state_temp");
    shared
        .client
        .execute(&format!("create temporary table {table} (a int)"));
    shared.pass_on();
    let sql = format!("select * from {table}");
    assert_eq!(shared.client.error(&sql).sqlstate, "42P01");
}

fn channels_end_with_their_transaction(shards: usize) {
    let mut shared = Shared::new(shards);
    let channel = unique("state_channel");
    shared.client.execute(&format!("listen {channel}"));
    shared.pass_on();
    shared.other.execute(&format!("notify {channel}"));
    for _ in 0..3 {
        let listening = "select count(*) from pg_listening_channels()";
        assert_eq!(shared.client.value(listening), "0");
        assert!(!shared.client.query("select 1").tags.contains('A'));
        assert!(!shared.other.query("select 1").tags.contains('A'));
    }
}

fn advisory_locks_end_with_their_transaction(shards: usize) {
    let mut shared = Shared::new(shards);
    let count =
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()";
    shared.client.execute("begin");
    shared.client.execute("select pg_advisory_lock(47110815)");
    assert_eq!(shared.client.value(count), "1");
    shared.client.execute("commit");
    shared.pass_on();
    assert_eq!(shared.client.value(count), "0");
    shared.doorman.assert_serves();
}

fn cursors_with_hold_end_with_their_transaction(shards: usize) {
    let mut shared = Shared::new(shards);
    shared
        .client
        .execute("declare held cursor with hold for select 5");
    shared.pass_on();
    assert_eq!(shared.client.error("fetch held").sqlstate, "34000");
}

fn statements_of_sql_end_with_their_transaction(shards: usize) {
    let mut shared = Shared::new(shards);
    shared.client.execute("prepare own as select 5");
    shared.pass_on();
    assert_eq!(shared.client.error("execute own").sqlstate, "26000");
    shared.client.execute("begin");
    shared.client.execute("prepare own as select 5");
    assert_eq!(shared.client.value("execute own"), "5");
    shared.client.execute("commit");
}

fn names_of_statements_pass_in_session_mode(shards: usize) {
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .session_mode()
        .start();
    let mut client = doorman.connect();
    let parses = [parse("own", "select 5"), parse("PGD_x", "select 6")];
    assert_eq!(client.batch(&parses).tags, "11Z");
    let names = "select string_agg(name, ' ' order by name) from pg_prepared_statements";
    assert_eq!(client.value(names), "PGD_x own");
    assert_eq!(client.value("execute own"), "5");
    client.execute("prepare sql_own as select 7");
    let run = |name| [bind("", name, &[]), execute("", 0)];
    for (name, value) in [("own", "5"), ("PGD_x", "6"), ("sql_own", "7")] {
        assert_eq!(client.batch(&run(name)).value(), value);
    }
    client.execute("deallocate own");
    assert_eq!(client.batch(&run("own")).sqlstate(), "26000");
    let mut console = doorman.login().database("pgdoorman").connect();
    assert!(console.rows("show prepared_statements").is_empty());
}
