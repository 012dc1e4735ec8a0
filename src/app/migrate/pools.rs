//! Databases and users to pools.
//!
//! **Owns:** what the keys of `[databases]` and `[users]` become, which user has which pool.
//! **Does not own:** passwords in their stored forms (`access`).
//! **Invariant:** each user has one entry in a pool.
//!
//! Source: manual page pgbouncer.ini(5).

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::draft::{DraftPool, Entries};
use crate::config::units::ConfigDuration;

use super::access::Known;
use super::ini::{Ini, connection_string};
use super::settings::duration;
use super::{Outcome, RemarkOnce};

/// PgBouncer's `default_pool_size`.
const POOL_SIZE: i64 = 20;
/// Names of the console, which hide pools.
const CONSOLE: [&str; 2] = ["pgbouncer", "pgdoorman"];
const NO_COUNTERPART: &[(&str, &str)] = &[
    ("auth_dbname", "there is no auth_query"),
    (
        "auth_query",
        "there is no auth_query in this version: every user needs an entry in the file",
    ),
    ("auth_user", "there is no auth_query"),
    (
        "client_encoding",
        "use alter role … set client_encoding, or set it in clients",
    ),
    (
        "connect_query",
        "use alter role … set, or alter database … set",
    ),
    ("datestyle", "use alter database … set datestyle"),
    ("load_balance_hosts", "a pool has one server"),
    (
        "max_user_connections",
        "sizes are limited for each user by pool_size",
    ),
    ("timezone", "use alter database … set timezone"),
];

/// Keys with the same meaning here: theirs, ours.
type Same = &'static [(&'static str, &'static str)];

/// Numbers of a database.
const COUNTS_OF_DATABASE: Same = &[
    ("max_db_client_connections", "max_db_client_connections"),
    ("max_db_connections", "max_db_connections"),
    ("reserve_pool", "reserve_pool_size"),
    ("reserve_pool_size", "reserve_pool_size"),
];
/// Numbers of a user.
const COUNTS_OF_USER: Same = &[
    ("max_user_client_connections", "max_user_client_connections"),
    ("reserve_pool_size", "reserve_pool_size"),
];
/// Times of both.
const TIMES: Same = &[
    ("client_idle_timeout", "client_idle_timeout"),
    ("idle_transaction_timeout", "idle_transaction_timeout"),
    ("query_timeout", "query_timeout"),
    ("transaction_timeout", "transaction_timeout"),
];

type Pairs = BTreeMap<String, String>;

/// What holds for all databases.
struct Common<'a> {
    known: &'a [Known],
    auth_type: &'a str,
    /// `[users]`.
    users: BTreeMap<String, Pairs>,
    pool_size: i64,
    min_pool_size: i64,
    once: RemarkOnce,
}

/// Takes over `[databases]` and `[users]`. `asked` are databases that `*` is to stand for.
pub(super) fn take_over(
    ini: &Ini,
    known: &[Known],
    auth_type: &str,
    asked: &[String],
    out: &mut Outcome,
) {
    let number = |key: &str, default: i64| {
        ini.setting(key)
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let mut common = Common {
        known,
        auth_type,
        users: sections(ini, "users", out),
        pool_size: number("default_pool_size", POOL_SIZE),
        min_pool_size: number("min_pool_size", 0),
        once: RemarkOnce::default(),
    };
    for (user, pairs) in &common.users {
        let used = [&["pool_mode", "pool_size"][..], &names(COUNTS_OF_USER)].concat();
        remark_unused(&format!("user {user}"), pairs, &used, out);
    }
    if ini.section("peers").next().is_some() {
        out.remark("[peers]", "has no counterpart: one process uses all cores");
    }
    let mode = ini.setting("pool_mode").unwrap_or("session");
    let mut databases = sections(ini, "databases", out);
    let has_fallback = databases.contains_key("*");
    for name in asked {
        let what = format!("--database {name}");
        if databases.contains_key(name) {
            out.remark(&what, "has no effect: it has an entry of its own");
        } else if !has_fallback {
            out.remark(
                &what,
                "has no effect: there is no entry * that it could be of",
            );
        }
    }
    if let Some(fallback) = databases.remove("*") {
        let mut names = asked
            .iter()
            .filter(|name| !databases.contains_key(*name))
            .peekable();
        if names.peek().is_none() {
            out.remark(
                "database *",
                "has no counterpart: name each database, with --database NAME or by hand",
            );
        }
        let added: Vec<_> = names.map(|name| (name.clone(), fallback.clone())).collect();
        databases.extend(added);
    }
    for (name, pairs) in &databases {
        let pool = pool(name, pairs, mode, &mut common, out);
        out.draft.pools.push(pool);
    }
}

/// The entries of a section whose values are connection strings.
fn sections(ini: &Ini, section: &str, out: &mut Outcome) -> BTreeMap<String, Pairs> {
    let mut all = BTreeMap::new();
    for entry in ini.section(section) {
        match connection_string(&entry.value) {
            Some(pairs) => drop(all.insert(entry.key.clone(), pairs.into_iter().collect())),
            None => out.remark(
                &format!("[{section}] {}", entry.key),
                "is not a connection string: left out",
            ),
        }
    }
    all
}

/// Their names of counts, and of the times.
fn names(counts: Same) -> Vec<&'static str> {
    counts
        .iter()
        .chain(TIMES)
        .map(|(theirs, _)| *theirs)
        .collect()
}

/// Takes over counts, and the times.
fn limits(what: &str, pairs: &Pairs, counts: Same, keys: &mut Entries, out: &mut Outcome) {
    for (theirs, ours) in counts {
        let Some(text) = pairs.get(*theirs) else {
            continue;
        };
        match text.parse::<u32>() {
            Ok(count) => keys.set(ours, i64::from(count)),
            Err(_) => out.remark(&format!("{what}: {theirs}"), "cannot be read"),
        }
    }
    for (theirs, ours) in TIMES {
        let Some(text) = pairs.get(*theirs) else {
            continue;
        };
        match duration(text) {
            Some(time) => keys.set(ours, time.to_string()),
            None => out.remark(&format!("{what}: {theirs}"), "cannot be read"),
        }
    }
}

fn remark_unused(what: &str, pairs: &Pairs, used: &[&str], out: &mut Outcome) {
    for (key, value) in pairs {
        if used.contains(&key.as_str()) || value == "0" {
            continue;
        }
        let row = NO_COUNTERPART.iter().find(|(name, _)| name == key);
        match row {
            Some((_, hint)) => out.remark(
                &format!("{what}: {key}"),
                &format!("has no counterpart: {hint}"),
            ),
            None => out.remark(&format!("{what}: {key}"), "is not known: not taken over"),
        }
    }
}

/// Ours for a mode of theirs.
fn mode_of(mode: &str, what: &str, out: &mut Outcome) -> &'static str {
    match mode.to_ascii_lowercase().as_str() {
        "session" => "session",
        "transaction" => "transaction",
        "statement" => {
            out.remark(
                &format!("{what}: pool_mode = {mode}"),
                "does not exist here: transaction is written, which allows transactions of several statements",
            );
            "transaction"
        }
        _ => {
            out.remark(
                &format!("{what}: pool_mode = {mode}"),
                "is not known: session is written",
            );
            "session"
        }
    }
}

const USED: &[&str] = &[
    "application_name",
    "dbname",
    "host",
    "min_pool_size",
    "password",
    "pool_mode",
    "pool_size",
    "port",
    "server_lifetime",
    "user",
];

fn pool(
    name: &str,
    pairs: &Pairs,
    mode: &str,
    common: &mut Common<'_>,
    out: &mut Outcome,
) -> DraftPool {
    let what = format!("database {name}");
    let used = [USED, &names(COUNTS_OF_DATABASE)].concat();
    remark_unused(&what, pairs, &used, out);
    if CONSOLE.contains(&name) {
        out.remark(&what, "has the name of the console and cannot be reached");
    }
    let mut keys = Entries::default();
    let mode = pairs.get("pool_mode").map_or(mode, String::as_str);
    keys.set("pool_mode", mode_of(mode, &what, out));
    keys.set("server_host", host(&what, pairs.get("host"), out));
    let port: i64 = pairs
        .get("port")
        .and_then(|text| text.split(',').next()?.parse().ok())
        .unwrap_or(5432);
    keys.set("server_port", port);
    if let Some(database) = pairs.get("dbname").filter(|database| *database != name) {
        keys.set("server_database", database.as_str());
    }
    if let Some(text) = pairs.get("application_name") {
        keys.set("application_name", text.as_str());
    }
    if let Some(text) = pairs.get("server_lifetime") {
        match duration(text) {
            Some(time) if time == ConfigDuration::from_millis(0) => {
                keys.set("server_lifetime", "1ms");
                let remark = "means one use only there and no limit here: 1ms is written";
                out.remark(&format!("{what}: server_lifetime = 0"), remark);
            }
            Some(time) => keys.set("server_lifetime", time.to_string()),
            None => out.remark(&format!("{what}: server_lifetime"), "cannot be read"),
        }
    }
    limits(&what, pairs, COUNTS_OF_DATABASE, &mut keys, out);
    DraftPool {
        name: name.to_owned(),
        keys,
        users: users(&what, pairs, common, out),
    }
}

fn host(what: &str, written: Option<&String>, out: &mut Outcome) -> String {
    let written = written.map_or("", String::as_str);
    let first = written.split(',').next().unwrap_or_default().trim();
    if written.contains(',') {
        let remark = format!("one server for a pool: {first} is used");
        out.remark(&format!("{what}: host = {written}"), &remark);
    }
    if first.is_empty() {
        let places = ["/var/run/postgresql", "/tmp"];
        let place = places.iter().find(|place| Path::new(place).is_dir());
        let place = (*place.unwrap_or(&"/tmp")).to_owned();
        let remark =
            format!("means a Unix socket, whose directory is not told: {place} is written");
        out.remark(&format!("{what}: no host"), &remark);
        return place;
    }
    if first.starts_with('@') {
        out.remark(
            &format!("{what}: host = {first}"),
            "abstract sockets are not supported: name another host",
        );
    }
    first.to_owned()
}

fn users(what: &str, pairs: &Pairs, common: &mut Common<'_>, out: &mut Outcome) -> Vec<Entries> {
    let forced = pairs.get("user").map(String::as_str);
    if let Some(forced) = forced.filter(|_| !common.known.is_empty()) {
        common.once.remark(
            out,
            &format!("{what}: user = {forced}"),
            "one pool for all clients there; here each of its users has a pool of its own of that size, with the same server user",
        );
    }
    let mut entries: Vec<Entries> = Vec::new();
    for user in common.known {
        entries.push(one_user(what, user, pairs, common, out));
    }
    if entries.is_empty() {
        match forced {
            Some(forced) => {
                let user = Known {
                    name: forced.to_owned(),
                    stored: pairs.get("password").cloned().unwrap_or_default(),
                };
                entries.push(one_user(what, &user, pairs, common, out));
                out.remark(what, "no auth_file: its only user is that of the server");
            }
            None => out.remark(what, "has no users: write them, or nobody can use it"),
        }
    }
    entries
}

fn one_user(
    what: &str,
    user: &Known,
    pairs: &Pairs,
    common: &Common<'_>,
    out: &mut Outcome,
) -> Entries {
    let own = common.users.get(&user.name);
    let number = |pairs: Option<&Pairs>, key: &str| {
        pairs
            .and_then(|pairs| pairs.get(key))
            .and_then(|text| text.parse::<i64>().ok())
    };
    let size = number(own, "pool_size").or_else(|| number(Some(pairs), "pool_size"));
    let size = size.unwrap_or(common.pool_size).max(1);
    let minimum = number(Some(pairs), "min_pool_size").unwrap_or(common.min_pool_size);
    let mut keys = Entries::default();
    keys.set("username", user.name.as_str());
    keys.set("password", user.secret(common.auth_type));
    keys.set("pool_size", size);
    if minimum > 0 {
        keys.set("min_pool_size", minimum.min(size));
        common.once.remark(
            out,
            "min_pool_size",
            "has another meaning: every user of every pool keeps that many connections from the start, also without clients",
        );
    }
    if let Some(mode) = own.and_then(|own| own.get("pool_mode")) {
        let who = format!("user {}", user.name);
        keys.set("pool_mode", mode_of(mode, &who, out));
    }
    if let Some(own) = own {
        let who = format!("user {}", user.name);
        limits(&who, own, COUNTS_OF_USER, &mut keys, out);
    }
    if common.auth_type == "pam" {
        keys.set("auth_pam_service", "pgbouncer");
    }
    server_login(what, user, pairs, common, &mut keys, out);
    keys
}

fn server_login(
    what: &str,
    user: &Known,
    pairs: &Pairs,
    common: &Common<'_>,
    keys: &mut Entries,
    out: &mut Outcome,
) {
    let name = pairs.get("user").map_or(user.name.as_str(), String::as_str);
    let of_list = || {
        let known = common.known.iter().find(|known| known.name == name);
        known.and_then(Known::password)
    };
    let password = pairs.get("password").map(String::as_str).or_else(of_list);
    match password {
        Some(password) => {
            keys.set("server_username", name);
            keys.set("server_password", password);
        }
        None if name != user.name => {
            keys.set("server_username", name);
            keys.set("server_password", "");
            common.once.remark(
                out,
                &format!("{what}: user = {name}"),
                "its password is not known: write server_password, unless the server trusts the pooler",
            );
        }
        None => common.once.remark(
            out,
            &format!("user {}", user.name),
            "only a hash of the password is known, and the pooler cannot log in to servers with that: write server_username and server_password, unless the server trusts the pooler",
        ),
    }
}
