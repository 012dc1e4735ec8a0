//! Where clients can connect: addresses of TCP and a Unix-domain socket.
//!
//! **Owns:** which addresses there are, whether they are free, the sockets for all shards, the socket
//! file.
//! **Does not own:** accepting (`hand_over`), who may log in (`session::login`).
//!
//! Of each TCP address every shard has a socket (`SO_REUSEPORT`), and the kernel spreads clients. A
//! Unix address has one socket, of which every shard has a descriptor: the kernel wakes one of them
//! for each client, and `hand_over` evens out what comes of it.
//!
//! **Invariants**
//! 1. A socket file is removed only if nobody answers on it, or if it is our own.
//! 2. Nobody can connect to the socket file before it has its rights: it is bound, given them, and
//!    listens then.
//!
//! Source: `ipv6(7)` for `IPV6_V6ONLY`, `unix(7)`, `connect(2)`.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use shards::{Families, Socket, bind_tcp, bind_unix};
use socket2::{Domain, SockAddr, Type};

use crate::admin::Listening;
use crate::config::General;
use crate::config::listening::hosts;
use crate::server::TcpOptions;

/// Where clients can connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    tcp: Vec<SocketAddr>,
    families: Families,
    unix: Option<PathBuf>,
}

/// Why a place cannot be used: what was tried, and what came of it.
#[derive(Debug)]
pub(super) struct Unusable {
    /// In words, for the operator.
    pub(super) what: String,
    /// What the system says.
    pub(super) error: io::Error,
}

/// The sockets of all places.
#[derive(Debug)]
pub(super) struct Opened {
    /// Those of each shard.
    pub(super) of_shards: Vec<Vec<Socket>>,
    /// All of them once, each with its place.
    pub(super) all: Vec<(String, Socket)>,
    /// Removes the socket file when dropped.
    pub(super) file: Option<SocketFile>,
}

impl Places {
    /// The places that the settings name; names are looked up.
    pub(super) fn of(general: &General) -> Result<Self, Unusable> {
        let mut tcp = Vec::new();
        for host in hosts(&general.host) {
            let address = resolve(host, general.port).map_err(|error| Unusable {
                what: format!("cannot resolve {host}"),
                error,
            })?;
            if !tcp.contains(&address) {
                tcp.push(address);
            }
        }
        let directory = general.unix_socket_dir.as_ref();
        let families = if tcp.iter().any(SocketAddr::is_ipv4) {
            Families::Own
        } else {
            Families::Both
        };
        Ok(Self {
            tcp,
            families,
            unix: directory.map(|directory| directory.join(format!(".s.PGSQL.{}", general.port))),
        })
    }

    /// Finds out whether another process listens there. The shards share an address among themselves
    /// (`SO_REUSEPORT`), and would share it with a stranger of the same user just as well.
    /// What is inherited is not looked at.
    pub(super) fn check_free(&self, inherited: &[(String, Socket)]) -> Result<(), Unusable> {
        let is_new = |place: &str| !inherited.iter().any(|(known, _)| *known == place);
        for address in &self.tcp {
            if is_new(&address.to_string()) {
                try_to_bind(*address, self.families).map_err(|error| unusable(address, error))?;
            }
        }
        if let Some(path) = &self.unix
            && is_new(&unix_place(path))
        {
            remove_stale(path).map_err(|error| unusable(&path.display(), error))?;
        }
        Ok(())
    }

    /// Listens everywhere, for `shards` shards: on the sockets of another process where there are some,
    /// however many it had of a place.
    pub(super) fn open(
        &self,
        shards: usize,
        general: &General,
        mut inherited: Vec<(String, Socket)>,
    ) -> Result<Opened, Unusable> {
        let mut of_shards: Vec<Vec<Socket>> = (0..shards).map(|_| Vec::new()).collect();
        let mut all = Vec::new();
        for address in &self.tcp {
            let failed = |error| unusable(address, error);
            let place = address.to_string();
            let mut sockets = take(&mut inherited, &place);
            while sockets.len() < shards {
                let more = listen_more(general, *address, self.families, sockets.first());
                sockets.push(more.map_err(failed)?);
            }
            for (number, socket) in sockets.into_iter().enumerate() {
                let accepted_on = socket.try_clone().map_err(failed)?;
                of_shards[number % shards].push(accepted_on);
                all.push((place.clone(), socket));
            }
        }
        let mut file = None;
        if let Some(path) = &self.unix {
            let failed = |error| unusable(&path.display(), error);
            let place = unix_place(path);
            let (socket, bound) = match take(&mut inherited, &place).pop() {
                Some(socket) => (socket, SocketFile::new(path).map_err(failed)?),
                None => listen_unix(general, path).map_err(failed)?,
            };
            file = Some(bound);
            for sockets in &mut of_shards {
                sockets.push(socket.try_clone().map_err(failed)?);
            }
            all.push((place, socket));
        }
        for (place, _) in inherited {
            tracing::warn!(place, "not listened on any more");
        }
        Ok(Opened {
            of_shards,
            all,
            file,
        })
    }

    /// The first TCP address, as a place.
    pub(super) fn first_tcp(&self) -> Option<String> {
        self.tcp.first().map(ToString::to_string)
    }

    /// The place of a socket that somebody else has bound: that of its address, or else the one that has its
    /// port.
    pub(super) fn of_address(&self, bound: SocketAddr) -> Option<String> {
        let exact = self.tcp.iter().find(|address| **address == bound);
        let same_port = || self.tcp.iter().find(|it| it.port() == bound.port());
        exact.or_else(same_port).map(ToString::to_string)
    }

    /// The same for a socket file.
    pub(super) fn of_file(&self, bound: &Path) -> Option<String> {
        let own = self.unix.as_deref().map(unix_place);
        own.filter(|place| *place == unix_place(bound))
    }

    /// As the console shows them.
    pub(super) fn told(&self) -> Vec<Listening> {
        let is_dual = |address: &SocketAddr| {
            self.families == Families::Both && address.ip() == Ipv6Addr::UNSPECIFIED
        };
        let of_tcp = |address: &SocketAddr| Listening {
            address: address.ip().to_string(),
            port: address.port(),
            family: match address {
                SocketAddr::V4(_) => "ipv4",
                SocketAddr::V6(_) if is_dual(address) => "ipv6, ipv4",
                SocketAddr::V6(_) => "ipv6",
            },
        };
        let of_unix = |path: &PathBuf| Listening {
            address: path.display().to_string(),
            port: path
                .extension()
                .and_then(|port| port.to_str()?.parse().ok())
                .unwrap_or_default(),
            family: "unix",
        };
        let tcp = self.tcp.iter().map(of_tcp);
        tcp.chain(self.unix.iter().map(of_unix)).collect()
    }
}

/// What a socket file is called among places.
fn unix_place(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    format!("unix:{}", path.display())
}

/// The sockets of a place.
fn take(sockets: &mut Vec<(String, Socket)>, place: &str) -> Vec<Socket> {
    let found = sockets.extract_if(.., |(known, _)| *known == place);
    found.map(|(_, socket)| socket).collect()
}

/// One more socket for an address. One that was inherited may not share its address; then it serves
/// several shards.
fn listen_more(
    general: &General,
    address: SocketAddr,
    families: Families,
    inherited: Option<&Socket>,
) -> io::Result<Socket> {
    match (listen_tcp(general, address, families), inherited) {
        (Err(_), Some(socket)) => socket.try_clone(),
        (opened, _) => opened,
    }
}

fn unusable(place: &impl std::fmt::Display, error: io::Error) -> Unusable {
    Unusable {
        what: format!("cannot listen on {place}"),
        error,
    }
}

/// An address, a name, or `*`: everywhere.
fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    if host == "*" {
        let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        // A machine without IPv6 has it without any.
        let has_v6 = Socket::new(Domain::IPV6, Type::STREAM, None)
            .and_then(|socket| socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()));
        let only_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        return Ok(has_v6.map_or(only_v4, |()| everywhere));
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = bare.unwrap_or(host);
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok((ip, port).into());
    }
    let first = (host, port).to_socket_addrs()?.next();
    first.ok_or_else(|| io::Error::other("the name has no address"))
}

fn try_to_bind(address: SocketAddr, families: Families) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(families == Families::Own)?;
    }
    socket.bind(&address.into())
}

/// A listening socket whose options every accepted socket inherits.
fn listen_tcp(general: &General, address: SocketAddr, families: Families) -> io::Result<Socket> {
    let socket = bind_tcp(address, families)?;
    TcpOptions::of(general).set_on(&socket);
    socket.listen(backlog(general))?;
    Ok(socket)
}

fn backlog(general: &General) -> i32 {
    if general.backlog == 0 {
        general.max_connections.min(i32::MAX as u64) as i32
    } else {
        i32::try_from(general.backlog).unwrap_or(i32::MAX)
    }
}

/// Removes a socket file on which nobody answers.
fn remove_stale(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::other("there is a file that is not a socket"));
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Somebody whose queue is full must not keep us waiting.
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        Ok(()) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn listen_unix(general: &General, path: &Path) -> io::Result<(Socket, SocketFile)> {
    let socket = bind_unix(path)?;
    let file = SocketFile::new(path)?;
    let rights = fs::Permissions::from_mode(general.unix_socket_mode);
    fs::set_permissions(path, rights)?;
    socket.listen(backlog(general))?;
    Ok((socket, file))
}

/// The file of a Unix-domain socket. Removed when dropped, unless another process has put its own in
/// the place meanwhile.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        // From the root: the directory of the process may change.
        let path = std::path::absolute(path)?;
        let identity = identity(&path)?;
        Ok(Self { path, identity })
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

impl SocketFile {
    /// Another process has the socket.
    pub(super) fn leave(mut self) {
        self.identity = (0, 0);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the socket file stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let name = format!("pg_doorman-listen-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn addresses_are_written_in_several_ways() {
        let resolved = |host| resolve(host, 7).unwrap().to_string();
        assert_eq!(resolved("10.0.0.1"), "10.0.0.1:7");
        assert_eq!(resolved("::1"), "[::1]:7");
        assert_eq!(resolved("[::]"), "[::]:7");
        assert!(["[::]:7", "0.0.0.0:7"].contains(&&*resolved("*")));
        assert!(resolve("localhost", 7).unwrap().ip().is_loopback());
    }

    #[test]
    fn a_file_is_removed_only_if_nobody_answers() {
        let directory = directory("stale");
        let path = directory.join("s");
        remove_stale(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let error = remove_stale(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(path.exists());
        remove_stale(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(remove_stale(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn the_file_of_a_successor_stays() {
        let directory = directory("successor");
        let path = directory.join("s");
        let _ours = UnixListener::bind(&path).unwrap();
        let file = SocketFile::new(&path).unwrap();
        fs::remove_file(&path).unwrap();
        // Held, so that its number is not given out again at once.
        let _theirs = (
            fs::write(directory.join("other"), ""),
            UnixListener::bind(&path),
        );
        drop(file);
        assert!(path.exists());
        drop(SocketFile::new(&path).unwrap());
        assert!(!path.exists());
        fs::remove_dir_all(directory).unwrap();
    }
}
