//! From the first byte of a client to `ReadyForQuery`.
//!
//! **Owns:** the order of checks, what is asked, what is answered.
//! **Does not own:** what is to be proved (`proofs`), reading packets (`startup`).
//!
//! The order: the word of a proxy, limit of connections, version, host-based rules, the pool, the proof. Rules come
//! before the pool, so that a client who may not try anything does not learn who exists. A client
//! that asks for the console meets the same rules; there is no pool, and one user.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html` "Start-up".

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use shards::Chunk;

use crate::admin;
use crate::auth::hba::HbaClient;
use crate::config::{General, TlsMode};
use crate::pool::CheckoutError;
use crate::protocol::backend::TransactionStatus;
use crate::protocol::cancel_key::CancelKey;
use crate::protocol::error::StartupError;
use crate::protocol::sqlstate;
use crate::protocol::startup::{CancelKeyBytes, StartupMessage, parse_options};
use crate::protocol::writer;
use crate::server::parameters::{ParameterSet, is_name};
use crate::transport::{Encrypted, Stream};

use super::cancel::close_in_order;
use super::card::{Belongs, ClientCard, ClientTally};
use super::client::Session;
use super::console::Console;
use super::directory::{Directory, Tenant};
use super::first_server::learn_base;
use super::greeting;
use super::headcount::Group;
use super::kill::closed_by_operator;
use super::proofs::{Proofs, Proven, Refusal};
use super::report::{Failure, one_line};
use super::shard::{Connection, Shard};
use super::startup::{Conversation, Ended};

/// Why there is no session.
pub(super) enum Rejection {
    /// It is no client, but somebody who wants a client's statement cancelled.
    Cancel(CancelKeyBytes),
    /// Nothing is said: the client has gone.
    Silent,
    /// The client is told.
    Told(Failure),
}

impl From<Failure> for Rejection {
    fn from(failure: Failure) -> Self {
        Self::Told(failure)
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Ended(ended) => ended.into(),
            Refusal::Told(failure) => Self::Told(failure),
        }
    }
}

impl From<Ended> for Rejection {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Gone => Self::Silent,
            Ended::Startup(error) => startup_failure(&error).into(),
            Ended::Proxy(error) => {
                Failure::new(sqlstate::PROTOCOL_VIOLATION, error.to_string()).into()
            }
            Ended::Violation(what) => Failure::new(sqlstate::PROTOCOL_VIOLATION, what).into(),
        }
    }
}

fn startup_failure(error: &StartupError) -> Failure {
    Failure::new(error.sqlstate(), error.to_string())
}

/// A client that may or may not become a session.
pub struct Login {
    pub(super) shard: Rc<Shard>,
    directory: Rc<Directory>,
    pub(super) talk: Conversation,
    connection: Result<Connection, Connection>,
    /// Where the client is, and where it has connected to; as the proxy says if there is one.
    pub(super) peer: Option<SocketAddr>,
    pub(super) local: Option<IpAddr>,
    /// What a proof over TLS is bound to.
    pub(super) end_point: Option<Arc<[u8]>>,
    /// When it connected.
    born: Instant,
}

/// Logs a new client in; `None` if that has failed and the client has been told.
///
/// A console is served here to its end, and `None` as well: it must not make the tasks of all other
/// clients larger.
pub async fn log_in(
    shard: Rc<Shard>,
    stream: Stream,
    connection: Result<Connection, Connection>,
) -> Option<Session> {
    let directory = shard.directory();
    let talk = Conversation::new(stream, Rc::clone(&shard.logins));
    let mut login = Login {
        shard,
        directory,
        talk,
        connection,
        peer: None,
        local: None,
        end_point: None,
        born: shards::now(),
    };
    let limit = login.directory.config.general.client_login_timeout;
    let deadline = shards::now() + limit;
    let over = Rc::clone(&login.shard);
    let running = async {
        tokio::select! {
            biased;
            () = over.doors.over() => Err(Rejection::Told(closed_by_operator())),
            outcome = login.run() => outcome,
        }
    };
    let outcome = if limit.is_zero() {
        Some(running.await)
    } else {
        shards::until(deadline, running).await
    };
    match outcome {
        Some(Ok(Accepted::Client(accepted))) => Some(login.become_session(accepted)),
        Some(Ok(Accepted::Console {
            asked,
            speaks_3_2,
            names,
        })) => {
            let (console, rest) = login.become_console(asked, speaks_3_2, names);
            console.run(rest).await;
            None
        }
        Some(Err(Rejection::Silent)) => {
            login.shard.metrics().logins_failed.add(1);
            None
        }
        Some(Err(Rejection::Cancel(key))) => {
            login.serve_cancel(&key).await;
            None
        }
        Some(Err(Rejection::Told(failure))) => {
            login.shard.metrics().logins_failed.add(1);
            tracing::info!(
                client = %login.peer_text(), sqlstate = %failure.sqlstate,
                reason = %one_line(&failure.message), "login refused"
            );
            login.refuse(&failure);
            None
        }
        None => {
            login.shard.metrics().logins_failed.add(1);
            login.shard.metrics().timeouts_login.add(1);
            tracing::info!(client = %login.peer_text(), "login took too long, client closed");
            let text = "canceling authentication due to timeout";
            let failure = Failure::new(sqlstate::QUERY_CANCELED, text);
            login.talk.stream.send(failure.to_bytes());
            None
        }
    }
}

/// What a successful login has settled.
enum Accepted {
    /// A client of a pool.
    Client(AcceptedClient),
    /// Somebody who wants the console.
    Console {
        asked: ParameterSet,
        speaks_3_2: bool,
        /// The database and the user, as they were asked for.
        names: Names,
    },
}

/// Database and user.
type Names = Box<(Box<str>, Box<str>)>;

/// What the login of a client of a pool has settled.
struct AcceptedClient {
    tenant: Rc<Tenant>,
    asked: ParameterSet,
    base: Rc<ParameterSet>,
    speaks_3_2: bool,
}

impl Login {
    async fn run(&mut self) -> Result<Accepted, Rejection> {
        (self.peer, self.local) = self.talk.addresses().map_err(|_| Rejection::Silent)?;
        self.hear_proxy().await?;
        let startup = self.first_packets().await?;
        if self.connection.is_err() {
            let text = "sorry, too many clients already";
            return Err(Failure::new(sqlstate::TOO_MANY_CONNECTIONS, text).into());
        }
        self.check_tls()?;
        check_replication(&startup)?;
        let mut asked = asked_parameters(&startup)?;
        if startup.needs_negotiation() {
            let mut out = Vec::new();
            let unknown = &startup.unsupported_protocol_options;
            writer::negotiate_protocol_version(&mut out, startup.negotiated_minor(), unknown);
            self.talk.stream.send(out);
        }
        let speaks_3_2 = startup.negotiated_minor() >= 2;
        if admin::is_console(&startup.database) {
            self.authenticate_admin(&startup).await?;
            let StartupMessage { database, user, .. } = startup;
            let names = Box::new((database.into(), user.into()));
            return Ok(Accepted::Console {
                asked,
                speaks_3_2,
                names,
            });
        }
        let Proven {
            mut tenant,
            application_name,
        } = self.authenticate(&startup).await?;
        self.join(&tenant)?;
        if let Some(name) = application_name {
            asked.set("application_name", &name);
        }
        let learned = learn_base(&self.shard, &mut tenant).await;
        let base = learned.map_err(|error| no_first_server(&tenant, &startup, &error))?;
        Ok(Accepted::Client(AcceptedClient {
            tenant,
            asked,
            base,
            speaks_3_2,
        }))
    }

    fn refuse(&mut self, failure: &Failure) {
        let stream = &mut self.talk.stream;
        if self.shard.doors.is_over() {
            close_in_order(stream);
        }
        stream.send(failure.to_bytes());
    }

    /// Counts the client as one of its database and its user.
    fn join(&mut self, tenant: &Tenant) -> Result<(), Failure> {
        let (Ok(connection) | Err(connection)) = &mut self.connection;
        let (database, user) = (tenant.database(), tenant.user().username.as_str());
        let Err(group) = connection.join(database, user, &tenant.limits) else {
            return Ok(());
        };
        self.shard.metrics().clients_over_limit.add(1);
        let text = match group {
            Group::Database => format!("too many connections for database \"{database}\""),
            Group::User => format!("too many connections for user \"{user}\""),
        };
        Err(Failure::new(sqlstate::TOO_MANY_CONNECTIONS, text))
    }

    /// The connection counts as no client: a full pooler can still cancel.
    async fn serve_cancel(self, key: &CancelKeyBytes) {
        drop(self.connection);
        // Once for the way to the server, and once for its answer.
        let limit = 2 * self.directory.config.general.connect_timeout;
        let (canceller, _) = self.talk.finish();
        self.shard.cancels.serve(canceller, key, limit).await;
    }

    pub(super) fn general(&self) -> &General {
        &self.directory.config.general
    }

    fn check_tls(&self) -> Result<(), Rejection> {
        match self.general().tls_mode {
            _ if self.talk.stream.is_tls() || self.peer.is_none() => Ok(()),
            TlsMode::Require | TlsMode::VerifyFull => {
                let text = "Connection without SSL is not allowed by tls_mode.";
                Err(Failure::new(sqlstate::INVALID_AUTHORIZATION, text).into())
            }
            _ => Ok(()),
        }
    }

    fn peer_text(&self) -> String {
        self.peer
            .map_or_else(|| "local".to_owned(), |peer| peer.to_string())
    }

    /// The client as the rules see it.
    fn hba_client<'a>(&self, startup: &'a StartupMessage) -> HbaClient<'a> {
        HbaClient {
            ip: self.peer.map(|peer| peer.ip()),
            local_ip: self.local,
            certificate: None,
            tls: self.talk.stream.is_tls(),
            user: &startup.user,
            database: &startup.database,
        }
    }

    /// A client, and what is needed to hear its proof; `certificate` is the name it has shown.
    fn proofs<'a>(
        &'a mut self,
        startup: &'a StartupMessage,
        certificate: Option<&'a str>,
    ) -> Proofs<'a> {
        let client = HbaClient {
            certificate,
            ..self.hba_client(startup)
        };
        Proofs {
            peer: self.peer_text(),
            shard: &self.shard,
            directory: Rc::clone(&self.directory),
            talk: &mut self.talk,
            end_point: self.end_point.as_deref(),
            client,
        }
    }

    fn certificate(&self) -> Option<String> {
        self.talk.stream.tls().and_then(Encrypted::peer_common_name)
    }

    async fn authenticate_admin(&mut self, startup: &StartupMessage) -> Result<(), Refusal> {
        let certificate = self.certificate();
        let proofs = self.proofs(startup, certificate.as_deref());
        proofs.authenticate_admin().await
    }

    async fn authenticate(&mut self, startup: &StartupMessage) -> Result<Proven, Refusal> {
        let certificate = self.certificate();
        let proofs = self.proofs(startup, certificate.as_deref());
        proofs.authenticate().await
    }

    /// Counts a login; returns whether it was over TLS.
    fn count_login(&self) -> bool {
        let metrics = self.shard.metrics();
        let is_tls = self.talk.stream.is_tls();
        if is_tls {
            metrics.logins_tls.add(1);
        } else {
            metrics.logins_plain.add(1);
        }
        is_tls
    }

    fn become_console(
        self,
        asked: ParameterSet,
        speaks_3_2: bool,
        names: Names,
    ) -> (Console, Option<Chunk>) {
        let is_tls = self.count_login();
        tracing::info!(target: "pg_doorman::clients", client = %self.peer_text(), "console opened");
        let key = greeting::dead_key(&self.shard, speaks_3_2);
        let (mut client, rest) = self.talk.finish();
        client.send(greeting::greeting(&asked, &key));
        let id = greeting::console_id(&self.shard);
        let mut tally = ClientTally::new(id, self.peer, self.born);
        tally.is_tls = is_tls;
        let asked = self.shard.host.interner.borrow_mut().intern(asked);
        let belongs = Belongs::Console(names);
        let card = ClientCard::new(belongs, asked, client.id(), tally);
        let card = self.shard.roster.seat(card);
        let connection = match self.connection {
            Ok(connection) | Err(connection) => connection,
        };
        (Console::new(self.shard, client, connection, card), rest)
    }

    fn become_session(self, accepted: AcceptedClient) -> Session {
        let AcceptedClient {
            tenant,
            asked,
            base,
            speaks_3_2,
        } = accepted;
        let is_tls = self.count_login();
        let (slot, secret) = self.shard.registry.enter(speaks_3_2);
        let key = CancelKey {
            generation: self.shard.generation,
            shard: self.shard.index as u16,
            slot: slot.number(),
            secret,
        };
        let mut out = Vec::with_capacity(512);
        writer::authentication_ok(&mut out);
        for parameter in base.iter() {
            let value = asked.get(&parameter.name).unwrap_or(&parameter.value);
            writer::parameter_status(&mut out, parameter.name.as_bytes(), value.as_bytes());
        }
        if let Some(pid) = key.pid() {
            writer::backend_key_data(&mut out, pid, key.secret.as_bytes());
        }
        writer::ready_for_query(&mut out, TransactionStatus::Idle);
        if self.general().log_client_connections {
            tracing::info!(target: "pg_doorman::clients", client = %self.peer_text(),
                pool = %tenant.pool.key.database, user = %tenant.pool.key.user,
                "client connected ({})", if is_tls { "TLS" } else { "plain" });
        }
        let (mut client, rest) = self.talk.finish();
        client.send(out);
        let connection = match self.connection {
            Ok(connection) | Err(connection) => connection,
        };
        let pool = Rc::clone(&tenant.pool);
        let wanted = pool.intern(beyond(&asked, &base));
        let settings = (pool.intern(asked), wanted);
        let id = key.pid().map_or(0, i32::cast_unsigned);
        let mut tally = ClientTally::new(id, self.peer, self.born);
        tally.is_tls = is_tls;
        let place = (slot, connection, tally);
        Session::new(self.shard, pool, (client, rest), settings, place)
    }
}

fn check_replication(startup: &StartupMessage) -> Result<(), Failure> {
    let off = ["", "false", "off", "no", "0", "f", "n"];
    match &startup.replication {
        Some(value) if !off.contains(&value.to_ascii_lowercase().as_str()) => Err(Failure::new(
            sqlstate::FEATURE_NOT_SUPPORTED,
            "replication connections are not supported by the pooler",
        )),
        _ => Ok(()),
    }
}

/// The settings that a client asks for in its startup packet.
fn asked_parameters(startup: &StartupMessage) -> Result<ParameterSet, Failure> {
    let options = startup.options.as_deref().unwrap_or_default();
    let options = parse_options(options).map_err(|error| startup_failure(&error))?;
    let mut asked = ParameterSet::default();
    // As in PostgreSQL, a parameter of its own wins over the same one in `options`.
    for (name, value) in options.iter().chain(&startup.parameters) {
        if !is_name(name) {
            let text = format!("unrecognized configuration parameter \"{name}\"");
            return Err(Failure::new(sqlstate::UNDEFINED_OBJECT, text));
        }
        asked.set(name, value);
    }
    Ok(asked)
}

/// What a client asks for that servers of its pool do not have anyhow.
fn beyond(asked: &ParameterSet, base: &ParameterSet) -> ParameterSet {
    let mut wanted = asked.clone();
    for parameter in base.iter() {
        if asked.get(&parameter.name) == Some(&parameter.value) {
            wanted.remove(&parameter.name);
        }
    }
    wanted
}

fn no_first_server(tenant: &Tenant, startup: &StartupMessage, error: &CheckoutError) -> Failure {
    let key = &tenant.pool.key;
    tracing::warn!(pool = %key.database, user = %key.user, %error, "no first server");
    let StartupMessage { database, user, .. } = startup;
    Failure::with_ready(
        sqlstate::INVALID_CATALOG_NAME,
        format!(
            "Unable to retrieve server parameters for database: {database}, user: {user}. The \
             database server may be unavailable or misconfigured. Please try again later or \
             contact your database administrator."
        ),
    )
}
