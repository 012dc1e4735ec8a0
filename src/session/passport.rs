//! A session as bytes: how it goes to another process.
//!
//! **Owns:** the form of a [`SessionRecord`] in messages between two processes.
//! **Does not own:** the messages (`upgrade`), who sends what when (`app::succession`).
//!
//! Times travel as ages, because clocks of two processes have different beginnings. The client's socket
//! goes along as a descriptor; a session that is encrypted does not travel as such: the old process keeps
//! the encryption, and what travels is the end of a pair of sockets (`app::succession::departure`).
//!
//! **Invariants**
//! 1. What is written is read back as it was; what is malformed is refused as a whole.
//! 2. The form changes only together with [`crate::upgrade::frame::VERSION`].

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::metrics::Fleet;
use crate::protocol::cancel_key::{CancelKey, CancelSecret};
use crate::server::passport::{read_set, write_set};
use crate::server::statements::shape::Shape;
use crate::transport::Detached;
use crate::upgrade::bytes::{Malformed, Reader, Writer};

use super::card::ClientTally;
use super::prepared::Definition;
use super::registry::Identity;
use super::resume::SessionRecord;
use super::shard::Connection;

/// Tells times of this process to another one, and the other way round.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Has the beginning of this process's times.
    pub fleet: Fleet,
    /// The time.
    pub now: Instant,
}

impl Clock {
    fn age_of(&self, at: Instant) -> u64 {
        self.now.saturating_duration_since(at).as_millis() as u64
    }

    fn at_age(&self, age_ms: u64) -> Instant {
        let age = Duration::from_millis(age_ms);
        self.now.checked_sub(age).unwrap_or(self.now)
    }

    /// The age of a time of [`Fleet::micros`] plus one; zero stays zero.
    fn since(&self, at_us: u64) -> u64 {
        if at_us == 0 {
            return 0;
        }
        self.fleet.micros(self.now).saturating_sub(at_us) + 1
    }

    /// The opposite. What began before this process did began with it.
    fn at_since(&self, since: u64) -> u64 {
        if since == 0 {
            return 0;
        }
        let age = since - 1;
        self.fleet.micros(self.now).saturating_sub(age).max(1)
    }
}

/// The bytes of a session, its socket, and its place among the connections of this process.
pub fn write(record: SessionRecord, clock: &Clock) -> (Vec<u8>, OwnedFd, Connection) {
    let mut out = Writer::default();
    out.bytes(&record.detached.unread);
    out.text(&record.database);
    out.text(&record.user);
    write_set(&mut out, &record.asked);
    write_set(&mut out, &record.wanted);
    out.flag(record.has_begun);
    out.u32(record.statements.len() as u32);
    for statement in &record.statements {
        out.bytes(&statement.name);
        out.bytes(&statement.text);
        out.u128(statement.key);
        out.u32(statement.told.digest());
    }
    out.flag(record.base.is_some());
    if let Some(base) = &record.base {
        write_set(&mut out, base);
    }
    let Identity { key, life, moves } = record.identity;
    write_key(&mut out, &key);
    out.u16(life);
    out.u16(moves);
    write_tally(&mut out, &record.tally, clock);
    (out.into_bytes(), record.detached.socket, record.connection)
}

/// The session of these bytes and this socket, which is `connection` among those of this process.
///
/// # Errors
///
/// The bytes are no session.
pub fn read(
    bytes: &[u8],
    socket: OwnedFd,
    connection: Connection,
    clock: &Clock,
) -> Result<SessionRecord, Malformed> {
    let mut from = Reader::new(bytes);
    let detached = Detached {
        socket,
        unread: from.bytes()?.to_vec(),
        tls: None,
    };
    let (database, user) = (from.text()?.into(), from.text()?.into());
    let (asked, wanted) = (read_set(&mut from)?, read_set(&mut from)?);
    let has_begun = from.flag()?;
    let mut statements = Vec::new();
    for _ in 0..from.u32()? {
        statements.push(Definition {
            name: from.bytes()?.into(),
            text: from.bytes()?.into(),
            key: from.u128()?,
            told: Shape::from_digest(from.u32()?),
        });
    }
    let base = if from.flag()? {
        Some(read_set(&mut from)?)
    } else {
        None
    };
    let identity = Identity {
        key: read_key(&mut from)?,
        life: from.u16()?,
        moves: from.u16()?,
    };
    let tally = read_tally(&mut from, clock)?;
    from.end()?;
    Ok(SessionRecord {
        detached,
        database,
        user,
        asked,
        wanted,
        has_begun,
        statements,
        base,
        identity,
        tally,
        connection,
    })
}

/// Writes a cancel key.
pub fn write_key(out: &mut Writer, key: &CancelKey) {
    out.u8(key.generation);
    out.u16(key.shard);
    out.u32(key.slot);
    out.bytes(key.secret.as_bytes());
}

/// Reads a cancel key.
///
/// # Errors
///
/// It is none.
pub fn read_key(from: &mut Reader<'_>) -> Result<CancelKey, Malformed> {
    Ok(CancelKey {
        generation: from.u8()?,
        shard: from.u16()?,
        slot: from.u32()?,
        secret: CancelSecret::from_bytes(from.bytes()?).ok_or(Malformed("no secret"))?,
    })
}

fn write_tally(out: &mut Writer, tally: &ClientTally, clock: &Clock) {
    out.u32(tally.id);
    let peer = tally.peer.map(|peer| peer.to_string());
    out.text(&peer.unwrap_or_default());
    out.u64(clock.age_of(tally.born));
    out.u64(tally.transactions);
    out.u64(tally.queries);
    out.u64(tally.errors);
    out.flag(tally.flushes);
    out.u64(clock.since(tally.rests_since));
    out.u64(clock.since(tally.begun_since));
    out.flag(tally.is_tls);
}

fn read_tally(from: &mut Reader<'_>, clock: &Clock) -> Result<ClientTally, Malformed> {
    let id = from.u32()?;
    let peer = match from.text()? {
        "" => None,
        text => Some(text.parse().map_err(|_| Malformed("no address"))?),
    };
    let born = clock.at_age(from.u64()?);
    Ok(ClientTally {
        transactions: from.u64()?,
        queries: from.u64()?,
        errors: from.u64()?,
        flushes: from.flag()?,
        rests_since: clock.at_since(from.u64()?),
        begun_since: clock.at_since(from.u64()?),
        is_tls: from.flag()?,
        ..ClientTally::new(id, peer, born)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::super::shard::Connections;
    use super::*;
    use crate::server::parameters::ParameterSet;

    fn clock() -> Clock {
        let fleet = Fleet::new(1);
        let now = Instant::now() + Duration::from_secs(3600);
        Clock { fleet, now }
    }

    fn socket() -> OwnedFd {
        UnixStream::pair().unwrap().0.into()
    }

    fn connection() -> Connection {
        Connections::default().open(1).unwrap()
    }

    fn set(pairs: &[(String, String)]) -> ParameterSet {
        let mut set = ParameterSet::default();
        for (name, value) in pairs {
            set.set(name, value);
        }
        set
    }

    /// All that can be compared.
    fn told(record: &SessionRecord) -> String {
        let SessionRecord {
            detached,
            connection: _,
            ..
        } = record;
        let rest = (
            &record.database,
            &record.user,
            &record.asked,
            &record.wanted,
        );
        let statements = (&record.statements, &record.base, record.has_begun);
        let secret = record.identity.key.secret.as_bytes();
        let who = (record.identity, secret, record.tally, &detached.unread);
        format!("{rest:?} {statements:?} {who:?}")
    }

    fn record(clock: &Clock) -> SessionRecord {
        let pairs = [("DateStyle".to_owned(), "ISO".to_owned())];
        SessionRecord {
            detached: Detached {
                socket: socket(),
                unread: b"Q\0".to_vec(),
                tls: None,
            },
            database: "db".into(),
            user: "u".into(),
            asked: set(&pairs),
            wanted: ParameterSet::default(),
            has_begun: true,
            statements: vec![Definition {
                name: b"s"[..].into(),
                text: b"select 1\0\0\0"[..].into(),
                key: 5,
                told: Shape::NOTHING,
            }],
            base: None,
            identity: Identity {
                key: CancelKey {
                    generation: 1,
                    shard: 2,
                    slot: 3,
                    secret: CancelSecret::Short(*b"kkkk"),
                },
                life: 4,
                moves: 6,
            },
            tally: ClientTally {
                queries: 9,
                ..ClientTally::new(7, "10.0.0.1:5".parse().ok(), clock.now)
            },
            connection: connection(),
        }
    }

    /// A session of version 1 of the form.
    const RECORDED: &[u8] = b"\0\0\0\x02Q\0\0\0\0\x02db\0\0\0\x01u\
        \0\0\0\x01\0\0\0\x09DateStyle\0\0\0\x03ISO\0\0\0\0\x01\
        \0\0\0\x01\0\0\0\x01s\0\0\0\x0bselect 1\0\0\0\
        \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x05\0\0\0\x01\
        \0\x01\0\x02\0\0\0\x03\0\0\0\x04kkkk\0\x04\0\x06\
        \0\0\0\x07\0\0\0\x0a10.0.0.1:5\0\0\0\0\0\0\0\0\
        \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\0\0\
        \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

    #[test]
    fn a_recorded_session_is_read_and_would_be_written_alike() {
        let clock = clock();
        let (bytes, _, _) = write(record(&clock), &clock);
        assert_eq!(bytes, RECORDED);
        let read = read(RECORDED, socket(), connection(), &clock).unwrap();
        assert_eq!(told(&read), told(&record(&clock)));
    }

    #[test]
    fn times_travel_as_ages() {
        let (here, there) = (clock(), clock());
        let at = there.at_since(here.since(here.fleet.micros(here.now) - 5_000_000));
        assert_eq!(at, there.fleet.micros(there.now) - 5_000_000);
        assert_eq!(there.at_since(here.since(0)), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_written_is_read_back_and_no_part_of_it_is(
            (unread, long_secret, has_begun) in any::<(Vec<u8>, Option<[u8; 32]>, bool)>(),
            (database, user) in any::<(String, String)>(),
            pairs: Vec<(String, String)>,
            statements: Vec<(Vec<u8>, Vec<u8>, u128, u32)>,
            numbers: (u32, u64, u64, u64),
        ) {
            let clock = clock();
            let make = || {
                let mut made = record(&clock);
                made.detached.unread.clone_from(&unread);
                (made.database, made.user) = (database.clone().into(), user.clone().into());
                (made.asked, made.base) = (set(&pairs), Some(set(&pairs)));
                made.has_begun = has_begun;
                let define = |(name, text, key, told): &(Vec<u8>, Vec<u8>, u128, u32)| Definition {
                    name: name.clone().into(),
                    text: text.clone().into(),
                    key: *key,
                    told: Shape::from_digest(*told),
                };
                made.statements = statements.iter().map(define).collect();
                if let Some(secret) = long_secret {
                    made.identity.key.secret = CancelSecret::Long(secret);
                }
                made.tally.id = numbers.0;
                (made.tally.transactions, made.tally.queries) = (numbers.1, numbers.2);
                made.tally.errors = numbers.3;
                made
            };
            let (bytes, descriptor, _) = write(make(), &clock);
            let back = read(&bytes, descriptor, connection(), &clock).unwrap();
            prop_assert_eq!(told(&back), told(&make()));
            for end in (0..bytes.len()).step_by(bytes.len() / 50 + 1) {
                prop_assert!(read(&bytes[..end], socket(), connection(), &clock).is_err());
            }
        }
    }
}
