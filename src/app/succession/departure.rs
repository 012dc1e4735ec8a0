//! A shard whose clients go to another process.
//!
//! **Owns:** the end of accepting, waking sessions so that they go, dividing encrypted clients.
//! **Does not own:** when a session may go (`session::resume`), the way to the other process (`steps`), what
//! stays of an encrypted client (`relay`).
//!
//! An encrypted client goes without its encryption: its socket stays here with the state of TLS, and a
//! *relay* moves its bytes, in clear, to and from one end of a pair of sockets. The other end is what the
//! other process gets as the client's socket. So this process lives as long as one of these clients.
//!
//! **Invariant:** no connection that was accepted is lost: those that nobody has taken yet are served.

use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use shards::{Outbox, Seat, Socket, sleep, spawn};

use crate::metrics::Fleet;
use crate::pool::Pool;
use crate::server::ServerConnection;
use crate::server::passport::ServerRecord;
use crate::session::Shard;
use crate::session::company::close_without_company;
use crate::session::orders::{Order, carry_out};
use crate::session::resume::SessionRecord;
use crate::transport::{Detached, Stream};

use super::super::mailbox::ShardMessage;
use super::relay::{Term, relay};

/// Sessions that are woken at once.
const BATCH: usize = 256;
/// Time between two batches, and between two tries to send.
const PAUSE: Duration = Duration::from_millis(1);
/// Time between two tries to get descriptors.
const CROWDED_PAUSE: Duration = Duration::from_millis(50);

/// Where relays stay, and how long.
#[derive(Clone, Debug)]
pub struct Place {
    /// The numbers of all shards.
    pub fleet: Fleet,
    /// The shard.
    pub shard: usize,
    /// Time until relays end; zero = never.
    pub lifetime: Duration,
}

/// What a shard is told of an upgrade.
#[derive(Debug)]
pub enum Departure {
    /// Another process accepts clients now; those that are here go there.
    Begin,
    /// Who is still here is told that it is over.
    End,
    /// The other process has gone: accept on these sockets again.
    Back(Vec<Socket>),
}

/// Has the sessions of this shard go, and those that become idle later.
pub fn begin(shard: &Rc<Shard>) {
    shard.doors.hand_over();
    shard.host.set_departing(true);
    let shard = Rc::clone(shard);
    spawn(async move {
        let streams: Vec<u32> = {
            let cards = shard.roster.find(|_| true);
            cards.iter().map(|card| card.stream).collect()
        };
        for batch in streams.chunks(BATCH) {
            for stream in batch {
                shards::wake(*stream);
            }
            sleep(PAUSE).await;
        }
    });
}

/// A server of another process arrives.
pub fn take_in(shard: &Shard, record: ServerRecord) {
    let directory = shard.directory();
    let Some(tenant) = directory.tenant(&record.database, &record.user) else {
        tracing::info!(pool = %record.database, user = %record.user,
            "a server of the old process is closed: its pool is not configured any more");
        return;
    };
    tenant.pool.take_in(record);
}

/// Tells everybody who is still here that it is over.
pub fn end(shard: &Rc<Shard>) {
    carry_out(shard, Order::End);
}

/// Sends a session to the control thread, which sends it on; an encrypted one leaves a relay here.
pub fn send(outbox: &Outbox<ShardMessage>, place: &Place, mut record: Box<SessionRecord>) {
    let is_ready = divide(&mut record, place);
    if is_ready {
        match outbox.try_send(Seat::Control, ShardMessage::Emigrant(record)) {
            Ok(()) => return,
            Err(refused) => {
                let ShardMessage::Emigrant(refused) = refused.into_message() else {
                    return;
                };
                record = refused;
            }
        }
    }
    spawn(send_later(
        outbox.clone(),
        place.clone(),
        (record, is_ready),
    ));
}

/// Sends a session and its server to the control thread, which sends them on.
pub async fn send_pair(
    outbox: Outbox<ShardMessage>,
    place: Place,
    mut record: Box<SessionRecord>,
    (pool, server): (Rc<Pool>, Box<ServerConnection>),
) {
    let Some((server, leave)) = pool.emigrate_lent(server).await else {
        close_without_company(*record);
        return;
    };
    while !divide(&mut record, &place) {
        sleep(CROWDED_PAUSE).await;
    }
    let mut message = ShardMessage::EmigrantPair(Box::new((*record, *server)), leave);
    while let Err(refused) = outbox.try_send(Seat::Control, message) {
        message = refused.into_message();
        sleep(PAUSE).await;
    }
}

/// Tries again until there is room, of descriptors and in the mailbox.
async fn send_later(
    outbox: Outbox<ShardMessage>,
    place: Place,
    (mut record, mut is_ready): (Box<SessionRecord>, bool),
) {
    while !is_ready {
        sleep(CROWDED_PAUSE).await;
        is_ready = divide(&mut record, &place);
    }
    let mut message = ShardMessage::Emigrant(record);
    while let Err(refused) = outbox.try_send(Seat::Control, message) {
        message = refused.into_message();
        sleep(PAUSE).await;
    }
}

/// One open relay in the numbers of its shard.
struct Counted(Fleet, usize);

impl Counted {
    fn new(Place { fleet, shard, .. }: &Place) -> Self {
        fleet.shard(*shard).relays.add(1);
        Self(fleet.clone(), *shard)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.shard(self.1).relays.sub(1);
    }
}

/// Puts a relay between the client and the session, if the client is encrypted. False if there are no
/// descriptors left for that at the moment.
fn divide(record: &mut SessionRecord, place: &Place) -> bool {
    if record.detached.tls.is_none() {
        return true;
    }
    let Ok((near, far)) = UnixStream::pair() else {
        return false;
    };
    let there = Detached {
        socket: far.into(),
        unread: Vec::new(),
        tls: None,
    };
    let (client, unread) = Stream::attach(std::mem::replace(&mut record.detached, there));
    if let Some(unread) = unread {
        record.detached.unread = unread.to_vec();
    }
    let is_between = record.detached.unread.is_empty() && !record.has_begun;
    let term = Term::after(place.lifetime, is_between);
    let counted = Counted::new(place);
    spawn(async move {
        relay(client, Stream::new(near.into()), term).await;
        drop(counted);
    });
    true
}
