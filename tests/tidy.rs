//! Rules of the source that the compiler and clippy do not check.
//!
//! Owns: which floor may import which, file lengths, headers, words that do not belong in the
//! runtime crate.
//! Does not own: formatting (rustfmt) and function lengths (clippy).
//! Invariants: every rule is a pure function over text with a test that sees it fail.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The floors, lowest first, each module with the modules of this crate it may import.
///
/// `shards` stands for the runtime crate. A module without a row fails the test.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("config", &[]),
    ("metrics", &[]),
    ("auth", &["protocol", "config"]),
    ("tls", &["config"]),
    ("upgrade", &["shards"]),
    ("transport", &["tls", "metrics", "shards"]),
    (
        "server",
        &[
            "transport",
            "auth",
            "tls",
            "upgrade",
            "protocol",
            "config",
            "metrics",
            "shards",
        ],
    ),
    ("patroni", &["tls", "config"]),
    ("admin", &["protocol", "config", "metrics"]),
    // The pool cleans its servers between two clients and reads their replies itself.
    (
        "pool",
        &[
            "server",
            "transport",
            "tls",
            "protocol",
            "config",
            "metrics",
            "shards",
        ],
    ),
    (
        "session",
        &[
            "pool",
            "server",
            "admin",
            "transport",
            "auth",
            "tls",
            "upgrade",
            "protocol",
            "config",
            "metrics",
            "shards",
        ],
    ),
    (
        "app",
        &[
            "session",
            "pool",
            "server",
            "admin",
            "patroni",
            "transport",
            "auth",
            "tls",
            "upgrade",
            "protocol",
            "config",
            "metrics",
            "shards",
        ],
    ),
    // The programs: the library is named `pg_doorman` there.
    ("main", &["app"]),
    (
        "bin",
        &["patroni", "transport", "tls", "metrics", "config", "shards"],
    ),
];

/// Words of databases, which the runtime crate must not know.
const FOREIGN_TO_SHARDS: &[&str] = &["postgres", "sql", "query", "pool", "client"];

/// File names that say nothing.
const BANNED_FILE_NAMES: &[&str] = &[
    "common", "helper", "helpers", "manager", "misc", "util", "utils",
];

/// Longest file, in lines that are not tests.
const FILE_LINES_MAX: usize = 600;

/// Files that may be longer, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[("src/config/keys_ru.rs", "a table: some lines a key")];

/// `source` without comments and without the part that only tests see.
fn code(source: &str) -> impl Iterator<Item = &str> {
    source
        .lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .map(str::trim_start)
        .filter(|line| !line.starts_with("//"))
}

/// The first path segment after each `root::` in `source`.
fn imports<'a>(source: &'a str, root: &'a str) -> impl Iterator<Item = &'a str> {
    code(source).flat_map(move |line| {
        line.match_indices(root).filter_map(move |(at, _)| {
            let is_whole_word = !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            let path = line[at + root.len()..].strip_prefix("::")?;
            is_whole_word.then(|| {
                path.split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
                    .unwrap_or("")
            })
        })
    })
}

/// What `source`, a file of `module`, imports without being allowed to.
fn forbidden_imports(module: &str, source: &str) -> Vec<String> {
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
        return vec![format!(
            "module {module} is not in MAY_IMPORT: say where it lives"
        )];
    };
    let root = if module == "main" || module == "bin" {
        "pg_doorman"
    } else {
        "crate"
    };
    let mut found: Vec<_> = imports(source, root)
        .filter(|name| *name != module && !allowed.contains(name))
        .map(|name| match name {
            "" => format!("{root}::{{…}}: write one import a line, so that this test sees them"),
            name => format!("{module} must not import {name}"),
        })
        .collect();
    if !allowed.contains(&"shards") && imports(source, "shards").next().is_some() {
        found.push(format!("{module} must not import shards"));
    }
    found
}

/// The words of `FOREIGN_TO_SHARDS` in `source`, also as part of a name such as `client_count`
/// or `ClientCount`.
fn foreign_words(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in source.lines().enumerate() {
        for word in words(line) {
            let word = word.strip_suffix('s').unwrap_or(&word);
            if FOREIGN_TO_SHARDS.contains(&word) || word == "queries" {
                found.push(format!("line {}: {word}", number + 1));
            }
        }
    }
    found
}

/// The words of a line in lower case, names cut at `_` and at capitals.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for letter in line.chars() {
        let starts_word = letter.is_uppercase() && was_lower;
        if !letter.is_alphabetic() || starts_word {
            words.push(String::new());
        }
        if letter.is_alphabetic()
            && let Some(word) = words.last_mut()
        {
            word.extend(letter.to_lowercase());
        }
        was_lower = letter.is_lowercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

/// How many lines of `source` are not an inline test module.
fn lines_without_tests(source: &str) -> usize {
    source
        .lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .count()
}

/// All `.rs` files below `directory`, with paths relative to the repository.
fn rust_files(directory: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)];
    while let Some(directory) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("a readable directory").path();
            if path.is_dir() && !path.ends_with("target") {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let root = env!("CARGO_MANIFEST_DIR");
                found.push(path.strip_prefix(root).expect("below the root").to_owned());
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("UTF-8")
}

/// Whether the whole file is tests.
fn is_test_file(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "tests")
        || path.components().any(|part| part.as_os_str() == "tests")
}

/// Fails with all complaints at once.
fn assert_clean(complaints: &[(PathBuf, String)]) {
    let mut text = String::new();
    for (path, complaint) in complaints {
        let _ = writeln!(text, "{}: {complaint}", path.display());
    }
    assert!(complaints.is_empty(), "\n{text}");
}

/// Applies `rule` to every file below `directories`.
fn check(directories: &[&str], rule: impl Fn(&Path, &str) -> Vec<String>) {
    let files = directories
        .iter()
        .flat_map(|directory| rust_files(directory));
    let complaints: Vec<_> = files
        .flat_map(|path| {
            let found = rule(&path, &read(&path));
            found
                .into_iter()
                .map(move |complaint| (path.clone(), complaint))
        })
        .collect();
    assert_clean(&complaints);
}

#[test]
fn modules_import_lower_floors_only() {
    check(&["src"], |path, source| {
        let part = path
            .components()
            .nth(1)
            .map(|part| part.as_os_str().to_string_lossy());
        let module = part
            .as_deref()
            .unwrap_or("")
            .trim_end_matches(".rs")
            .to_owned();
        if module == "lib" || is_test_file(path) {
            return Vec::new();
        }
        forbidden_imports(&module, source)
    });
}

#[test]
fn runtime_crate_knows_no_database() {
    check(&["shards/src"], |_, source| foreign_words(source));
}

#[test]
fn files_are_short() {
    let all = [
        "src",
        "shards/src",
        "bench-harness/src",
        "tests",
        "shards/tests",
        "benches",
    ];
    check(&all, |path, source| {
        let lines = lines_without_tests(source);
        let is_excused = LONG_FILES.iter().any(|(name, _)| path == Path::new(name));
        if lines <= FILE_LINES_MAX || is_excused {
            return Vec::new();
        }
        vec![format!("{lines} lines, {FILE_LINES_MAX} are the limit")]
    });
}

#[test]
fn files_begin_with_what_they_own() {
    let all = ["src", "shards/src", "bench-harness/src", "tests"];
    check(&all, |_, source| {
        let has_header = source.starts_with("//! ");
        if has_header {
            Vec::new()
        } else {
            vec!["does not begin with //!".to_owned()]
        }
    });
}

#[test]
fn file_names_say_something() {
    check(&["src", "shards/src", "bench-harness/src"], |path, _| {
        let stem = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let is_banned = BANNED_FILE_NAMES.contains(&stem.as_str());
        if is_banned {
            vec![format!("{stem} says nothing")]
        } else {
            Vec::new()
        }
    });
}

#[test]
fn forbidden_imports_are_seen() {
    assert_eq!(
        forbidden_imports("auth", "use crate::protocol::Tag;").len(),
        0
    );
    assert_eq!(forbidden_imports("auth", "use crate::pool::Pool;").len(), 1);
    assert_eq!(
        forbidden_imports("auth", "use crate::{pool, config};").len(),
        1
    );
    assert_eq!(
        forbidden_imports("auth", "fn f(p: crate::pool::Pool) {}").len(),
        1
    );
    assert_eq!(forbidden_imports("auth", "use shards::Stream;").len(), 1);
    assert_eq!(forbidden_imports("pool", "use shards::Stream;").len(), 0);
    assert_eq!(
        forbidden_imports("main", "use pg_doorman::pool::Pool;").len(),
        1
    );
    assert_eq!(forbidden_imports("nowhere", "").len(), 1);
}

#[test]
fn imports_of_tests_and_comments_are_free() {
    assert!(forbidden_imports("auth", "// use crate::pool::Pool;").is_empty());
    let source = "#[cfg(test)]\nmod tests { use crate::pool::Pool; }";
    assert!(forbidden_imports("auth", source).is_empty());
}

#[test]
fn foreign_words_are_seen_in_names() {
    for source in [
        "// a client",
        "struct ClientCount;",
        "let pool_size = 1;",
        "/// SQL text",
    ] {
        assert_eq!(foreign_words(source).len(), 1, "{source}");
    }
    assert!(foreign_words("spool, clientele, PgPortal, sequel").is_empty());
}

/// The tests that a page names, as `module::name` in backticks.
fn named_tests(page: &str) -> Vec<&str> {
    let is_test = |word: &&str| {
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c);
        word.contains("::") && word.chars().all(is_name)
    };
    page.split('`').skip(1).step_by(2).filter(is_test).collect()
}

/// Whether `tests/it` has such a test.
fn has_test(name: &str) -> bool {
    let (module, function) = name.rsplit_once("::").unwrap_or_default();
    let below = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let stem = below.join(module.replace("::", "/"));
    let files = [stem.with_extension("rs"), stem.join("mod.rs")];
    let is_there = |file: &PathBuf| {
        let source = std::fs::read_to_string(file).unwrap_or_default();
        source.contains(&format!("fn {function}("))
    };
    files.iter().any(is_there)
}

#[test]
fn tests_that_the_security_page_names_are_there() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations/security.md");
    let page = std::fs::read_to_string(page).unwrap();
    let names = named_tests(&page);
    assert!(names.len() > 30, "{names:?}");
    let missing: Vec<_> = names.iter().filter(|name| !has_test(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn names_of_tests_are_told_from_other_words() {
    let page = "`tls::works`, `a = b`, `Mode::Require`, x::y, `auth::by_rule`";
    assert_eq!(named_tests(page), ["tls::works", "auth::by_rule"]);
    assert!(!has_test("tls::of_nobody"));
}
