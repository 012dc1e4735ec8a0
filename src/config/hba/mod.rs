//! Host-based access rules: from the text of a `pg_hba.conf` to plain structs.
//!
//! ```text
//!  line    = ( "local" DB USER METHOD ) | ( TYPE DB USER ADDRESS METHOD ) options? comment?
//!          | ( "include" | "include_if_exists" ) FILE
//!  TYPE    = host | hostssl | hostnossl | hostnogssenc | hostgssenc
//!  DB,USER = name ("," name)*           all · a literal name, perhaps in double quotes · @file
//!                                       DB: sameuser · samerole · replication     USER: +role
//!  ADDRESS = all | samehost | samenet | CIDR | IP | IP MASK
//! ```
//!
//! **Owns:** this syntax.
//! **Does not own:** which rule decides about a client (`auth`).
//! **Invariants:** a line that cannot be read is an error, because treating an unknown address as
//! "every address" would open the door and dropping a `reject` line would, too; names are never
//! taken for fewer users than were meant in a rule that rejects.
//!
//! Source: PostgreSQL manual `auth-pg-hba-conf.html`.

pub mod interfaces;
mod lines;
mod network;
mod options;
mod overlap;

use std::net::IpAddr;
use std::path::Path;
use std::{fmt, io};

use super::ReadFile;
use lines::Token;

pub use network::IpNet;
pub use options::{ClientCert, HbaOptions};

/// One rule, with the line it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HbaRule {
    /// Line of the rule text, counted from 1.
    pub line: usize,
    /// Which connections it is about.
    pub kind: HbaKind,
    /// Matches if one of these does.
    pub databases: Vec<HbaName>,
    /// Matches if one of these does.
    pub users: Vec<HbaName>,
    /// Where the client may be.
    pub address: HbaAddress,
    /// What a matching client has to do.
    pub method: HbaMethod,
    /// How.
    pub options: HbaOptions,
}

/// The transport a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HbaKind {
    /// TCP, plain or TLS.
    Host,
    /// Plain TCP.
    HostNoSsl,
    /// TLS over TCP.
    HostSsl,
    /// A Unix-domain socket.
    Local,
}

/// One entry of a database or user list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HbaName {
    /// Everything. Also when quoted: rule texts rely on that.
    All,
    /// Exactly this name.
    Name(String),
    /// In the database column: connections for physical replication, which the pooler has none of.
    Replication,
    /// In the database column: the database whose name is the user's.
    SameUser,
}

/// The client addresses of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HbaAddress {
    /// Every address.
    Any,
    /// One network; a single address is a network with all bits fixed.
    Net(IpNet),
    /// Not applicable: a `local` rule.
    None,
    /// An address of this machine.
    SameHost,
    /// An address in a subnet this machine is connected to.
    SameNet,
}

/// The last column of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HbaMethod {
    /// The name in the client's certificate.
    Cert,
    /// A signed token, sent as a password.
    Jwt,
    /// MD5 challenge.
    Md5,
    /// A method this program does not have, as written. Lets nobody in.
    Other(String),
    /// The password in clear, checked by PAM.
    Pam,
    /// The password in clear.
    Password,
    /// The user of the operating system at the other end of a Unix socket.
    Peer,
    /// Refuse.
    Reject,
    /// SCRAM-SHA-256 exchange.
    ScramSha256,
    /// No password.
    Trust,
}

/// A remark about one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HbaNote {
    /// Counted from 1.
    pub line: usize,
    /// One sentence without a final stop.
    pub reason: String,
}

impl fmt::Display for HbaNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for HbaNote {}

/// Rules and remarks about lines without effect, or the first line that cannot be read.
pub type Parsed = Result<(Vec<HbaRule>, Vec<HbaNote>), HbaNote>;

/// Reads all rules of `text`, which refers to no other files.
///
/// # Errors
///
/// As [`read_rules`].
pub fn parse_rules(text: &str) -> Parsed {
    read_rules(text, Path::new(""), &|_| {
        Err(io::ErrorKind::Unsupported.into())
    })
}

/// Reads all rules of `text` and of the files it refers to, whose names are relative to `directory`.
///
/// # Errors
///
/// An [`HbaNote`] for the first line that cannot be read. None is left out: it may be the one that
/// keeps somebody away.
pub fn read_rules(text: &str, directory: &Path, read: ReadFile<'_>) -> Parsed {
    let mut reading = Reading {
        read,
        rules: Vec::new(),
        notes: Vec::new(),
        narrowed: Vec::new(),
    };
    reading.text(text, directory, 0)?;
    reading.check_narrowed()?;
    Ok((reading.rules, reading.notes))
}

/// The lines of `text` that are not empty, as fields of single words. For files of the same syntax.
pub(super) fn split_fields(text: &str) -> Result<Vec<(usize, Vec<String>)>, HbaNote> {
    let mut split = Vec::new();
    for (line, content) in lines::logical(text) {
        let fields = lines::fields(&content).map_err(|reason| HbaNote { line, reason })?;
        let words: Vec<String> = fields.iter().map(|field| joined(field)).collect();
        if !words.is_empty() {
            split.push((line, words));
        }
    }
    Ok(split)
}

/// Rule files are read with what they include, so deep.
const INCLUDE_DEPTH_MAX: usize = 10;

struct Reading<'a> {
    read: ReadFile<'a>,
    rules: Vec<HbaRule>,
    notes: Vec<HbaNote>,
    narrowed: Vec<Narrowed>,
}

/// A rule that is taken for fewer clients than were meant.
struct Narrowed {
    /// Which one of all rules.
    index: usize,
    /// One that matches at least those.
    meant: HbaRule,
    reason: String,
}

impl Reading<'_> {
    /// Refuses rules that ask for a password and are narrowed, if whom they were meant for would
    /// come to a rule that asks for none.
    fn check_narrowed(&self) -> Result<(), HbaNote> {
        for Narrowed {
            index,
            meant,
            reason,
        } in &self.narrowed
        {
            let after = self.rules.iter().enumerate().skip(index + 1);
            let mut open = after.filter(|(_, rule)| rule.method == HbaMethod::Trust);
            let Some((found, open)) = open.find(|(_, rule)| rule.overlaps(meant)) else {
                continue;
            };
            // The first rule that fits decides; whichever it is, it is not the open one.
            let before = self.rules.iter().take(found);
            let mut asking = before.filter(|rule| rule.method != HbaMethod::Trust);
            if !asking.any(|rule| rule.covers(meant)) {
                let reason = format!(
                    "{reason}, and whom it means would be let in without a password by the rule in line {}",
                    open.line
                );
                let line = meant.line;
                return Err(HbaNote { line, reason });
            }
        }
        Ok(())
    }

    fn text(&mut self, text: &str, directory: &Path, depth: usize) -> Result<(), HbaNote> {
        for (line, content) in lines::logical(text) {
            self.line(&content, line, directory, depth)
                .map_err(|reason| HbaNote { line, reason })?;
        }
        Ok(())
    }

    fn line(
        &mut self,
        content: &str,
        line: usize,
        directory: &Path,
        depth: usize,
    ) -> Result<(), String> {
        let fields = lines::fields(content)?;
        let Some((first, rest)) = fields.split_first() else {
            return Ok(());
        };
        let kind_text = joined(first);
        let kind = match kind_text.to_ascii_lowercase().as_str() {
            "local" => HbaKind::Local,
            // There is no GSSAPI encryption here.
            "host" | "hostnogssenc" => HbaKind::Host,
            "hostssl" => HbaKind::HostSsl,
            "hostnossl" => HbaKind::HostNoSsl,
            "hostgssenc" => {
                let reason = "connections with GSSAPI encryption do not exist here; line ignored";
                self.note(line, reason.to_owned());
                return Ok(());
            }
            "include" | "include_if_exists" => {
                let is_optional = !kind_text.eq_ignore_ascii_case("include");
                return self.include(rest, is_optional, line, directory, depth);
            }
            "include_dir" => return Err("include_dir is not supported; use include".to_owned()),
            _ => return Err(format!("unknown connection type '{kind_text}'")),
        };
        let rule = self.rule(kind, rest, line, directory)?;
        self.rules.push(rule);
        Ok(())
    }

    fn note(&mut self, line: usize, reason: String) {
        self.notes.push(HbaNote { line, reason });
    }

    fn include(
        &mut self,
        fields: &[Vec<Token>],
        is_optional: bool,
        line: usize,
        directory: &Path,
        depth: usize,
    ) -> Result<(), String> {
        let [field] = fields else {
            return Err("include takes one file name".to_owned());
        };
        if depth == INCLUDE_DEPTH_MAX {
            return Err("files include each other too deep".to_owned());
        }
        let path = directory.join(joined(field));
        let text = match (self.file(&path), is_optional) {
            (Ok(text), _) => text,
            (Err(_), true) => return Ok(()),
            (Err(reason), false) => return Err(reason),
        };
        let place = path.display();
        let notes_before = self.notes.len();
        let below = path.parent().unwrap_or(directory);
        self.text(&text, below, depth + 1)
            .map_err(|note| format!("{place}: {note}"))?;
        for note in self.notes.iter_mut().skip(notes_before) {
            *note = HbaNote {
                line,
                reason: format!("{place}: {note}"),
            };
        }
        Ok(())
    }

    fn file(&self, path: &Path) -> Result<String, String> {
        let bytes = (self.read)(path)
            .map_err(|cause| format!("cannot read {}: {cause}", path.display()))?;
        String::from_utf8(bytes).map_err(|_| format!("{} is not valid UTF-8", path.display()))
    }

    fn rule(
        &mut self,
        kind: HbaKind,
        fields: &[Vec<Token>],
        line: usize,
        directory: &Path,
    ) -> Result<HbaRule, String> {
        let wanted = if kind == HbaKind::Local { 3 } else { 4 };
        if fields.len() < wanted {
            let (wanted, found) = (wanted + 1, fields.len() + 1);
            return Err(format!("{wanted} fields expected, {found} found"));
        }
        let (address, method, rest) = if kind == HbaKind::Local {
            (HbaAddress::None, &fields[2], &fields[3..])
        } else {
            address(&fields[2..])?
        };
        let method = parse_method(joined(method), kind);
        let options = self.options(rest, kind, &method, line)?;
        if let HbaMethod::Other(name) = &method {
            let reason = format!("method '{name}' is not supported: the rule lets nobody in");
            self.note(line, reason);
        }
        let mut rule = HbaRule {
            line,
            kind,
            databases: Vec::new(),
            users: Vec::new(),
            address,
            method,
            options,
        };
        let mut columns = Vec::new();
        for (index, field) in fields.iter().take(2).enumerate() {
            let tokens = self.with_files(field, directory, 0)?;
            let tokens = tokens.as_deref().unwrap_or(field);
            columns.push(self.names(tokens, index == 0, &rule)?);
        }
        let (users, doubt_of_users) = columns.pop().unwrap_or_default();
        let (databases, doubt_of_databases) = columns.pop().unwrap_or_default();
        (rule.databases, rule.users) = (databases, users);
        if let Some(reason) = doubt_of_users.clone().or(doubt_of_databases.clone())
            && rule.method != HbaMethod::Trust
        {
            let mut meant = rule.clone();
            if doubt_of_users.is_some() {
                meant.users = vec![HbaName::All];
            }
            if doubt_of_databases.is_some() {
                meant.databases = vec![HbaName::All];
            }
            let index = self.rules.len();
            self.narrowed.push(Narrowed {
                index,
                meant,
                reason,
            });
        }
        Ok(rule)
    }

    fn options(
        &mut self,
        fields: &[Vec<Token>],
        kind: HbaKind,
        method: &HbaMethod,
        line: usize,
    ) -> Result<HbaOptions, String> {
        let words: Vec<String> = fields.iter().map(|field| joined(field)).collect();
        let (options, unknown) = HbaOptions::parse(&words, kind, method)?;
        for word in unknown {
            self.note(line, format!("option '{word}' has no effect"));
        }
        Ok(options)
    }

    /// Replaces `@file` by the names in that file; `None` if there is none. Those may be files again,
    /// whose names are relative to the one they stand in.
    fn with_files(
        &self,
        field: &[Token],
        directory: &Path,
        depth: usize,
    ) -> Result<Option<Vec<Token>>, String> {
        if !field.iter().any(|token| file_of(token).is_some()) {
            return Ok(None);
        }
        if depth == INCLUDE_DEPTH_MAX {
            return Err("files include each other too deep".to_owned());
        }
        let mut tokens = Vec::new();
        for token in field {
            let Some(name) = file_of(token) else {
                tokens.push(token.clone());
                continue;
            };
            let path = directory.join(name);
            let below = path.parent().unwrap_or(directory);
            for (number, content) in lines::logical(&self.file(&path)?) {
                let at = |reason| format!("{}: line {number}: {reason}", path.display());
                for field in lines::fields(&content).map_err(at)? {
                    let named = self.with_files(&field, below, depth + 1).map_err(at)?;
                    tokens.extend(named.unwrap_or(field));
                }
            }
        }
        Ok(Some(tokens))
    }

    /// The names of a column, and what is wrong with them if they are narrowed.
    fn names(
        &mut self,
        tokens: &[Token],
        is_database: bool,
        rule: &HbaRule,
    ) -> Result<(Vec<HbaName>, Option<String>), String> {
        let (mut names, mut narrowed) = (Vec::new(), None);
        for token in tokens {
            let text = token.text.as_str();
            let (name, doubt) = match text {
                _ if text.eq_ignore_ascii_case("all") => (HbaName::All, None),
                _ if token.quoted => (HbaName::Name(text.to_owned()), None),
                "sameuser" if is_database => (HbaName::SameUser, None),
                "replication" if is_database => (HbaName::Replication, None),
                "samerole" | "samegroup" if is_database => {
                    (HbaName::SameUser, Some("is taken as 'sameuser'"))
                }
                _ if !is_database && text.len() > 1 && text.starts_with('+') => {
                    let role = text[1..].to_owned();
                    (HbaName::Name(role), Some("is taken as that user alone"))
                }
                _ if text.starts_with('/') => {
                    return Err(format!("'{text}': regular expressions are not supported"));
                }
                _ => (HbaName::Name(text.to_owned()), None),
            };
            if let Some(doubt) = doubt {
                let reason = format!("'{text}' {doubt}: the pooler knows no memberships of roles");
                // Whoever is a member would not be kept away.
                if rule.method == HbaMethod::Reject {
                    return Err(reason);
                }
                self.note(rule.line, reason.clone());
                narrowed = Some(reason);
            }
            names.push(name);
        }
        Ok((names, narrowed))
    }
}

/// The file whose names a token stands for.
fn file_of(token: &Token) -> Option<&str> {
    let name = token.text.strip_prefix('@')?;
    (!token.quoted && !name.is_empty()).then_some(name)
}

type AddressAndMethod<'a> = (HbaAddress, &'a Vec<Token>, &'a [Vec<Token>]);

fn joined(field: &[Token]) -> String {
    let texts: Vec<&str> = field.iter().map(|token| token.text.as_str()).collect();
    texts.join(",")
}

/// Reads the address of a `host` rule; `fields` begin with it. Returns the method field too,
/// because an address can take one field or two, and what follows.
fn address(fields: &[Vec<Token>]) -> Result<AddressAndMethod<'_>, String> {
    let [address, next, rest @ ..] = fields else {
        return Err("no method".to_owned());
    };
    let [token] = address.as_slice() else {
        return Err("a rule has one address, not a list".to_owned());
    };
    let text = token.text.as_str();
    let keyword = text.to_ascii_lowercase();
    match keyword.as_str() {
        "all" => return Ok((HbaAddress::Any, next, rest)),
        "samehost" => return Ok((HbaAddress::SameHost, next, rest)),
        "samenet" => return Ok((HbaAddress::SameNet, next, rest)),
        _ => {}
    }
    let mask = match next.as_slice() {
        [token] => token.text.parse::<IpAddr>().ok(),
        _ => None,
    };
    match (text.parse::<IpAddr>(), mask) {
        (Ok(addr), Some(mask)) => {
            let net = IpNet::with_mask(addr, mask)
                .ok_or_else(|| format!("'{mask}' is not a mask for '{addr}'"))?;
            let (method, rest) = rest
                .split_first()
                .ok_or("no method after address and mask")?;
            Ok((HbaAddress::Net(net), method, rest))
        }
        (Err(_), Some(_)) => Err("a separate mask follows something that is not an IP".to_owned()),
        (_, None) => match IpNet::parse(text) {
            Some(net) => Ok((HbaAddress::Net(net), next, rest)),
            None => Err(format!(
                "'{text}' is not an address: expected a CIDR such as 10.0.0.0/8, an IP, 'all', \
                 'samehost' or 'samenet' (host names are not supported)"
            )),
        },
    }
}

fn parse_method(text: String, kind: HbaKind) -> HbaMethod {
    match text.to_ascii_lowercase().as_str() {
        "trust" => HbaMethod::Trust,
        "md5" => HbaMethod::Md5,
        "scram-sha-256" | "scram_sha_256" | "scramsha256" => HbaMethod::ScramSha256,
        "reject" => HbaMethod::Reject,
        "password" => HbaMethod::Password,
        "pam" => HbaMethod::Pam,
        "jwt" => HbaMethod::Jwt,
        "cert" if kind == HbaKind::HostSsl => HbaMethod::Cert,
        // PostgreSQL reads `ident` in the same way.
        "peer" | "ident" if kind == HbaKind::Local => HbaMethod::Peer,
        // Also `cert` without TLS and `peer` over a network, which prove nothing.
        _ => HbaMethod::Other(text),
    }
}

#[cfg(test)]
mod tests;
