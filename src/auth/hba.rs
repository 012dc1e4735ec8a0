//! Who may try to log in, and how: the decision, not the file.
//!
//! **Owns:** matching a client against host-based rules, and turning two verdicts and the stored
//! password's form into a login method.
//! **Does not own:** rules and their syntax (`config::hba`), performing the method (`scram`,
//! `md5`).
//! **Invariants:** in a walk, a rule whose method is neither wanted nor `trust` nor `reject` is passed over; a
//! client that no rule lets in cannot find out which users exist.
//!
//! The rules are walked twice for each login, wanting `md5` and wanting `scram-sha-256`. This
//! differs from PostgreSQL, where the first rule that matches the connection decides:
//!
//! ```text
//!   rule matches type, address, database, user?
//!     no ─────────────────────▶ next rule          end of list ─▶ NotMatched
//!     yes: trust              ─▶ Trust
//!          the wanted method  ─▶ Allow
//!          reject             ─▶ Deny
//!          another method     ─▶ next rule
//! ```
//!
//! A method that neither walk looks for (`password`, `pam`, `jwt`, `cert`, `peer`) decides if its rule is
//! the first that matches, as in PostgreSQL ([`named`]); behind a rule with `md5` or `scram-sha-256` it
//! is passed over.
//!
//! Addresses of this machine have become rules of their own when the rules were read
//! (`config::hba::interfaces`). What is left of the two words for them is what can be said without:
//!
//! - `samehost` matches a client whose address is the one it connected to;
//! - `samenet` matches that, and loopback addresses.
//!
//! Source: PostgreSQL documentation, `auth-pg-hba-conf.html` (meaning of the fields).

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

/// The method one walk over the rules looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantedMethod {
    /// `md5`
    Md5,
    /// `scram-sha-256`
    ScramSha256,
}

/// The verdict of one walk over the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The wanted method may be tried.
    Allow,
    /// A `reject` rule came first.
    Deny,
    /// No rule applies.
    NotMatched,
    /// No password is asked.
    Trust,
}

/// The first rule for the client, if its method is one that a rule alone decides about.
pub fn named<'a>(rules: &'a [HbaRule], client: &HbaClient<'_>) -> Option<&'a HbaRule> {
    let is_known = |rule: &&HbaRule| !matches!(rule.method, HbaMethod::Other(_));
    let mut fitting = rules.iter().filter(|rule| applies(rule, client));
    fitting.find(is_known).filter(|rule| {
        matches!(
            rule.method,
            HbaMethod::Cert
                | HbaMethod::Jwt
                | HbaMethod::Pam
                | HbaMethod::Password
                | HbaMethod::Peer
        )
    })
}

/// Whether the certificate of the client is what the rule wants, besides its method.
pub fn shows_certificate(rule: &HbaRule, client: &HbaClient<'_>, maps: &IdentMaps) -> bool {
    match (rule.options.client_cert, client.certificate) {
        (None, _) | (Some(ClientCert::Authority), Some(_)) => true,
        (Some(_), None) => false,
        (Some(ClientCert::Name), Some(name)) => {
            !name.is_empty() && maps.allows(rule.options.map.as_deref(), name, client.user)
        }
    }
}

/// Walks over `rules` for one method.
pub fn decide(
    rules: &[HbaRule],
    client: &HbaClient<'_>,
    maps: &IdentMaps,
    wanted: WantedMethod,
) -> Decision {
    for rule in rules.iter().filter(|rule| applies(rule, client)) {
        let decision = match (&rule.method, wanted) {
            (HbaMethod::Trust, _) => Decision::Trust,
            (HbaMethod::Md5, WantedMethod::Md5)
            | (HbaMethod::ScramSha256, WantedMethod::ScramSha256) => Decision::Allow,
            (HbaMethod::Reject, _) => return Decision::Deny,
            _ => continue,
        };
        if shows_certificate(rule, client, maps) {
            return decision;
        }
        return Decision::Deny;
    }
    Decision::NotMatched
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

/// The verdict of a plain list of allowed networks, the same for both methods.
///
/// An empty list allows everybody, and so does a Unix socket, which has no network.
pub fn decide_by_network(networks: &[IpNet], ip: Option<IpAddr>) -> Decision {
    let is_listed = ip.is_none_or(|ip| networks.iter().any(|network| network.contains(ip)));
    if networks.is_empty() || is_listed {
        Decision::Allow
    } else {
        Decision::NotMatched
    }
}

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// In clear: tokens.
    Cleartext,
    /// md5 with a salt.
    Md5,
    /// SCRAM-SHA-256. The stored secret may turn out to be unusable.
    Scram,
    /// Not at all: the stored form supports no method. With a PAM service configured this does
    /// not matter, since PAM takes the place of every challenge.
    Unsupported,
}

/// What happens to a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginMethod {
    /// The client is asked.
    Ask(Challenge),
    /// The rules refuse the method that the stored password needs; see [`denied_message`].
    Deny {
        /// That method.
        challenge: Challenge,
    },
    /// No rule lets this client try anything; see [`not_permitted_message`]. Decided before the
    /// user is looked up, so it says nothing about who exists.
    NotPermitted,
    /// Nothing is asked.
    Trust,
}

/// Whether the rules let the client try at all. To be checked before the user is looked up.
pub const fn is_permitted(md5: Decision, scram: Decision) -> bool {
    matches!(md5, Decision::Allow | Decision::Trust)
        || matches!(scram, Decision::Allow | Decision::Trust)
}

/// Turns the verdicts of both walks and the form of the stored password into a login method.
///
/// An `md5` rule also lets users with a SCRAM secret in, as in PostgreSQL. `trust` does not reach
/// users whose stored form is a token key or unknown: they are asked in any case.
pub fn combine(md5: Decision, scram: Decision, stored: &StoredPassword) -> LoginMethod {
    if !is_permitted(md5, scram) {
        return LoginMethod::NotPermitted;
    }
    match stored {
        StoredPassword::Scram(_) | StoredPassword::InvalidScram(_) => {
            let challenge = Challenge::Scram;
            match (scram, md5) {
                (Decision::Trust, _) | (Decision::NotMatched, Decision::Trust) => {
                    LoginMethod::Trust
                }
                (Decision::Deny, _)
                | (Decision::NotMatched, Decision::Deny | Decision::NotMatched) => {
                    LoginMethod::Deny { challenge }
                }
                (Decision::Allow, _) | (Decision::NotMatched, Decision::Allow) => {
                    LoginMethod::Ask(challenge)
                }
            }
        }
        StoredPassword::Md5(_) => match md5 {
            Decision::Trust => LoginMethod::Trust,
            Decision::Deny | Decision::NotMatched => LoginMethod::Deny {
                challenge: Challenge::Md5,
            },
            Decision::Allow => LoginMethod::Ask(Challenge::Md5),
        },
        StoredPassword::Empty if md5 == Decision::Trust || scram == Decision::Trust => {
            LoginMethod::Trust
        }
        StoredPassword::Empty | StoredPassword::Other(_) => {
            LoginMethod::Ask(Challenge::Unsupported)
        }
        StoredPassword::JwtPublicKey(_) => LoginMethod::Ask(Challenge::Cleartext),
    }
}

/// Turns the verdicts of both walks into a login method for the console, whose user is not one of a
/// pool: md5 is asked for whichever method the rules name. A `reject` in either walk wins over a
/// password, and `trust` in either walk over both.
pub const fn console_method(md5: Decision, scram: Decision) -> LoginMethod {
    let challenge = Challenge::Md5;
    match (md5, scram) {
        _ if !is_permitted(md5, scram) => LoginMethod::NotPermitted,
        (Decision::Trust, _) | (_, Decision::Trust) => LoginMethod::Trust,
        (Decision::Deny, _) | (_, Decision::Deny) => LoginMethod::Deny { challenge },
        _ => LoginMethod::Ask(challenge),
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

/// What a client is told for [`LoginMethod::Deny`]; SQLSTATE `28000`. `peer` is address and port.
pub fn denied_message(client: &HbaClient<'_>, peer: &str) -> String {
    format!(
        "Connection with scram password from IP address {peer} to {}@{} is not permitted by HBA \
         configuration. Please contact your database administrator.",
        client.user, client.database
    )
}
