//! A server connection: its socket and everything known of the session behind it.
//!
//! **Owns:** opening it, the account of replies, settings, leftovers, age.
//! **Does not own:** who uses it (`pool`), forwarding (`session::relay`).
//!
//! **Invariant:** [`ServerConnection::is_clean`] is true only if nothing is owed in either direction
//! and the next client would find the session as PostgreSQL made it, apart from the settings that
//! [`ServerConnection::applied`] names.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Instant;

use shards::{Chunk, connect_tcp, connect_unix};
use tokio::sync::oneshot::Sender;

use crate::config::{Endpoint, Secret};
use crate::protocol::backend::TransactionStatus;
use crate::protocol::framer::{BODY_BYTES_MAX, Framer, Interest};
use crate::protocol::frontend::Target;
use crate::protocol::writer;
use crate::transport::Stream;

use super::baits::Baits;
use super::card::ServerCard;
use super::credentials::Source;
use super::errands::Errands;
use super::error::ServerError;
use super::handshake::{Action, Binding, Credentials, Greeting, Handshake};
use super::lease::Lease;
use super::parameters::ParameterSet;
use super::quota::Right;
use super::reset::Leftovers;
use super::secure::{Approach, Security};
use super::statements::Statements;
use super::sync::{Owner, Sync};
use super::tcp::TcpOptions;
use super::version::{Version, may_be_about};

/// Replies whose bodies are looked into.
static INTEREST: Interest = Interest::of(b"CESTZ");
/// Messages of a login.
static LOGIN_INTEREST: Interest = Interest::of(b"EKNRSZv");
/// The largest message that a login may bring, in bytes.
const LOGIN_BODY_MAX: u32 = 64 * 1024;

/// How a socket to a server is made.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Where the server is.
    pub endpoint: Endpoint,
    /// Options of TCP.
    pub tcp: TcpOptions,
    /// Buffer sizes of Unix sockets in bytes.
    pub unix_buffer_bytes: usize,
    /// TLS.
    pub security: Security,
    /// A password may be sent in clear over a network without TLS.
    pub clear_anywhere: bool,
    /// What servers are asked to speak.
    pub version: Version,
}

/// How to log in.
#[derive(Clone, Debug)]
pub struct Login {
    /// User on the server.
    pub user: String,
    /// How this is proved.
    pub source: Source,
    /// Database on the server.
    pub database: String,
    /// The session's `application_name`.
    pub application_name: String,
}

/// One session of PostgreSQL.
#[derive(Debug)]
pub struct ServerConnection {
    /// The socket.
    pub stream: Stream,
    /// The right to have it.
    pub right: Right,
    /// Finds replies in what the server sends.
    pub framer: Framer,
    /// What the server owes.
    pub sync: Sync,
    /// The status of the last `ReadyForQuery`.
    pub status: TransactionStatus,
    /// What clients left behind.
    pub leftovers: Leftovers,
    /// The session has an unnamed statement of some client.
    pub has_unnamed: bool,
    /// The prepared statements that it has under names of the pooler's.
    pub statements: Statements,
    /// Empty statements that it may have under names of a client's.
    pub baits: Baits,
    /// The parameters that the server reported at login: its defaults.
    pub base: Rc<ParameterSet>,
    /// The settings that were made beyond the defaults.
    pub applied: Rc<ParameterSet>,
    /// Who may use it now, and how its statements are cancelled.
    pub lease: Rc<Lease>,
    /// What is told of it.
    pub card: Rc<ServerCard>,
    /// Numbers this connection among all of its shard.
    pub number: u32,
    /// When it was opened.
    pub born: Instant,
    /// When it is to be replaced.
    pub expires: Option<Instant>,
    /// It has come with a client, who gets it.
    pub awaited: Option<Box<Awaited>>,
}

/// Who has come from another process together with a server. Learns of its end by a drop.
#[derive(Debug)]
pub struct Awaited {
    /// The client.
    pub client: Sender<Companion>,
    /// What the server has said on its way.
    pub unread: Option<Chunk>,
}

/// A server for the client that has come with it, and what it has said on its way.
pub type Companion = (Box<ServerConnection>, Option<Chunk>);

impl ServerConnection {
    /// The process id of the session, 0 if the server has told none.
    pub fn pid(&self) -> i32 {
        self.lease.target().map_or(0, |target| target.pid)
    }

    /// Sends a query of the pooler's own; no client sees the reply.
    pub fn send_own_query(&mut self, text: &str) {
        let mut out = Vec::with_capacity(text.len() + 6);
        writer::query(&mut out, text.as_bytes());
        self.sync.sent(b'Q', false, Owner::Pooler);
        self.stream.send(out);
    }

    /// Closes the baits that may be left; no client sees the reply.
    pub fn send_closes_of_baits(&mut self) {
        let mut out = Vec::new();
        for name in self.baits.take() {
            writer::close(&mut out, Target::Statement, &name);
            self.sync.sent(b'C', false, Owner::Pooler);
        }
        if !out.is_empty() {
            writer::sync(&mut out);
            self.sync.sent(b'S', false, Owner::Pooler);
            self.stream.send(out);
        }
    }

    /// True if nothing is owed in either direction.
    pub fn is_settled(&self) -> bool {
        self.sync.is_settled() && self.framer.is_at_boundary() && !self.stream.has_ended()
    }

    /// True if the next client may use it as it is.
    pub fn is_clean(&self) -> bool {
        self.is_settled()
            && self.status == TransactionStatus::Idle
            && self.leftovers.is_empty()
            && !self.baits.may_be_there()
    }

    /// True if its time is over.
    pub fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// Says good-bye and closes.
    pub fn close(mut self: Box<Self>) {
        if self.sync.is_settled() {
            let mut out = Vec::new();
            writer::terminate(&mut out);
            self.stream.send(out);
        } else {
            self.stream.abort();
        }
    }
}

/// Reads whole messages during a login.
struct Reader {
    framer: Framer,
    chunk: Option<Chunk>,
    /// How many there have been.
    messages: u32,
}

impl Reader {
    fn new() -> Self {
        Self {
            framer: Framer::new(&LOGIN_INTEREST, LOGIN_BODY_MAX),
            chunk: None,
            messages: 0,
        }
    }

    /// True if `error` is all that the server has answered.
    const fn is_at_first_answer(&self, error: &ServerError) -> bool {
        match error {
            ServerError::Refused { .. } => self.messages == 1,
            _ => self.messages == 0,
        }
    }

    /// The next message. Logins are rare, so the body is a copy.
    async fn next(&mut self, stream: &mut Stream) -> Result<(u8, Vec<u8>), ServerError> {
        loop {
            let Some(chunk) = &mut self.chunk else {
                self.chunk = stream.receive().await.map_err(ServerError::Io)?;
                if self.chunk.is_none() {
                    return Err(ServerError::Closed);
                }
                continue;
            };
            let Some(part) = self.framer.next(chunk)? else {
                self.chunk = None;
                continue;
            };
            let (tag, is_last, used) = (part.tag, part.is_last, part.len);
            let body = part.body.map(<[u8]>::to_vec);
            chunk.advance(used);
            if is_last {
                self.messages += 1;
                return body
                    .map(|body| (tag, body))
                    .ok_or(ServerError::Unexpected(tag));
            }
        }
    }
}

/// Opens a connection and logs in. The caller sets the deadline.
///
/// # Errors
///
/// [`ServerError`].
pub async fn open(
    socket: &Socket,
    login: &Login,
    nonce: String,
    errands: &dyn Errands,
) -> Result<(Stream, Framer, Greeting), ServerError> {
    let place = (login.database.as_str(), &socket.endpoint);
    let credentials = login.source.prepare(&login.user, place, errands).await?;
    let login = (login, &credentials);
    let first = socket.security.first(&socket.endpoint);
    let error = match log_in(socket, login, nonce.clone(), errands, first).await {
        Ok(opened) => return Ok(opened),
        Err(error) => error,
    };
    match socket.security.second(&socket.endpoint, first, &error) {
        None => Err(error),
        Some(second) => {
            tracing::debug!(%error, ?second, "server connection is tried another way");
            log_in(socket, login, nonce, errands, second).await
        }
    }
}

type Opened = (Stream, Framer, Greeting);

/// Logs in; once more in an older version if the newest one may be what the server does not like.
async fn log_in(
    socket: &Socket,
    login: (&Login, &Credentials),
    nonce: String,
    errands: &dyn Errands,
    approach: Approach,
) -> Result<Opened, ServerError> {
    let minor = socket.version.minor();
    let mut reader = Reader::new();
    let asked = (minor, nonce.as_str());
    let first = converse(socket, login, asked, errands, approach, &mut reader).await;
    match first {
        Err(error) if reader.is_at_first_answer(&error) && may_be_about(minor, &error) => {
            tracing::debug!(%error, "server connection is tried with protocol 3.0");
            let mut reader = Reader::new();
            let asked = (0, nonce.as_str());
            let opened = converse(socket, login, asked, errands, approach, &mut reader).await?;
            socket.version.lower();
            Ok(opened)
        }
        outcome => outcome,
    }
}

async fn converse(
    socket: &Socket,
    (login, credentials): (&Login, &Credentials),
    (minor, nonce): (u16, &str),
    errands: &dyn Errands,
    approach: Approach,
    reader: &mut Reader,
) -> Result<Opened, ServerError> {
    let mut stream = socket
        .connect(errands)
        .await
        .map_err(ServerError::Connect)?;
    let endpoint = &socket.endpoint;
    let security = &socket.security;
    security.begin(&mut stream, endpoint, approach).await?;
    let mut out = Vec::new();
    let parameters = [
        ("user", credentials.user.as_str()),
        ("database", login.database.as_str()),
        ("application_name", login.application_name.as_str()),
    ];
    writer::startup_message(&mut out, minor, parameters);
    stream.send(out);
    let is_safe = socket.clear_anywhere || is_private(&stream);
    let binding = Binding::of(&stream);
    let mut handshake = Handshake::new(credentials.clone(), nonce.to_owned(), binding)
        .asked_for(minor)
        .clear_if(is_safe);
    loop {
        let (tag, body) = reader.next(&mut stream).await?;
        let (next, action) = handshake.handle(tag, &body)?;
        handshake = next;
        match action {
            Action::Read => {}
            Action::Send(bytes) => stream.send(bytes),
            Action::Derive { salt, iterations } => {
                let password = credentials.password().map_or("", Secret::expose);
                let keys = errands.derive_keys(password, &salt, iterations).await;
                let (next, message) = handshake.provide(keys.map_err(ServerError::Io)?)?;
                handshake = next;
                stream.send(message);
            }
            Action::Done => break,
        }
    }
    if reader.chunk.take().is_some_and(|chunk| !chunk.is_empty()) {
        // Nothing may follow the first ReadyForQuery unasked at this point.
        return Err(ServerError::Unexpected(b'Z'));
    }
    Ok((stream, framer(), handshake.greeting))
}

/// Finds replies in what a server sends behind its login.
pub(super) fn framer() -> Framer {
    Framer::new(&INTEREST, BODY_BYTES_MAX)
}

/// True if nobody on a network can read along.
fn is_private(stream: &Stream) -> bool {
    let peer = socket2::SockRef::from(stream).peer_addr().ok();
    let ip = peer.and_then(|peer| peer.as_socket()).map(|peer| peer.ip());
    stream.is_tls() || ip.is_none_or(|ip| ip.to_canonical().is_loopback())
}

impl Socket {
    fn prepare_tcp(&self, socket: &shards::Socket) {
        self.tcp.set_on(socket);
    }

    /// A cancel request must arrive even if nobody waits for the end of its connection.
    fn prepare_for_cancel(&self, socket: &shards::Socket) {
        let linger = None;
        TcpOptions { linger, ..self.tcp }.set_on(socket);
    }

    fn prepare_unix(&self, socket: &shards::Socket) -> io::Result<()> {
        socket.set_send_buffer_size(self.unix_buffer_bytes)?;
        socket.set_recv_buffer_size(self.unix_buffer_bytes)
    }

    /// Connects to the endpoint; a name's addresses are tried in turn.
    async fn connect(&self, errands: &dyn Errands) -> io::Result<Stream> {
        self.connect_plain(errands).await.map(Stream::from)
    }

    async fn connect_plain(&self, errands: &dyn Errands) -> io::Result<shards::Stream> {
        let (host, port) = match &self.endpoint {
            Endpoint::Unix { path } => {
                return connect_unix(path, |socket| self.prepare_unix(socket)).await;
            }
            Endpoint::Tcp { host, port } => (host, *port),
        };
        let addresses = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => errands.resolve(host, port).await?,
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
        for address in addresses {
            let prepare = |socket: &_| {
                self.prepare_tcp(socket);
                Ok(())
            };
            match connect_tcp(address, prepare).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Connects once more to where a connection of this endpoint is: to `peer`, one of the addresses
    /// that its name may stand for, or to the path of a Unix socket. Over TLS if that one is.
    pub(super) async fn connect_again(
        &self,
        peer: Option<SocketAddr>,
        is_tls: bool,
    ) -> Result<Stream, ServerError> {
        let plain = self.connect_to(peer).await;
        let mut stream = Stream::from(plain.map_err(ServerError::Connect)?);
        let approach = self.security.for_cancel(is_tls);
        let endpoint = &self.endpoint;
        self.security.begin(&mut stream, endpoint, approach).await?;
        Ok(stream)
    }

    async fn connect_to(&self, peer: Option<SocketAddr>) -> io::Result<shards::Stream> {
        match (&self.endpoint, peer) {
            (Endpoint::Unix { path }, _) => {
                connect_unix(path, |socket| self.prepare_unix(socket)).await
            }
            (Endpoint::Tcp { .. }, Some(peer)) => {
                let prepare = |socket: &_| {
                    self.prepare_for_cancel(socket);
                    Ok(())
                };
                connect_tcp(peer, prepare).await
            }
            (Endpoint::Tcp { .. }, None) => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}
