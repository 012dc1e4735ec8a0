//! `samehost` and `samenet`: the addresses of this machine in rules.
//!
//! **Owns:** asking the system for them, and the rules that result.
//! **Does not own:** matching (`auth::hba`).
//! **Invariant:** addresses that cannot be read are an error, because a rule that rejects would
//! reject nobody.
//!
//! Source: PostgreSQL manual `auth-pg-hba-conf.html`; getifaddrs(3).

use std::io;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

use super::network::bits_of;
use super::{HbaAddress, HbaRule, IpNet};

/// An address of this machine, and the network behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The address alone, as a network of one.
    pub host: IpNet,
    /// All addresses that are reached without a router.
    pub network: IpNet,
}

/// The addresses of this machine at this moment.
///
/// # Errors
///
/// What the system says.
pub fn of_machine() -> io::Result<Vec<Interface>> {
    let mut interfaces = Vec::new();
    for found in getifaddrs()? {
        let Some(address) = found.address.as_ref().and_then(ip) else {
            continue;
        };
        let mask = found.netmask.as_ref().and_then(ip);
        let Some(host) = IpNet::new(address, bits_of(address)) else {
            continue;
        };
        let network = mask.and_then(|mask| IpNet::with_mask(address, mask));
        let network = network.unwrap_or(host);
        interfaces.push(Interface { host, network });
    }
    Ok(interfaces)
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(v4.ip().into()),
        (None, Some(v6)) => Some(v6.ip().into()),
        (None, None) => None,
    }
}

/// Puts a rule for each address of the machine behind each rule about `samehost` or `samenet`. The
/// rule itself stays, for addresses that the machine gets later.
///
/// # Errors
///
/// Those of `interfaces`, which is called if there is such a rule.
pub fn spell_out(
    rules: Vec<HbaRule>,
    interfaces: impl FnOnce() -> io::Result<Vec<Interface>>,
) -> io::Result<Vec<HbaRule>> {
    let is_own =
        |rule: &HbaRule| matches!(rule.address, HbaAddress::SameHost | HbaAddress::SameNet);
    if !rules.iter().any(is_own) {
        return Ok(rules);
    }
    let interfaces = interfaces()?;
    let mut spelled = Vec::new();
    for rule in rules {
        let mut networks: Vec<IpNet> = Vec::new();
        for interface in &interfaces {
            let network = match rule.address {
                HbaAddress::SameHost => interface.host,
                HbaAddress::SameNet => interface.network,
                HbaAddress::Any | HbaAddress::Net(_) | HbaAddress::None => break,
            };
            if !networks.contains(&network) {
                networks.push(network);
            }
        }
        let of_network = |network| HbaRule {
            address: HbaAddress::Net(network),
            ..rule.clone()
        };
        let own: Vec<HbaRule> = networks.into_iter().map(of_network).collect();
        spelled.push(rule);
        spelled.extend(own);
    }
    Ok(spelled)
}

#[cfg(test)]
mod tests {
    use super::super::parse_rules;
    use super::*;

    #[test]
    fn the_machine_has_its_loopback_address() {
        let found = of_machine().unwrap();
        let loopback = Interface {
            host: IpNet::parse("127.0.0.1").unwrap(),
            network: IpNet::parse("127.0.0.0/8").unwrap(),
        };
        assert!(found.contains(&loopback), "{found:?}");
    }

    #[test]
    fn own_addresses_become_rules_in_their_place() {
        let interface = |host, network| Interface {
            host: IpNet::parse(host).unwrap(),
            network: IpNet::parse(network).unwrap(),
        };
        let interfaces = || {
            Ok(vec![
                interface("10.1.2.3", "10.1.0.0/16"),
                interface("10.1.2.4", "10.1.0.0/16"),
            ])
        };
        let text = "host all all samenet reject\nhost all all samehost md5\nlocal all all trust";
        let rules = parse_rules(text).unwrap().0;
        let spelled = spell_out(rules.clone(), interfaces).unwrap();
        let seen: Vec<String> = spelled
            .iter()
            .map(|rule| match rule.address {
                HbaAddress::Net(network) => format!("{} {network}", rule.line),
                other => format!("{} {other:?}", rule.line),
            })
            .collect();
        let expected = [
            "1 SameNet",
            "1 10.1.0.0/16",
            "2 SameHost",
            "2 10.1.2.3/32",
            "2 10.1.2.4/32",
            "3 None",
        ];
        assert_eq!(seen, expected);
        let failing = || Err(io::ErrorKind::PermissionDenied.into());
        assert!(spell_out(rules, failing).is_err());
        let others = parse_rules("local all all trust").unwrap().0;
        assert_eq!(spell_out(others.clone(), failing).unwrap(), others);
    }
}
