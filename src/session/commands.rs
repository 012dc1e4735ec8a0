//! Running the commands of a console.
//!
//! **Owns:** what a command does on which shards, waiting for it, gathering what is shown.
//! **Does not own:** the words and the tables (`admin`), one shard's part (`orders`).
//!
//! **Invariants**
//! 1. A command that changes something is carried out by all shards before it is answered.
//! 2. No shard waits for another one: only the task of the console does, at most [`ANSWER_MAX`] for
//!    one answer. `PAUSE` waits for as long as servers are used; its console may go meanwhile.

use std::rc::Rc;
use std::time::{Duration, Instant};

use shards::{sleep, spawn};

use crate::admin::{
    self, ClientRow, Command, Refusal, ServerRow, Sockets, Subject, Table, View, When,
};
use crate::metrics::PoolMetrics;
use crate::metrics::statements::{StatementAccount, add_up};
use crate::metrics::window::{Gathering, PoolView};
use crate::protocol::sqlstate;

use super::orders::{Order, Outcome, Target, carry_out};
use super::shard::Shard;

/// How long another shard may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long clients have to take the last words when `shutdown_timeout` is over.
const FAREWELL_MIN: Duration = Duration::from_millis(500);
/// How often it is looked whether servers have been closed or clients have gone.
const LOOK: Duration = Duration::from_millis(5);
/// How long numbers are read at a stretch, and how long others have then.
const PIECE: Duration = Duration::from_micros(200);
/// A server that is between two shards is on none of them: several looks in a row have to find none.
const LOOKS_MIN: u32 = 3;

/// What has come of a command.
pub(super) enum Done {
    /// A result, and its command tag.
    Rows(Table, &'static str),
    /// As `Rows`, and then the process is to end.
    Shutdown(Table, When),
    /// Nothing to show; the command tag.
    Tag(&'static str),
}

/// What is gathered for a `SHOW`.
#[derive(Default)]
struct Gathered {
    clients: Vec<ClientRow>,
    servers: Vec<ServerRow>,
    statements: Vec<StatementAccount>,
    times: Vec<PoolView>,
    sockets: Sockets,
}

/// Runs a command.
pub(super) async fn run(shard: &Rc<Shard>, command: Command) -> Result<Done, Refusal> {
    match command {
        Command::Show(subject) => {
            let gathered = gather(shard, subject).await?;
            Ok(Done::Rows(show(shard, subject, &gathered, false), "SHOW"))
        }
        Command::Reload => {
            let outcome = shard.host.errands.reload().await;
            outcome.map_err(|error| Refusal::system(error.to_string()))?;
            Ok(Done::Tag("RELOAD"))
        }
        Command::Pause(database) => {
            let database = checked(shard, database)?;
            let outcomes = ask_all(shard, &Order::Pause(database.clone())).await?;
            wait_for_pause(shard, database.as_deref(), &outcomes[shard.index]).await?;
            Ok(Done::Tag("PAUSE"))
        }
        Command::Resume(database) => {
            let name = database.as_deref().map(Box::from);
            let configured = checked(shard, database);
            let outcomes = ask_all(shard, &Order::Resume(name)).await?;
            // Also one that was removed from the configuration, as long as some shard has clients of it.
            if outcomes.iter().all(|outcome| *outcome == Outcome::Done(0)) {
                configured?;
            }
            Ok(Done::Tag("RESUME"))
        }
        Command::Reconnect(database) => {
            let database = checked(shard, database)?;
            ask_all(shard, &Order::Reconnect(database, Instant::now())).await?;
            Ok(Done::Tag("RECONNECT"))
        }
        Command::Kill(database) => {
            let database = checked(shard, Some(database))?.unwrap_or_default();
            ask_all(shard, &Order::Pause(Some(database.clone()))).await?;
            let order = Order::Kill(Target::Database(database), shards::now());
            ask_all(shard, &order).await?;
            Ok(Done::Tag("KILL"))
        }
        Command::KillClient(id) => {
            kill_client(shard, id).await?;
            Ok(Done::Tag("KILL_CLIENT"))
        }
        Command::Set { key, value } => {
            let outcome = shard.staff.set(key, value).await;
            let outcome = outcome.map_err(|error| Refusal::system(error.to_string()))?;
            outcome.map_err(|text| Refusal::new(sqlstate::INVALID_PARAMETER_VALUE, text))?;
            Ok(Done::Tag("SET"))
        }
        Command::Upgrade => {
            let outcome = shard.staff.upgrade().await;
            let outcome = outcome.map_err(|error| Refusal::system(error.to_string()))?;
            outcome.map_err(Refusal::system)?;
            Ok(Done::Tag("UPGRADE"))
        }
        Command::Shutdown(when) => {
            if when != When::Now {
                ask_all(shard, &Order::Refuse).await?;
            }
            if when == When::NoServers {
                ask_all(shard, &Order::Pause(None)).await?;
            }
            let mut table = Table::new(vec![admin::Column::text("success")]);
            table.push(vec!["t".to_owned()]);
            Ok(Done::Shutdown(table, when))
        }
    }
}

/// The columns that a command will show, without running it.
pub(super) fn columns(shard: &Shard, command: &Command) -> Option<Table> {
    match command {
        Command::Show(subject) => Some(show(shard, *subject, &Gathered::default(), true)),
        Command::Shutdown(_) => Some(Table::new(vec![admin::Column::text("success")])),
        _ => None,
    }
}

fn show(shard: &Shard, subject: Subject, gathered: &Gathered, is_heading: bool) -> Table {
    let directory = shard.directory();
    let view = View {
        version: env!("CARGO_PKG_VERSION"),
        fleet: &shard.fleet,
        config: &directory.config,
        clients: &gathered.clients,
        servers: &gathered.servers,
        statements: &gathered.statements,
        times: &gathered.times,
        sockets: &gathered.sockets,
        listening: &shard.listening,
        is_heading,
    };
    admin::table(subject, &view)
}

async fn gather(shard: &Rc<Shard>, subject: Subject) -> Result<Gathered, Refusal> {
    let mut gathered = Gathered::default();
    match subject {
        Subject::Clients => {
            for index in 0..shard.count {
                let mut next = Some(0);
                while let Some(from) = next.take() {
                    if let Outcome::Clients(rows, after) =
                        ask(shard, index, Order::Clients(from)).await?
                    {
                        gathered.clients.extend(rows);
                        next = after;
                    }
                }
            }
        }
        Subject::Servers => {
            for index in 0..shard.count {
                let mut next = Some(0);
                while let Some(from) = next.take() {
                    if let Outcome::Servers(rows, after) =
                        ask(shard, index, Order::Servers(from)).await?
                    {
                        gathered.servers.extend(rows);
                        next = after;
                    }
                }
            }
        }
        Subject::PreparedStatements => {
            let accounts = shard.surveys.gather(shard).await;
            gathered.statements = add_up(accounts.map_err(Refusal::system)?);
        }
        Subject::Sockets => {
            let sockets = shard.staff.sockets().await;
            gathered.sockets = sockets.map_err(|error| Refusal::system(error.to_string()))?;
        }
        Subject::PoolsExtended | Subject::Stats | Subject::StatsTotals | Subject::StatsAverages => {
            gathered.times = times(shard).await;
        }
        _ => {}
    }
    Ok(gathered)
}

/// Reads all pools with times and averages. Others have their turn meanwhile.
async fn times(shard: &Shard) -> Vec<PoolView> {
    let mut gathering = Gathering::new(&shard.fleet);
    let mut begun = Instant::now();
    while gathering.go_on() {
        if begun.elapsed() > PIECE {
            sleep(PIECE).await;
            begun = Instant::now();
        }
    }
    gathering.into_views()
}

async fn ask(shard: &Rc<Shard>, index: usize, order: Order) -> Result<Outcome, Refusal> {
    if index == shard.index {
        return Ok(carry_out(shard, order));
    }
    let deadline = shards::now() + ANSWER_MAX;
    let answer = shard.staff.order(index, order);
    let outcome = shards::until(deadline, answer).await;
    let outcome = outcome.unwrap_or_else(|| Err(std::io::ErrorKind::TimedOut.into()));
    outcome.map_err(|error| Refusal::system(format!("shard {index} has not answered: {error}")))
}

/// Has all shards carry out an order.
async fn ask_all(shard: &Rc<Shard>, order: &Order) -> Result<Vec<Outcome>, Refusal> {
    let mut outcomes = Vec::new();
    for index in 0..shard.count {
        outcomes.push(ask(shard, index, order.clone()).await?);
    }
    Ok(outcomes)
}

/// The name of a database that is configured.
fn checked(shard: &Shard, database: Option<String>) -> Result<Option<Box<str>>, Refusal> {
    let Some(name) = database else {
        return Ok(None);
    };
    let directory = shard.directory();
    if directory.config.pools.iter().any(|pool| pool.name == name) {
        return Ok(Some(name.into()));
    }
    let text = format!("No such database: {name}");
    Err(Refusal::new(sqlstate::INVALID_CATALOG_NAME, text))
}

/// The sum of a number over the pools of a database, or of all, and over all shards.
fn sum(shard: &Shard, database: Option<&str>, of: impl Fn(&PoolMetrics) -> u64) -> u64 {
    let mut sum = 0;
    for index in 0..shard.count {
        let pools = shard.fleet.pools(index);
        let pools = pools
            .iter()
            .filter(|pool| database.is_none_or(|name| *name == *pool.database));
        sum += pools.map(|pool| of(pool)).sum::<u64>();
    }
    sum
}

fn servers(pool: &PoolMetrics) -> u64 {
    pool.servers_active.get() + pool.servers_idle.get() + pool.servers_login.get()
}

/// Waits until no server of the database is left. The pause that is meant has the number in `paused`, on
/// this shard: one that has been ended and begun anew is not waited for.
async fn wait_for_pause(
    shard: &Shard,
    database: Option<&str>,
    paused: &Outcome,
) -> Result<(), Refusal> {
    let mut looks = 0;
    while looks < LOOKS_MIN {
        sleep(LOOK).await;
        let number = shard.host.pause_number(database);
        if number.map(Outcome::Paused).as_ref() != Some(paused) {
            return Err(Refusal::system(
                "RESUME has ended the pause before it was complete",
            ));
        }
        let is_empty = sum(shard, database, servers) == 0;
        looks = if is_empty { looks + 1 } else { 0 };
    }
    Ok(())
}

/// Closes the client of this number. If it is between two shards none has it at first: it is looked for
/// several times.
async fn kill_client(shard: &Rc<Shard>, id: u32) -> Result<(), Refusal> {
    let order = Order::Kill(Target::Client(id), shards::now());
    for _ in 0..LOOKS_MIN {
        let outcomes = ask_all(shard, &order).await?;
        if outcomes.iter().any(|outcome| *outcome != Outcome::Done(0)) {
            return Ok(());
        }
        sleep(LOOK).await;
    }
    let text = format!("there is no client 0x{id:08X}");
    Err(Refusal::new(sqlstate::UNDEFINED_OBJECT, text))
}

/// Connections that are no consoles, also those that log in.
fn clients(shard: &Shard) -> u64 {
    let all = shard.connections.count();
    let shards = shard.fleet.shards().iter();
    let consoles: u64 = shards.map(|shard| shard.consoles.get()).sum();
    all.saturating_sub(consoles)
}

/// Ends the process when it is time for it.
pub(super) fn shut_down(shard: &Rc<Shard>, when: When) {
    let shard = Rc::clone(shard);
    spawn(async move {
        if when != When::Now {
            let mut looks = 0;
            while looks < LOOKS_MIN {
                sleep(LOOK).await;
                let left = match when {
                    When::NoServers => sum(&shard, None, servers),
                    When::NoClients | When::Now => clients(&shard),
                };
                looks = if left == 0 { looks + 1 } else { 0 };
            }
            let limit = shard.directory().config.general.shutdown_timeout;
            say_farewell(&shard, shards::now() + limit).await;
        }
        shard.staff.shut_down();
    });
}

/// Ends the process as `SHUTDOWN WAIT_FOR_SERVERS` does, but after `shutdown_timeout` in any case: to be
/// called on one shard.
pub fn wind_down(shard: &Rc<Shard>) {
    let shard = Rc::clone(shard);
    spawn(async move {
        let limit = shard.directory().config.general.shutdown_timeout;
        let deadline = shards::now() + limit;
        for order in [Order::Refuse, Order::Pause(None)] {
            if let Err(refusal) = ask_all(&shard, &order).await {
                tracing::warn!(reason = %refusal.message, "not every shard has begun to end");
            }
        }
        let mut looks = 0;
        while looks < LOOKS_MIN && shards::now() < deadline {
            sleep(LOOK).await;
            let is_empty = sum(&shard, None, servers) == 0;
            looks = if is_empty { looks + 1 } else { 0 };
        }
        if looks < LOOKS_MIN {
            let clients = sum(&shard, None, |pool| pool.clients_active.get());
            tracing::warn!(
                clients,
                "shutdown_timeout is over: who has a server is cut off"
            );
        }
        say_farewell(&shard, deadline.max(shards::now() + FAREWELL_MIN)).await;
        shard.staff.shut_down();
    });
}

/// Tells everybody that is still there that it is over, and waits, at most until `deadline`, until they
/// have that and what was queued for them before.
async fn say_farewell(shard: &Rc<Shard>, deadline: Instant) {
    for index in 0..shard.count {
        if let Err(refusal) = ask(shard, index, Order::End).await {
            tracing::warn!(reason = %refusal.message, "not everybody is told of the end");
        }
    }
    while shard.connections.count() > 0 && shards::now() < deadline {
        sleep(LOOK).await;
    }
}
