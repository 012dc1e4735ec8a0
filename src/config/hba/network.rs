//! Blocks of addresses.
//!
//! **Owns:** [`IpNet`], its forms as text, which addresses are in it.
//! **Does not own:** what stands around it in a rule.
//! **Invariant:** what is not an address or a block is not taken for one.
//!
//! Source: PostgreSQL manual `auth-pg-hba-conf.html`; RFC 4632, RFC 4291.

use std::fmt;
use std::net::IpAddr;

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
    /// A listener on `::` sees IPv4 clients as `::ffff:a.b.c.d`; they match IPv4 blocks and those
    /// inside `::ffff:0:0/96`, but no wider block of IPv6.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = match (self.addr, ip.to_canonical()) {
            (IpAddr::V6(net), IpAddr::V4(ip))
                if self.prefix >= 96 && net.to_ipv4_mapped().is_some() =>
            {
                IpAddr::V6(ip.to_ipv6_mapped())
            }
            (_, ip) => ip,
        };
        ip.is_ipv4() == self.addr.is_ipv4() && mask(ip, self.prefix) == self.addr
    }
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

pub(super) const fn bits_of(addr: IpAddr) -> u8 {
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
