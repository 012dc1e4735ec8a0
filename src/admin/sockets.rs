//! The sockets of this process by the state that the kernel has them in.
//!
//! **Owns:** which states there are, counting them from the text of the proc filesystem.
//! **Does not own:** reading files (`app::sockets`).
//! **Invariant:** a kind of sockets whose file is not there, such as without IPv6, counts zero.
//!
//! Source: proc(5); the kernel's `include/net/tcp_states.h`, `include/uapi/linux/net.h`.

use std::collections::HashSet;

/// States of TCP sockets; the first is number 1.
pub const TCP_STATES: [&str; 13] = [
    "established",
    "syn_sent",
    "syn_recv",
    "fin_wait1",
    "fin_wait2",
    "time_wait",
    "close",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
    "new_syn_recv",
    "bound_inactive",
];
/// States and types of Unix sockets as they are shown.
pub const UNIX_STATES: [&str; 7] = [
    "free",
    "unconnected",
    "connecting",
    "connected",
    "disconnecting",
    "dgram",
    "seq_packet",
];

/// How many sockets there are of each kind and state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// TCP over IPv4, by [`TCP_STATES`].
    pub tcp: [u64; TCP_STATES.len()],
    /// TCP over IPv6, by [`TCP_STATES`].
    pub tcp6: [u64; TCP_STATES.len()],
    /// Unix sockets, by [`UNIX_STATES`].
    pub unix: [u64; UNIX_STATES.len()],
    /// All others.
    pub unknown: u64,
}

/// What the proc filesystem says. Texts of files that are not there are empty.
#[derive(Clone, Debug, Default)]
pub struct ProcTexts {
    /// The inodes of this process's sockets.
    pub inodes: HashSet<u64>,
    /// `net/tcp`
    pub tcp: String,
    /// `net/tcp6`
    pub tcp6: String,
    /// `net/unix`
    pub unix: String,
}

impl Sockets {
    /// Counts.
    pub fn count(mut texts: ProcTexts) -> Self {
        let mut sockets = Self::default();
        let inodes = &mut texts.inodes;
        for (text, counts) in [
            (&texts.tcp, &mut sockets.tcp),
            (&texts.tcp6, &mut sockets.tcp6),
        ] {
            for line in text.lines().skip(1) {
                let fields: Vec<_> = line.split_ascii_whitespace().collect();
                let state = fields
                    .get(3)
                    .and_then(|hex| usize::from_str_radix(hex, 16).ok());
                let inode = fields.get(9).and_then(|text| text.parse().ok());
                let place = state.and_then(|state| counts.get_mut(state.wrapping_sub(1)));
                if let (Some(inode), Some(place)) = (inode, place)
                    && inodes.remove(&inode)
                {
                    *place += 1;
                }
            }
        }
        for line in texts.unix.lines().skip(1) {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            let number = |at: usize| {
                let text = fields.get(at)?;
                usize::from_str_radix(text, 16).ok()
            };
            let inode = fields.get(6).and_then(|text| text.parse().ok());
            let (Some(kind), Some(state), Some(inode)) = (number(4), number(5), inode) else {
                continue;
            };
            let place = match kind {
                2 => 5,
                5 => 6,
                _ => state,
            };
            if let Some(place) = sockets.unix.get_mut(place)
                && inodes.remove(&inode)
            {
                *place += 1;
            }
        }
        sockets.unknown = inodes.len() as u64;
        sockets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_this_process_are_counted_by_state() {
        let texts = ProcTexts {
            inodes: [11, 12, 13, 14, 15].into(),
            tcp: "  sl  local_address rem_address   st\n\
                 0: 0100007F:1920 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 11 1\n\
                 1: 0100007F:1920 0100007F:9999 01 00000000:00000000 00:00000000 00000000 0 0 12 1\n\
                 2: 0100007F:1920 0100007F:9998 01 00000000:00000000 00:00000000 00000000 0 0 99 1\n\
                 nonsense\n"
                .to_owned(),
            tcp6: String::new(),
            unix: "Num RefCount Protocol Flags Type St Inode Path\n\
                 ffff: 00000003 00000000 00000000 0001 03 13 /run/x\n\
                 ffff: 00000003 00000000 00000000 0002 01 14\n"
                .to_owned(),
        };
        let sockets = Sockets::count(texts);
        assert_eq!((sockets.tcp[9], sockets.tcp[0]), (1, 1));
        assert_eq!((sockets.unix[3], sockets.unix[5]), (1, 1));
        assert_eq!((sockets.tcp6, sockets.unknown), ([0; 13], 1));
    }
}
