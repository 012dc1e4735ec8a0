//! Who may log in: `auth_type`, the list of users, the user of the console.
//!
//! **Owns:** access rules, the form in which passwords are stored, who is administrator.
//! **Does not own:** which pools users have (`pools`).
//! **Invariants:** a file that cannot be carried over lets in nobody rather than everybody; no remark
//! holds a password.
//!
//! Source: manual page pgbouncer.ini(5); `catalog-pg-authid.html` of the PostgreSQL manual.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rand::Rng as _;
use toml::Table;

use crate::auth::{Md5Secret, ScramVerifier, StoredPassword, derive_keys};
use crate::config::hba::{self, HbaName, HbaRule};

use super::super::advice::rules::doubts;
use super::Outcome;
use super::ini::{self, Ini, ReadFile};

/// PostgreSQL's own count.
const SCRAM_ITERATIONS: u32 = 4096;
const SALT_BYTES: usize = 16;

/// A user of the list.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) name: String,
    /// As in the list: a password in clear, an md5 hash or a verifier.
    pub(super) stored: String,
}

impl Known {
    /// The password, if the list has it in clear.
    pub(super) fn password(&self) -> Option<&str> {
        let is_plain = matches!(
            StoredPassword::parse(&self.stored),
            StoredPassword::Other(_)
        );
        is_plain.then_some(self.stored.as_str())
    }

    /// What the pooler stores, so that clients can log in by the method they know.
    pub(super) fn secret(&self, auth_type: &str) -> String {
        if auth_type == "pam" {
            // PAM decides, and nothing that would let somebody in beside it.
            return String::new();
        }
        match self.password() {
            None => self.stored.clone(),
            Some(password) if auth_type == "md5" => {
                Md5Secret::from_password(password, &self.name).to_secret_text()
            }
            Some(password) => verifier(password).unwrap_or_default(),
        }
    }
}

fn verifier(password: &str) -> Option<String> {
    let salt: [u8; SALT_BYTES] = rand::rng().random();
    let keys = derive_keys(password, &salt, SCRAM_ITERATIONS).ok()?;
    let verifier = ScramVerifier::from_keys(&keys, &salt, SCRAM_ITERATIONS).ok()?;
    Some(verifier.to_secret_text())
}

/// The list of users.
pub(super) fn known_users(ini: &Ini, read: ReadFile<'_>, out: &mut Outcome) -> Vec<Known> {
    let Some(file) = ini.setting("auth_file").filter(|file| !file.is_empty()) else {
        return Vec::new();
    };
    let origin = format!("auth_file = {file}");
    let text = match ini::text_of(Path::new(file), read) {
        Ok(text) => text,
        Err(error) => {
            out.remark(
                &origin,
                &format!("its users are missing in the result: {error}"),
            );
            return Vec::new();
        }
    };
    let (users, odd) = ini::user_list(&text);
    for line in odd {
        out.remark(&format!("{file}, line {line}"), "is not a user: left out");
    }
    let mut known: Vec<Known> = Vec::new();
    for (name, stored) in users {
        // The last of two entries counts.
        known.retain(|user| user.name != name);
        known.push(Known { name, stored });
    }
    known
}

/// Sets the rules for clients.
pub(super) fn rules(ini: &Ini, auth_type: &str, read: ReadFile<'_>, out: &mut Outcome) {
    let origin = format!("auth_type = {auth_type}");
    let content = match auth_type {
        "hba" => return hba_file(ini, &origin, read, out),
        "md5" => "local all all md5\nhost all all all md5\n",
        "scram-sha-256" => "local all all scram-sha-256\nhost all all all scram-sha-256\n",
        "plain" => {
            out.remark(
                &origin,
                "becomes scram-sha-256: clients are not asked for passwords in clear",
            );
            "local all all scram-sha-256\nhost all all all scram-sha-256\n"
        }
        "trust" | "any" => {
            out.remark(
                &origin,
                "lets in everybody under the name of a user of the file, and opens the console: narrow pg_hba",
            );
            "local all all trust\nhost all all all trust\n"
        }
        "cert" => {
            out.remark(
                &origin,
                "has no counterpart: clients also have to prove a password",
            );
            "hostssl all all all scram-sha-256\n"
        }
        "pam" => {
            out.remark(&origin, "is written as auth_pam_service");
            "local all all scram-sha-256\nhost all all all scram-sha-256\n"
        }
        _ => {
            out.remark(
                &origin,
                "has no counterpart: the rules let in nobody; write pg_hba yourself",
            );
            "host all all all reject\n"
        }
    };
    set_content(content, &origin, out);
}

fn set_content(content: &str, origin: &str, out: &mut Outcome) {
    let mut rules = Table::new();
    rules.insert("content".to_owned(), content.into());
    out.set("pg_hba", rules, origin);
}

fn hba_file(ini: &Ini, origin: &str, read: ReadFile<'_>, out: &mut Outcome) {
    let file = ini.setting("auth_hba_file").unwrap_or_default();
    let origin = format!("{origin}, auth_hba_file = {file}");
    let path = Path::new(file);
    let directory = path.parent().unwrap_or(Path::new(""));
    let parsed = ini::text_of(path, read).map_err(|error| error.to_string());
    let parsed = parsed.and_then(|text| {
        let read = hba::read_rules(&text, directory, read);
        let (rules, notes) = read.map_err(|note| format!("{file}, {note}"))?;
        Ok((text, rules, notes))
    });
    match parsed {
        Ok((text, rules, notes)) => {
            for note in notes {
                out.remark(&origin, &note.to_string());
            }
            let both = with_both_consoles(&text, &rules, read);
            for doubt in doubts(both.as_ref().map_or(&rules, |(_, rules)| rules)) {
                out.remark(&origin, &doubt);
            }
            if let Some((text, _)) = both {
                let remark = "the console has a second name here, pgdoorman: the rules are written \
                              out, with both names";
                out.remark(&origin, remark);
                return set_content(&text, &origin, out);
            }
            let mut rules = Table::new();
            rules.insert("path".to_owned(), file.into());
            out.set("pg_hba", rules, &origin);
        }
        Err(reason) => {
            let remark =
                format!("cannot be used: {reason}. The rules let in nobody; write pg_hba yourself");
            out.remark(&origin, &remark);
            set_content("host all all all reject\n", &origin, out);
        }
    }
}

/// `text` with the second name of the console wherever it has the first, and its rules; `None` if it
/// has that nowhere, or if not all of its rules stand in it.
fn with_both_consoles(
    text: &str,
    rules: &[HbaRule],
    read: ReadFile<'_>,
) -> Option<(String, Vec<HbaRule>)> {
    let lines: Vec<String> = text.lines().map(with_both_names).collect();
    let (new, _) = hba::read_rules(&lines.join("\n"), Path::new(""), read).ok()?;
    let expected: Vec<HbaRule> = rules.iter().map(naming_both).collect();
    (expected != rules && new == expected).then(|| (lines.join("\n") + "\n", new))
}

/// The rule, with both names if it has one.
fn naming_both(rule: &HbaRule) -> HbaRule {
    let [theirs, ours] = ["pgbouncer", "pgdoorman"].map(|name| HbaName::Name(name.to_owned()));
    let mut both = rule.clone();
    let at = rule.databases.iter().position(|name| *name == theirs);
    if let Some(at) = at.filter(|_| !rule.databases.contains(&ours)) {
        both.databases.insert(at + 1, ours);
    }
    both
}

/// A line of rules, with both names if it has one in the column of databases.
fn with_both_names(line: &str) -> String {
    let name = "pgbouncer";
    let parsed = |line: &str| hba::parse_rules(line).ok().map(|(rules, _)| rules);
    let Some(expected) = parsed(line) else {
        return line.to_owned();
    };
    let expected: Vec<HbaRule> = expected.iter().map(naming_both).collect();
    for (at, _) in line.match_indices(name) {
        let end = at + name.len();
        let end = end + usize::from(line[end..].starts_with('"'));
        let new = format!("{},pgdoorman{}", &line[..end], &line[end..]);
        if parsed(&new).is_some_and(|rules| rules == expected) {
            return new;
        }
    }
    line.to_owned()
}

/// Sets the user of the console.
pub(super) fn console(ini: &Ini, known: &[Known], out: &mut Outcome) {
    let written = ini.setting("admin_users").unwrap_or_default();
    let mut names = written
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    let name = names.next().unwrap_or("admin");
    if names.next().is_some() {
        let remark = format!("the console has one user: {name} is used");
        out.remark(&format!("admin_users = {written}"), &remark);
    }
    let origin = if written.is_empty() {
        "PgBouncer, where no admin_users are set".to_owned()
    } else {
        format!("admin_users = {written}")
    };
    out.set("admin_username", name, &origin);
    let user = known.iter().find(|user| user.name == name);
    if let Some(password) = user.and_then(Known::password) {
        out.set("admin_password", password, "auth_file");
        return;
    }
    let random: [u8; 18] = rand::rng().random();
    let password = STANDARD_NO_PAD.encode(random);
    out.set("admin_password", password, "chance: it is not in auth_file");
    out.remark(
        "admin_password",
        "the console needs its password in clear, which is not in auth_file: a random one is written",
    );
}
