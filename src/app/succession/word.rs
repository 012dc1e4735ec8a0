//! What the two processes of an upgrade tell each other.
//!
//! **Owns:** the messages and their bytes.
//! **Does not own:** their frames and descriptors (`upgrade`), sessions (`session::passport`), when they are
//! said (`donor`, `heir`).
//! **Invariant:** what is written is read back; the form changes only with the version of the frames.

use crate::protocol::cancel_key::CancelKey;
use crate::session::passport::{read_key, write_key};
use crate::upgrade::bytes::{Malformed, Reader, Writer};

/// What a message is.
pub mod kind {
    /// Donor: who takes over. With the pid file, if there is one.
    pub const HELLO: u8 = 1;
    /// Donor: listening sockets, with descriptors.
    pub const LISTENERS: u8 = 2;
    /// Donor: that is all, start.
    pub const BEGIN: u8 = 3;
    /// Heir: clients can connect.
    pub const READY: u8 = 4;
    /// Donor: a session, with its socket.
    pub const SESSION: u8 = 5;
    /// Donor: what it still has.
    pub const REMAINS: u8 = 6;
    /// Donor: users that are not in the file.
    pub const GUESTS: u8 = 7;
    /// Heir: a cancel request.
    pub const CANCEL: u8 = 8;
    /// Donor: it is over.
    pub const CANCEL_DONE: u8 = 9;
    /// Donor: a server of a pool, with its socket. It has one less from now on.
    pub const SERVER: u8 = 10;
    /// Donor: objects of databases have changed.
    pub const CHANGED: u8 = 11;
    /// Heir: it has the session that was sent first of those it has said nothing about.
    pub const TAKEN: u8 = 12;
    /// Heir: it cannot take that session at the moment.
    pub const REFUSED: u8 = 13;
    /// Donor: a session with its server, each with its socket.
    pub const PAIR: u8 = 14;
    /// Donor: what has been counted since it said so last. Only to an heir that takes it.
    pub const TOTALS: u8 = 15;
}

/// Body of `READY`: the heir takes `TOTALS`. One that does not says nothing.
pub const TAKES_TOTALS: &[u8] = &[1];

/// What a process needs to know before it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Its number among those that hand clients on to each other.
    pub generation: u8,
    /// There is a pid file.
    pub has_pid_file: bool,
    /// What the donor has.
    pub remains: Remains,
    /// Databases that lend no servers at the moment.
    pub paused: Vec<String>,
}

/// What a process still has while it hands over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Client connections.
    pub connections: u64,
    /// Servers that exist or may be opened, of each database and user.
    pub servers: Vec<(String, String, u64)>,
}

/// A user that is not in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// The database.
    pub database: String,
    /// The user.
    pub user: String,
    /// What it proves.
    pub stored: Option<String>,
}

/// A cancel request for a session that the other process may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancel {
    /// The shard that asks.
    pub shard: u16,
    /// Names the request there.
    pub ticket: u32,
    /// The key that the client was given.
    pub key: CancelKey,
}

impl Remains {
    fn write(&self, out: &mut Writer) {
        out.u64(self.connections);
        out.u32(self.servers.len() as u32);
        for (database, user, count) in &self.servers {
            out.text(database);
            out.text(user);
            out.u64(*count);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let connections = from.u64()?;
        let mut servers = Vec::new();
        for _ in 0..from.u32()? {
            servers.push((
                from.text()?.to_owned(),
                from.text()?.to_owned(),
                from.u64()?,
            ));
        }
        Ok(Self {
            connections,
            servers,
        })
    }

    /// As a message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.write(&mut out);
        out.into_bytes()
    }

    /// From a message.
    ///
    /// # Errors
    ///
    /// It is none of these.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(body);
        let remains = Self::read(&mut from)?;
        from.end()?;
        Ok(remains)
    }

    /// Takes over what the donor says, but for servers that have come after it was counted: they never become
    /// more.
    pub fn lower(&mut self, told: &Self) {
        self.connections = told.connections;
        for (database, user, count) in &mut self.servers {
            *count = told.of(database, user).min(*count);
        }
        self.servers.retain(|(_, _, count)| *count > 0);
    }

    /// One server of this pool has gone over.
    pub fn take_one(&mut self, database: &str, user: &str) {
        let mut servers = self.servers.iter_mut();
        if let Some((_, _, count)) =
            servers.find(|(known, name, _)| known == database && name == user)
        {
            *count = count.saturating_sub(1);
        }
        self.servers.retain(|(_, _, count)| *count > 0);
    }

    /// How many servers the process has of this pool.
    pub fn of(&self, database: &str, user: &str) -> u64 {
        let mut servers = self.servers.iter();
        let found = servers.find(|(known, name, _)| known == database && name == user);
        found.map_or(0, |(_, _, count)| *count)
    }
}

impl Hello {
    /// As a message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u8(self.generation);
        out.flag(self.has_pid_file);
        self.remains.write(&mut out);
        out.u32(self.paused.len() as u32);
        for name in &self.paused {
            out.text(name);
        }
        out.into_bytes()
    }

    /// From a message.
    ///
    /// # Errors
    ///
    /// It is none of these.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(body);
        let mut hello = Self {
            generation: from.u8()?,
            has_pid_file: from.flag()?,
            remains: Remains::read(&mut from)?,
            paused: Vec::new(),
        };
        for _ in 0..from.u32()? {
            hello.paused.push(from.text()?.to_owned());
        }
        from.end()?;
        Ok(hello)
    }
}

/// A session and its server as a message.
pub fn encode_pair(session: &[u8], server: &[u8]) -> Vec<u8> {
    let mut out = Writer::default();
    out.bytes(session);
    out.bytes(server);
    out.into_bytes()
}

/// The session and the server in a message.
///
/// # Errors
///
/// It is none of these.
pub fn decode_pair(body: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut from = Reader::new(body);
    let pair = (from.bytes()?, from.bytes()?);
    from.end()?;
    Ok(pair)
}

/// The places of listening sockets as a message.
pub fn encode_places(places: &[&str]) -> Vec<u8> {
    let mut out = Writer::default();
    out.u32(places.len() as u32);
    for place in places {
        out.text(place);
    }
    out.into_bytes()
}

/// The places in a message.
///
/// # Errors
///
/// It is none of these.
pub fn decode_places(body: &[u8]) -> Result<Vec<String>, Malformed> {
    let mut from = Reader::new(body);
    let mut places = Vec::new();
    for _ in 0..from.u32()? {
        places.push(from.text()?.to_owned());
    }
    from.end()?;
    Ok(places)
}

/// Guests as a message.
pub fn encode_guests(guests: &[Guest]) -> Vec<u8> {
    let mut out = Writer::default();
    out.u32(guests.len() as u32);
    for guest in guests {
        out.text(&guest.database);
        out.text(&guest.user);
        out.flag(guest.stored.is_some());
        out.text(guest.stored.as_deref().unwrap_or_default());
    }
    out.into_bytes()
}

/// The guests in a message.
///
/// # Errors
///
/// It is none of these.
pub fn decode_guests(body: &[u8]) -> Result<Vec<Guest>, Malformed> {
    let mut from = Reader::new(body);
    let mut guests = Vec::new();
    for _ in 0..from.u32()? {
        let (database, user) = (from.text()?.to_owned(), from.text()?.to_owned());
        let (has_stored, stored) = (from.flag()?, from.text()?.to_owned());
        guests.push(Guest {
            database,
            user,
            stored: has_stored.then_some(stored),
        });
    }
    from.end()?;
    Ok(guests)
}

impl Cancel {
    /// As a message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u16(self.shard);
        out.u32(self.ticket);
        write_key(&mut out, &self.key);
        out.into_bytes()
    }

    /// From a message.
    ///
    /// # Errors
    ///
    /// It is none of these.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader::new(body);
        let cancel = Self {
            shard: from.u16()?,
            ticket: from.u32()?,
            key: read_key(&mut from)?,
        };
        from.end()?;
        Ok(cancel)
    }
}

/// The end of a cancel request as a message.
pub fn encode_done(shard: u16, ticket: u32) -> Vec<u8> {
    let mut out = Writer::default();
    out.u16(shard);
    out.u32(ticket);
    out.into_bytes()
}

/// Shard and ticket of the cancel request that is over.
///
/// # Errors
///
/// It is none of these.
pub fn decode_done(body: &[u8]) -> Result<(u16, u32), Malformed> {
    let mut from = Reader::new(body);
    let done = (from.u16()?, from.u32()?);
    from.end()?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::cancel_key::CancelSecret;

    #[test]
    fn messages_are_read_as_they_were_written_and_not_in_parts() {
        let hello = Hello {
            generation: 3,
            has_pid_file: true,
            remains: Remains {
                connections: 7,
                servers: vec![("db".to_owned(), "u".to_owned(), 4)],
            },
            paused: vec!["db".to_owned()],
        };
        let bytes = hello.encode();
        assert_eq!(Hello::decode(&bytes), Ok(hello.clone()));
        for end in 0..bytes.len() {
            assert!(Hello::decode(&bytes[..end]).is_err());
        }
        assert_eq!(hello.remains.of("db", "u"), 4);
        assert_eq!(hello.remains.of("db", "x"), 0);
        let mut left = hello.remains.clone();
        left.take_one("db", "x");
        left.take_one("db", "u");
        assert_eq!(left.of("db", "u"), 3);
        // Counted before the one that has gone over was.
        let more = vec![
            ("db".to_owned(), "u".to_owned(), 4),
            ("e".to_owned(), "u".to_owned(), 1),
        ];
        left.lower(&Remains {
            connections: 2,
            servers: more,
        });
        assert_eq!(
            (left.connections, left.of("db", "u"), left.of("e", "u")),
            (2, 3, 0)
        );
        left.lower(&Remains::default());
        assert_eq!(left, Remains::default());
        let remains = hello.remains.encode();
        assert_eq!(Remains::decode(&remains), Ok(hello.remains));
        let places = ["a", "b"];
        assert_eq!(decode_places(&encode_places(&places)).unwrap(), places);
        let guests = vec![Guest {
            database: "d".to_owned(),
            user: "u".to_owned(),
            stored: None,
        }];
        assert_eq!(decode_guests(&encode_guests(&guests)), Ok(guests));
        let cancel = Cancel {
            shard: 1,
            ticket: 2,
            key: CancelKey {
                generation: 1,
                shard: 2,
                slot: 3,
                secret: CancelSecret::Long([4; 32]),
            },
        };
        assert_eq!(Cancel::decode(&cancel.encode()), Ok(cancel));
        assert_eq!(decode_done(&encode_done(1, 2)), Ok((1, 2)));
        let pair = encode_pair(b"a", b"bc");
        assert_eq!(decode_pair(&pair), Ok((&b"a"[..], &b"bc"[..])));
    }
}
