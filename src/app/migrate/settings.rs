//! What each setting of `[pgbouncer]` becomes.
//!
//! **Owns:** the table of settings, conversion of units, defaults of PgBouncer that differ.
//! **Does not own:** databases, users and access rules (`pools`, `access`).
//! **Invariant:** a setting that is neither taken over nor known to need nothing gets a remark.
//!
//! Source: manual page pgbouncer.ini(5) of PgBouncer 1.24.

use toml::Value;

use crate::config::listening::hosts;
use crate::config::units::ConfigDuration;

use super::Outcome;
use super::ini::Ini;

/// What becomes of a setting.
enum Rule {
    /// A number, under another name.
    Count(&'static str),
    /// A text, under another name.
    Text(&'static str),
    /// Seconds, to a duration.
    Time(&'static str),
    /// Seconds, to a duration, and a remark if it is 0.
    TimeOr {
        key: &'static str,
        zero: &'static str,
        remark: &'static str,
    },
    /// 0 or 1.
    Bool(&'static str),
    /// Nothing, because of `remark`. No remark if the value is one of these.
    None {
        harmless: &'static [&'static str],
        remark: &'static str,
    },
    /// Handled elsewhere.
    Elsewhere,
}

/// Settings whose values are not repeated.
const MAY_BE_SECRET: &[&str] = &["auth_ldap_options"];
const OFF: &[&str] = &["0", "0.0", ""];
const ALWAYS: &[&str] = &[];
const NO_LIMIT: &str =
    "has no counterpart: sizes are limited for each user of each pool, by pool_size";
const TLS_LIBRARY: &str = "has no counterpart: TLS versions and ciphers cannot be chosen";
const DNS: &str = "has no counterpart: host names are looked up by the system at each connect";

/// All settings that PgBouncer knows, by name.
#[rustfmt::skip]
const RULES: &[(&str, Rule)] = &[
    ("application_name_add_host", Rule::None { harmless: OFF, remark: "has no counterpart: application_name of a client is passed on unchanged" }),
    ("auth_dbname", Rule::None { harmless: ALWAYS, remark: "has no counterpart: there is no auth_query; name the users" }),
    ("auth_file", Rule::Elsewhere),
    ("auth_hba_file", Rule::Elsewhere),
    ("auth_ident_file", Rule::None { harmless: ALWAYS, remark: "has no counterpart: users are not mapped" }),
    ("auth_ldap_options", Rule::None { harmless: ALWAYS, remark: "has no counterpart: there is no LDAP" }),
    ("auth_query", Rule::None { harmless: ALWAYS, remark: "has no counterpart in this version: every user needs an entry in the file" }),
    ("auth_type", Rule::Elsewhere),
    ("auth_user", Rule::None { harmless: ALWAYS, remark: "has no counterpart: there is no auth_query" }),
    ("autodb_idle_timeout", Rule::None { harmless: ALWAYS, remark: "has no counterpart: pools exist as long as the file names them" }),
    ("admin_users", Rule::Elsewhere),
    ("cancel_wait_timeout", Rule::None { harmless: ALWAYS, remark: "has no counterpart: how long a cancel request may wait is fixed" }),
    ("client_idle_timeout", Rule::Time("client_idle_timeout")),
    ("client_login_timeout", Rule::Time("client_login_timeout")),
    ("client_tls_ca_file", Rule::Elsewhere),
    ("client_tls_cert_file", Rule::Elsewhere),
    ("client_tls_ciphers", Rule::None { harmless: &["default", "secure", "fast"], remark: "is to be set as tls_ciphers, by the names of the suites" }),
    ("client_tls13_ciphers", Rule::None { harmless: &[""], remark: TLS_LIBRARY }),
    ("client_tls_dheparams", Rule::None { harmless: &["auto"], remark: TLS_LIBRARY }),
    ("client_tls_ecdhcurve", Rule::None { harmless: &["auto"], remark: TLS_LIBRARY }),
    ("client_tls_key_file", Rule::Elsewhere),
    ("client_tls_protocols", Rule::None { harmless: &["secure", "all"], remark: "is to be set as tls_min_version and tls_max_version" }),
    ("client_tls_sslmode", Rule::Elsewhere),
    ("conffile", Rule::None { harmless: ALWAYS, remark: "needs nothing: the file named at the start is read again" }),
    ("default_pool_size", Rule::Elsewhere),
    ("disable_pqexec", Rule::None { harmless: OFF, remark: "has no counterpart: queries with several statements are allowed" }),
    ("dns_max_ttl", Rule::None { harmless: &["15", "15.0"], remark: DNS }),
    ("dns_nxdomain_ttl", Rule::None { harmless: &["15", "15.0"], remark: DNS }),
    ("dns_zone_check_period", Rule::None { harmless: OFF, remark: DNS }),
    ("idle_transaction_timeout", Rule::Time("idle_transaction_timeout")),
    ("ignore_startup_parameters", Rule::None { harmless: ALWAYS, remark: "needs nothing: settings in a client's startup packet are applied, unknown ones are refused by the server only" }),
    ("job_name", Rule::Elsewhere),
    ("listen_addr", Rule::Elsewhere),
    ("listen_backlog", Rule::Count("backlog")),
    ("listen_port", Rule::Count("port")),
    ("log_connections", Rule::Bool("log_client_connections")),
    ("log_disconnections", Rule::Bool("log_client_disconnections")),
    ("log_pooler_errors", Rule::None { harmless: &["1"], remark: "has no counterpart: errors are always logged" }),
    ("log_stats", Rule::None { harmless: &["1"], remark: "has no counterpart: numbers are in the console and in [prometheus]" }),
    ("logfile", Rule::None { harmless: &[""], remark: "has no counterpart: the log goes to standard output; have the service manager keep it" }),
    ("max_client_conn", Rule::Count("max_connections")),
    ("max_db_client_connections", Rule::Count("max_db_client_connections")),
    ("max_db_connections", Rule::Count("max_db_connections")),
    ("max_packet_size", Rule::None { harmless: &["2147483647"], remark: "has no counterpart: messages may have 256 MB" }),
    ("max_prepared_statements", Rule::Elsewhere),
    ("max_user_client_connections", Rule::Count("max_user_client_connections")),
    ("max_user_connections", Rule::None { harmless: OFF, remark: NO_LIMIT }),
    ("min_pool_size", Rule::Elsewhere),
    ("peer_id", Rule::None { harmless: OFF, remark: "has no counterpart: one process uses all cores, several need no peers for that" }),
    ("pidfile", Rule::Text("daemon_pid_file")),
    ("pkt_buf", Rule::None { harmless: ALWAYS, remark: "needs nothing: buffers are shared" }),
    ("pool_mode", Rule::Elsewhere),
    ("query_timeout", Rule::Time("query_timeout")),
    ("query_wait_notify", Rule::None { harmless: OFF, remark: "has no counterpart: clients are not told that they wait" }),
    ("query_wait_timeout", Rule::TimeOr { key: "query_wait_timeout", zero: "1d", remark: "means for ever there and not at all here: 1d is written" }),
    ("reserve_pool_size", Rule::Count("reserve_pool_size")),
    ("reserve_pool_timeout", Rule::Time("reserve_pool_timeout")),
    ("resolv_conf", Rule::None { harmless: &[""], remark: DNS }),
    ("sbuf_loopcnt", Rule::None { harmless: ALWAYS, remark: "needs nothing: clients are served in turn" }),
    ("scram_iterations", Rule::None { harmless: &["4096"], remark: "has no counterpart: verifiers bring their own count" }),
    ("server_check_delay", Rule::TimeOr { key: "server_idle_check_timeout", zero: "1ms", remark: "means before every use there and never here: 1ms is written" }),
    ("server_check_query", Rule::None { harmless: &["select 1", "select 1;", "<empty>", ";", ""], remark: "has another meaning: idle servers are tested with an empty query" }),
    ("server_connect_timeout", Rule::TimeOr { key: "connect_timeout", zero: "1d", remark: "means for ever there and not at all here: 1d is written" }),
    ("server_fast_close", Rule::None { harmless: OFF, remark: "has no counterpart: servers of changed pools close when their client gives them back" }),
    ("server_idle_timeout", Rule::Time("idle_timeout")),
    ("server_lifetime", Rule::TimeOr { key: "server_lifetime", zero: "1ms", remark: "means one use only there and no limit here: 1ms is written" }),
    ("server_login_retry", Rule::None { harmless: ALWAYS, remark: "has no counterpart: each client that waits has its try" }),
    ("server_reset_query", Rule::None { harmless: &["DISCARD ALL", "discard all", "DISCARD ALL;", "DEALLOCATE ALL"], remark: "has another meaning: exactly what a client has left behind is removed, in every mode" }),
    ("server_reset_query_always", Rule::None { harmless: OFF, remark: "needs nothing: what a client has left behind is removed in every mode" }),
    ("server_round_robin", Rule::Bool("server_round_robin")),
    ("server_tls_ca_file", Rule::Text("server_tls_ca_cert")),
    ("server_tls_cert_file", Rule::Text("server_tls_certificate")),
    ("server_tls_ciphers", Rule::None { harmless: &["default", "secure", "fast"], remark: TLS_LIBRARY }),
    ("server_tls13_ciphers", Rule::None { harmless: &[""], remark: TLS_LIBRARY }),
    ("server_tls_key_file", Rule::Text("server_tls_private_key")),
    ("server_tls_protocols", Rule::None { harmless: &["secure", "all"], remark: TLS_LIBRARY }),
    ("server_tls_sslmode", Rule::Elsewhere),
    ("service_name", Rule::Elsewhere),
    ("so_reuseport", Rule::None { harmless: OFF, remark: "needs nothing: one process uses all cores; set worker_threads" }),
    ("stats_period", Rule::None { harmless: ALWAYS, remark: "has no counterpart: there are no averages over a period" }),
    ("stats_users", Rule::None { harmless: &[""], remark: "has no counterpart: the console has one user, who may do everything" }),
    ("suspend_timeout", Rule::None { harmless: ALWAYS, remark: "has no counterpart: there is no SUSPEND" }),
    ("syslog", Rule::Elsewhere),
    ("syslog_facility", Rule::None { harmless: &["daemon"], remark: "has no counterpart: the facility is user" }),
    ("syslog_ident", Rule::Elsewhere),
    ("tcp_defer_accept", Rule::None { harmless: ALWAYS, remark: "needs nothing: a silent connection costs little" }),
    ("tcp_keepalive", Rule::None { harmless: &["1"], remark: "has no counterpart: keepalive is always on" }),
    ("tcp_keepcnt", Rule::Elsewhere),
    ("tcp_keepidle", Rule::Elsewhere),
    ("tcp_keepintvl", Rule::Elsewhere),
    ("tcp_socket_buffer", Rule::None { harmless: OFF, remark: "has no counterpart: the system sizes buffers" }),
    ("tcp_user_timeout", Rule::Elsewhere),
    ("track_extra_parameters", Rule::None { harmless: ALWAYS, remark: "needs nothing: all settings of a client follow it" }),
    ("transaction_timeout", Rule::Time("transaction_timeout")),
    ("unix_socket_dir", Rule::Text("unix_socket_dir")),
    ("unix_socket_group", Rule::None { harmless: &[""], remark: "has no counterpart: set the rights of the directory" }),
    ("unix_socket_mode", Rule::Text("unix_socket_mode")),
    ("user", Rule::None { harmless: &[""], remark: "has no counterpart: start the program as that user" }),
    ("verbose", Rule::None { harmless: OFF, remark: "is an option here: --log-level debug" }),
];

/// Values that PgBouncer uses when nothing is written, where they differ from ours.
const DEFAULTS: &[(&str, &str)] = &[
    ("listen_port", "6432"),
    ("listen_backlog", "128"),
    ("max_client_conn", "100"),
    ("server_check_delay", "30"),
    ("server_connect_timeout", "15"),
    ("server_idle_timeout", "600"),
    ("server_lifetime", "3600"),
    ("query_wait_timeout", "120"),
    ("log_connections", "1"),
    ("log_disconnections", "1"),
    ("unix_socket_mode", "0777"),
];

/// Takes over `[pgbouncer]`.
pub(super) fn take_over(ini: &Ini, out: &mut Outcome) {
    for (key, default) in DEFAULTS {
        if ini.setting(key).is_none() {
            one(key, default, None, out);
        }
    }
    let mut seen: Vec<&str> = Vec::new();
    for entry in ini.section("pgbouncer") {
        if !seen.contains(&entry.key.as_str()) {
            seen.push(&entry.key);
            let value = ini.setting(&entry.key).unwrap_or_default();
            one(&entry.key, value, Some(&entry.place), out);
        }
    }
    listen_addresses(ini, out);
    keepalive(ini, out);
    client_tls(ini, out);
    server_tls(ini, out);
    prepared_statements(ini, out);
    if ini.setting("syslog").and_then(bool_of) == Some(true) {
        let ident = ini.setting("syslog_ident").unwrap_or("pgbouncer");
        out.set("syslog_prog_name", ident, "syslog, syslog_ident");
    }
}

/// `place` is where it is written; `None` for a default.
fn one(key: &str, value: &str, place: Option<&str>, out: &mut Outcome) {
    let Some((_, rule)) = RULES.iter().find(|(name, _)| *name == key) else {
        // Its value may be a secret.
        let place = place.unwrap_or_default();
        out.remark(&format!("{key} ({place})"), "is not known: not taken over");
        return;
    };
    let origin = match place {
        Some(place) if MAY_BE_SECRET.contains(&key) => format!("{key} ({place})"),
        Some(_) => format!("{key} = {value}"),
        None => format!("PgBouncer's default of {key}, {value}"),
    };
    let converted: Option<(&'static str, Value)> = match rule {
        Rule::Elsewhere => return,
        Rule::None { harmless, remark } => {
            if !harmless
                .iter()
                .any(|known| known.eq_ignore_ascii_case(value))
            {
                out.remark(&origin, remark);
            }
            return;
        }
        Rule::Text(name) => Some((name, value.into())),
        Rule::Count(name) => value.parse::<i64>().ok().map(|count| (*name, count.into())),
        Rule::Bool(name) => bool_of(value).map(|is_on| (*name, is_on.into())),
        Rule::Time(name) => duration(value).map(|time| (*name, time.to_string().into())),
        Rule::TimeOr { key, zero, remark } => duration(value).map(|time| {
            if time == ConfigDuration::from_millis(0) {
                out.remark(&origin, remark);
                (*key, (*zero).into())
            } else {
                (*key, time.to_string().into())
            }
        }),
    };
    match converted {
        Some((_, Value::String(text))) if text.is_empty() => {}
        Some((name, value)) => out.set(name, value, &origin),
        None => out.remark(&origin, "cannot be read: not taken over"),
    }
}

/// Seconds, perhaps with a fraction.
pub(super) fn duration(text: &str) -> Option<ConfigDuration> {
    let seconds: f64 = text.trim().parse().ok()?;
    let is_sane = seconds.is_finite() && (0.0..1e12).contains(&seconds);
    is_sane.then(|| ConfigDuration::from_millis((seconds * 1000.0).round() as u64))
}

/// The words PgBouncer takes for yes and no.
pub(super) fn bool_of(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "on" | "true" | "yes" => Some(true),
        "0" | "off" | "false" | "no" => Some(false),
        _ => None,
    }
}

fn listen_addresses(ini: &Ini, out: &mut Outcome) {
    let written = ini.setting("listen_addr").unwrap_or_default();
    if hosts(written).next().is_some() {
        out.set("host", written, &format!("listen_addr = {written}"));
    } else if ini
        .setting("unix_socket_dir")
        .is_some_and(|dir| !dir.is_empty())
    {
        out.set("host", "", "no listen_addr: no TCP");
    } else {
        // There it is the socket directory of its package, which belongs to another program.
        out.remark(
            "listen_addr (not set)",
            "means no TCP there, only a Unix socket in /tmp: 127.0.0.1 is written",
        );
        out.set("host", "127.0.0.1", "no listen_addr");
    }
}

fn keepalive(ini: &Ini, out: &mut Outcome) {
    for (theirs, ours) in [
        ("tcp_keepcnt", "tcp_keepalives_count"),
        ("tcp_keepidle", "tcp_keepalives_idle"),
        ("tcp_keepintvl", "tcp_keepalives_interval"),
    ] {
        // 0 is the system's value, which would be hours.
        let value = ini
            .setting(theirs)
            .and_then(|text| text.parse::<i64>().ok());
        if let Some(value) = value.filter(|value| *value > 0) {
            out.set(ours, value, &format!("{theirs} = {value}"));
        }
    }
    if let Some(millis) = ini
        .setting("tcp_user_timeout")
        .and_then(|text| text.parse::<u32>().ok())
    {
        let seconds = i64::from(millis.div_ceil(1000));
        let origin = format!("tcp_user_timeout = {millis}, milliseconds there, seconds here");
        out.set("tcp_user_timeout", seconds, &origin);
    }
}

fn client_tls(ini: &Ini, out: &mut Outcome) {
    // Nothing written is `disable`, whatever files are named.
    let Some(mode) = ini.setting("client_tls_sslmode") else {
        return;
    };
    let origin = format!("client_tls_sslmode = {mode}");
    let ours = match mode.to_ascii_lowercase().as_str() {
        "disable" => "disable",
        "allow" | "prefer" => "allow",
        "require" => "require",
        "verify-ca" | "verify-full" => "verify-full",
        _ => {
            out.remark(&origin, "is not known: not taken over");
            return;
        }
    };
    let file = |key| ini.setting(key).filter(|file| !file.is_empty());
    let pair = (file("client_tls_cert_file"), file("client_tls_key_file"));
    match pair {
        _ if ours == "disable" => out.set("tls_mode", ours, &origin),
        (Some(certificate), Some(key)) => {
            out.set("tls_mode", ours, &origin);
            out.set("tls_certificate", certificate, "client_tls_cert_file");
            out.set("tls_private_key", key, "client_tls_key_file");
            if let Some(authority) = file("client_tls_ca_file") {
                out.set("tls_ca_cert", authority, "client_tls_ca_file");
            }
        }
        _ => out.remark(
            &origin,
            "needs a key and a certificate, which are not set: not taken over",
        ),
    }
}

fn server_tls(ini: &Ini, out: &mut Outcome) {
    let mode = ini.setting("server_tls_sslmode").unwrap_or("prefer");
    let origin = format!("server_tls_sslmode = {mode}");
    let mode = &*mode.to_ascii_lowercase();
    match mode {
        "disable" | "allow" | "prefer" | "require" | "verify-ca" | "verify-full" => {
            out.set("server_tls_mode", mode, &origin);
        }
        _ => out.remark(&origin, "is not known: not taken over"),
    }
}

fn prepared_statements(ini: &Ini, out: &mut Outcome) {
    let Some(text) = ini.setting("max_prepared_statements") else {
        return;
    };
    let origin = format!("max_prepared_statements = {text}");
    match text.parse::<i64>() {
        Ok(0) => out.set("prepared_statements", false, &origin),
        Ok(count) if count > 0 => out.set("prepared_statements_cache_size", count, &origin),
        _ => out.remark(&origin, "cannot be read: not taken over"),
    }
}
