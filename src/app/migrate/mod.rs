//! `pg_doorman migrate`: a configuration of PgBouncer becomes one of ours.
//!
//! ```text
//!  pgbouncer.ini ──ini──▶ entries ──settings, access, pools──▶ Draft + remarks ──draft──▶ TOML
//!  userlist.txt  ──┘                                                  └──────▶ standard error
//! ```
//!
//! **Owns:** the command, its output.
//! **Does not own:** the layout of the file (`config::draft`).
//! **Invariants:** passwords are written to the result and nowhere else; a file it makes is readable
//! by its owner only; whatever is not carried over has a remark.

mod access;
mod ini;
mod pools;
mod settings;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use toml::Value;

use crate::config;
use crate::config::draft::{Detail, Draft, Format, write};

use super::{result_file, say};
use ini::{IniError, ReadFile};

/// Arguments of `migrate`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct MigrateArgs {
    /// The configuration of PgBouncer
    #[arg(value_name = "PGBOUNCER_INI")]
    pub file: PathBuf,

    /// Where to write the result, readable by you only; standard output if not given
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// A database that `*` stands for; may be given several times
    #[arg(short, long = "database", value_name = "NAME")]
    pub databases: Vec<String>,
}

/// Runs the command. Exit code 1 if a file cannot be read or written, 0 otherwise, also with remarks.
pub fn run(args: &MigrateArgs) -> ExitCode {
    let read = |path: &Path| std::fs::read(path);
    let mut outcome = match translate(&args.file, &args.databases, &read) {
        Ok(outcome) => outcome,
        Err(error) => {
            say::err(&format_args!("pg_doorman migrate: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let result = args
        .output
        .as_deref()
        .unwrap_or(Path::new("pg_doorman.toml"));
    outcome.check(&args.file, result, &read);
    for remark in &outcome.remarks {
        say::err(&format_args!("remark: {remark}"));
    }
    let text = outcome.text(&args.file);
    result_file::write(&text, args.output.as_deref(), "migrate")
}

/// A result in the making.
#[derive(Debug, Default)]
struct Outcome {
    draft: Draft,
    remarks: Vec<String>,
}

impl Outcome {
    /// Sets a key of `[general]` and says where it comes from.
    fn set(&mut self, name: &'static str, value: impl Into<Value>, origin: &str) {
        self.draft
            .general
            .set_with(name, value, format!("From {origin}."));
    }

    fn remark(&mut self, what: &str, remark: &str) {
        self.remarks.push(format!("{what}: {remark}"));
    }

    /// Remarks what keeps the result, which will stand at `result`, from being used.
    fn check(&mut self, source: &Path, result: &Path, read: ReadFile<'_>) {
        let text = self.text(source);
        if let Err(error) = config::load_text(result, &text, read) {
            self.remark("THE RESULT CANNOT BE USED AS IT IS", &error.to_string());
        }
    }

    fn text(&self, source: &Path) -> String {
        let mut draft = self.draft.clone();
        draft.head = vec![
            format!("Made by `pg_doorman migrate` from {}.", source.display()),
            "It holds passwords: keep it readable by the pooler only.".to_owned(),
        ];
        if !self.remarks.is_empty() {
            draft.head.push("\nTo be looked at:".to_owned());
        }
        let remarks = self.remarks.iter().map(|remark| format!("* {remark}"));
        draft.head.extend(remarks);
        write(&draft, Format::Toml, Detail::Chosen)
    }
}

/// Remarks that would come again for each user or database.
#[derive(Debug, Default)]
struct RemarkOnce(RefCell<BTreeSet<(String, String)>>);

impl RemarkOnce {
    fn remark(&self, out: &mut Outcome, what: &str, remark: &str) {
        let key = (what.to_owned(), remark.to_owned());
        if self.0.borrow_mut().insert(key) {
            out.remark(what, remark);
        }
    }
}

fn translate(path: &Path, asked: &[String], read: ReadFile<'_>) -> Result<Outcome, IniError> {
    let ini = ini::read_ini(path, read)?;
    let mut out = Outcome::default();
    let auth_type = ini.setting("auth_type").unwrap_or("md5");
    let auth_type = &*auth_type.to_ascii_lowercase();
    settings::take_over(&ini, &mut out);
    let known = access::known_users(&ini, read, &mut out);
    access::console(&ini, &known, &mut out);
    access::rules(&ini, auth_type, read, &mut out);
    pools::take_over(&ini, &known, auth_type, asked, &mut out);
    Ok(out)
}

#[cfg(test)]
mod tests;
