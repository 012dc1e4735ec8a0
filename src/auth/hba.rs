//! Who may try to log in, and how: the decision, not the file.
//!
//! **Owns:** which rule decides about a client, and which method follows from it and from what is known
//! of the user.
//! **Does not own:** rules and their syntax (`config::hba`), performing the method (`scram`,
//! `md5`, `session::proofs`).
//! **Invariants:** the first rule that fits the client decides, and none behind it is looked at. A rule
//! with a method that does not exist here lets nobody in. Who is known to PAM is let in by PAM or by
//! `trust`. Whoever cannot prove anything, for whatever reason, is treated like somebody who does not exist.
//!
//! ```text
//!   first rule that fits
//!     none, reject, unknown method, no certificate ─▶ Refuse
//!     trust                                        ─▶ Trust
//!     md5, scram-sha-256                           ─▶ Exchange ─▶ by what is stored, or PAM
//!     password, pam, jwt, cert, peer               ─▶ Rule     ─▶ that, and nothing else
//! ```
//!
//! Addresses of this machine have become rules of their own when the rules were read
//! (`config::hba::interfaces`). What is left of the two words for them is what can be said without:
//!
//! - `samehost` matches a client whose address is the one it connected to;
//! - `samenet` matches that, and loopback addresses.
//!
//! Source: PostgreSQL documentation, `auth-pg-hba-conf.html`, `auth-password.html`.

use std::net::IpAddr;

use super::verifier::StoredPassword;
use crate::config::hba::{ClientCert, HbaAddress, HbaKind, HbaMethod, HbaName, HbaRule, IpNet};
use crate::config::ident::IdentMaps;

/// The client that wants to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HbaClient<'a> {
    /// Its address; `None` on a Unix socket.
    pub ip: Option<IpAddr>,
    /// The address of this machine that it connected to; `None` on a Unix socket or if unknown,
    /// and then it is not on the same host.
    pub local_ip: Option<IpAddr>,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The name in the certificate that the client has shown, if an authority has been found that
    /// signed it; empty if there is no name in it.
    pub certificate: Option<&'a str>,
    /// The user as in the startup packet.
    pub user: &'a str,
    /// The database as in the startup packet.
    pub database: &'a str,
}

/// What the rules say about a client, whoever the user is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// A proof by what is stored for the user.
    Exchange {
        /// Also by md5, where that is stored.
        with_md5: bool,
    },
    /// Nothing may be tried; see [`not_permitted_message`].
    Refuse,
    /// The method of this rule, and no other.
    Rule(&'a HbaRule),
    /// No proof.
    Trust,
}

impl<'a> Verdict<'a> {
    /// What the first of `rules` that fits says.
    pub fn by_rules(rules: &'a [HbaRule], client: &HbaClient<'_>, maps: &IdentMaps) -> Self {
        let Some(rule) = rules.iter().find(|rule| applies(rule, client)) else {
            return Self::Refuse;
        };
        if !shows_certificate(rule, client, maps) {
            return Self::Refuse;
        }
        match &rule.method {
            HbaMethod::Trust => Self::Trust,
            HbaMethod::Md5 => Self::Exchange { with_md5: true },
            HbaMethod::ScramSha256 => Self::Exchange { with_md5: false },
            HbaMethod::Reject | HbaMethod::Other(_) => Self::Refuse,
            HbaMethod::Cert
            | HbaMethod::Jwt
            | HbaMethod::Pam
            | HbaMethod::Password
            | HbaMethod::Peer => Self::Rule(rule),
        }
    }

    /// What a plain list of allowed networks says.
    ///
    /// An empty list allows everybody, and so does a Unix socket, which has no network.
    pub fn by_networks(networks: &[IpNet], ip: Option<IpAddr>) -> Self {
        let is_listed = ip.is_none_or(|ip| networks.iter().any(|network| network.contains(ip)));
        if networks.is_empty() || is_listed {
            Self::Exchange { with_md5: true }
        } else {
            Self::Refuse
        }
    }

    /// True if a client may send a token that names its role.
    pub fn allows_roles(&self) -> bool {
        match self {
            Self::Exchange { .. } => true,
            Self::Rule(rule) => rule.method == HbaMethod::Jwt,
            Self::Refuse | Self::Trust => false,
        }
    }
}

/// Whether the certificate of the client is what the rule wants, besides its method.
fn shows_certificate(rule: &HbaRule, client: &HbaClient<'_>, maps: &IdentMaps) -> bool {
    match (rule.options.client_cert, client.certificate) {
        (None, _) | (Some(ClientCert::Authority), Some(_)) => true,
        (Some(_), None) => false,
        (Some(ClientCert::Name), Some(name)) => {
            !name.is_empty() && maps.allows(rule.options.map.as_deref(), name, client.user)
        }
    }
}

fn applies(rule: &HbaRule, client: &HbaClient<'_>) -> bool {
    applies_to_transport(rule.kind, client)
        && applies_to_address(rule.address, client)
        && includes(&rule.databases, client.database, client)
        && includes(&rule.users, client.user, client)
}

const fn applies_to_transport(kind: HbaKind, client: &HbaClient<'_>) -> bool {
    match (kind, client.ip) {
        (HbaKind::Local, ip) => ip.is_none(),
        (_, None) => false,
        (HbaKind::Host, Some(_)) => true,
        (HbaKind::HostNoSsl, Some(_)) => !client.tls,
        (HbaKind::HostSsl, Some(_)) => client.tls,
    }
}

fn applies_to_address(address: HbaAddress, client: &HbaClient<'_>) -> bool {
    let Some(ip) = client.ip else {
        // On a Unix socket only `local` rules get this far, and they have no address.
        return matches!(address, HbaAddress::None);
    };
    // A listener on `::` sees IPv4 addresses mapped into IPv6.
    let ip_canonical = ip.to_canonical();
    let is_same_host = client
        .local_ip
        .is_some_and(|local| local.to_canonical() == ip_canonical);
    match address {
        HbaAddress::Any => true,
        HbaAddress::Net(network) => network.contains(ip),
        HbaAddress::None => false,
        HbaAddress::SameHost => is_same_host,
        HbaAddress::SameNet => is_same_host || ip_canonical.is_loopback(),
    }
}

fn includes(names: &[HbaName], wanted: &str, client: &HbaClient<'_>) -> bool {
    names.iter().any(|name| match name {
        HbaName::All => true,
        HbaName::Name(name) => name == wanted,
        HbaName::Replication => false,
        HbaName::SameUser => client.database == client.user,
    })
}

/// What is known of a user.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    /// The stored password.
    pub stored: &'a StoredPassword,
    /// The user is one of PAM's.
    pub is_of_pam: bool,
}

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginMethod {
    /// A password in clear, compared with the stored secret.
    Compare,
    /// Go through the motions and refuse: there is no such user, or nothing that could be proved.
    Imitate,
    /// md5 with a salt.
    Md5,
    /// The name in the certificate, or at the other end of the socket.
    Name,
    /// No rule lets this client try anything. Decided before the user is looked up, so it says nothing
    /// about who exists.
    NotPermitted,
    /// A password in clear, checked by PAM.
    Pam,
    /// SCRAM-SHA-256.
    Scram,
    /// A token, sent as a password.
    Token,
    /// Nothing is asked.
    Trust,
    /// Nothing would be asked, and there is no such user.
    Unknown,
}

/// The method for a client about whom the rules say `verdict`; `has_pam` if there is PAM in this program.
///
/// `trust` does not reach users whose stored form is a token key or not understood: they are asked in any
/// case.
pub fn choose(verdict: Verdict<'_>, holder: Option<Holder<'_>>, has_pam: bool) -> LoginMethod {
    match (verdict, holder) {
        (Verdict::Refuse, _) => LoginMethod::NotPermitted,
        (Verdict::Trust, None) => LoginMethod::Unknown,
        (Verdict::Trust, Some(holder)) => trusted(holder, has_pam),
        (Verdict::Exchange { with_md5 }, Some(holder)) => exchange(holder, with_md5),
        (Verdict::Rule(rule), holder) => by_rule(&rule.method, holder),
        (Verdict::Exchange { .. }, None) => LoginMethod::Imitate,
    }
}

const fn trusted(holder: Holder<'_>, has_pam: bool) -> LoginMethod {
    match holder.stored {
        // Where there is no PAM, nothing else takes its place.
        _ if holder.is_of_pam && !has_pam => LoginMethod::Pam,
        StoredPassword::JwtPublicKey(_) | StoredPassword::Other(_) => exchange(holder, false),
        StoredPassword::Empty
        | StoredPassword::InvalidScram(_)
        | StoredPassword::Md5(_)
        | StoredPassword::Scram(_) => LoginMethod::Trust,
    }
}

const fn exchange(holder: Holder<'_>, with_md5: bool) -> LoginMethod {
    match holder.stored {
        _ if holder.is_of_pam => LoginMethod::Pam,
        StoredPassword::JwtPublicKey(_) => LoginMethod::Token,
        StoredPassword::Md5(_) if with_md5 => LoginMethod::Md5,
        StoredPassword::Scram(_) => LoginMethod::Scram,
        StoredPassword::Empty
        | StoredPassword::InvalidScram(_)
        | StoredPassword::Md5(_)
        | StoredPassword::Other(_) => LoginMethod::Imitate,
    }
}

fn by_rule(method: &HbaMethod, holder: Option<Holder<'_>>) -> LoginMethod {
    // Who is known to PAM is nobody to all other methods.
    let stored = holder.filter(|holder| !holder.is_of_pam);
    let stored = stored.map(|holder| holder.stored);
    match (method, stored) {
        // Also who does not exist, since PAM may know more users than the pooler.
        (HbaMethod::Pam, _) => LoginMethod::Pam,
        (HbaMethod::Cert | HbaMethod::Peer, Some(_)) => LoginMethod::Name,
        (HbaMethod::Jwt | HbaMethod::Password, Some(StoredPassword::JwtPublicKey(_))) => {
            LoginMethod::Token
        }
        (HbaMethod::Password, Some(StoredPassword::Md5(_) | StoredPassword::Scram(_))) => {
            LoginMethod::Compare
        }
        (HbaMethod::Cert | HbaMethod::Jwt | HbaMethod::Password | HbaMethod::Peer, _) => {
            LoginMethod::Imitate
        }
        // These decide in other ways, and do not get here.
        (
            HbaMethod::Md5
            | HbaMethod::Other(_)
            | HbaMethod::Reject
            | HbaMethod::ScramSha256
            | HbaMethod::Trust,
            _,
        ) => LoginMethod::NotPermitted,
    }
}

/// What a client is told for [`LoginMethod::NotPermitted`]; SQLSTATE `28000`.
pub fn not_permitted_message(client: &HbaClient<'_>) -> String {
    let address = client
        .ip
        .map_or_else(|| "local".to_owned(), |ip| ip.to_string());
    format!(
        "Connection from IP address {address} to {}@{} (TLS: {}) is not permitted by HBA \
         configuration. Please contact your database administrator.",
        client.user, client.database, client.tls
    )
}
