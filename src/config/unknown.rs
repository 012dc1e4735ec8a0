//! Keys of a file that are not used.
//!
//! **Owns:** the remarks about them; the list of keys that newer files may contain.
//! **Does not own:** the keys that are used (`keys`).
//! **Invariant:** an unknown key is never an error, and never passed over in silence.

use toml::{Table, Value};

use super::keys::{KEYS, Section, keys_of};

/// Keys of newer files. They are accepted and do nothing here.
const NEWER_KEYS: &[(Section, &[&str])] = &[
    (
        Section::General,
        &[
            "client_anonymous_prepared_cache_size",
            "fallback_connect_timeout",
            "fallback_cooldown",
            "fallback_lifetime",
            "patroni_api_timeout",
            "patroni_api_urls",
            "query_interner_anon_idle_ttl_seconds",
            "query_interner_gc_interval_seconds",
            "scaling_cooldown_sleep",
            "scaling_fast_retries",
            "scaling_max_parallel_creates",
            "scaling_warm_pool_ratio",
            "server_prepared_statements_cache_size",
            "startup_parameters",
            "tcp_socket_buffer_size",
        ],
    ),
    (
        Section::Pool,
        &[
            "fallback_connect_timeout",
            "fallback_cooldown",
            "fallback_lifetime",
            "min_connection_lifetime",
            "min_guaranteed_pool_size",
            "patroni_api_timeout",
            "patroni_api_urls",
            "scaling_cooldown_sleep",
            "scaling_fast_retries",
            "scaling_max_parallel_creates",
            "scaling_warm_pool_ratio",
            "server_prepared_statements_cache_size",
            "startup_parameters",
        ],
    ),
];

/// Tables and keys at the top level.
pub(super) const TOP_LEVEL: &[&str] =
    &["general", "pools", "prometheus", "talos", "include", "path"];

/// One remark for each key of `document` that is not used.
pub(super) fn unknown_keys(document: &Table) -> Vec<String> {
    let mut remarks = Vec::new();
    for key in document
        .keys()
        .filter(|key| !TOP_LEVEL.contains(&key.as_str()))
    {
        remarks.push(match key.as_str() {
            "web" => "table `web` has no effect in this version".to_owned(),
            _ => remark(key, "at the top level", TOP_LEVEL.iter().copied()),
        });
    }
    let tables = [
        (Section::General, "general"),
        (Section::Prometheus, "prometheus"),
        (Section::Talos, "talos"),
        (Section::Include, "include"),
    ];
    for (section, name) in tables {
        check_table(section, name, document.get(name), &mut remarks);
    }
    for (name, pool) in document
        .get("pools")
        .and_then(Value::as_table)
        .into_iter()
        .flatten()
    {
        let place = format!("pools.{name}");
        check_table(Section::Pool, &place, Some(pool), &mut remarks);
        let query = pool.get("auth_query");
        check_table(
            Section::AuthQuery,
            &format!("{place}.auth_query"),
            query,
            &mut remarks,
        );
        let place = format!("{place}.users");
        match pool.get("users") {
            Some(Value::Array(users)) => {
                for user in users {
                    check_table(Section::User, &place, Some(user), &mut remarks);
                }
            }
            Some(Value::Table(users)) => {
                for user in users.values() {
                    check_table(Section::User, &place, Some(user), &mut remarks);
                }
            }
            _ => {}
        }
    }
    remarks
}

fn check_table(section: Section, place: &str, table: Option<&Value>, remarks: &mut Vec<String>) {
    let known = |name: &str| keys_of(section).any(|key| key.name == name);
    let newer = NEWER_KEYS
        .iter()
        .find(|(of, _)| *of == section)
        .map_or(&[][..], |(_, keys)| keys);
    let keys = table
        .and_then(Value::as_table)
        .into_iter()
        .flat_map(Table::keys);
    for name in keys.filter(|name| !known(name)) {
        let elsewhere = KEYS.iter().find(|key| key.name == name.as_str());
        remarks.push(if newer.contains(&name.as_str()) {
            format!("key `{name}` in {place} has no effect in this version")
        } else if let Some(key) = elsewhere {
            let title = key.section.title();
            format!("unknown key `{name}` in {place} is ignored: it belongs into {title}")
        } else {
            remark(
                name,
                &format!("in {place}"),
                keys_of(section).map(|key| key.name),
            )
        });
    }
}

fn remark(name: &str, place: &str, known: impl Iterator<Item = &'static str>) -> String {
    let nearest = known.map(|known| (distance(name, known), known)).min();
    match nearest {
        // Two fifths: close enough for typing errors and near synonyms, far from coincidence.
        Some((distance, known)) if distance * 5 <= name.len() * 2 => {
            format!("unknown key `{name}` {place} is ignored: did you mean `{known}`?")
        }
        _ => format!("unknown key `{name}` {place} is ignored"),
    }
}

/// Insertions, deletions and replacements of bytes, and exchanges of two neighbours, between two names
/// (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = above;
        above = row;
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "abc", 0),
            ("abc", "abd", 1),
            ("kitten", "sitting", 3),
            ("pool_siez", "pool_size", 1),
            ("prot", "port", 1),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn unknown_keys_are_reported_with_the_nearest_known_one() {
        let document = toml::toml! {
            genral = 1
            [general]
            prot = 1
            pool_mode = "session"
            tls_ca_file = "x"
            zzz = 1
            unix_socket_mode = "0600"
            [web]
            enabled = true
            [pools.db]
            auth_query = 1
            server_hots = "x"
            users = [{ user_name = "x", username = "y" }]
            [pools.old.users."0"]
            passwd = "x"
        };
        let expected = [
            "unknown key `genral` at the top level is ignored: did you mean `general`?",
            "table `web` has no effect in this version",
            "unknown key `pool_mode` in general is ignored: it belongs into pools.<name>",
            "unknown key `prot` in general is ignored: did you mean `port`?",
            "unknown key `tls_ca_file` in general is ignored: did you mean `tls_ca_cert`?",
            "unknown key `zzz` in general is ignored",
            "unknown key `server_hots` in pools.db is ignored: did you mean `server_host`?",
            "unknown key `user_name` in pools.db.users is ignored: did you mean `username`?",
            "unknown key `passwd` in pools.old.users is ignored: did you mean `password`?",
        ];
        assert_eq!(unknown_keys(&document), expected);
    }
}
