//! Every rule about values, and the text of every refusal.
//!
//! **Owns:** the rules, their order and their texts; parsing of access rules.
//! **Does not own:** types and defaults (`schema`), the result (`checked`), using key material (`tls`
//! and `auth` load it again; here a file only has to look like what it should be).
//! **Invariant:** the first broken rule wins, in the order of [`validate`].

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::auth_query::AuthQuery;
use super::checked::TlsMode;
use super::error::{Fault, KeyPath};
use super::hba::{self, HbaRule, IpNet};
use super::ident::IdentMaps;
use super::listening::hosts;
use super::schema::{Document, General, PgHba, Pool, User};
use super::secret::Secret;
use super::tls::{self, ServerTls, TlsProtocol};
use super::{ReadFile, WORKER_THREADS_MAX};

/// A user whose password begins with this is checked with the public key in the named file.
pub(super) const JWT_PUBLIC_KEY: &str = "jwt-pkey-fpath:";
/// A server password that begins with this is a token, signed with the private key in the named file.
pub(super) const JWT_PRIVATE_KEY: &str = "jwt-priv-key-fpath:";

/// What the rules produced besides a verdict.
pub(super) struct Outcome {
    pub(super) resolved: Resolved,
    pub(super) warnings: Vec<String>,
}

/// Settings of `[general]` whose checking gives them a better type.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) admin_username: String,
    pub(super) admin_password: Secret,
    pub(super) hba: Vec<IpNet>,
    pub(super) pg_hba: Option<Vec<HbaRule>>,
    pub(super) pg_ident: IdentMaps,
    pub(super) proxy_protocol_networks: Vec<IpNet>,
    /// What is in the files with keys of tokens.
    pub(super) key_files: KeyFiles,
    pub(super) tls_mode: TlsMode,
    pub(super) log_level: Option<tracing::Level>,
    pub(super) tls_protocol: TlsProtocol,
    /// Of each pool.
    pub(super) server_tls: BTreeMap<String, ServerTls>,
}

/// What is in the files that a document names.
pub(super) type KeyFiles = BTreeMap<PathBuf, Arc<Secret>>;

/// Checks the whole document.
pub(super) fn validate(document: &Document, read: ReadFile<'_>) -> Result<Outcome, Fault> {
    let general = &document.general;
    let mut warnings = Vec::new();
    let (admin_username, admin_password) = admin(general)?;
    let mut key_files = KeyFiles::new();
    talos(document, read, &mut key_files)?;
    tls_rate_limit(general)?;
    let (hba, pg_hba) = access(general, read, &mut warnings)?;
    let pg_ident = pg_ident(general, read)?;
    let proxies = networks("proxy_protocol_networks", &general.proxy_protocol_networks)?;
    maps(
        pg_hba.as_deref().unwrap_or_default(),
        &pg_ident,
        &mut warnings,
    );
    prepared_statements(general)?;
    let log_level = log_level(general)?;
    listening(general)?;
    let tls_mode = client_tls(general, read)?;
    let tls_protocol = tls::protocol(general, &mut warnings)?;
    let general_tls = tls::of_general(general)?;
    let mut server_tls = BTreeMap::new();
    workers(general, &mut warnings)?;
    prometheus(document)?;
    for (name, pool) in &document.pools {
        users(name, pool, read, &mut key_files)?;
        if let Some(query) = &pool.auth_query {
            AuthQuery::check(query, name)?;
        }
        let tls = tls::of_pool(name, pool, &general_tls)?;
        server_tls.insert(name.clone(), tls);
    }
    let resolved = Resolved {
        admin_username,
        admin_password,
        hba,
        pg_hba,
        pg_ident,
        proxy_protocol_networks: proxies,
        key_files,
        tls_mode,
        log_level,
        tls_protocol,
        server_tls,
    };
    Ok(Outcome { resolved, warnings })
}

fn general_key(key: &str) -> KeyPath {
    KeyPath::of(&["general", key])
}

fn admin(general: &General) -> Result<(String, Secret), Fault> {
    let missing = |key: &str| {
        Fault::new(
            general_key(key),
            format!("Could not merge config: missing field `{key}`"),
        )
    };
    let username = general
        .admin_username
        .clone()
        .ok_or_else(|| missing("admin_username"))?;
    let password = general
        .admin_password
        .clone()
        .ok_or_else(|| missing("admin_password"))?;
    Ok((username, password))
}

fn talos(document: &Document, read: ReadFile<'_>, files: &mut KeyFiles) -> Result<(), Fault> {
    let keys = document
        .talos
        .iter()
        .flat_map(|talos| &talos.keys)
        .enumerate();
    for (index, key) in keys {
        public_key(key, read, files)
            .map_err(|reason| Fault::new(KeyPath::of(&["talos", "keys"]).index(index), reason))?;
    }
    Ok(())
}

fn public_key(path: &Path, read: ReadFile<'_>, files: &mut KeyFiles) -> Result<(), String> {
    key_file(path, "PUBLIC KEY-----", read, files)
        .map_err(|reason| format!("JWT public key error: {reason}"))
}

/// Reads a file with a key, or with a set of keys, which is JSON.
fn key_file(
    path: &Path,
    title: &str,
    read: ReadFile<'_>,
    files: &mut KeyFiles,
) -> Result<(), String> {
    let bytes = read(path).map_err(|cause| format!("cannot read {}: {cause}", path.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    if !text.trim_start().starts_with('{') {
        check_pem(path, title, &text)?;
    }
    files.insert(path.to_owned(), Arc::new(Secret::new(text)));
    Ok(())
}

/// Says why `path` is not a PEM file with a section whose title ends in `title`.
fn pem(path: &Path, title: &str, read: ReadFile<'_>) -> Result<(), String> {
    let bytes = read(path).map_err(|cause| format!("cannot read {}: {cause}", path.display()))?;
    check_pem(path, title, &String::from_utf8_lossy(&bytes))
}

fn check_pem(path: &Path, title: &str, text: &str) -> Result<(), String> {
    let found = text
        .lines()
        .any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(title));
    if !found {
        let title = title.trim_end_matches('-');
        return Err(format!("{} has no PEM section \"{title}\"", path.display()));
    }
    Ok(())
}

fn tls_rate_limit(general: &General) -> Result<(), Fault> {
    let fault = |reason: &str| Err(Fault::new(general_key("tls_rate_limit_per_second"), reason));
    match general.tls_rate_limit_per_second {
        0 => Ok(()),
        1..100 => fault("tls rate limit should be > 100"),
        limit if limit % 100 != 0 => fault("tls rate limit should be multiple 100"),
        _ => Ok(()),
    }
}

/// The networks of the list `key`.
fn networks(key: &str, written: &[String]) -> Result<Vec<IpNet>, Fault> {
    let networks = written.iter().enumerate().map(|(index, text)| {
        IpNet::parse(text).ok_or_else(|| {
            let reason = format!("'{text}' is not a network: expected a CIDR such as 10.0.0.0/8");
            Fault::new(general_key(key).index(index), reason)
        })
    });
    networks.collect()
}

type Lists = (Vec<IpNet>, Option<Vec<HbaRule>>);

fn access(
    general: &General,
    read: ReadFile<'_>,
    warnings: &mut Vec<String>,
) -> Result<Lists, Fault> {
    if !general.hba.is_empty() && general.pg_hba.is_some() {
        return Err(Fault::new(
            general_key("pg_hba"),
            "general.hba and general.pg_hba cannot be specified at the same time",
        ));
    }
    let networks = networks("hba", &general.hba)?;
    let rules = match &general.pg_hba {
        None => None,
        Some(source) => Some(pg_hba(source, read, warnings)?),
    };
    Ok((networks, rules))
}

fn pg_hba(
    source: &PgHba,
    read: ReadFile<'_>,
    warnings: &mut Vec<String>,
) -> Result<Vec<HbaRule>, Fault> {
    let fault = |reason: String| Fault::new(general_key("pg_hba"), reason);
    let (text, place, directory) = match source {
        PgHba::Content(text) => (text.clone(), "general.pg_hba".to_owned(), None),
        PgHba::Path(path) => {
            let failed = |cause: &dyn std::fmt::Display| {
                fault(format!(
                    "failed to read hba file {}: {cause}",
                    path.display()
                ))
            };
            let bytes = read(path).map_err(|cause| failed(&cause))?;
            let text = String::from_utf8(bytes).map_err(|_| failed(&"not valid UTF-8"))?;
            (text, path.display().to_string(), path.parent())
        }
    };
    let (rules, notes) = hba::read_rules(&text, directory.unwrap_or(Path::new("")), read)
        .map_err(|note| fault(format!("{place}: {note}")))?;
    warnings.extend(notes.iter().map(|note| format!("{place}: {note}")));
    hba::interfaces::spell_out(rules, hba::interfaces::of_machine).map_err(|cause| {
        fault(format!(
            "{place}: cannot read the addresses of this machine for samehost and samenet: {cause}"
        ))
    })
}

fn pg_ident(general: &General, read: ReadFile<'_>) -> Result<IdentMaps, Fault> {
    let fault = |reason: String| Fault::new(general_key("pg_ident"), reason);
    let text = match &general.pg_ident {
        None => return Ok(IdentMaps::default()),
        Some(PgHba::Content(text)) => text.clone(),
        Some(PgHba::Path(path)) => {
            let failed = |cause: &dyn std::fmt::Display| {
                fault(format!("cannot read {}: {cause}", path.display()))
            };
            let bytes = read(path).map_err(|cause| failed(&cause))?;
            String::from_utf8(bytes).map_err(|_| failed(&"not valid UTF-8"))?
        }
    };
    IdentMaps::parse(&text).map_err(|note| fault(note.to_string()))
}

/// A rule whose map does not exist lets nobody in.
fn maps(rules: &[HbaRule], maps: &IdentMaps, warnings: &mut Vec<String>) {
    for rule in rules {
        if let Some(map) = rule
            .options
            .map
            .as_deref()
            .filter(|map| !maps.contains(map))
        {
            warnings.push(format!(
                "general.pg_hba: line {}: general.pg_ident has no map '{map}': the rule lets nobody in",
                rule.line
            ));
        }
    }
}

fn prepared_statements(general: &General) -> Result<(), Fault> {
    if general.prepared_statements && general.prepared_statements_cache_size == 0 {
        return Err(Fault::new(
            general_key("prepared_statements_cache_size"),
            "The value of prepared_statements_cache should be greater than 0 if \
             prepared_statements are enabled",
        ));
    }
    Ok(())
}

fn client_tls(general: &General, read: ReadFile<'_>) -> Result<TlsMode, Fault> {
    let fault = |key: &str, reason: String| Err(Fault::new(general_key(key), reason));
    let pair = (&general.tls_certificate, &general.tls_private_key);
    match pair {
        (None, Some(_)) => {
            let reason = "tls_private_key is set but tls_certificate is not";
            return fault("tls_private_key", reason.to_owned());
        }
        (Some(_), None) => {
            let reason = "tls_certificate is set but tls_private_key is not";
            return fault("tls_certificate", reason.to_owned());
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    let mode = match general.tls_mode.as_deref() {
        None | Some("allow") => TlsMode::Allow,
        Some("disable") => TlsMode::Disable,
        Some("require") => TlsMode::Require,
        Some("verify-full") => TlsMode::VerifyFull,
        Some(other) => return fault("tls_mode", format!("Invalid tls_mode: {other}")),
    };
    if mode.is_mandatory() && pair.0.is_none() {
        let reason = format!("tls_mode is {mode} but tls_certificate or tls_private_key is not");
        return fault("tls_mode", reason);
    }
    if mode == TlsMode::VerifyFull && general.tls_ca_cert.is_none() {
        let reason = "tls_mode is verify-full but tls_ca_cert is not set";
        return fault("tls_ca_cert", reason.to_owned());
    }
    let files = [
        (
            "tls_certificate",
            &general.tls_certificate,
            "CERTIFICATE-----",
        ),
        (
            "tls_private_key",
            &general.tls_private_key,
            "PRIVATE KEY-----",
        ),
    ];
    for (key, path, title) in files {
        if let Some(path) = path
            && let Err(reason) = pem(path, title, read)
        {
            return fault(key, format!("tls is incorrectly configured: {reason}"));
        }
    }
    Ok(mode)
}

fn log_level(general: &General) -> Result<Option<tracing::Level>, Fault> {
    let level = general.log_level.as_deref().map(str::parse).transpose();
    level.map_err(|_| {
        let reason = "log_level should be error, warn, info, debug or trace";
        Fault::new(general_key("log_level"), reason)
    })
}

fn listening(general: &General) -> Result<(), Fault> {
    let listens = hosts(&general.host.0).next().is_some() || general.unix_socket_dir.is_some();
    if listens {
        return Ok(());
    }
    let reason = "host is empty and unix_socket_dir is not set: nobody could connect";
    Err(Fault::new(general_key("host"), reason))
}

fn workers(general: &General, warnings: &mut Vec<String>) -> Result<(), Fault> {
    if general.worker_threads == 0 {
        let reason = "worker_threads should be greater than 0";
        return Err(Fault::new(general_key("worker_threads"), reason));
    }
    if general.worker_threads > WORKER_THREADS_MAX {
        let reason = format!("worker_threads should be {WORKER_THREADS_MAX} at most");
        return Err(Fault::new(general_key("worker_threads"), reason));
    }
    if general.max_concurrent_creates == 0 {
        warnings.push("general.max_concurrent_creates is 0, 1 is used instead".to_owned());
    }
    Ok(())
}

fn prometheus(document: &Document) -> Result<(), Fault> {
    let prometheus = &document.prometheus;
    if prometheus.enabled && prometheus.host.parse::<IpAddr>().is_err() {
        let reason = format!(
            "prometheus.host should be an IP address: '{}'",
            prometheus.host
        );
        return Err(Fault::new(KeyPath::of(&["prometheus", "host"]), reason));
    }
    Ok(())
}

fn users(name: &str, pool: &Pool, read: ReadFile<'_>, files: &mut KeyFiles) -> Result<(), Fault> {
    let mut seen = HashSet::new();
    for (index, user) in pool.users.0.iter().enumerate() {
        let at = KeyPath::of(&["pools", name, "users"]).index(index);
        if !seen.insert(&user.username) {
            let reason = format!("duplicate username '{}' in pool users", user.username);
            return Err(Fault::new(at.key("username"), reason));
        }
        check_user(user, &at, read, files)?;
    }
    Ok(())
}

fn check_user(
    user: &User,
    at: &KeyPath,
    read: ReadFile<'_>,
    files: &mut KeyFiles,
) -> Result<(), Fault> {
    if let Some(path) = user.password.expose().strip_prefix(JWT_PUBLIC_KEY) {
        public_key(Path::new(path), read, files)
            .map_err(|reason| Fault::new(at.key("password"), reason))?;
    }
    let signing_key = user
        .server_password
        .as_ref()
        .and_then(|password| password.expose().strip_prefix(JWT_PRIVATE_KEY));
    if let Some(path) = signing_key {
        key_file(Path::new(path), "PRIVATE KEY-----", read, files).map_err(|reason| {
            Fault::new(
                at.key("server_password"),
                format!("JWT private key error: {reason}"),
            )
        })?;
    }
    if user.server_password.is_some() && user.server_password_command.is_some() {
        let reason = "server_password and server_password_command exclude each other";
        return Err(Fault::new(at.key("server_password_command"), reason));
    }
    let is_with_password = user.server_password.is_some();
    let needs_none = user.server_password_command.is_some();
    if user.server_username.is_some() != is_with_password && !needs_none {
        let reason = "both the server_password and server_username must be specified at the same \
                      time";
        let key = if user.server_username.is_some() {
            "server_password"
        } else {
            "server_username"
        };
        return Err(Fault::new(at.key(key), reason));
    }
    let (minimum, size) = (user.min_pool_size.unwrap_or(0), user.pool_size);
    if minimum > size {
        let reason =
            format!("min_pool_size of {minimum} cannot be larger than pool_size of {size}");
        return Err(Fault::new(at.key("min_pool_size"), reason));
    }
    Ok(())
}
