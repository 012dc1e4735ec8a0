//! Files to one document: formats, includes, merging, and which file a fault belongs to.
//!
//! **Owns:** the choice of format by name, the merge rules, the wording of type errors.
//! **Does not own:** what the values mean (`schema`, `validate`).
//! **Invariants:** includes are read once, in their order, not recursively; no error quotes a value.
//!
//! Merge rules: tables merge key by key, arrays are concatenated, a scalar replaces a scalar of the
//! same type, everything else is an error.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use crate::config::error::{ConfigError, Fault, KeyPath, Step};
use crate::config::schema::Document;
use crate::config::{Loaded, ReadFile, checked, unknown, validate, yaml};

/// One file as it was written.
struct Part {
    file: PathBuf,
    table: Value,
}

/// See [`super::load`]; `read` is the only way to the outside.
pub(super) fn load_with(path: &Path, read: ReadFile<'_>) -> Result<Loaded, ConfigError> {
    let main = read_table(path, read)?;
    let mut merged = main.clone();
    let mut parts = vec![Part {
        file: path.to_owned(),
        table: Value::Table(main),
    }];
    for file in included_files(&merged).map_err(|fault| locate(fault, &parts))? {
        let table = read_table(&file, read)?;
        merge_tables(&mut merged, &table, &KeyPath::default()).map_err(|fault| ConfigError {
            reason: format!(
                "Could not merge config file {}: {}",
                file.display(),
                fault.reason
            ),
            key: fault.path.to_string(),
            file: file.clone(),
        })?;
        parts.push(Part {
            file,
            table: Value::Table(table),
        });
    }
    let mut warnings = unknown::unknown_keys(&merged);
    let document = typed(merged).map_err(|fault| locate(fault, &parts))?;
    let outcome = validate::validate(&document, read).map_err(|fault| locate(fault, &parts))?;
    warnings.extend(outcome.warnings);
    Ok(Loaded {
        config: checked::build(path, document, outcome.resolved),
        warnings,
    })
}

pub(super) fn read_table(path: &Path, read: ReadFile<'_>) -> Result<Table, ConfigError> {
    let error = |key: String, reason: String| ConfigError {
        file: path.to_owned(),
        key,
        reason,
    };
    let bytes = read(path).map_err(|cause| {
        error(
            String::new(),
            format!("Could not read config file: {cause}"),
        )
    })?;
    let text = String::from_utf8(bytes)
        .map_err(|_| error(String::new(), "the file is not valid UTF-8".to_owned()))?;
    if is_yaml(path) {
        return yaml::parse(&text)
            .map_err(|fault| error(format!("line {}", fault.line), fault.reason));
    }
    text.parse::<Table>().map_err(|fault| {
        let offset = fault.span().map_or(0, |span| span.start);
        let line = 1 + text
            .bytes()
            .take(offset)
            .filter(|byte| *byte == b'\n')
            .count();
        error(
            format!("line {line}"),
            format!("invalid TOML: {}", first_line(fault.message())),
        )
    })
}

fn is_yaml(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ext| ext.eq_ignore_ascii_case("yaml") || ext.eq_ignore_ascii_case("yml"))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// `include.files` of the main file.
fn included_files(main: &Table) -> Result<Vec<PathBuf>, Fault> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Include {
        files: Vec<PathBuf>,
    }
    let Some(include) = main.get("include") else {
        return Ok(Vec::new());
    };
    let include: Include = typed_at(include.clone(), &KeyPath::of(&["include"]))?;
    Ok(include.files)
}

fn typed(document: Table) -> Result<Document, Fault> {
    typed_at(Value::Table(document), &KeyPath::default())
}

/// Gives `value`, which stands at `base`, its type.
fn typed_at<'de, T: Deserialize<'de>>(value: Value, base: &KeyPath) -> Result<T, Fault> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let steps = error.path().iter().filter_map(|segment| match segment {
            serde_path_to_error::Segment::Map { key } => Some(Step::Key(key.clone())),
            serde_path_to_error::Segment::Seq { index } => Some(Step::Index(*index)),
            serde_path_to_error::Segment::Enum { .. } | serde_path_to_error::Segment::Unknown => {
                None
            }
        });
        let path = base.steps().iter().cloned().chain(steps).collect();
        let reason = without_value(first_line(error.inner().message()));
        Fault::new(path, format!("Could not merge config: {reason}"))
    })
}

/// Cuts the value out of serde's two messages that quote one: it may be a password.
///
/// Both have the form `invalid type: string "x", expected y`; the kind of the value, which is what
/// helps, stands before the quotation.
fn without_value(message: &str) -> String {
    let quoting = message.starts_with("invalid type: ") || message.starts_with("invalid value: ");
    let (true, Some((head, expected))) = (quoting, message.rsplit_once(", expected ")) else {
        return message.to_owned();
    };
    let kind = head.split(['"', '`']).next().unwrap_or_default().trim_end();
    format!("{kind}, expected {expected}")
}

fn merge_tables(into: &mut Table, from: &Table, at: &KeyPath) -> Result<(), Fault> {
    for (key, value) in from {
        match into.get_mut(key) {
            Some(existing) => merge_values(existing, value, &at.key(key))?,
            None => drop(into.insert(key.clone(), value.clone())),
        }
    }
    Ok(())
}

fn merge_values(into: &mut Value, from: &Value, at: &KeyPath) -> Result<(), Fault> {
    match (into, from) {
        (Value::Table(into), Value::Table(from)) => merge_tables(into, from, at),
        (Value::Array(into), Value::Array(from)) => {
            into.extend(from.iter().cloned());
            Ok(())
        }
        (into, from) if into.same_type(from) => {
            from.clone_into(into);
            Ok(())
        }
        (into, from) => {
            let (expected, found) = (into.type_str(), from.type_str());
            Err(Fault::new(
                at.clone(),
                format!("{at}: expected {expected}, found {found}"),
            ))
        }
    }
}

fn locate(fault: Fault, parts: &[Part]) -> ConfigError {
    let file = owner(&fault.path, parts).to_owned();
    ConfigError {
        file,
        key: fault.path.to_string(),
        reason: fault.reason,
    }
}

/// The file that set the value at `path`, or the nearest part of it that exists.
fn owner<'a>(path: &KeyPath, parts: &'a [Part]) -> &'a Path {
    let mut candidates: Vec<(&Path, &Value)> = parts
        .iter()
        .map(|part| (part.file.as_path(), &part.table))
        .collect();
    for step in path.steps() {
        let narrowed: Vec<_> = match step {
            Step::Key(key) => candidates
                .iter()
                .filter_map(|(file, value)| Some((*file, value.get(key.as_str())?)))
                .collect(),
            Step::Index(index) => item_owner(*index, &candidates).into_iter().collect(),
        };
        if narrowed.is_empty() {
            break;
        }
        candidates = narrowed;
    }
    // The last file wins a scalar, and is the likelier culprit for a missing key.
    candidates.last().map_or(Path::new(""), |(file, _)| file)
}

/// Arrays were concatenated, so an index runs through the files in order.
fn item_owner<'a>(
    index: usize,
    candidates: &[(&'a Path, &'a Value)],
) -> Option<(&'a Path, &'a Value)> {
    let mut index = index;
    for (file, value) in candidates {
        let items = value.as_array()?;
        match items.get(index) {
            Some(item) => return Some((file, item)),
            None => index -= items.len(),
        }
    }
    None
}

#[cfg(test)]
mod tests;
