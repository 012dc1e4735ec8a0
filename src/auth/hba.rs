//! Who may try to log in, and how: the decision, not the file.
//!
//! **Owns:** matching a client against host-based rules, and turning two verdicts and the stored
//! password's form into a login method.
//! **Does not own:** the syntax of rule files (`config`), performing the method (`scram`, `md5`).
//! **Invariants:** a rule whose method is neither wanted nor `trust` nor `reject` is passed over; a
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
//! Source: PostgreSQL documentation, `auth-pg-hba-conf.html` (meaning of the fields).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::verifier::StoredPassword;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HbaRule {
    /// Which kind of connection.
    pub conn_type: HbaConnType,
    /// Databases; one of them must match.
    pub database: Vec<HbaName>,
    /// Users; one of them must match.
    pub user: Vec<HbaName>,
    /// The client's network; `None` matches every address.
    pub address: Option<IpNet>,
    /// What to do on a match.
    pub method: HbaMethod,
}

/// The first field of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HbaConnType {
    /// TCP, with or without TLS.
    Host,
    /// TCP without TLS.
    HostNoSsl,
    /// TCP with TLS.
    HostSsl,
    /// Unix socket.
    Local,
}

/// A database or user in a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HbaName {
    /// The keyword `all`.
    All,
    /// Exactly this name.
    Literal(String),
}

impl HbaName {
    fn is_match(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Literal(literal) => literal == name,
        }
    }
}

/// The last field of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HbaMethod {
    /// `md5`
    Md5,
    /// A word that is not supported; such a rule never matches.
    Other(String),
    /// `reject`
    Reject,
    /// `scram-sha-256`
    ScramSha256,
    /// `trust`
    Trust,
}

/// A network: an address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpNet {
    address: IpAddr,
    prefix_bits: u8,
}

impl IpNet {
    /// A network; `None` if the address has fewer than `prefix_bits` bits. Bits of the address
    /// behind the prefix do not count.
    pub const fn new(address: IpAddr, prefix_bits: u8) -> Option<Self> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if prefix_bits > bits {
            None
        } else {
            Some(Self {
                address,
                prefix_bits,
            })
        }
    }

    /// Whether `ip` lies in this network. An IPv4 client seen through an IPv6 socket lies in IPv4
    /// networks, too.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.contains_exactly(ip) || self.contains_exactly(ip.to_canonical())
    }

    fn contains_exactly(&self, ip: IpAddr) -> bool {
        let prefix = u32::from(self.prefix_bits);
        match (self.address, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= prefix,
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= prefix,
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

/// A text is not `<address>/<prefix length>`. A mistake in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidIpNet;

impl fmt::Display for InvalidIpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a network as <address>/<prefix length>")
    }
}

impl std::error::Error for InvalidIpNet {}

impl FromStr for IpNet {
    type Err = InvalidIpNet;

    fn from_str(text: &str) -> Result<Self, InvalidIpNet> {
        let (address, prefix) = text.split_once('/').ok_or(InvalidIpNet)?;
        if !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidIpNet);
        }
        let address = address.parse().map_err(|_| InvalidIpNet)?;
        let prefix_bits = prefix.parse().map_err(|_| InvalidIpNet)?;
        Self::new(address, prefix_bits).ok_or(InvalidIpNet)
    }
}

/// The client that wants to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HbaClient<'a> {
    /// Its address; `None` on a Unix socket.
    pub ip: Option<IpAddr>,
    /// Whether the connection is encrypted.
    pub tls: bool,
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

/// Walks over `rules` for one method.
pub fn decide(rules: &[HbaRule], client: &HbaClient<'_>, wanted: WantedMethod) -> Decision {
    for rule in rules.iter().filter(|rule| applies(rule, client)) {
        match (&rule.method, wanted) {
            (HbaMethod::Trust, _) => return Decision::Trust,
            (HbaMethod::Md5, WantedMethod::Md5)
            | (HbaMethod::ScramSha256, WantedMethod::ScramSha256) => return Decision::Allow,
            (HbaMethod::Reject, _) => return Decision::Deny,
            (HbaMethod::Md5 | HbaMethod::ScramSha256 | HbaMethod::Other(_), _) => {}
        }
    }
    Decision::NotMatched
}

fn applies(rule: &HbaRule, client: &HbaClient<'_>) -> bool {
    let connection = match (rule.conn_type, client.ip) {
        (HbaConnType::Local, ip) => ip.is_none(),
        (_, None) => false,
        (HbaConnType::Host, Some(_)) => true,
        (HbaConnType::HostNoSsl, Some(_)) => !client.tls,
        (HbaConnType::HostSsl, Some(_)) => client.tls,
    };
    let address = match (rule.address, client.ip) {
        (Some(network), Some(ip)) => network.contains(ip),
        (None, _) | (_, None) => true,
    };
    connection
        && address
        && rule
            .database
            .iter()
            .any(|name| name.is_match(client.database))
        && rule.user.iter().any(|name| name.is_match(client.user))
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
