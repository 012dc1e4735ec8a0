//! Access rules that mean something else here than where they were written for.
//!
//! **Owns:** these sentences, for configurations and for rules that are migrated.
//! **Does not own:** how rules decide (`auth::hba`).
//!
//! ```text
//!  host all all 0.0.0.0/0 scram-sha-256   decides about everybody; who has an md5 hash cannot prove it
//!  host all all 0.0.0.0/0 md5             PgDoorman 3 comes to this one then; nobody else does
//! ```
//!
//! Source: PostgreSQL manual `auth-pg-hba-conf.html`.

use std::collections::BTreeSet;

use crate::config::hba::{HbaMethod, HbaName, HbaRule};

use super::CONSOLE;

/// A sentence for each rule that may do what its author did not mean. Each begins with its line.
pub(in super::super) fn doubts(rules: &[HbaRule]) -> Vec<String> {
    let mut found = Vec::new();
    let mut told = BTreeSet::new();
    for (index, rule) in rules.iter().enumerate() {
        let before = &rules[..index];
        if let Some(first) = shadow(before, rule)
            && told.insert(rule.line)
        {
            found.push(format!(
                "line {}: nobody comes to this rule, because the one in line {} decides about all its \
                 clients. PgDoorman 3 went on if a method did not suit the stored password; as in \
                 PostgreSQL, that is not so any more",
                rule.line, first.line
            ));
        }
    }
    let mut told = BTreeSet::new();
    for rule in rules {
        if let Some((named, other)) = half_named(rules, rule)
            && told.insert(rule.line)
        {
            found.push(format!(
                "line {}: names the console {named}, but not {other}, its other name: clients that \
                 ask for that one meet other rules",
                rule.line
            ));
        }
    }
    found
}

/// The rule before `late` that decides about everybody whom that one is for, if this is worth a word.
fn shadow<'a>(before: &'a [HbaRule], late: &HbaRule) -> Option<&'a HbaRule> {
    let first = before.iter().find(|rule| rule.covers(late))?;
    let is_catch_all = late.method == HbaMethod::Reject;
    (first.method != late.method && !is_catch_all).then_some(first)
}

/// The name of the console that `rule` has, and the one that neither it nor its twin has.
fn half_named(rules: &[HbaRule], rule: &HbaRule) -> Option<(&'static str, &'static str)> {
    let has = |rule: &HbaRule, name: &str| {
        let names = rule.databases.iter();
        let mut names = names.filter_map(|database| match database {
            HbaName::Name(name) => Some(name.as_str()),
            HbaName::All | HbaName::Replication | HbaName::SameUser => None,
        });
        names.any(|found| found == name) || rule.databases.contains(&HbaName::All)
    };
    let [one, other] = CONSOLE;
    let (named, missing) = match (has(rule, one), has(rule, other)) {
        (true, false) => (one, other),
        (false, true) => (other, one),
        (true, true) | (false, false) => return None,
    };
    let is_twin = |twin: &HbaRule| {
        let like = HbaRule {
            line: rule.line,
            databases: rule.databases.clone(),
            ..twin.clone()
        };
        has(twin, missing) && like == *rule
    };
    (!rules.iter().any(is_twin)).then_some((named, missing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::hba::parse_rules;

    #[test]
    fn a_rule_that_nobody_comes_to_is_told() {
        for (text, expected) in [
            ("host all all all md5\nhost all all 127.0.0.1 trust", true),
            ("host all all all scram-sha-256\nhost all bob all md5", true),
            ("host all all all ldap\nhost all all all trust", true),
            ("host all all all reject\nhost all all all trust", true),
            ("host all all all md5\nhost all bob all md5", false),
            ("host all all all md5\nhost all all all reject", false),
            ("host all all 10.0.0.0/8 md5\nhost all all all trust", false),
            ("local all all md5\nhost all all 127.0.0.1 trust", false),
            ("host all all 127.0.0.1 trust\nhost all all all md5", false),
        ] {
            let found = doubts(&parse_rules(text).unwrap().0);
            assert_eq!(!found.is_empty(), expected, "{text}: {found:?}");
            if expected {
                assert!(found[0].contains("the one in line 1 "), "{found:?}");
            }
        }
    }

    #[test]
    fn one_name_of_the_console_is_told() {
        for (text, expected) in [
            ("host pgbouncer all all reject", true),
            ("host a,pgdoorman all all reject", true),
            ("host pgbouncer,pgdoorman all all reject", false),
            ("host all all all reject", false),
            ("host a all all reject", false),
            ("host pgbouncer a all md5\nhost pgdoorman a all md5", false),
            ("host pgbouncer a all md5\nhost pgdoorman b all md5", true),
        ] {
            let found = doubts(&parse_rules(text).unwrap().0);
            assert_eq!(!found.is_empty(), expected, "{text}: {found:?}");
        }
    }
}
