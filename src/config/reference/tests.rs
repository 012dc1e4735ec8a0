//! The schema, the key table, `pg_doorman.toml` and `docs/configuration.md` name the same keys with
//! the same defaults.
//!
//! To write the two documents anew: `UPDATE_REFERENCE=1 cargo test --lib reference`.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Visitor, value};

use super::*;
use crate::config::keys::Effect;
use crate::config::{self, Config, schema, unknown};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A deserializer that answers only one question: which fields does the struct have?
struct FieldNames<'a>(&'a mut Vec<&'static str>);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, value::Error> {
        Err(serde::de::Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, value::Error> {
        self.0.extend(fields);
        Err(serde::de::Error::custom("seen"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn field_names<T: Deserialize<'static> + fmt::Debug>() -> Vec<&'static str> {
    let mut names = Vec::new();
    T::deserialize(FieldNames(&mut names)).unwrap_err();
    names.sort_unstable();
    names
}

#[test]
fn the_document_has_the_tables_of_the_key_table() {
    let mut tables = field_names::<schema::Document>();
    // Read before the document has its type.
    tables.push("include");
    tables.sort_unstable();
    let mut known = unknown::TOP_LEVEL.to_vec();
    known.sort_unstable();
    assert_eq!(tables, known);
    for section in [
        Section::General,
        Section::Include,
        Section::Pool,
        Section::Prometheus,
        Section::Talos,
        Section::AuthQuery,
        Section::User,
    ] {
        let name = section.title().split('.').next().unwrap();
        assert!(known.contains(&name), "{name}");
        assert!(keys_of(section).next().is_some(), "{name}");
    }
}

#[test]
fn schema_and_key_table_name_the_same_keys() {
    for (section, fields) in [
        (Section::General, field_names::<schema::General>()),
        (Section::Pool, field_names::<schema::Pool>()),
        (Section::User, field_names::<schema::User>()),
        (Section::Prometheus, field_names::<schema::Prometheus>()),
        (Section::Talos, field_names::<schema::Talos>()),
        (Section::AuthQuery, field_names::<schema::AuthQuery>()),
    ] {
        let mut names: Vec<_> = keys_of(section).map(|key| key.name).collect();
        names.sort_unstable();
        assert_eq!(names, fields, "{section:?}");
    }
}

/// A minimal document with `line` in the table of `section`.
fn document(section: Section, line: &str) -> String {
    let at = |wanted: Section| if wanted == section { line } else { "" };
    let talos = if section == Section::Talos {
        "[talos]"
    } else {
        ""
    };
    let auth_query = if section == Section::AuthQuery {
        format!("[pools.exampledb.auth_query]\nuser = 'asker'\n{line}")
    } else {
        String::new()
    };
    format!(
        "[include]\n{}\n[general]\nadmin_username = 'a'\nadmin_password = 'b'\n{}\n\
         [prometheus]\n{}\n{talos}\n{}\n[pools.exampledb]\n{}\n\
         {}\n[[pools.exampledb.users]]\nusername = 'u'\npassword = ''\npool_size = 1\n{}\n",
        at(Section::Include),
        at(Section::General),
        at(Section::Prometheus),
        at(Section::Talos),
        at(Section::Pool),
        auth_query,
        at(Section::User),
    )
}

fn load(text: &str) -> Config {
    let text = text.as_bytes().to_vec();
    let loaded = config::load::load_with(Path::new("x.toml"), &|_| Ok(text.clone()));
    let loaded = loaded.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded.warnings, [""; 0]);
    loaded.config
}

#[test]
fn writing_a_default_into_a_file_changes_nothing() {
    let minimal = load(&document(Section::Include, ""));
    let minimal_query = load(&document(Section::AuthQuery, ""));
    // `users = []` would stand beside the user the document needs.
    for key in KEYS
        .iter()
        .filter(|key| key.has_default_value() && !key.is_table())
    {
        let line = format!("{} = {}", key.name, key.default);
        let minimal = if key.section == Section::AuthQuery {
            &minimal_query
        } else {
            &minimal
        };
        assert_eq!(load(&document(key.section, &line)), *minimal, "{line}");
    }
    let no_users = "[general]\nadmin_username = 'a'\nadmin_password = 'b'\n[pools.x]\n";
    assert_eq!(load(&format!("{no_users}users = []")), load(no_users));
}

#[test]
fn every_example_has_the_type_of_its_key() {
    for key in KEYS.iter().filter(|key| !key.has_default_value()) {
        let text = format!("{} = {}", key.name, key.example);
        let table: toml::Table = text.parse().unwrap();
        let error = match key.section {
            Section::General => schema::General::deserialize(table).err(),
            Section::Pool => schema::Pool::deserialize(table).err(),
            // These have required keys, so an error remains: that of another key.
            Section::User => schema::User::deserialize(table).err(),
            Section::Talos => schema::Talos::deserialize(table).err(),
            Section::AuthQuery => schema::AuthQuery::deserialize(table).err(),
            Section::Include | Section::Prometheus => panic!("{}", key.name),
        };
        let message = error
            .map(|error| error.message().to_owned())
            .unwrap_or_default();
        assert!(
            message.is_empty() || message.starts_with("missing field"),
            "{text}: {message}"
        );
    }
}

fn assert_file(name: &str, expected: &str) {
    let path = Path::new(ROOT).join(name);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap();
    assert!(
        found == expected,
        "{name} is outdated: see the head of this test file"
    );
}

#[test]
fn the_reference_file_is_what_the_key_table_says_and_loads() {
    assert_file("pg_doorman.toml", &reference_toml());
    let loaded = config::load(&Path::new(ROOT).join("pg_doorman.toml")).unwrap();
    assert_eq!(loaded.warnings, [""; 0]);
    let mut with_defaults = load(&document(Section::Include, ""));
    with_defaults.general.admin_username = loaded.config.general.admin_username.clone();
    with_defaults.general.admin_password = loaded.config.general.admin_password.clone();
    assert_eq!(loaded.config.general, with_defaults.general);
    assert_eq!(loaded.config.prometheus, with_defaults.prometheus);
    assert_eq!(loaded.config.talos, None);
    let (shown, mut default) = (&loaded.config.pools[0], with_defaults.pools.remove(0));
    // The required keys have no default.
    let user = &mut default.users[0];
    user.username.clone_from(&shown.users[0].username);
    user.server_username.clone_from(&shown.users[0].username);
    user.password = shown.users[0].password.clone();
    user.pool_size = shown.users[0].pool_size;
    assert_eq!(*shown, default);
}

/// The TOML blocks of a document, each as a file of its own.
fn examples(document: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(ROOT).join(document)).unwrap();
    let blocks = text.split("```toml\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn examples_in_the_manuals_load_without_warnings() {
    let mut count = 0;
    for document in [
        "README.md",
        "docs/configuration.md",
        "docs/operations/running.md",
    ] {
        for example in examples(document) {
            // An example of a single table gets what it needs around it.
            let text = if example.contains("[general]") {
                example
            } else {
                format!("[general]\nadmin_username = 'a'\nadmin_password = 'b'\n[pools]\n{example}")
            };
            load(&text);
            count += 1;
        }
    }
    assert!(count >= 3, "{count}");
}

#[test]
fn the_reference_file_shows_every_key_once_in_its_table() {
    let text = reference_toml();
    for key in KEYS.iter().filter(|key| !key.is_table()) {
        let header = key.section.title().replace("<name>", "exampledb");
        let mut tables = text.split("\n[").flat_map(|table| table.split("\n# ["));
        let table = tables.find(|table| table.trim_start_matches('[').starts_with(&header));
        let shown = |line: &&str| {
            line.trim_start_matches("# ")
                .starts_with(&format!("{} = ", key.name))
        };
        assert_eq!(
            table.unwrap().lines().filter(shown).count(),
            1,
            "{} {header}",
            key.name
        );
    }
}

/// The tables stand between `<!-- keys: Group -->` and `<!-- end -->`; the rest is written by hand.
#[test]
fn the_manual_has_the_tables_of_all_keys() {
    let name = "docs/configuration.md";
    let manual = std::fs::read_to_string(Path::new(ROOT).join(name)).unwrap();
    let mut groups: Vec<&str> = KEYS.iter().map(|key| key.group).collect();
    groups.dedup();
    let mut expected = manual.clone();
    for group in groups {
        let start = format!("<!-- keys: {group} -->\n");
        let begin = expected
            .find(&start)
            .unwrap_or_else(|| panic!("no {start}"))
            + start.len();
        let length = expected[begin..].find("<!-- end -->").unwrap();
        expected.replace_range(
            begin..begin + length,
            &format!("\n{}\n", markdown_table(group)),
        );
    }
    assert_file(name, &expected);
    for effect in [
        Effect::AtOnce,
        Effect::Ignored,
        Effect::NewClients,
        Effect::NewConnections,
        Effect::NewServers,
        Effect::PoolRebuild,
        Effect::Restart,
    ] {
        assert!(
            manual.contains(&format!("*{}*", effect.text())),
            "{effect:?} is not explained"
        );
    }
}
