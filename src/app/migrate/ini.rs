//! The files of PgBouncer: its configuration and its list of users.
//!
//! ```text
//!  file     = ( "[" name "]" | key "=" value | "%include" file | comment | blank )*
//!  comment  = a line whose first character is ";" or "#"
//!  value    = the rest of the line without blanks at its ends
//!  database = ( key "=" ( word | "'" text, a quote written twice "'" ) )*
//!  users    = ( '"' name '"' '"' secret '"' anything )*
//! ```
//!
//! **Owns:** this syntax.
//! **Does not own:** what a setting means (`settings`, `pools`).
//! **Invariant:** no error quotes a line: it may hold a password.
//!
//! Source: manual pages pgbouncer.ini(5) and userlist.txt of PgBouncer.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// How files are read.
pub(super) type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// Files include each other so deep.
const INCLUDE_DEPTH_MAX: usize = 10;

/// A configuration, its files put together. Of a key that comes twice, both are there.
#[derive(Debug, Default)]
pub(super) struct Ini {
    /// Section, key and value in their order.
    pub(super) entries: Vec<Entry>,
}

/// One setting.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) section: String,
    pub(super) key: String,
    pub(super) value: String,
    /// The line, and the file if it is an included one.
    pub(super) place: String,
}

impl Ini {
    /// The settings of a section. The last of two with one name counts.
    pub(super) fn section(&self, name: &str) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .filter(move |entry| entry.section == name)
    }

    /// The value of a setting in `[pgbouncer]`.
    pub(super) fn setting(&self, key: &str) -> Option<&str> {
        let entries = self.section("pgbouncer").filter(|entry| entry.key == key);
        entries.last().map(|entry| entry.value.as_str())
    }
}

/// A file that cannot be read or understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct IniError {
    pub(super) file: PathBuf,
    /// Counted from 1; 0 for the file as a whole.
    pub(super) line: usize,
    pub(super) reason: String,
}

impl fmt::Display for IniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ", line {}", self.line)?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// Reads a configuration and the files it includes.
pub(super) fn read_ini(path: &Path, read: ReadFile<'_>) -> Result<Ini, IniError> {
    let mut ini = Ini::default();
    let mut section = String::new();
    read_into(&mut ini, &mut section, path, read, 0)?;
    Ok(ini)
}

/// The text of a file.
pub(super) fn text_of(path: &Path, read: ReadFile<'_>) -> Result<String, IniError> {
    let error = |reason: String| IniError {
        file: path.to_owned(),
        line: 0,
        reason,
    };
    let bytes = read(path).map_err(|cause| error(format!("cannot read it: {cause}")))?;
    String::from_utf8(bytes).map_err(|_| error("not valid UTF-8".to_owned()))
}

fn read_into(
    ini: &mut Ini,
    section: &mut String,
    path: &Path,
    read: ReadFile<'_>,
    depth: usize,
) -> Result<(), IniError> {
    let text = text_of(path, read)?;
    for (index, line) in text.lines().enumerate() {
        let error = |reason: &str| IniError {
            file: path.to_owned(),
            line: index + 1,
            reason: reason.to_owned(),
        };
        let line = line.trim();
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        if let Some(included) = line.strip_prefix("%include") {
            if depth == INCLUDE_DEPTH_MAX {
                return Err(error("files include each other too deep"));
            }
            let file = Path::new(included.trim());
            read_into(ini, section, file, read, depth + 1)?;
        } else if let Some(name) = line.strip_prefix('[') {
            let name = name
                .strip_suffix(']')
                .ok_or_else(|| error("no ] at the end"))?;
            section.clone_from(&name.trim().to_ascii_lowercase());
        } else {
            let (key, value) = split_entry(line).ok_or_else(|| error("not `key = value`"))?;
            ini.entries.push(Entry {
                section: section.clone(),
                key,
                value,
                place: match depth {
                    0 => format!("line {}", index + 1),
                    _ => format!("{}, line {}", path.display(), index + 1),
                },
            });
        }
    }
    Ok(())
}

/// Key and value of a line. A key in double quotes may hold anything.
fn split_entry(line: &str) -> Option<(String, String)> {
    let (key, rest) = if let Some(rest) = line.strip_prefix('"') {
        quoted(rest, '"')?
    } else {
        let at = line.find('=')?;
        (line[..at].trim().to_owned(), &line[at..])
    };
    let value = rest.trim_start().strip_prefix('=')?.trim();
    (!key.is_empty()).then(|| (key, value.to_owned()))
}

/// The text up to the closing quote, and what follows it. Two quotes stand for one.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c != quote {
            value.push(c);
        } else if chars.next_if(|(_, next)| *next == quote).is_some() {
            value.push(quote);
        } else {
            return Some((value, &text[at + quote.len_utf8()..]));
        }
    }
    None
}

/// Reads a connection string; `None` if it is not one.
pub(super) fn connection_string(text: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let key = key.trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return None;
        }
        let after = after.trim_start();
        let (value, after) = if let Some(after) = after.strip_prefix('\'') {
            quoted(after, '\'')?
        } else {
            let end = after.find(char::is_whitespace).unwrap_or(after.len());
            (after[..end].to_owned(), &after[end..])
        };
        pairs.push((key.to_owned(), value));
        rest = after.trim_start();
    }
    Some(pairs)
}

/// Reads a list of users: names and what is stored for them. Lines that are not of this form are
/// left out; their numbers are the second result.
pub(super) fn user_list(text: &str) -> (Vec<(String, String)>, Vec<usize>) {
    let mut users = Vec::new();
    let mut odd = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        match user(line) {
            Some(user) => users.push(user),
            None => odd.push(index + 1),
        }
    }
    (users, odd)
}

fn user(line: &str) -> Option<(String, String)> {
    let (name, rest) = quoted(line.strip_prefix('"')?, '"')?;
    let (secret, _) = quoted(rest.trim_start().strip_prefix('"')?, '"')?;
    Some((name, secret))
}
