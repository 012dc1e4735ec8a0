//! The results of `SHOW` about clients, servers, pools and settings.
//!
//! **Owns:** the columns of each, their types and order, and which number goes where.
//! **Does not own:** the numbers (`metrics`), `SHOW SHARDS` and `SHOW HELP`.
//!
//! Names, types and order of the columns are an interface: programs read them by name or by place.
//! What is new stands at the end.

use crate::config::PoolMode;
use crate::metrics::window::{Averages, PoolView};

use super::sockets::{Sockets, TCP_STATES, UNIX_STATES};
use super::table::{Column, Table};
use super::view::{Listening, View, clients_by, host_and_port};

/// Columns of one type.
fn numerics(names: &[&'static str]) -> impl Iterator<Item = Column> {
    names.iter().map(|name| Column::numeric(*name))
}

fn texts(names: &[&'static str]) -> Vec<Column> {
    names.iter().map(|name| Column::text(*name)).collect()
}

fn mode(mode: PoolMode) -> String {
    match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
    }
    .to_owned()
}

/// One row.
pub fn version(version: &str) -> Table {
    let mut table = Table::new(texts(&["version"]));
    table.push(vec![format!("PgDoorman {version}")]);
    table
}

/// A row a place where clients can connect.
pub fn listen(listening: &[Listening]) -> Table {
    let mut table = Table::new(texts(&["address", "port", "family"]));
    for place in listening {
        let port = place.port.to_string();
        table.push(vec![place.address.clone(), port, place.family.to_owned()]);
    }
    table
}

/// A row a setting.
pub fn config(view: &View<'_>) -> Table {
    let mut table = Table::new(texts(&["key", "value", "default", "changeable"]));
    let mut push = |key: String, value: String, changeable: bool| {
        let changeable = if changeable { "yes" } else { "no" };
        table.push(vec![key, value, "-".to_owned(), changeable.to_owned()]);
    };
    for setting in super::settings::of(&view.config.general) {
        push(setting.key.to_owned(), setting.value, setting.is_changeable);
    }
    for pool in &view.config.pools {
        let users: Vec<_> = pool.users.iter().map(|user| &*user.username).collect();
        push(
            format!("pools.{}.pool_mode", pool.name),
            mode(pool.pool_mode),
            true,
        );
        push(
            format!("pools.\"{}\".users", pool.name),
            users.join(", "),
            true,
        );
    }
    table
}

/// A row a pool.
pub fn databases(view: &View<'_>) -> Table {
    let mut columns = texts(&["name", "host", "port", "database", "force_user"]);
    columns.extend(["pool_size", "min_pool_size", "reserve_pool"].map(Column::int));
    columns.push(Column::text("pool_mode"));
    columns.extend(
        [
            "max_connections",
            "current_connections",
            "paused",
            "disabled",
            "reserve_pool_size",
            "max_client_connections",
            "current_client_connections",
        ]
        .map(Column::int),
    );
    let mut table = Table::new(columns);
    let tenants = view.tenants();
    let clients = clients_by(&tenants, |tenant| &tenant.pool.name);
    for tenant in &tenants {
        let (pool, user) = (tenant.pool, tenant.user);
        let (host, port) = host_and_port(&pool.server);
        let limits = view.config.limits_of(pool, user);
        let clients = clients.get(&*pool.name).copied().unwrap_or_default();
        let size = user.pool_size.to_string();
        let most = match limits.max_db_connections {
            0 => size.clone(),
            most => most.to_string(),
        };
        table.push(vec![
            pool.name.clone(),
            host,
            port,
            pool.name.clone(),
            user.username.clone(),
            size,
            user.min_pool_size.to_string(),
            limits.reserve().to_string(),
            mode(user.pool_mode),
            most,
            tenant.view.now.servers().to_string(),
            u8::from(tenant.view.now.is_paused).to_string(),
            "0".to_owned(),
            limits.reserve().to_string(),
            limits.max_db_client_connections.to_string(),
            clients.to_string(),
        ]);
    }
    table
}

/// A row a pool.
pub fn users(view: &View<'_>) -> Table {
    let mut columns = texts(&["name", "pool_mode"]);
    columns.extend(
        [
            "pool_size",
            "reserve_pool_size",
            "max_user_client_connections",
            "current_client_connections",
        ]
        .map(Column::int),
    );
    let mut table = Table::new(columns);
    let tenants = view.tenants();
    let clients = clients_by(&tenants, |tenant| &tenant.user.username);
    for tenant in &tenants {
        let (pool, user) = (tenant.pool, tenant.user);
        let limits = view.config.limits_of(pool, user);
        let clients = clients.get(&*user.username).copied().unwrap_or_default();
        table.push(vec![
            user.username.clone(),
            mode(user.pool_mode),
            user.pool_size.to_string(),
            limits.reserve().to_string(),
            limits.max_user_client_connections.to_string(),
            clients.to_string(),
        ]);
    }
    table
}

/// A row a kind of thing.
pub fn lists(view: &View<'_>) -> Table {
    let mut table = Table::new(vec![Column::text("list"), Column::int("items")]);
    let tenants = view.tenants();
    let named = tenants.len() as u64 + 1;
    let sum = |of: fn(&PoolView) -> u64| tenants.iter().map(|tenant| of(&tenant.view)).sum::<u64>();
    let shards = view.fleet.shards().iter();
    let (mut all, mut consoles) = (0, 0);
    for shard in shards {
        all += shard.clients.get();
        consoles += shard.consoles.get();
    }
    let logged_in = sum(|view| view.now.clients) + consoles;
    for (list, items) in [
        ("databases", named),
        ("users", named),
        ("pools", named),
        (
            "free_clients",
            sum(|view| view.now.clients_idle()) + consoles,
        ),
        ("used_clients", sum(|view| view.now.clients_active)),
        ("login_clients", all.saturating_sub(logged_in)),
        ("free_servers", sum(|view| view.now.servers_idle)),
        ("used_servers", sum(|view| view.now.servers_active)),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ] {
        table.push(vec![list.to_owned(), items.to_string()]);
    }
    table
}

/// Whole seconds, and microseconds beyond them.
fn seconds_and_rest(micros: u64) -> (u64, u64) {
    (micros / 1_000_000, micros % 1_000_000)
}

/// A row a pool.
pub fn pools(view: &View<'_>) -> Table {
    let mut columns = texts(&["database", "user", "pool_mode"]);
    columns.extend(numerics(&[
        "cl_idle",
        "cl_active",
        "cl_waiting",
        "cl_cancel_req",
        "sv_active",
        "sv_idle",
        "sv_used",
        "sv_login",
        "maxwait",
        "maxwait_us",
    ]));
    let mut table = Table::new(columns);
    for tenant in view.tenants() {
        let now = &tenant.view.now;
        let (seconds, micros) = seconds_and_rest(now.wait_us_max);
        let mut row = vec![
            tenant.pool.name.clone(),
            tenant.user.username.clone(),
            mode(tenant.user.pool_mode),
        ];
        let numbers = [
            now.clients_idle(),
            now.clients_active,
            now.clients_waiting,
            0,
            now.servers_active,
            now.servers_idle,
            0,
            now.servers_login,
            seconds,
            micros,
        ];
        row.extend(numbers.map(|number| number.to_string()));
        table.push(row);
    }
    table
}

/// A row a pool.
pub fn pools_extended(view: &View<'_>) -> Table {
    let mut columns = texts(&["database", "user"]);
    columns.extend(numerics(&[
        "cl_active",
        "cl_waiting",
        "sv_active",
        "sv_idle",
        "sv_used",
        "sv_login",
        "maxwait",
        "maxwait_us",
    ]));
    columns.push(Column::text("pool_mode"));
    columns.extend(numerics(&[
        "bytes_recieved",
        "bytes_sent",
        "query_0.99",
        "transaction_0.99",
        "query_0.95",
        "transaction_0.95",
        "query_0.5",
        "transaction_0.5",
    ]));
    let mut table = Table::new(columns);
    for tenant in view.tenants_with_times() {
        let (now, recent) = (&tenant.view.now, &tenant.view.recent);
        let (seconds, micros) = seconds_and_rest(now.wait_us_max);
        let mut row = vec![tenant.pool.name.clone(), tenant.user.username.clone()];
        let numbers = [
            now.clients_active,
            now.clients_waiting,
            now.servers_active,
            now.servers_idle,
            0,
            now.servers_login,
        ];
        row.extend(numbers.map(|number| number.to_string()));
        row.extend([format!("{seconds}.{micros:06}"), micros.to_string()]);
        row.push(mode(tenant.user.pool_mode));
        row.extend([now.bytes_received.to_string(), now.bytes_sent.to_string()]);
        for percent in [99, 95, 50] {
            row.push(recent.queries.percentile_us(percent).to_string());
            row.push(recent.transactions.percentile_us(percent).to_string());
        }
        table.push(row);
    }
    table
}

/// A row a pool.
pub fn pools_memory(view: &View<'_>) -> Table {
    let mut columns = texts(&["database", "user"]);
    columns.extend(numerics(&[
        "pool_prepared_count",
        "pool_prepared_bytes",
        "client_prepared_count",
        "client_prepared_bytes",
        "async_clients",
    ]));
    let mut table = Table::new(columns);
    for tenant in view.tenants() {
        let now = &tenant.view.now;
        let mut row = vec![tenant.pool.name.clone(), tenant.user.username.clone()];
        let numbers = [
            now.prepared_entries,
            now.prepared_bytes,
            now.client_prepared_entries,
            now.client_prepared_bytes,
            now.async_clients,
        ];
        row.extend(numbers.map(|number| number.to_string()));
        table.push(row);
    }
    table
}

/// A row a client.
pub fn clients(view: &View<'_>) -> Table {
    let names = [
        "client_id",
        "database",
        "user",
        "application_name",
        "addr",
        "tls",
        "state",
        "wait",
    ];
    let mut columns = texts(&names);
    columns.extend(numerics(&[
        "transaction_count",
        "query_count",
        "error_count",
        "age_seconds",
        "shard",
    ]));
    let mut table = Table::new(columns);
    for row in view.clients {
        table.push(vec![
            format!("0x{:08X}", row.id),
            row.database.clone(),
            row.user.clone(),
            row.application_name.clone(),
            row.peer
                .map_or_else(|| "local".to_owned(), |peer| peer.to_string()),
            row.is_tls.to_string(),
            row.state.to_owned(),
            row.wait.to_owned(),
            row.transactions.to_string(),
            row.queries.to_string(),
            row.errors.to_string(),
            row.age_seconds.to_string(),
            row.shard.to_string(),
        ]);
    }
    table
}

/// A row a server connection.
pub fn servers(view: &View<'_>) -> Table {
    let names = [
        "server_id",
        "server_process_id",
        "database_name",
        "user",
        "application_name",
        "state",
        "wait",
    ];
    let mut columns = texts(&names);
    columns.extend(numerics(&[
        "transaction_count",
        "query_count",
        "bytes_sent",
        "bytes_received",
        "age_seconds",
        "prepare_cache_hit",
        "prepare_cache_miss",
        "prepare_cache_size",
        "shard",
    ]));
    columns.extend(texts(&["tls"]));
    let mut table = Table::new(columns);
    for row in view.servers {
        let [found, made, statements] = row.statements.map(|number| number.to_string());
        table.push(vec![
            format!("0x{:08X}", row.id),
            row.pid.to_string(),
            row.database.clone(),
            row.user.clone(),
            row.application_name.clone(),
            row.state.to_owned(),
            row.wait.to_owned(),
            row.transactions.to_string(),
            row.queries.to_string(),
            row.sent.to_string(),
            row.received.to_string(),
            row.age_seconds.to_string(),
            found,
            made,
            statements,
            row.shard.to_string(),
            row.is_tls.to_string(),
        ]);
    }
    table
}

/// One row: connections since the start of the first process.
pub fn connections(view: &View<'_>) -> Table {
    let names = ["total", "errors", "tls", "plain", "cancel"];
    let mut table = Table::new(numerics(&names).collect());
    let mut sums = [0; 5];
    for shard in view.fleet.shards() {
        let numbers = [
            shard.clients_accepted.get(),
            shard.logins_failed.get(),
            shard.logins_tls.get(),
            shard.logins_plain.get(),
            shard.cancels_received.get(),
        ];
        for (sum, number) in sums.iter_mut().zip(numbers) {
            *sum += number;
        }
    }
    let inherited = view.fleet.inherited();
    let fields = [
        "clients_accepted",
        "logins_failed",
        "logins_tls",
        "logins_plain",
        "cancels_received",
    ];
    for (sum, field) in sums.iter_mut().zip(fields) {
        *sum += inherited.of_shards(field);
    }
    table.push(sums.map(|sum| sum.to_string()).into());
    table
}

const TOTALS: [&str; 8] = [
    "total_xact_count",
    "total_query_count",
    "total_received",
    "total_sent",
    "total_xact_time",
    "total_query_time",
    "total_wait_time",
    "total_errors",
];
const AVERAGES: [&str; 8] = [
    "avg_xact_count",
    "avg_query_count",
    "avg_recv",
    "avg_sent",
    "avg_errors",
    "avg_xact_time",
    "avg_query_time",
    "avg_wait_time",
];

fn totals(view: &PoolView) -> [u64; 8] {
    let now = &view.now;
    [
        now.transactions.count(),
        now.queries.count(),
        now.bytes_received,
        now.bytes_sent,
        now.transactions.sum_us,
        now.queries.sum_us,
        now.waits.sum_us,
        now.errors,
    ]
}

const fn averages(averages: &Averages) -> [u64; 8] {
    [
        averages.transactions,
        averages.queries,
        averages.received,
        averages.sent,
        averages.errors,
        averages.transaction_us,
        averages.query_us,
        averages.wait_us,
    ]
}

/// A row a pool, with what was counted since the start, what lately, or both.
pub fn stats(view: &View<'_>, has_totals: bool, has_averages: bool) -> Table {
    let mut columns = texts(&["database", "user"]);
    if has_totals {
        columns.extend(numerics(&TOTALS));
    }
    if has_averages {
        columns.extend(numerics(&AVERAGES));
    }
    let mut table = Table::new(columns);
    for tenant in view.tenants_with_times() {
        let mut row = vec![tenant.pool.name.clone(), tenant.user.username.clone()];
        if has_totals {
            row.extend(totals(&tenant.view).map(|number| number.to_string()));
        }
        if has_averages {
            row.extend(averages(&tenant.view.averages).map(|number| number.to_string()));
        }
        table.push(row);
    }
    table
}

/// One row.
pub fn sockets(sockets: &Sockets) -> Table {
    let mut columns = Vec::new();
    let mut row = Vec::new();
    for (kind, counts) in [("tcp", sockets.tcp), ("tcp6", sockets.tcp6)] {
        for (at, (state, count)) in TCP_STATES.iter().zip(counts).enumerate() {
            // The last two have the same names for both kinds, as programs know them.
            let kind = if at > 10 { "tcp" } else { kind };
            columns.push(Column::numeric(format!("{kind}_{state}")));
            row.push(count.to_string());
        }
    }
    for (state, count) in UNIX_STATES.iter().zip(sockets.unix) {
        columns.push(Column::numeric(format!("unix_{state}")));
        row.push(count.to_string());
    }
    columns.push(Column::numeric("unknown"));
    row.push(sockets.unknown.to_string());
    let mut table = Table::new(columns);
    table.push(row);
    table
}
