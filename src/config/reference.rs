//! The reference documents, made from the key table.
//!
//! **Owns:** the text of `pg_doorman.toml` and the tables of `docs/configuration.md`.
//! **Does not own:** the descriptions (`keys`).
//! **Invariant:** what [`reference_toml`] returns loads without warnings and without changing a
//! default.

use super::keys::{KEYS, Key, Section, keys_of};

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
    let mut text = INTRODUCTION.to_owned();
    for (header, section, optional) in [
        ("[include]", Section::Include, false),
        ("[general]", Section::General, false),
        ("[prometheus]", Section::Prometheus, false),
        ("[talos]", Section::Talos, true),
        ("[pools.exampledb]", Section::Pool, false),
        ("[[pools.exampledb.users]]", Section::User, false),
    ] {
        let mark = if optional { "# " } else { "" };
        text += &format!("\n{mark}{header}\n");
        let mut group = "";
        for key in keys_of(section).filter(|key| key.name != "users") {
            if section == Section::General && key.group != group {
                group = key.group;
                text += &format!("\n# --- {group} ---\n");
            }
            text += &entry(key, mark);
        }
    }
    text
}

fn entry(key: &Key, mark: &str) -> String {
    let meaning = key.meaning.replace('`', "");
    let mut text = "\n".to_owned();
    for line in wrap(&meaning, WIDTH - 2) {
        text += &format!("# {line}\n");
    }
    let (mark, value) = match (key.has_default_value(), key.default) {
        (true, value) => (mark, value),
        (false, "required") => (mark, key.example),
        (false, words) => {
            text += &format!("# Default: {words}.\n");
            ("# ", key.example)
        }
    };
    text + &format!("{mark}{} = {value}\n", key.name)
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

impl Key {
    /// True if `default` is a TOML value and not words.
    pub fn has_default_value(&self) -> bool {
        self.example.is_empty()
    }
}

/// The Markdown table of one group of keys.
pub fn markdown_table(group: &str) -> String {
    let mut text = "| Key | Type | Default | Meaning | Takes effect |\n".to_owned();
    text += "|---|---|---|---|---|\n";
    for key in KEYS.iter().filter(|key| key.group == group) {
        let default = match key.has_default_value() {
            true => format!("`{}`", key.default),
            false => key.default.to_owned(),
        };
        let Key {
            name,
            kind,
            meaning,
            effect,
            ..
        } = key;
        text += &format!(
            "| `{name}` | {kind} | {default} | {meaning} | {} |\n",
            effect.text()
        );
    }
    text
}

#[cfg(test)]
mod tests;
