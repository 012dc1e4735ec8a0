//! Clients between shards: fresh connections and whole sessions.
//!
//! **Owns:** who takes a fresh connection, the rounds in which a shard gets rid of clients it has too
//! many, the messages about both, the count of clients a shard has.
//! **Does not own:** the decisions (`balance`), what a session is (`session::resume`), where sessions
//! are (`session::registry`).
//!
//! **Invariants**
//! 1. A connection that has been passed on is served where it arrives: no connection is passed twice.
//! 2. A client is counted on exactly one shard, or as on its way to one.
//! 3. Nobody waits for room in a lane. A client that finds none stays; a notice goes through the post
//!    office, which loses nothing.

use std::cell::Cell;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use shards::{Listener, Outbox, Seat, sleep, spawn};

use super::balance;
use super::mailbox::{Pair, ShardMessage};
use super::post::PostOffice;
use super::succession::departure::{self, Place};
use crate::config::Limits;
use crate::metrics::{Fleet, ShardMetrics};
use crate::pool::Pool;
use crate::server::ServerConnection;
use crate::session::Shard;
use crate::session::client::Session;
use crate::session::company::close_without_company;
use crate::session::login::log_in;
use crate::session::resume::{Neighbours, Notice, SessionRecord};
use crate::transport::Stream;

/// Time between two looks at how clients are spread.
const ROUND: Duration = Duration::from_secs(1);
/// Rounds in a row in which a shard has a few clients too many before it hands some over.
const ROUNDS_MIN: u32 = 2;
/// Sessions that are asked at once: half of what a lane holds.
const BATCH: usize = 64;
/// Time that sessions have to leave, and their messages to be taken, before more are asked.
const BATCH_TIME: Duration = Duration::from_millis(2);
/// Sessions that are looked at for one that should go.
const LOOKS: usize = 4;
/// How long a session waits for a pool that its new shard does not know: a reload reaches one shard
/// after the other.
const RELOAD_TIME: Duration = Duration::from_millis(500);

/// Clients that have been sent to a shard and have not arrived, by shard. Touched only when a client
/// moves.
#[derive(Clone, Debug)]
pub struct OnTheirWay(Arc<[AtomicU64]>);

impl OnTheirWay {
    /// Nobody yet, on the way to any of `count` shards.
    pub fn new(count: usize) -> Self {
        Self((0..count).map(|_| AtomicU64::new(0)).collect())
    }
}

/// One client in the count of its shard. Ends when dropped.
struct Present(Rc<Shard>);

impl Present {
    fn new(shard: &Rc<Shard>) -> Self {
        shard.metrics().clients.add(1);
        Self(Rc::clone(shard))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.metrics().clients.sub(1);
    }
}

/// What a shard sends to other shards about clients.
pub struct Post {
    index: usize,
    outbox: Outbox<ShardMessage>,
    office: Rc<PostOffice>,
    fleet: Fleet,
    on_their_way: OnTheirWay,
    relay_lifetime: Cell<Duration>,
}

impl Post {
    /// The post of shard `index`.
    pub fn new(
        index: usize,
        outbox: Outbox<ShardMessage>,
        office: Rc<PostOffice>,
        fleet: Fleet,
        on_their_way: OnTheirWay,
    ) -> Rc<Self> {
        Rc::new(Self {
            index,
            outbox,
            office,
            fleet,
            on_their_way,
            relay_lifetime: Cell::default(),
        })
    }

    /// How long encrypted clients may stay when another process has taken over; zero = as long as they like.
    pub fn set_relay_lifetime(&self, lifetime: Duration) {
        self.relay_lifetime.set(lifetime);
    }

    fn place(&self) -> Place {
        Place {
            fleet: self.fleet.clone(),
            shard: self.index,
            lifetime: self.relay_lifetime.get(),
        }
    }

    fn count(&self) -> usize {
        self.fleet.shards().len()
    }

    fn metrics(&self) -> &ShardMetrics {
        self.fleet.shard(self.index)
    }

    /// Clients that a shard has or is about to have.
    fn load(&self, shard: usize) -> u64 {
        self.fleet.shard(shard).clients.get() + self.on_their_way.0[shard].load(Ordering::Relaxed)
    }

    fn loads(&self) -> Vec<u64> {
        (0..self.count()).map(|shard| self.load(shard)).collect()
    }

    fn least(&self) -> Option<(usize, u64)> {
        balance::least(|shard| self.load(shard), self.index, self.count())
    }

    /// Sends a client to shard `to`; gives it back if the lane is full.
    fn send_client(&self, to: usize, message: ShardMessage) -> Result<(), ShardMessage> {
        let expected = &self.on_their_way.0[to];
        expected.fetch_add(1, Ordering::Relaxed);
        let sent = self.outbox.try_send(Seat::of_shard(to), message);
        sent.map_err(|refused| {
            expected.fetch_sub(1, Ordering::Relaxed);
            refused.into_message()
        })
    }

    /// Tells the control thread something, when it has room.
    pub async fn tell_control(&self, mut message: ShardMessage) {
        while let Err(refused) = self.outbox.try_send(Seat::Control, message) {
            message = refused.into_message();
            sleep(BATCH_TIME).await;
        }
    }

    /// Passes a fresh connection to a shard that has clearly fewer clients; gives it back otherwise.
    fn pass_on(&self, socket: OwnedFd) -> Option<OwnedFd> {
        let Some((to, least)) = self.least() else {
            return Some(socket);
        };
        if !balance::passes_on(self.load(self.index), least) {
            return Some(socket);
        }
        match self.send_client(to, ShardMessage::Client(socket)) {
            Ok(()) => {
                self.metrics().clients_passed_on.add(1);
                None
            }
            Err(ShardMessage::Client(socket)) => Some(socket),
            Err(_) => None,
        }
    }
}

impl Neighbours for Post {
    fn hand_over(&self, record: Box<SessionRecord>) -> Result<(), Box<SessionRecord>> {
        let Some((to, least)) = self.least() else {
            return Err(record);
        };
        // Others have left meanwhile, perhaps.
        if least + 1 >= self.load(self.index) {
            return Err(record);
        }
        match self.send_client(to, ShardMessage::Session(record)) {
            Ok(()) => {
                self.metrics().clients_moved_out.add(1);
                Ok(())
            }
            Err(ShardMessage::Session(record)) => Err(record),
            Err(_) => Ok(()),
        }
    }

    fn emigrate(&self, record: Box<SessionRecord>) {
        departure::send(&self.outbox, &self.place(), record);
    }

    fn emigrate_with(
        &self,
        record: Box<SessionRecord>,
        pool: Rc<Pool>,
        server: Box<ServerConnection>,
    ) {
        let pair = departure::send_pair(self.outbox.clone(), self.place(), record, (pool, server));
        spawn(pair);
    }

    fn tell(&self, shard: u16, notice: Notice) {
        self.office
            .send(usize::from(shard), ShardMessage::Whereabouts(notice));
    }
}

/// Accepts connections, and serves them or passes them on.
pub async fn accept(shard: Rc<Shard>, post: Rc<Post>, mut listener: Listener) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = shard.doors.closed() => return,
            () = shard.doors.handed_over() => {
                for socket in listener.finish().await {
                    welcome(&shard, socket);
                }
                return;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(socket) => {
                // Those that have begun go first.
                shard.logins.pass().await;
                shard.metrics().clients_accepted.add(1);
                if let Some(socket) = post.pass_on(socket) {
                    welcome(&shard, socket);
                }
            }
            Err(error) => {
                tracing::error!(%error, "the listening socket has failed");
                return;
            }
        }
    }
}

/// Starts serving a fresh connection.
fn welcome(shard: &Rc<Shard>, socket: OwnedFd) {
    let shard = Rc::clone(shard);
    let present = Present::new(&shard);
    host(present, async move {
        let limit = shard.directory().config.general.max_connections;
        let connection = shard.connections.open(limit);
        log_in(shard, Stream::new(socket), connection).await
    });
}

/// The task of one client. Written by hand, because an `async` block would hold the session twice.
struct Client {
    stage: Stage,
    _present: Present,
}

#[expect(
    clippy::large_enum_variant,
    reason = "what leads to a session is short; a box would cost each client an allocation"
)]
enum Stage {
    /// Boxed: a session does not carry what leads to it.
    Entering(Pin<Box<dyn Future<Output = Option<Session>>>>),
    Inside(Session),
}

impl Future for Client {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Stage::Entering(entering) = &mut self.stage {
            match entering.as_mut().poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Ready(Some(session)) => self.stage = Stage::Inside(session),
            }
        }
        match &mut self.stage {
            Stage::Inside(session) => Pin::new(session).poll(context),
            Stage::Entering(_) => Poll::Pending,
        }
    }
}

/// Starts the task of a client.
fn host(present: Present, entering: impl Future<Output = Option<Session>> + 'static) {
    spawn(Client {
        stage: Stage::Entering(Box::pin(entering)),
        _present: present,
    });
}

/// A fresh connection from another shard.
pub fn client_arrived(shard: &Rc<Shard>, post: &Post, socket: OwnedFd) {
    welcome(shard, socket);
    arrived(post);
}

/// A session from another shard.
pub fn session_arrived(shard: &Rc<Shard>, post: &Post, record: Box<SessionRecord>) {
    host(Present::new(shard), go_on(Rc::clone(shard), record));
    arrived(post);
}

/// A session from another process.
pub fn immigrant_arrived(shard: &Rc<Shard>, record: Box<SessionRecord>) {
    host(Present::new(shard), settle(Rc::clone(shard), record));
}

/// A session from another process, with its server.
pub fn pair_arrived(shard: &Rc<Shard>, (record, server): Pair) {
    let directory = shard.directory();
    let tenant = directory.tenant(&record.database, &record.user);
    let Some(arrives) = tenant.and_then(|tenant| tenant.pool.take_in_lent(server)) else {
        close_without_company(record);
        return;
    };
    let session = settle(Rc::clone(shard), Box::new(record));
    host(Present::new(shard), async move {
        let mut session = session.await?;
        match arrives.await {
            Ok(companion) => session.go_on_with(companion),
            Err(_) => session.lose_company(),
        }
        Some(session)
    });
}

async fn settle(shard: Rc<Shard>, mut record: Box<SessionRecord>) -> Option<Session> {
    // There was room for it where it comes from.
    let SessionRecord {
        connection,
        database,
        user,
        ..
    } = &mut *record;
    if connection.join(database, user, &Limits::default()).is_err() {
        tracing::error!("a client cannot be counted");
    }
    go_on(shard, record).await
}

fn arrived(post: &Post) {
    post.on_their_way.0[post.index].fetch_sub(1, Ordering::Relaxed);
}

async fn go_on(shard: Rc<Shard>, record: Box<SessionRecord>) -> Option<Session> {
    if !record.has_pool(&shard) {
        sleep(RELOAD_TIME).await;
    }
    let session = Session::resume(Rc::clone(&shard), *record, shards::now())?;
    shard.metrics().clients_moved_in.add(1);
    Some(session)
}

/// Looks once a second how clients are spread, and hands over those that are too many here.
pub async fn rebalance(shard: Rc<Shard>, post: Rc<Post>) {
    let mut rounds = 0;
    let mut known = Vec::new();
    loop {
        sleep(ROUND).await;
        shard.registry.withdraw();
        let loads = post.loads();
        let all = loads.iter().sum();
        let shards = loads.len() as u64;
        let excess = balance::excess(loads[post.index], all, shards);
        rounds = if excess == 0 { 0 } else { rounds + 1 };
        if rounds >= ROUNDS_MIN || balance::is_urgent(excess, all, shards) {
            let moved = hand_over(&shard, excess as usize).await;
            if moved > 0 {
                let clients = post.loads();
                tracing::info!(shard = post.index, moved, ?clients, "clients handed over");
            }
        }
        if post.index == 0 && loads != known {
            tracing::debug!(clients = ?loads, "clients per shard");
            known = loads;
        }
    }
}

/// Asks sessions to leave until `excess` have left; returns how many have.
///
/// Those are asked first that do nothing at the moment: who does not answer at once is not idle. If
/// that is not enough, others may leave when they become idle until the next round.
async fn hand_over(shard: &Shard, excess: usize) -> usize {
    let moved_out = &shard.metrics().clients_moved_out;
    let before = moved_out.get();
    let left = || (moved_out.get() - before) as usize;
    let mut looks = LOOKS * excess + BATCH;
    while left() < excess && looks > 0 {
        let count = (excess - left()).min(BATCH);
        let looked = ask(shard, count, looks);
        sleep(BATCH_TIME).await;
        shard.registry.withdraw();
        looks -= looked;
        if looked == 0 {
            return left();
        }
    }
    let moved = left();
    if moved < excess {
        ask(shard, excess - moved, usize::MAX);
    }
    moved
}

/// Asks up to `count` sessions to leave, looking at `looks` at most. Returns how many it looked at.
fn ask(shard: &Shard, count: usize, looks: usize) -> usize {
    let mut streams = Vec::new();
    let looked = shard
        .registry
        .ask((count, looks), shards::now(), &mut streams);
    for stream in streams {
        shards::wake(stream);
    }
    looked
}
