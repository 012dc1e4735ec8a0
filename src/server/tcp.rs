//! Options of TCP sockets: of listening ones, whose clients inherit them, and of those to servers.
//!
//! **Owns:** setting them, and what is said if the system refuses one.
//! **Does not own:** the sockets.
//! **Invariant:** an option that is refused stops nobody; it is told once for each value.
//!
//! Source: `tcp(7)`, `socket(7)`.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shards::Socket;
use socket2::{Domain, TcpKeepalive, Type};

use crate::config::General;

/// Refusals that are remembered.
const TOLD_MAX: usize = 100;

/// The options. Zero of a time or count of keepalive leaves the system's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// `TCP_NODELAY`.
    pub no_delay: bool,
    /// Idle time before the first keepalive probe.
    pub keepalive_idle: Duration,
    /// Time between keepalive probes.
    pub keepalive_interval: Duration,
    /// Number of keepalive probes.
    pub keepalive_count: u32,
    /// `SO_LINGER`; `None` = the system closes in the background.
    pub linger: Option<Duration>,
    /// `TCP_USER_TIMEOUT`; zero = the system's default.
    pub user_timeout: Duration,
}

impl TcpOptions {
    /// Those of the settings.
    pub const fn of(general: &General) -> Self {
        Self {
            no_delay: general.tcp_no_delay,
            keepalive_idle: general.tcp_keepalives_idle,
            keepalive_interval: general.tcp_keepalives_interval,
            keepalive_count: general.tcp_keepalives_count,
            linger: Some(general.tcp_so_linger),
            user_timeout: general.tcp_user_timeout,
        }
    }

    /// Sets them on a new socket.
    pub fn set_on(&self, socket: &Socket) {
        let keepalive = TcpKeepalive::new;
        let (idle, interval) = (self.keepalive_idle, self.keepalive_interval);
        let retries = self.keepalive_count;
        let timeout = (!self.user_timeout.is_zero()).then_some(self.user_timeout);
        tell(
            "tcp_no_delay",
            u128::from(self.no_delay),
            socket.set_tcp_nodelay(self.no_delay),
        );
        tell("SO_KEEPALIVE", 1, socket.set_keepalive(true));
        if !idle.is_zero() {
            let outcome = socket.set_tcp_keepalive(&keepalive().with_time(idle));
            tell("tcp_keepalives_idle", seconds(idle), outcome);
        }
        if !interval.is_zero() {
            let outcome = socket.set_tcp_keepalive(&keepalive().with_interval(interval));
            tell("tcp_keepalives_interval", seconds(interval), outcome);
        }
        if retries > 0 {
            let outcome = socket.set_tcp_keepalive(&keepalive().with_retries(retries));
            tell("tcp_keepalives_count", retries.into(), outcome);
        }
        if let Some(linger) = self.linger {
            let outcome = socket.set_linger(Some(linger));
            tell("tcp_so_linger", seconds(linger), outcome);
        }
        tell(
            "tcp_user_timeout",
            seconds(self.user_timeout),
            socket.set_tcp_user_timeout(timeout),
        );
    }

    /// Sets them on a listening socket that has had others. Sockets that are not TCP stay as they are.
    pub fn renew_on(&self, socket: &Socket) {
        match socket.domain() {
            Ok(Domain::UNIX) => {}
            Ok(domain) => self.or_of_system(domain).unwrap_or(*self).set_on(socket),
            Err(error) => tell("SO_DOMAIN", 0, Err(error)),
        }
    }

    /// With the system's values, which a new socket has, in the place of zeros.
    fn or_of_system(&self, domain: Domain) -> io::Result<Self> {
        let fresh = Socket::new(domain, Type::STREAM, None)?;
        let mut whole = *self;
        if whole.keepalive_idle.is_zero() {
            whole.keepalive_idle = fresh.tcp_keepalive_time()?;
        }
        if whole.keepalive_interval.is_zero() {
            whole.keepalive_interval = fresh.tcp_keepalive_interval()?;
        }
        if whole.keepalive_count == 0 {
            whole.keepalive_count = fresh.tcp_keepalive_retries()?;
        }
        Ok(whole)
    }
}

fn seconds(time: Duration) -> u128 {
    time.as_secs().into()
}

static TOLD: Mutex<BTreeSet<(&str, u128)>> = Mutex::new(BTreeSet::new());

/// Says that an option was refused, unless the same has been said before.
fn tell(option: &'static str, value: u128, outcome: io::Result<()>) {
    let Err(error) = outcome else { return };
    // Whoever panicked has left no half-done work there.
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.len() < TOLD_MAX && told.insert((option, value)) {
        tracing::error!(option, %value, %error, "a socket does not take an option, goes on without");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> Socket {
        Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()
    }

    #[test]
    fn options_are_set() {
        let (one, second) = (socket(), Duration::from_secs(1));
        TcpOptions {
            no_delay: true,
            keepalive_idle: 2 * second,
            keepalive_interval: 3 * second,
            keepalive_count: 4,
            linger: Some(5 * second),
            user_timeout: 6 * second,
        }
        .set_on(&one);
        assert!(one.tcp_nodelay().unwrap() && one.keepalive().unwrap());
        assert_eq!(one.tcp_keepalive_time().unwrap(), 2 * second);
        assert_eq!(one.tcp_keepalive_interval().unwrap(), 3 * second);
        assert_eq!(one.tcp_keepalive_retries().unwrap(), 4);
        assert_eq!(one.linger().unwrap(), Some(5 * second));
        assert_eq!(one.tcp_user_timeout().unwrap(), Some(6 * second));
    }

    #[test]
    fn zeros_and_refused_values_leave_the_systems() {
        let (fresh, one, other) = (socket(), socket(), socket());
        let count = fresh.tcp_keepalive_retries().unwrap();
        let time = fresh.tcp_keepalive_time().unwrap();
        TcpOptions::default().set_on(&one);
        let long = Duration::from_secs(u64::MAX);
        let options = TcpOptions {
            no_delay: true,
            keepalive_idle: long,
            keepalive_interval: long,
            keepalive_count: u32::MAX,
            linger: Some(Duration::ZERO),
            user_timeout: long,
        };
        options.set_on(&other);
        options.set_on(&other);
        for socket in [&one, &other] {
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), count);
            assert_eq!(socket.tcp_keepalive_time().unwrap(), time);
        }
        assert!(other.tcp_nodelay().unwrap(), "the others are set");
        assert_eq!(other.linger().unwrap(), Some(Duration::ZERO));
    }

    #[test]
    fn renewing_takes_former_values_away() {
        let (fresh, one) = (socket(), socket());
        let options = TcpOptions {
            keepalive_idle: Duration::from_secs(7),
            user_timeout: Duration::from_secs(7),
            ..TcpOptions::default()
        };
        options.set_on(&one);
        TcpOptions::default().renew_on(&one);
        let time = fresh.tcp_keepalive_time().unwrap();
        assert_eq!(one.tcp_keepalive_time().unwrap(), time);
        assert_eq!(one.tcp_user_timeout().unwrap(), None);
        let unix = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        options.renew_on(&unix);
        assert!(!unix.keepalive().unwrap());
    }
}
