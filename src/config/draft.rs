//! Configurations to be written: what `generate` and `migrate` put into files.
//!
//! **Owns:** the layout of a file in TOML and in YAML, which keys and comments it shows.
//! **Does not own:** the values (callers), the descriptions (`keys`, `keys_ru`).
//! **Invariant:** what is written loads, if the values obey the rules; texts of callers cannot break
//! out of their strings or comments.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::keys::{Key, Section, keys_of};
use super::keys_ru;

/// A configuration to be written.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// Comment at the head of the file, a paragraph each.
    pub head: Vec<String>,
    /// `[general]`.
    pub general: Entries,
    /// `[prometheus]`.
    pub prometheus: Entries,
    /// `[pools.*]`.
    pub pools: Vec<DraftPool>,
}

/// A pool to be written.
#[derive(Clone, Debug, Default)]
pub struct DraftPool {
    /// The database name clients ask for.
    pub name: String,
    /// Its keys, without `users`.
    pub keys: Entries,
    /// Its users.
    pub users: Vec<Entries>,
}

/// The keys of one table that are not left at their default.
#[derive(Clone, Debug, Default)]
pub struct Entries(Vec<Entry>);

#[derive(Clone, Debug)]
struct Entry {
    name: &'static str,
    value: Value,
    comments: Vec<String>,
}

impl Entries {
    /// Sets a key.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.set_with(name, value, None);
    }

    /// Sets a key and says why.
    pub fn set_with(
        &mut self,
        name: &'static str,
        value: impl Into<Value>,
        comment: impl Into<Option<String>>,
    ) {
        self.0.retain(|entry| entry.name != name);
        self.0.push(Entry {
            name,
            value: value.into(),
            comments: comment.into().into_iter().collect(),
        });
    }

    /// The value of a key, if it is set.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.find(name).map(|entry| &entry.value)
    }

    fn find(&self, name: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.name == name)
    }
}

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TOML.
    Toml,
    /// YAML.
    Yaml,
}

/// The language of descriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// English.
    English,
    /// Russian.
    Russian,
}

/// How much is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Every key with its description; those without a value as comments. For pools and users, only
    /// the first one.
    Described(Language),
    /// Every key that has a value, without comments.
    Plain,
    /// The keys of the draft, with its own comments.
    Chosen,
}

/// One line of a table.
enum Line {
    Blank,
    Comment(String),
    Key {
        name: &'static str,
        value: Value,
        is_off: bool,
    },
}

/// Writes `draft`.
pub fn write(draft: &Draft, format: Format, detail: Detail) -> String {
    let mut out = Out {
        text: String::new(),
        format,
    };
    if detail != Detail::Plain {
        for paragraph in &draft.head {
            out.comment(paragraph, 0);
        }
    }
    if let Detail::Described(_) = detail {
        out.table("include", Section::Include, &Entries::default(), detail);
    }
    out.table("general", Section::General, &draft.general, detail);
    if detail != Detail::Chosen || !draft.prometheus.0.is_empty() {
        out.table("prometheus", Section::Prometheus, &draft.prometheus, detail);
    }
    if let Detail::Described(language) = detail {
        out.talos(language);
    }
    out.pools(&draft.pools, detail);
    out.text
}

struct Out {
    text: String,
    format: Format,
}

impl Out {
    fn line(&mut self, indent: usize, text: &str) {
        let _ = writeln!(self.text, "{:indent$}{text}", "");
    }

    fn comment(&mut self, text: &str, indent: usize) {
        for line in text.lines().flat_map(|line| wrap(line, WIDTH - 2 - indent)) {
            let clean: String = line.chars().filter(|c| !c.is_control()).collect();
            self.line(indent, format!("# {clean}").trim_end());
        }
    }

    fn table(&mut self, name: &str, section: Section, entries: &Entries, detail: Detail) {
        self.text.push('\n');
        let indent = match self.format {
            Format::Toml => {
                self.line(0, &format!("[{name}]"));
                0
            }
            Format::Yaml => {
                self.line(0, &format!("{name}:"));
                2
            }
        };
        self.lines(lines(section, entries, detail), indent);
    }

    fn lines(&mut self, lines: Vec<Line>, indent: usize) {
        for line in lines {
            match line {
                Line::Blank => self.text.push('\n'),
                Line::Comment(text) => self.comment(&text, indent),
                Line::Key {
                    name,
                    value,
                    is_off,
                } => {
                    let mark = if is_off { "# " } else { "" };
                    let text = match self.format {
                        Format::Toml => format!("{mark}{name} = {value}"),
                        Format::Yaml => format!("{mark}{name}: {}", yaml(&value)),
                    };
                    // Of a value in several lines, each has to be a comment or none.
                    let text = if is_off {
                        text.replace('\n', "\n# ")
                    } else {
                        text
                    };
                    self.line(indent, &text);
                }
            }
        }
    }

    /// The table is not there by default, so all of it is a comment.
    fn talos(&mut self, language: Language) {
        self.text.push('\n');
        let (head, indent) = match self.format {
            Format::Toml => ("# [talos]", 0),
            Format::Yaml => ("# talos:", 2),
        };
        self.line(0, head);
        for key in keys_of(Section::Talos) {
            self.comment(&meaning(key, language), 0);
            let value = shown(key.example);
            let text = match self.format {
                Format::Toml => format!("# {} = {value}", key.name),
                Format::Yaml => format!("# {:indent$}{}: {}", "", key.name, yaml(&value)),
            };
            self.line(0, &text);
        }
    }

    fn pools(&mut self, pools: &[DraftPool], detail: Detail) {
        self.text.push('\n');
        match (self.format, pools.is_empty()) {
            (Format::Toml, true) => self.line(0, "[pools]"),
            (Format::Toml, false) => {}
            (Format::Yaml, true) => self.line(0, "pools: {}"),
            (Format::Yaml, false) => self.line(0, "pools:"),
        }
        for (index, pool) in pools.iter().enumerate() {
            // What is described once need not be repeated for each pool and user.
            let brief = match detail {
                Detail::Described(_) if index > 0 => Detail::Chosen,
                other => other,
            };
            let name = quoted_unless_bare(&pool.name);
            let indent = match self.format {
                Format::Toml => {
                    let gap = if index > 0 { "\n" } else { "" };
                    self.line(0, &format!("{gap}[pools.{name}]"));
                    0
                }
                Format::Yaml => {
                    self.line(2, &format!("{}:", yaml_string(&pool.name)));
                    4
                }
            };
            self.lines(lines(Section::Pool, &pool.keys, brief), indent);
            self.users(&pool.users, &name, brief);
        }
    }

    fn users(&mut self, users: &[Entries], pool: &str, detail: Detail) {
        if self.format == Format::Yaml {
            self.line(
                4,
                if users.is_empty() {
                    "users: []"
                } else {
                    "users:"
                },
            );
        }
        for (index, user) in users.iter().enumerate() {
            let brief = match detail {
                Detail::Described(_) if index > 0 => Detail::Chosen,
                other => other,
            };
            let indent = match self.format {
                Format::Toml => {
                    self.line(0, &format!("\n[[pools.{pool}.users]]"));
                    0
                }
                Format::Yaml => {
                    self.line(6, "-");
                    8
                }
            };
            self.lines(lines(Section::User, user, brief), indent);
        }
    }
}

const WIDTH: usize = 100;

fn lines(section: Section, entries: &Entries, detail: Detail) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut group = "";
    // The users have a table of their own.
    for key in keys_of(section).filter(|key| !key.is_table()) {
        let entry = entries.find(key.name);
        let default = key.has_default_value().then(|| shown(key.default));
        let value = entry.map(|entry| entry.value.clone()).or(match detail {
            Detail::Chosen => None,
            Detail::Described(_) | Detail::Plain => default,
        });
        let is_described = matches!(detail, Detail::Described(_));
        if value.is_none() && !is_described {
            continue;
        }
        if section == Section::General && detail != Detail::Plain && key.group != group {
            group = key.group;
            let heading = match detail {
                Detail::Described(Language::Russian) => keys_ru::heading(group),
                _ => group,
            };
            lines.extend([Line::Blank, Line::Comment(format!("--- {heading} ---"))]);
        }
        if let Detail::Described(language) = detail {
            lines.extend([Line::Blank, Line::Comment(meaning(key, language))]);
        }
        if detail != Detail::Plain {
            let comments = entry.into_iter().flat_map(|entry| &entry.comments);
            lines.extend(comments.cloned().map(Line::Comment));
        }
        lines.push(Line::Key {
            name: key.name,
            is_off: value.is_none(),
            value: value.unwrap_or_else(|| shown(key.example)),
        });
    }
    lines
}

fn meaning(key: &Key, language: Language) -> String {
    match language {
        Language::English => key.meaning.replace('`', ""),
        Language::Russian => keys_ru::meaning(key.section, key.name).replace('`', ""),
    }
}

/// A value as the key table writes it.
fn shown(text: &str) -> Value {
    let table: Option<Table> = format!("value = {text}").parse().ok();
    let value = table.and_then(|mut table| table.remove("value"));
    value.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Breaks a line at blanks.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
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

/// A key of TOML.
fn quoted_unless_bare(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !name.is_empty() && name.chars().all(is_bare) {
        name.to_owned()
    } else {
        // Strings in double quotes are the same in both.
        yaml_string(name)
    }
}

fn yaml(value: &Value) -> String {
    match value {
        Value::String(text) => yaml_string(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(yaml).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Table(table) => {
            let pairs = table
                .iter()
                .map(|(key, value)| format!("{}: {}", yaml_string(key), yaml(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
        Value::Boolean(_) | Value::Datetime(_) | Value::Float(_) | Value::Integer(_) => {
            value.to_string()
        }
    }
}

/// A string in double quotes, as TOML and YAML both read it.
fn yaml_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::load::load_with;
    use crate::config::{Config, Secret};

    const HOSTILE: &str = "a\"b\\c\n[general]\n# 'ž' \u{1} : - {";

    fn draft() -> Draft {
        let mut draft = Draft {
            head: vec![format!("Head {HOSTILE}")],
            ..Draft::default()
        };
        draft.general.set("admin_username", "admin");
        draft
            .general
            .set_with("admin_password", HOSTILE, format!("why {HOSTILE}"));
        draft.general.set("port", 6432);
        let mut rules = Table::new();
        rules.insert("content".to_owned(), "host all all all trust\n".into());
        draft.general.set("pg_hba", rules);
        for name in ["db", HOSTILE] {
            let mut pool = DraftPool {
                name: name.to_owned(),
                ..DraftPool::default()
            };
            pool.keys.set("server_host", "/tmp");
            for user in ["u", HOSTILE] {
                let mut keys = Entries::default();
                keys.set("username", user);
                keys.set("password", HOSTILE);
                keys.set("pool_size", 7);
                pool.users.push(keys);
            }
            draft.pools.push(pool);
        }
        draft
    }

    fn load(text: &str, format: Format) -> Config {
        let name = match format {
            Format::Toml => "x.toml",
            Format::Yaml => "x.yaml",
        };
        let read = |_: &Path| Ok(text.as_bytes().to_vec());
        let loaded =
            load_with(Path::new(name), &read).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(loaded.warnings, [""; 0], "{text}");
        let mut config = loaded.config;
        config.path = "x".into();
        config
    }

    #[test]
    fn every_form_of_a_draft_loads_as_the_same_settings() {
        let draft = draft();
        let chosen = load(&write(&draft, Format::Toml, Detail::Chosen), Format::Toml);
        assert_eq!(chosen.pools.len(), 2);
        assert!(chosen.pools.iter().any(|pool| pool.name == HOSTILE));
        assert_eq!(chosen.pools[0].users[1].password, Secret::new(HOSTILE));
        assert_eq!(chosen.general.admin_password, Secret::new(HOSTILE));
        for format in [Format::Toml, Format::Yaml] {
            for detail in [
                Detail::Described(Language::English),
                Detail::Described(Language::Russian),
                Detail::Plain,
                Detail::Chosen,
            ] {
                let text = write(&draft, format, detail);
                assert_eq!(load(&text, format), chosen, "{format:?} {detail:?}\n{text}");
            }
        }
    }

    #[test]
    fn a_draft_without_pools_loads() {
        let mut draft = draft();
        draft.pools.clear();
        for format in [Format::Toml, Format::Yaml] {
            let text = write(&draft, format, Detail::Chosen);
            assert_eq!(load(&text, format).pools, [], "{text}");
        }
    }

    #[test]
    fn a_described_file_shows_every_key() {
        let text = write(&draft(), Format::Yaml, Detail::Described(Language::English));
        for key in crate::config::keys::KEYS {
            let shown = format!("{}: ", key.name);
            let is_there = text
                .lines()
                .any(|line| line.trim_start_matches([' ', '#']).starts_with(&shown));
            // Tables that are mostly absent have their place in the reference.
            let is_elsewhere = key.is_table() || key.section == Section::AuthQuery;
            assert!(is_there || is_elsewhere, "{}", key.name);
        }
    }
}
