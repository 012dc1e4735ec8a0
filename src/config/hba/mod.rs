//! Host-based access rules: from the text of a `pg_hba.conf` to plain structs.
//!
//! ```text
//!  line    = ( "local" DB USER METHOD ) | ( TYPE DB USER ADDRESS METHOD ) options? comment?
//!  TYPE    = host | hostssl | hostnossl
//!  DB,USER = name ("," name)*           all · sameuser · a literal name, perhaps in double quotes
//!  ADDRESS = all | samehost | samenet | CIDR | IP | IP MASK
//! ```
//!
//! **Owns:** this syntax; [`IpNet`].
//! **Does not own:** which rule decides about a client (`auth`).
//! **Invariants:** an address that cannot be understood is an error, because treating it as "every
//! address" would open the door and dropping a `reject` line would, too; a line that has no rule in
//! it at all is skipped with a warning that names it.
//!
//! Source: PostgreSQL manual `auth-pg-hba-conf.html`.

use std::fmt;
use std::net::IpAddr;

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
    /// MD5 challenge.
    Md5,
    /// A method this program does not have, as written. Never lets anybody in.
    Other(String),
    /// Refuse.
    Reject,
    /// SCRAM-SHA-256 exchange.
    ScramSha256,
    /// No password.
    Trust,
}

/// A block of addresses, `10.0.0.0/8`. Host bits are cleared on construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpNet {
    addr: IpAddr,
    prefix: u8,
}

impl IpNet {
    /// The network of the first `prefix` bits of `addr`; `None` if that is more bits than it has.
    pub fn new(addr: IpAddr, prefix: u8) -> Option<Self> {
        (prefix <= bits_of(addr)).then(|| Self {
            addr: mask(addr, prefix),
            prefix,
        })
    }

    /// Reads `address/prefix`, or a single address.
    pub fn parse(text: &str) -> Option<Self> {
        let Some((addr, prefix)) = text.split_once('/') else {
            let addr: IpAddr = text.parse().ok()?;
            return Self::new(addr, bits_of(addr));
        };
        let digits_only = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|_| digits_only)?;
        Self::new(addr.parse().ok()?, prefix)
    }

    /// The network that a separate mask such as `255.0.0.0` describes. `None` if the families
    /// differ or the mask has a one after a zero.
    pub fn with_mask(addr: IpAddr, mask: IpAddr) -> Option<Self> {
        let prefix = match (addr, mask) {
            (IpAddr::V4(_), IpAddr::V4(mask)) => {
                let bits = mask.to_bits();
                (bits.leading_ones() + bits.trailing_zeros() >= 32).then(|| bits.leading_ones())
            }
            (IpAddr::V6(_), IpAddr::V6(mask)) => {
                let bits = mask.to_bits();
                (bits.leading_ones() + bits.trailing_zeros() >= 128).then(|| bits.leading_ones())
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }?;
        Self::new(addr, u8::try_from(prefix).ok()?)
    }

    /// The first address of the block.
    pub const fn addr(&self) -> IpAddr {
        self.addr
    }

    /// How many leading bits are fixed.
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// True if `ip` is in the block.
    ///
    /// A listener on `::` sees IPv4 clients as `::ffff:a.b.c.d`; they match IPv4 blocks too.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let same =
            |ip: IpAddr| ip.is_ipv4() == self.addr.is_ipv4() && mask(ip, self.prefix) == self.addr;
        same(ip) || same(ip.to_canonical())
    }
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

const fn bits_of(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// Clears all but the first `prefix` bits.
fn mask(addr: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match addr {
        IpAddr::V4(v4) => {
            let mask = u32::MAX
                .checked_shl(32_u32.saturating_sub(prefix))
                .unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX
                .checked_shl(128_u32.saturating_sub(prefix))
                .unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
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

/// Reads all rules of `text`, and remarks about lines without effect.
///
/// # Errors
///
/// An [`HbaNote`] for the first address that cannot be understood.
pub fn parse_rules(text: &str) -> Result<(Vec<HbaRule>, Vec<HbaNote>), HbaNote> {
    let mut rules = Vec::new();
    let mut notes = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let at = |reason: String| HbaNote {
            line: index + 1,
            reason,
        };
        match parse_line(line, index + 1, &mut notes) {
            Ok(rule) => rules.extend(rule),
            Err(LineFault::Address(reason)) => return Err(at(reason)),
            Err(LineFault::NoRule(reason)) => notes.push(at(format!("{reason}; line ignored"))),
        }
    }
    Ok((rules, notes))
}

enum LineFault {
    /// Must stop the load.
    Address(String),
    /// The line is skipped.
    NoRule(String),
}

/// `Ok(None)` for blank lines and comments.
fn parse_line(
    line: &str,
    number: usize,
    notes: &mut Vec<HbaNote>,
) -> Result<Option<HbaRule>, LineFault> {
    let fields = fields(line)?;
    let Some((first, rest)) = fields.split_first() else {
        return Ok(None);
    };
    let kind_text = first
        .iter()
        .map(|token| token.text.as_str())
        .collect::<Vec<_>>()
        .join(",");
    let kind = match kind_text.to_ascii_lowercase().as_str() {
        "local" => HbaKind::Local,
        "host" => HbaKind::Host,
        "hostssl" => HbaKind::HostSsl,
        "hostnossl" => HbaKind::HostNoSsl,
        _ => {
            return Err(LineFault::NoRule(format!(
                "unknown connection type '{kind_text}'"
            )));
        }
    };
    let wanted = if kind == HbaKind::Local { 3 } else { 4 };
    if rest.len() < wanted {
        let found = rest.len() + 1;
        return Err(LineFault::NoRule(format!(
            "{} fields expected, {found} found",
            wanted + 1
        )));
    }
    let (address, method) = if kind == HbaKind::Local {
        (HbaAddress::None, &rest[2])
    } else {
        address(&rest[2..])?
    };
    let databases = names(&rest[0], true);
    let users = names(&rest[1], false);
    for name in databases.iter().chain(&users) {
        if let HbaName::Name(name) = name
            && (name.starts_with(['+', '/', '@'])
                || matches!(name.as_str(), "samerole" | "samegroup"))
        {
            let reason = format!("'{name}' is taken as a plain name");
            notes.push(HbaNote {
                line: number,
                reason,
            });
        }
    }
    let method = method
        .iter()
        .map(|token| token.text.as_str())
        .collect::<Vec<_>>()
        .join(",");
    Ok(Some(HbaRule {
        line: number,
        kind,
        databases,
        users,
        address,
        method: parse_method(method),
    }))
}

fn names(field: &[Token], database: bool) -> Vec<HbaName> {
    let name = |token: &Token| match token.text.as_str() {
        text if text.eq_ignore_ascii_case("all") => HbaName::All,
        "sameuser" if database && !token.quoted => HbaName::SameUser,
        text => HbaName::Name(text.to_owned()),
    };
    field.iter().map(name).collect()
}

/// Reads the address of a `host` rule; `fields` begin with it. Returns the method field too,
/// because an address can take one field or two.
fn address(fields: &[Vec<Token>]) -> Result<(HbaAddress, &Vec<Token>), LineFault> {
    let [address, next, rest @ ..] = fields else {
        return Err(LineFault::NoRule("no method".to_owned()));
    };
    let [token] = address.as_slice() else {
        return Err(LineFault::Address(
            "a rule has one address, not a list".to_owned(),
        ));
    };
    let text = token.text.as_str();
    let keyword = text.to_ascii_lowercase();
    match keyword.as_str() {
        "all" => return Ok((HbaAddress::Any, next)),
        "samehost" => return Ok((HbaAddress::SameHost, next)),
        "samenet" => return Ok((HbaAddress::SameNet, next)),
        _ => {}
    }
    let mask = match next.as_slice() {
        [token] => token.text.parse::<IpAddr>().ok(),
        _ => None,
    };
    let invalid = |what: &str| LineFault::Address(what.to_owned());
    match (text.parse::<IpAddr>(), mask) {
        (Ok(addr), Some(mask)) => {
            let net = IpNet::with_mask(addr, mask).ok_or_else(|| {
                LineFault::Address(format!("'{mask}' is not a mask for '{addr}'"))
            })?;
            let method = rest
                .first()
                .ok_or_else(|| invalid("no method after address and mask"))?;
            Ok((HbaAddress::Net(net), method))
        }
        (Err(_), Some(_)) => Err(invalid(
            "a separate mask follows something that is not an IP",
        )),
        (_, None) => match IpNet::parse(text) {
            Some(net) => Ok((HbaAddress::Net(net), next)),
            None => Err(LineFault::Address(format!(
                "'{text}' is not an address: expected a CIDR such as 10.0.0.0/8, an IP, 'all', \
                 'samehost' or 'samenet' (host names are not supported)"
            ))),
        },
    }
}

fn parse_method(text: String) -> HbaMethod {
    match text.to_ascii_lowercase().as_str() {
        "trust" => HbaMethod::Trust,
        "md5" => HbaMethod::Md5,
        "scram-sha-256" | "scram_sha_256" | "scramsha256" => HbaMethod::ScramSha256,
        "reject" => HbaMethod::Reject,
        _ => HbaMethod::Other(text),
    }
}

struct Token {
    text: String,
    quoted: bool,
}

/// Splits a line into fields, each a comma list.
///
/// A comma may be followed by blanks. A comment begins at `#` outside quotes. Inside quotes, two
/// quotes stand for one.
fn fields(line: &str) -> Result<Vec<Vec<Token>>, LineFault> {
    let mut fields: Vec<Vec<Token>> = Vec::new();
    let mut chars = line.chars().peekable();
    let mut list_continues = false;
    loop {
        while chars.next_if(|c| c.is_whitespace() || *c == ',').is_some() {}
        if chars.peek().is_none_or(|c| *c == '#') {
            return Ok(fields);
        }
        let token = token(&mut chars)?;
        match fields.last_mut() {
            Some(field) if list_continues => field.push(token),
            _ => fields.push(vec![token]),
        }
        list_continues = chars.next_if_eq(&',').is_some();
    }
}

fn token(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Token, LineFault> {
    let mut token = Token {
        text: String::new(),
        quoted: false,
    };
    let mut in_quotes = false;
    while let Some(c) =
        chars.next_if(|c| in_quotes || !(c.is_whitespace() || matches!(c, ',' | '#')))
    {
        match c {
            '"' if in_quotes && chars.next_if_eq(&'"').is_some() => token.text.push('"'),
            '"' => {
                in_quotes = !in_quotes;
                token.quoted = true;
            }
            c => token.text.push(c),
        }
    }
    if in_quotes {
        return Err(LineFault::NoRule("a double quote is not closed".to_owned()));
    }
    Ok(token)
}

#[cfg(test)]
mod tests;
