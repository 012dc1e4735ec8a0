//! Tests of the comparison.

use std::path::Path;

use super::*;
use crate::config::keys::{Effect, KEYS, Section};
use crate::config::load::load_with;

fn config(general: &str, pools: &str) -> Config {
    let text =
        format!("[general]\nadmin_username='a'\nadmin_password='b'\n{general}\n[pools]\n{pools}");
    load_with(Path::new("x.toml"), &|_| Ok(text.clone().into_bytes()))
        .unwrap()
        .config
}

fn user(name: &str, size: u32) -> String {
    format!("{{ username = '{name}', password = '', pool_size = {size} }}")
}

fn names(list: &[PoolUser]) -> Vec<String> {
    list.iter()
        .map(|key| format!("{}/{}", key.pool, key.user))
        .collect()
}

#[test]
fn every_pool_is_in_exactly_one_list() {
    let old = config(
        "",
        &format!(
            "a.users = [{}, {}, {}]\nb.users = [{}]\nc.users = [{}]",
            user("same", 1),
            user("sized", 1),
            user("gone", 1),
            user("u", 1),
            user("u", 1)
        ),
    );
    let new = config(
        "",
        &format!(
            "a.users = [{}, {}, {}]\nb.users = [{}]\nb.server_port = 5433\nd.users = [{}]",
            user("new", 1),
            user("sized", 2),
            user("same", 1),
            user("u", 1),
            user("u", 1)
        ),
    );
    let diff = ConfigDiff::between(&old, &new);
    assert_eq!(names(&diff.unchanged), ["a/same"]);
    assert_eq!(names(&diff.changed), ["a/sized", "b/u"]);
    assert_eq!(names(&diff.removed), ["a/gone", "c/u"]);
    assert_eq!(names(&diff.added), ["a/new", "d/u"]);
    assert!(!diff.settings_changed && !diff.is_empty());
    assert!(ConfigDiff::between(&old, &old.clone()).is_empty());
}

#[test]
fn pool_mode_of_the_pool_counts_only_for_users_without_their_own() {
    let own = "{ username = 'own', password = '', pool_size = 1, pool_mode = 'session' }";
    let users = format!("a.users = [{own}, {}]\na.pool_mode =", user("u", 1));
    let old = config("", &format!("{users} 'transaction'"));
    let new = config("", &format!("{users} 'session'"));
    let diff = ConfigDiff::between(&old, &new);
    assert_eq!(
        (names(&diff.unchanged), names(&diff.changed)),
        (vec!["a/own".into()], vec!["a/u".into()])
    );
}

#[test]
fn restart_keys_are_those_of_the_key_table() {
    let mut documented: Vec<_> = KEYS
        .iter()
        .filter(|key| key.effect == Effect::Restart && key.section == Section::General)
        .map(|key| format!("general.{}", key.name))
        .collect();
    documented.sort_unstable();
    let mut compared: Vec<_> = RESTART_KEYS
        .iter()
        .map(|(key, _)| (*key).to_owned())
        .collect();
    compared.sort_unstable();
    assert_eq!(compared, documented);
}

#[test]
fn changed_keys_that_need_a_restart_are_named() {
    let old = config("", "");
    let new = config("port = 1\nmax_connections = 1\n[prometheus]\nport = 1", "");
    let diff = ConfigDiff::between(&old, &new);
    assert_eq!(diff.restart_keys, ["general.port", "prometheus.port"]);
    assert!(diff.settings_changed && !diff.is_empty());
    let diff = ConfigDiff::between(&old, &config("max_connections = 1", ""));
    assert_eq!(diff.restart_keys, [""; 0]);
    assert!(diff.settings_changed);
}
