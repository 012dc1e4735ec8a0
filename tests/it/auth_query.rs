//! Users and databases that are not in the file.
//!
//! Owns: finding them, remembering, forgetting; what must not be believed. Does not own: the proofs
//! (`auth`, `proofs`).
//!
//! Source: view-pg-shadow.html, sql-alterrole.html, runtime-config-client.html (`search_path`).

use toml::{Table, Value};

use crate::common::postgres::{DATABASE, PASSWORD};
use crate::common::{
    Config, Doorman, Login, Postgres, User, at_once, eventually, unique, with_one_and_two_shards,
};

with_one_and_two_shards!(
    a_user_is_found_and_logs_in_to_the_server_as_itself,
    users_that_are_found_may_share_servers,
    any_database_is_served_like_any_other,
);

fn query(keys: &[(&str, Value)]) -> Table {
    let mut table = Table::new();
    table.insert("user".to_owned(), "postgres".into());
    table.insert("cache_failure_ttl".to_owned(), "1ms".into());
    table.insert("min_interval".to_owned(), "1ms".into());
    for (name, value) in keys {
        table.insert((*name).to_owned(), value.clone());
    }
    table
}

fn config(shards: usize, keys: &[(&str, Value)]) -> Config {
    Config::new(Postgres::shared())
        .shards(shards)
        .hba("host all all 127.0.0.1/32 md5")
        .users(Vec::new())
        .pool_key("auth_query", query(keys))
}

/// A role of the server that no other test has.
fn role(options: &str) -> String {
    let name = unique("found");
    let sql = format!("create role {name} login password '{PASSWORD}' {options}");
    Postgres::shared().superuser().execute(&sql);
    name
}

fn login(doorman: &Doorman, user: &str) -> Login {
    doorman.login().user(user)
}

fn a_user_is_found_and_logs_in_to_the_server_as_itself(shards: usize) {
    let doorman = config(shards, &[]).start();
    let name = role("");
    for user in [name.as_str(), "app", "app_md5"] {
        let mut clients: Vec<_> = (0..4).map(|_| login(&doorman, user).connect()).collect();
        for client in &mut clients {
            assert_eq!(client.value("select session_user"), user);
        }
    }
    let refusal = login(&doorman, &name).password("wrong").refusal();
    assert_eq!(refusal.sqlstate(), "28P01");
    assert_eq!(login(&doorman, "nobody").refusal().sqlstate(), "28P01");
    // The one who asks is nobody to clients, and neither is the pool that it asks in.
    let asker = login(&doorman, "postgres (auth_query)");
    assert_eq!(asker.refusal().sqlstate(), "28P01");
    let pool = format!("{DATABASE} (auth_query)");
    let asker = asker.database(&pool).refusal();
    assert_eq!(asker.sqlstate(), "3D000");
}

fn users_that_are_found_may_share_servers(shards: usize) {
    let keys = [
        ("server_user", "app".into()),
        ("server_password", PASSWORD.into()),
        ("pool_size", 1.into()),
    ];
    let doorman = config(shards, &keys).start();
    let (one, two) = (role(""), role(""));
    let mut pids = Vec::new();
    for user in [&one, &two] {
        let mut client = login(&doorman, user).connect();
        assert_eq!(client.value("select session_user"), "app");
        pids.push(client.backend_pid());
    }
    assert_eq!(pids[0], pids[1]);
}

fn any_database_is_served_like_any_other(shards: usize) {
    let postgres = Postgres::shared();
    let mut config = Config::new(postgres)
        .shards(shards)
        .hba("host all all 127.0.0.1/32 scram-sha-256")
        .pool(
            "*",
            postgres.port(),
            vec![User::new("fixed", 2).secret(&postgres.verifier("app"))],
        );
    config = config.last_pool_key("auth_query", query(&[("database", "postgres".into())]));
    let doorman = config.start();
    let name = role("");
    let database = unique("other");
    postgres
        .superuser()
        .execute(&format!("create database {database}"));
    for _ in 0..3 {
        let mut client = login(&doorman, &name).database(&database).connect();
        assert_eq!(client.value("select current_database()"), database);
        assert_eq!(client.value("select session_user"), name);
    }
    let mut client = login(&doorman, "fixed").database(&database).connect();
    assert_eq!(client.value("select session_user"), "app");
    // Configured databases are as they were.
    assert_eq!(login(&doorman, &name).refusal().sqlstate(), "28P01");
    let refusal = login(&doorman, &name).database("*").refusal();
    assert_eq!(refusal.sqlstate(), "3D000");
    // Who proves nothing makes no pools.
    let refusal = login(&doorman, &name)
        .database("nowhere")
        .password("wrong")
        .refusal();
    assert_eq!(refusal.sqlstate(), "28P01");
    let refusal = login(&doorman, &name).database("nowhere").refusal();
    assert_eq!(refusal.sqlstate(), "3D000");
}

#[test]
fn a_changed_password_is_found_after_a_wrong_one() {
    let doorman = config(1, &[]).start();
    let name = role("");
    login(&doorman, &name).connect();
    let mut superuser = Postgres::shared().superuser();
    superuser.execute(&format!("alter role {name} password 'changed'"));
    eventually("the new password is known", || {
        login(&doorman, &name).password("changed").attempt().is_ok()
    });
    assert_eq!(login(&doorman, &name).refusal().sqlstate(), "28P01");
    superuser.execute(&format!("drop role {name}"));
    let changed = || login(&doorman, &name).password("wrong").refusal();
    assert_eq!(changed().sqlstate(), "28P01");
    eventually("the user is forgotten", || {
        login(&doorman, &name)
            .password("changed")
            .attempt()
            .is_err()
    });
}

#[test]
fn who_may_not_log_in_is_nobody() {
    let doorman = config(1, &[]).start();
    for options in ["valid until '2020-01-01'", "nologin", "password null"] {
        let name = role("");
        Postgres::shared()
            .superuser()
            .execute(&format!("alter role {name} {options}"));
        let refusal = login(&doorman, &name).refusal();
        assert_eq!(refusal.sqlstate(), "28P01", "{options}");
    }
    let name = role("valid until '2100-01-01'");
    login(&doorman, &name).connect();
}

#[test]
fn a_secret_is_not_remembered_beyond_its_end() {
    // An answer is good for an hour.
    let doorman = config(1, &[]).start();
    let name = role("");
    let mut superuser = Postgres::shared().superuser();
    let end = superuser.value("select now() + interval '3 seconds'");
    superuser.execute(&format!("alter role {name} valid until '{end}'"));
    login(&doorman, &name).connect();
    eventually("the password has expired", || {
        login(&doorman, &name).attempt().is_err()
    });
    assert_eq!(login(&doorman, &name).refusal().sqlstate(), "28P01");
}

#[test]
fn an_answer_that_is_not_understood_any_more_keeps_out_whom_it_has_let_in() {
    let name = role("");
    let table = unique("secrets");
    let mut superuser = Postgres::shared().superuser();
    superuser.execute(&format!(
        "create table public.{table} as select rolname as usename, rolpassword as passwd \
         from pg_authid where rolname = '{name}'"
    ));
    let sql = format!("select usename, passwd from public.{table} where usename = $1");
    let keys = [("query", sql.into()), ("cache_ttl", "1ms".into())];
    let doorman = config(1, &keys).start();
    login(&doorman, &name).connect();
    // Two rows for one user.
    superuser.execute(&format!(
        "insert into public.{table} select * from public.{table}"
    ));
    eventually("the answer is not believed", || {
        login(&doorman, &name).attempt().is_err()
    });
    assert_eq!(login(&doorman, &name).refusal().sqlstate(), "28P01");
    superuser.execute(&format!(
        "delete from public.{table} where ctid = (select min(ctid) from public.{table})"
    ));
    eventually("the answer is believed again", || {
        login(&doorman, &name).attempt().is_ok()
    });
    superuser.execute(&format!("drop table public.{table}"));
}

#[test]
fn nobody_can_put_a_table_of_their_own_in_front() {
    let postgres = Postgres::shared();
    let name = role("");
    let mut superuser = postgres.superuser();
    let schema = unique("front");
    superuser.execute(&format!("create schema {schema}"));
    let stored = postgres.verifier("app");
    superuser.execute(&format!(
        "create view {schema}.pg_shadow as select '{name}'::name as usename, '{stored}'::text as passwd"
    ));
    superuser.execute(&format!("alter role {name} password 'mine'"));
    let sql = "select usename, passwd from pg_shadow where usename = $1";
    let asker = role("superuser");
    superuser.execute(&format!(
        "alter role {asker} set search_path = {schema}, pg_catalog"
    ));
    let keys = [
        ("query", sql.into()),
        ("user", asker.clone().into()),
        ("password", PASSWORD.into()),
    ];
    let doorman = config(1, &keys).start();
    login(&doorman, &name).password("mine").connect();
    assert_eq!(login(&doorman, &name).refusal().sqlstate(), "28P01");
    superuser.execute(&format!("drop schema {schema} cascade; drop role {asker}"));
}

#[test]
fn answers_that_are_not_understood_let_nobody_in() {
    let name = role("");
    for sql in [
        "select 'hunter2' where $1 <> ''",
        "select passwd, usename from pg_shadow where $1 <> ''",
        "select 'eve' as usename, passwd from pg_shadow where usename = $1",
        "select usename, usesysid from pg_shadow where usename = $1",
        "select nonsense from $1",
        "select passwd from no_such_table where usename = $1",
    ] {
        let doorman = config(1, &[("query", sql.into())]).start();
        for _ in 0..2 {
            let refusal = login(&doorman, &name).refusal();
            assert_eq!(refusal.sqlstate(), "28P01", "{sql}");
        }
        assert!(doorman.log().contains("auth_query has failed"), "{sql}");
    }
}

#[test]
fn a_user_of_the_file_is_not_asked_for() {
    let user = User::new("app", 2).secret(&Postgres::shared().verifier("app"));
    let keys = [("user", "no_such_role".into())];
    let doorman = config(1, &keys).users(vec![user]).start();
    doorman.assert_serves();
    assert_eq!(login(&doorman, "app_md5").refusal().sqlstate(), "28P01");
    doorman.assert_serves();
}

#[test]
fn many_at_once_ask_once_and_there_is_a_limit() {
    let doorman = config(2, &[("max_users", 2.into())]).start();
    let (one, two, three) = (role(""), role(""), role(""));
    at_once(12, |number| {
        let user = if number % 2 == 0 { &one } else { &two };
        let mut client = login(&doorman, user).connect();
        assert_eq!(client.value("select session_user"), *user);
    });
    assert_eq!(login(&doorman, &three).refusal().sqlstate(), "28P01");
    assert!(doorman.log().contains("more than 2 users"));
    login(&doorman, &one).connect();
}

#[test]
fn guests_survive_a_reload() {
    let configured = config(2, &[]);
    let doorman = configured.clone().start();
    let name = role("");
    let mut client = login(&doorman, &name).connect();
    let pid = client.backend_pid();
    let user = User::new("app", 2).secret(&Postgres::shared().verifier("app"));
    doorman.rewrite(configured.users(vec![user]));
    doorman.sighup();
    eventually("the file is read", || {
        doorman.log().contains("configuration reloaded")
    });
    assert_eq!(client.backend_pid(), pid);
    login(&doorman, &name).connect();
    doorman.assert_serves();
}
