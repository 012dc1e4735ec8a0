//! What one shard runs.
//!
//! **Owns:** the shard's tasks: messages, housekeeping, watching idle servers.
//! **Does not own:** what they work on (`session`, `pool`), clients that come and go (`hand_over`).

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use shards::{Context, Inbox, Listener, Seat, Socket, sleep_until, spawn};

use crate::admin::Listening;
use crate::config::{Config, General};
use crate::metrics::Fleet;
use crate::pool::Host;
use crate::server::quota::Quotas;
use crate::server::{Canceller, TcpOptions};
use crate::session::budget::Budget;
use crate::session::cancel::{Cancels, Place};
use crate::session::doors::Doors;
use crate::session::lookup::Lookups;
use crate::session::orders::carry_out;
use crate::session::overtime;
use crate::session::proofs::cap::Caps;
use crate::session::pursuit::Pursuits;
use crate::session::registry::Registry;
use crate::session::resume::Neighbours;
use crate::session::shard::Connections;
use crate::session::startup::LOGIN_STEPS;
use crate::session::survey::Surveys;
use crate::session::{Directory, Shard, wind_down};
use crate::tls::Keyring;
use crate::transport::Gate;

use super::busy;
use super::cancels::{MeshOutbox, run_cancel, run_cancel_for_heir};
use super::errands::{DeskErrands, ErrandDesk};
use super::hand_over::{
    OnTheirWay, Post, accept, client_arrived, immigrant_arrived, pair_arrived, rebalance,
    session_arrived,
};
use super::mailbox::ShardMessage;
use super::orders::{BookStaff, OrderBook};
use super::post::PostOffice;
use super::succession::departure::{self, Departure};
use super::surveys::{self, MeshSurveyors};

/// The shortest pause between two rounds of housekeeping.
const REST_MIN: Duration = Duration::from_millis(1);
/// How often permits that a shard does not need are given back.
const SETTLE_PERIOD: Duration = Duration::from_secs(1);

/// What the shards of a process share from the start.
#[derive(Clone)]
pub struct Shared {
    /// The configuration at start.
    pub config: Arc<Config>,
    /// Open client connections.
    pub connections: Connections,
    /// Memory claimed by incomplete messages.
    pub budget: Budget,
    /// The numbers of all shards.
    pub fleet: Fleet,
    /// How many server connections databases may have.
    pub quotas: Quotas,
    /// Keys and certificates.
    pub keyring: Keyring,
    /// Clients between two shards.
    pub on_their_way: OnTheirWay,
    /// Makes the salts of users who do not exist.
    pub mock_secret: [u8; 32],
    /// Number of this process among those that hand clients on to each other.
    pub generation: u8,
    /// Another process has handed clients on to this one.
    pub is_heir: bool,
    /// Databases that lend no servers from the beginning: it was so in the process before this one.
    pub paused: Arc<[String]>,
    /// Where clients can connect.
    pub listening: Arc<[Listening]>,
}

/// Runs a shard until it is told to stop.
pub async fn shard_main(context: Context<ShardMessage>, shared: Shared, listeners: Vec<Socket>) {
    let desk = ErrandDesk::new(context.outbox.clone());
    let place = (context.id.index(), context.count);
    let office = PostOffice::new(context.outbox.clone(), place, shared.fleet.clone());
    let errands = Rc::new(DeskErrands(Rc::clone(&desk)));
    let host = Host::new(
        place,
        errands,
        Rc::clone(&office) as _,
        (shared.fleet.clone(), shared.quotas.clone(), shared.keyring),
    );
    for database in shared.paused.iter() {
        host.pause(Some(database));
    }
    let book = OrderBook::new(Rc::clone(&office), Rc::clone(&desk));
    let directory = Directory::new(shared.config, &host, None);
    let post = Post::new(
        place.0,
        context.outbox.clone(),
        Rc::clone(&office),
        shared.fleet.clone(),
        shared.on_their_way,
    );
    let neighbours = Rc::clone(&post) as Rc<dyn Neighbours>;
    let name = (place.0 as u16, shared.generation);
    let registry = Registry::new(name, Rc::clone(&neighbours), shards::now());
    let process = (shared.generation, shared.is_heir, &shared.fleet);
    let cancels = cancels(process, place, &registry, &context.outbox);
    let shard = Rc::new(Shard {
        index: place.0,
        count: place.1,
        generation: shared.generation,
        directory: RefCell::new(Rc::new(directory)),
        registry,
        roster: Rc::default(),
        staff: Rc::new(BookStaff(Rc::clone(&book))),
        doors: Doors::default(),
        pursuits: Pursuits::default(),
        cancels,
        surveys: Surveys::new(Box::new(MeshSurveyors(Rc::clone(&office)))),
        neighbours,
        host,
        connections: shared.connections,
        budget: shared.budget,
        fleet: shared.fleet,
        gate: Gate::default(),
        logins: Rc::new(Gate::of_breadth(LOGIN_STEPS)),
        proofs: Caps::default(),
        lookups: Lookups::default(),
        mock_secret: shared.mock_secret,
        listening: shared.listening,
    });
    let mut listening = Vec::new();
    listen(&shard, &post, listeners, &mut listening);
    start_tasks(&shard, &post, &office);
    let readers = (&*desk, &post, &*book, listening);
    read_messages(&shard, readers, &office, context.inbox).await;
    for tenant in shard.directory().tenants() {
        tenant.pool.retire_for_good(false);
    }
}

/// The cancel requests of a shard, which is the first of `place` among so many.
fn cancels(
    (generation, is_heir, fleet): (u8, bool, &Fleet),
    (index, count): (usize, usize),
    registry: &Rc<Registry>,
    outbox: &shards::Outbox<ShardMessage>,
) -> Cancels {
    Cancels::new(
        Place {
            generation,
            is_heir,
            index,
            count,
        },
        Rc::clone(registry),
        Canceller::new(fleet.clone(), index),
        fleet.clone(),
        Box::new(MeshOutbox(outbox.clone())),
    )
}

/// Accepts clients.
fn listen(
    shard: &Rc<Shard>,
    post: &Rc<Post>,
    sockets: Vec<Socket>,
    listening: &mut Vec<Weak<Socket>>,
) {
    for socket in sockets {
        let listener = Listener::new(socket);
        listening.push(listener.reference());
        spawn(accept(Rc::clone(shard), Rc::clone(post), listener));
    }
}

/// Starts what runs beside the clients and the messages.
fn start_tasks(shard: &Rc<Shard>, post: &Rc<Post>, office: &Rc<PostOffice>) {
    spawn(watch_idle(Rc::clone(shard)));
    spawn(review_pools(Rc::clone(shard)));
    spawn(settle_pools(Rc::clone(shard)));
    spawn(Rc::clone(office).keep_trying());
    spawn(keep_house(Rc::clone(shard)));
    spawn(busy::measure(Rc::clone(shard)));
    spawn(overtime::watch(Rc::clone(shard)));
    if shard.count > 1 {
        spawn(rebalance(Rc::clone(shard), Rc::clone(post)));
    }
}

async fn read_messages(
    shard: &Rc<Shard>,
    (desk, post, book, mut listening): (&ErrandDesk, &Rc<Post>, &OrderBook, Vec<Weak<Socket>>),
    office: &Rc<PostOffice>,
    mut inbox: Inbox<ShardMessage>,
) {
    loop {
        match inbox.receive().await {
            (_, ShardMessage::Stop) => return,
            (_, ShardMessage::WindDown) => wind_down(shard),
            (_, ShardMessage::Answer { number, result }) => desk.answer(number, result),
            (Seat::Shard(from), ShardMessage::Cancel { ticket, request }) => {
                spawn(run_cancel(
                    Rc::clone(shard),
                    Rc::clone(office),
                    (from.index(), ticket),
                    request,
                ));
            }
            (Seat::Shard(from), ShardMessage::Survey { ticket }) => {
                let asked = (from.index(), ticket);
                spawn(surveys::answer(Rc::clone(shard), Rc::clone(office), asked));
            }
            (_, ShardMessage::Surveyed { ticket, accounts }) => {
                shard.surveys.answered(ticket, *accounts);
            }
            (_, ShardMessage::CancelDone { ticket }) => shard.cancels.done(ticket),
            (Seat::Control, ShardMessage::Cancel { ticket, request }) => {
                spawn(run_cancel_for_heir(
                    Rc::clone(shard),
                    Rc::clone(post),
                    ticket,
                    request,
                ));
            }
            (_, ShardMessage::Immigrant(record)) => immigrant_arrived(shard, record),
            (_, ShardMessage::ImmigrantPair(pair)) => pair_arrived(shard, *pair),
            (_, ShardMessage::ImmigrantServer(record)) => departure::take_in(shard, *record),
            (_, ShardMessage::Depart(departure)) => {
                depart(shard, post, &mut listening, *departure);
            }
            (_, ShardMessage::Ping(confirmation)) => drop(confirmation),
            (_, ShardMessage::Client(socket)) => client_arrived(shard, post, socket),
            (_, ShardMessage::Session(record)) => session_arrived(shard, post, record),
            (Seat::Shard(from), ShardMessage::Whereabouts(notice)) => {
                shard.registry.notice(from.index() as u16, notice);
            }
            (Seat::Shard(from), ShardMessage::Order { ticket, order }) => {
                let outcome = Box::new(carry_out(shard, *order));
                office.send(from.index(), ShardMessage::OrderDone { ticket, outcome });
            }
            (_, ShardMessage::OrderDone { ticket, outcome }) => book.answer(ticket, *outcome),
            (Seat::Control, ShardMessage::Reload(config, confirmation)) => {
                renew(
                    &listening,
                    &shard.directory().config.general,
                    &config.general,
                );
                reload(shard, config);
                drop(confirmation);
            }
            (Seat::Shard(from), ShardMessage::Pool(letter)) => {
                let (id, letter) = *letter;
                shard.host.receive(from.index(), id, letter);
            }
            (from, message) => tracing::error!(?from, ?message, "a message for somebody else"),
        }
    }
}

/// Does its part of an upgrade.
fn depart(
    shard: &Rc<Shard>,
    post: &Rc<Post>,
    listening: &mut Vec<Weak<Socket>>,
    departure: Departure,
) {
    match departure {
        Departure::Begin => {
            let general = &shard.directory().config.general;
            post.set_relay_lifetime(general.tls_relay_max_lifetime);
            departure::begin(shard);
        }
        Departure::End => departure::end(shard),
        Departure::Back(sockets) => {
            shard.doors.take_back();
            shard.host.set_departing(false);
            listen(shard, post, sockets, listening);
        }
    }
}

/// Gives listening sockets their options again, if those have changed: clients inherit them.
fn renew(listening: &[Weak<Socket>], before: &General, now: &General) {
    let options = TcpOptions::of(now);
    if options != TcpOptions::of(before) {
        for socket in listening.iter().filter_map(Weak::upgrade) {
            options.renew_on(&socket);
        }
    }
}

fn reload(shard: &Rc<Shard>, config: Arc<Config>) {
    let before = shard.directory();
    shard.host.begin_reload();
    let directory = Directory::new(config, &shard.host, Some(&before));
    *shard.directory.borrow_mut() = Rc::new(directory);
    shard.host.end_reload();
    let directory = shard.directory();
    let is_configured = |name: &str| directory.has_database(name);
    shard.host.forget_pauses(is_configured);
    // The housekeeper opens what new pools keep open.
    shard.host.alarm.at_most(shards::now());
}

/// Reads what idle servers say, and notices when they end.
async fn watch_idle(shard: Rc<Shard>) {
    let mut numbers = Vec::new();
    loop {
        numbers.clear();
        shards::watched(&mut numbers).await;
        for number in &numbers {
            shard.host.idle_event(*number);
        }
    }
}

/// Has pools want, withdraw and grant permits when it is time for it.
async fn review_pools(shard: Rc<Shard>) {
    loop {
        shard.host.reviews.ring().await;
        shard.host.review();
    }
}

/// Has pools give back permits that they do not need.
async fn settle_pools(shard: Rc<Shard>) {
    loop {
        sleep_until(shards::now() + SETTLE_PERIOD).await;
        let directory = shard.directory();
        for pool in directory.pools() {
            pool.settle();
        }
    }
}

/// Ends waits that took too long, opens and retires connections.
async fn keep_house(shard: Rc<Shard>) {
    let mut next_retirement = shards::now();
    loop {
        let now = shards::now();
        let directory = shard.directory();
        if shard.host.alarm.take_due(now) || next_retirement <= now {
            let retired = shard.host.retired_pools();
            for pool in directory.pools().chain(&retired) {
                if let Some(next) = pool.tick() {
                    shard.host.alarm.at_most(next);
                }
            }
        }
        if next_retirement <= now {
            let general = &directory.config.general;
            let limit = general.retain_connections_max.div_ceil(shard.count);
            retire(&directory, if limit == 0 { usize::MAX } else { limit });
            let period = general.retain_connections_time;
            let period = if period.is_zero() {
                Duration::from_secs(3600)
            } else {
                period
            };
            next_retirement = now + period;
        }
        drop(directory);
        rest(&shard, next_retirement).await;
    }
}

fn retire(directory: &Directory, mut limit: usize) {
    for pool in directory.pools() {
        limit -= pool.retire(limit).min(limit);
    }
}

/// Sleeps until `deadline`, or the alarm if that is earlier or becomes so meanwhile.
async fn rest(shard: &Shard, deadline: Instant) {
    let alarm = &shard.host.alarm;
    let known = alarm.deadline().unwrap_or(deadline);
    // Never without a pause: whatever asks for a time in the past must not stop the shard.
    let until = known.min(deadline).max(shards::now() + REST_MIN);
    let mut sleep = std::pin::pin!(sleep_until(until));
    poll_fn(|context| {
        alarm.set_waker(context.waker());
        if alarm.deadline().is_some_and(|at| at < known) {
            return Poll::Ready(());
        }
        sleep.as_mut().poll(context)
    })
    .await;
}
