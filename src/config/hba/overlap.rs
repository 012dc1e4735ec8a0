//! Which rules are about the same clients.
//!
//! **Owns:** comparing two rules by what they match.
//! **Does not own:** what follows from it (`app::advice`, the caller in `super`).
//! **Invariants:** [`HbaRule::overlaps`] is never false for two rules that match one client;
//! [`HbaRule::covers`] is never true if the other one matches a client that this one does not.
//!
//! Source: PostgreSQL manual `auth-pg-hba-conf.html`.

use super::{HbaAddress, HbaKind, HbaName, HbaRule};

impl HbaRule {
    /// True if there may be a client that both rules match.
    pub fn overlaps(&self, other: &Self) -> bool {
        kinds_overlap(self.kind, other.kind)
            && addresses_overlap(self.address, other.address)
            && names_overlap(&self.databases, &other.databases)
            && names_overlap(&self.users, &other.users)
    }

    /// True if this rule matches every client that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        (self.kind == other.kind || (self.kind == HbaKind::Host && other.kind != HbaKind::Local))
            && address_covers(self.address, other.address)
            && names_cover(&self.databases, &other.databases)
            && names_cover(&self.users, &other.users)
    }
}

const fn kinds_overlap(one: HbaKind, other: HbaKind) -> bool {
    !matches!(
        (one, other),
        (
            HbaKind::Local,
            HbaKind::Host | HbaKind::HostSsl | HbaKind::HostNoSsl
        ) | (
            HbaKind::Host | HbaKind::HostSsl | HbaKind::HostNoSsl,
            HbaKind::Local
        ) | (HbaKind::HostSsl, HbaKind::HostNoSsl)
            | (HbaKind::HostNoSsl, HbaKind::HostSsl)
    )
}

fn addresses_overlap(one: HbaAddress, other: HbaAddress) -> bool {
    match (one, other) {
        (HbaAddress::Net(one), HbaAddress::Net(other)) => {
            one.contains(other.addr()) || other.contains(one.addr())
        }
        // Which addresses these are is another matter.
        _ => true,
    }
}

fn address_covers(one: HbaAddress, other: HbaAddress) -> bool {
    match (one, other) {
        (HbaAddress::Net(one), HbaAddress::Net(other)) => {
            one.addr().is_ipv4() == other.addr().is_ipv4()
                && one.prefix() <= other.prefix()
                && one.contains(other.addr())
        }
        _ => one == HbaAddress::Any || one == other,
    }
}

fn names_overlap(ones: &[HbaName], others: &[HbaName]) -> bool {
    let overlap = |one: &HbaName, other: &HbaName| match (one, other) {
        (HbaName::Replication, _) | (_, HbaName::Replication) => false,
        (HbaName::Name(one), HbaName::Name(other)) => one == other,
        _ => true,
    };
    ones.iter()
        .any(|one| others.iter().any(|other| overlap(one, other)))
}

fn names_cover(ones: &[HbaName], others: &[HbaName]) -> bool {
    ones.contains(&HbaName::All)
        || others
            .iter()
            .all(|other| *other == HbaName::Replication || ones.contains(other))
}

#[cfg(test)]
mod tests {
    use super::super::parse_rules;
    use super::*;

    fn rule(text: &str) -> HbaRule {
        parse_rules(text).unwrap().0.pop().unwrap()
    }

    /// Two rules, then whether they overlap, and whether the first covers the second.
    const PAIRS: &str = "
        host all all all md5 | host a b ::1/128 trust | overlap, cover
        host a all all md5 | host all all all trust | overlap
        host a,b all all md5 | host a all all trust | overlap, cover
        host a all all md5 | host b all all trust |
        host all u all md5 | host all v all trust |
        local all all md5 | host all all all md5 |
        host all all all md5 | local all all md5 |
        hostssl all all all md5 | host all all all md5 | overlap
        host all all all md5 | hostssl all all all md5 | overlap, cover
        hostssl all all all md5 | hostnossl all all all md5 |
        host all all 10.0.0.0/8 md5 | host all all 10.1.0.0/16 md5 | overlap, cover
        host all all 10.1.0.0/16 md5 | host all all 10.0.0.0/8 md5 | overlap
        host all all 10.0.0.0/8 md5 | host all all 11.0.0.0/8 md5 |
        host all all ::/0 md5 | host all all 11.0.0.0/8 md5 |
        host all all samenet md5 | host all all 11.0.0.0/8 md5 | overlap
        host all all samenet md5 | host all all samenet md5 | overlap, cover
        host sameuser all all md5 | host a all all md5 | overlap
        host replication all all md5 | host all all all md5 |
        host a all all md5 | host replication,a all all md5 | overlap, cover";

    #[test]
    fn rules_overlap_if_one_client_can_match_both() {
        for pair in PAIRS.lines().skip(1) {
            let parts: Vec<&str> = pair.split('|').collect();
            let (first, second) = (rule(parts[0]), rule(parts[1]));
            let overlap = parts[2].contains("overlap");
            assert_eq!(first.overlaps(&second), overlap, "{pair}");
            assert_eq!(second.overlaps(&first), overlap, "{pair}");
            let covers = parts[2].contains("cover");
            assert_eq!(first.covers(&second), covers, "{pair}");
        }
    }
}
