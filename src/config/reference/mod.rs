//! The reference documents, made from the key table.
//!
//! **Owns:** the text of `pg_doorman.toml` and the tables of `docs/configuration.md`.
//! **Does not own:** the descriptions (`keys`).
//! **Invariant:** what [`reference_toml`] returns loads without warnings and without changing a
//! default.

use crate::config::draft::wrap;
use crate::config::keys::{KEYS, Key, Section, keys_of};

const WIDTH: usize = 96;

const INTRODUCTION: &str = "\
# Reference configuration of pg_doorman: every key, with its default.
#
# Keys that are commented out are not set by default; what stands there is an example.
# Durations: a number of milliseconds, or a string with suffix ms, s, m, h or d.
# Sizes: a number of bytes, or a string with suffix B, K, KB, M, MB, G or GB.
# A file called *.yaml or *.yml holds the same tables in YAML.
";

/// The commented reference configuration, TOML.
pub fn reference_toml() -> String {
    let mut lines = Vec::new();
    for (header, section, optional) in [
        ("[include]", Section::Include, false),
        ("[general]", Section::General, false),
        ("[prometheus]", Section::Prometheus, false),
        ("[talos]", Section::Talos, true),
        ("[pools.exampledb]", Section::Pool, false),
        ("[pools.exampledb.auth_query]", Section::AuthQuery, true),
        ("[[pools.exampledb.users]]", Section::User, false),
    ] {
        let mark = if optional { "# " } else { "" };
        lines.extend([String::new(), format!("{mark}{header}")]);
        let mut group = "";
        // The users have a table of their own.
        for key in keys_of(section).filter(|key| !key.is_table()) {
            if section == Section::General && key.group != group {
                group = key.group;
                lines.extend([String::new(), format!("# --- {group} ---")]);
            }
            lines.extend(entry(key, mark));
        }
    }
    format!("{INTRODUCTION}{}\n", lines.join("\n"))
}

fn entry(key: &Key, mark: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    let meaning = key.meaning.replace('`', "");
    lines.extend(
        wrap(&meaning, WIDTH - 2)
            .iter()
            .map(|line| format!("# {line}")),
    );
    let (mark, value) = match (key.has_default_value(), key.default) {
        (true, value) => (mark, value),
        (false, "required") => (mark, key.example),
        (false, words) => {
            lines.push(format!("# Default: {words}."));
            ("# ", key.example)
        }
    };
    lines.push(format!("{mark}{} = {value}", key.name));
    lines
}

impl Key {
    /// True if it is a table, which has keys of its own.
    pub fn is_table(&self) -> bool {
        self.section == Section::Pool && ["auth_query", "users"].contains(&self.name)
    }

    /// True if `default` is a TOML value and not words.
    pub fn has_default_value(&self) -> bool {
        self.example.is_empty()
    }
}

/// The Markdown table of one group of keys.
pub fn markdown_table(group: &str) -> String {
    let rows = KEYS.iter().filter(|key| key.group == group).map(|key| {
        let quote = if key.has_default_value() { "`" } else { "" };
        let default = format!("{quote}{}{quote}", key.default);
        let effect = key.effect.text();
        format!(
            "| `{}` | {} | {default} | {} | {effect} |\n",
            key.name, key.kind, key.meaning
        )
    });
    let head = "| Key | Type | Default | Meaning | Takes effect |\n|---|---|---|---|---|\n";
    std::iter::once(head.to_owned()).chain(rows).collect()
}

#[cfg(test)]
mod tests;
