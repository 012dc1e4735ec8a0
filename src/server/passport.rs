//! A server connection as bytes: how it goes to another process.
//!
//! **Owns:** the form of a [`ServerRecord`] in messages between two processes, and when two pools reach the
//! same server in the same way.
//! **Does not own:** the messages (`upgrade`), who sends what when (`app::succession`), which connections may
//! go (`pool`).
//!
//! Times travel as ages. The socket goes along as a descriptor; an encrypted connection does not travel.
//!
//! **Invariants**
//! 1. What is written is read back as it was; what is malformed is refused as a whole.
//! 2. The form changes only together with [`crate::upgrade::frame::VERSION`].
//! 3. A statement is said to be current only if a Parse of its text would mean the same at that moment.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::transport::Detached;
use crate::upgrade::bytes::{Malformed, Reader, Writer};

use super::card::ServerTally;
use super::connection::{Login, Socket, framer};
use super::detach::Travelling;
use super::parameters::ParameterSet;
use super::quota::Right;
use super::statements::Statements;
use super::statements::text::Key;

/// Tells pools apart; see [`mark`].
pub type Mark = u64;

/// A server connection that belongs to no process at the moment.
#[derive(Debug)]
pub struct ServerRecord {
    /// The database that clients ask for.
    pub database: Box<str>,
    /// The user that they log in as.
    pub user: Box<str>,
    /// Where it leads; see [`mark`].
    pub mark: Mark,
    /// The socket and what has arrived on it.
    pub detached: Detached,
    /// The parameters that the server reported at login.
    pub base: ParameterSet,
    /// The settings that were made beyond them.
    pub applied: ParameterSet,
    /// The session has an unnamed statement of some client.
    pub has_unnamed: bool,
    /// Its prepared statements, oldest first, and whether each is current.
    pub statements: Vec<(Key, bool)>,
    /// Process id and secret for cancel requests.
    pub key: Option<(i32, Box<[u8]>)>,
    /// The address that it is connected to, for cancel requests; none on a Unix socket.
    pub peer: Option<std::net::SocketAddr>,
    /// What it has done.
    pub tally: ServerTally,
    /// When it was opened.
    pub born: Instant,
    /// When it is to be replaced.
    pub expires: Option<Instant>,
}

/// What has to be the same of two pools so that a connection of one may be used by the other: where it leads,
/// as whom, and under which name.
pub fn mark(socket: &Socket, login: &Login) -> Mark {
    let Login {
        user,
        database,
        application_name,
        source: _,
    } = login;
    let text = format!(
        "{:?} {:?} {user:?} {database:?} {application_name:?}",
        socket.endpoint,
        socket.security.mode()
    );
    // FNV-1a.
    text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl ServerRecord {
    /// The connection of a pool, whose database has changed `generation` times. `None` if it cannot travel:
    /// it is encrypted, or not all of it is known.
    pub fn new(
        (database, user, mark): (&str, &str, Mark),
        travelling: Travelling,
        generation: u32,
    ) -> Option<Self> {
        if travelling.detached.tls.is_some() || !travelling.framer.is_at_boundary() {
            return None;
        }
        Some(Self {
            database: database.into(),
            user: user.into(),
            mark,
            statements: travelling.statements.to_travel(generation)?,
            detached: travelling.detached,
            base: travelling.base,
            applied: travelling.applied,
            has_unnamed: travelling.has_unnamed,
            key: travelling.key,
            peer: travelling.peer,
            tally: travelling.tally,
            born: travelling.born,
            expires: travelling.expires,
        })
    }

    /// The connection on its way to a pool of this process, with the right to have it.
    pub fn into_travelling(self, right: Right) -> Travelling {
        Travelling {
            detached: self.detached,
            right,
            framer: framer(),
            base: self.base,
            applied: self.applied,
            has_unnamed: self.has_unnamed,
            statements: Statements::arrived(&self.statements),
            key: self.key,
            peer: self.peer,
            tally: self.tally,
            born: self.born,
            expires: self.expires,
        }
    }

    /// The bytes, and the socket.
    pub fn write(self, now: Instant) -> (Vec<u8>, OwnedFd) {
        let mut out = Writer::default();
        out.text(&self.database);
        out.text(&self.user);
        out.u64(self.mark);
        out.bytes(&self.detached.unread);
        write_set(&mut out, &self.base);
        write_set(&mut out, &self.applied);
        out.flag(self.has_unnamed);
        out.u32(self.statements.len() as u32);
        for (key, is_current) in &self.statements {
            out.u128(*key);
            out.flag(*is_current);
        }
        out.flag(self.key.is_some());
        if let Some((pid, secret)) = &self.key {
            out.u32(pid.cast_unsigned());
            out.bytes(secret);
        }
        let peer = self.peer.map(|peer| peer.to_string());
        out.text(&peer.unwrap_or_default());
        let tally = self.tally;
        out.u32(tally.id);
        for count in counts(&tally) {
            out.u64(count);
        }
        out.u64(now.saturating_duration_since(self.born).as_millis() as u64);
        out.flag(self.expires.is_some());
        let left = self.expires.map(|at| at.saturating_duration_since(now));
        out.u64(left.unwrap_or_default().as_millis() as u64);
        (out.into_bytes(), self.detached.socket)
    }

    /// The connection of these bytes and this socket.
    ///
    /// # Errors
    ///
    /// The bytes are none.
    pub fn read(bytes: &[u8], socket: OwnedFd, now: Instant) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        let (database, user) = (from.text()?.into(), from.text()?.into());
        let mark = from.u64()?;
        let detached = Detached {
            socket,
            unread: from.bytes()?.to_vec(),
            tls: None,
        };
        let (base, applied) = (read_set(&mut from)?, read_set(&mut from)?);
        let has_unnamed = from.flag()?;
        let mut statements = Vec::new();
        for _ in 0..from.u32()? {
            statements.push((from.u128()?, from.flag()?));
        }
        let key = if from.flag()? {
            Some((from.u32()?.cast_signed(), from.bytes()?.into()))
        } else {
            None
        };
        let peer = match from.text()? {
            "" => None,
            text => Some(text.parse().map_err(|_| Malformed("no address"))?),
        };
        let tally = read_tally(&mut from)?;
        let age = Duration::from_millis(from.u64()?);
        let (expires, left) = (from.flag()?, Duration::from_millis(from.u64()?));
        from.end()?;
        Ok(Self {
            database,
            user,
            mark,
            detached,
            base,
            applied,
            has_unnamed,
            statements,
            key,
            peer,
            tally,
            born: now.checked_sub(age).unwrap_or(now),
            expires: expires.then(|| now.checked_add(left).unwrap_or(now)),
        })
    }
}

const fn counts(tally: &ServerTally) -> [u64; 6] {
    [
        tally.transactions,
        tally.queries,
        tally.sent,
        tally.received,
        tally.statements_found,
        tally.statements_made,
    ]
}

fn read_tally(from: &mut Reader<'_>) -> Result<ServerTally, Malformed> {
    Ok(ServerTally {
        id: from.u32()?,
        is_tls: false,
        transactions: from.u64()?,
        queries: from.u64()?,
        sent: from.u64()?,
        received: from.u64()?,
        statements_found: from.u64()?,
        statements_made: from.u64()?,
    })
}

/// Writes a set of parameters.
pub fn write_set(out: &mut Writer, set: &ParameterSet) {
    out.u32(set.iter().count() as u32);
    for parameter in set.iter() {
        out.text(&parameter.name);
        out.text(&parameter.value);
    }
}

/// Reads a set of parameters.
///
/// # Errors
///
/// It is none.
pub fn read_set(from: &mut Reader<'_>) -> Result<ParameterSet, Malformed> {
    let mut set = ParameterSet::default();
    for _ in 0..from.u32()? {
        set.set(from.text()?, from.text()?);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;

    fn socket() -> OwnedFd {
        UnixStream::pair().unwrap().0.into()
    }

    fn record(now: Instant) -> ServerRecord {
        let mut base = ParameterSet::default();
        base.set("TimeZone", "UTC");
        ServerRecord {
            database: "db".into(),
            user: "u".into(),
            mark: 9,
            detached: Detached {
                socket: socket(),
                unread: Vec::new(),
                tls: None,
            },
            base,
            applied: ParameterSet::default(),
            has_unnamed: true,
            statements: vec![(5, true), (6, false)],
            key: Some((77, b"kkkk"[..].into())),
            peer: "10.0.0.1:5".parse().ok(),
            tally: ServerTally {
                id: 3,
                queries: 4,
                ..ServerTally::default()
            },
            born: now,
            expires: Some(now + Duration::from_secs(1)),
        }
    }

    /// All that can be compared.
    fn told(record: &ServerRecord) -> String {
        let socket = format!("{:?}", record.detached.socket);
        format!("{record:?}").replace(&socket, "")
    }

    /// A connection of version 1 of the form.
    const RECORDED: &[u8] = b"\0\0\0\x02db\0\0\0\x01u\0\0\0\0\0\0\0\x09\0\0\0\0\
        \0\0\0\x01\0\0\0\x08TimeZone\0\0\0\x03UTC\0\0\0\0\x01\
        \0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x05\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x06\0\
        \x01\0\0\0\x4d\0\0\0\x04kkkk\0\0\0\x0a10.0.0.1:5\
        \0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
        \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x03\xe8";

    #[test]
    fn a_recorded_connection_is_read_and_would_be_written_alike() {
        let now = Instant::now();
        let (bytes, _) = record(now).write(now);
        assert_eq!(bytes, RECORDED);
        let read = ServerRecord::read(RECORDED, socket(), now).unwrap();
        assert_eq!(told(&read), told(&record(now)));
    }

    #[test]
    fn statements_of_a_server_are_the_same_behind_a_journey() {
        let list = [(1, true), (2, false), (3, true)];
        let arrived = Statements::arrived(&list);
        assert_eq!(arrived.count(), 3);
        assert_eq!(arrived.to_travel(0), Some(list.to_vec()));
        let changed = [(1, false), (2, false), (3, false)];
        assert_eq!(arrived.to_travel(1), Some(changed.to_vec()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_written_is_read_back_and_no_part_of_it_is(
            (unread, has_unnamed) in any::<(Vec<u8>, bool)>(),
            (database, user) in any::<(String, String)>(),
            pairs: Vec<(String, String)>,
            statements: Vec<(u128, bool)>,
            key: Option<(i32, Vec<u8>)>,
            numbers: [u64; 6],
        ) {
            let now = Instant::now() + Duration::from_secs(3600);
            let make = || {
                let mut made = record(now);
                made.detached.unread.clone_from(&unread);
                (made.database, made.user) = (database.clone().into(), user.clone().into());
                for (name, value) in &pairs {
                    made.applied.set(name, value);
                }
                made.has_unnamed = has_unnamed;
                made.statements.clone_from(&statements);
                made.key = key.clone().map(|(pid, secret)| (pid, secret.into()));
                [made.tally.transactions, made.tally.queries, made.tally.sent, ..] = numbers;
                made.born = now.checked_sub(Duration::from_millis(numbers[3] % 3_600_000)).unwrap();
                made.expires = None;
                made
            };
            let (bytes, descriptor) = make().write(now);
            let back = ServerRecord::read(&bytes, descriptor, now).unwrap();
            prop_assert_eq!(told(&back), told(&make()));
            for end in (0..bytes.len()).step_by(bytes.len() / 50 + 1) {
                prop_assert!(ServerRecord::read(&bytes[..end], socket(), now).is_err());
            }
        }
    }
}
