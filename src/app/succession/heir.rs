//! The old process as the new one sees it.
//!
//! **Owns:** what is inherited before the start, the thread that takes what comes later.
//! **Does not own:** what becomes of it (`steps`).
//! **Invariant:** if anything of the inheritance is not understood, the process ends before it is ready.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::thread::Builder;
use std::time::Duration;

use shards::Socket;
use shards::succession::adopt;
use tokio::sync::mpsc::UnboundedSender;

use crate::upgrade::channel::{Message, Receiver, send};

use super::program::{CHANNEL, READY};
use super::steps::Event;
use super::word::{
    Cancel, Hello, Remains, TAKES_TOTALS, decode_done, decode_guests, decode_places, kind,
};

/// How long the old process may take to say something before the start.
const START_MAX: Duration = Duration::from_secs(30);
/// How long it may take to read something.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// What the old process leaves to this one.
#[derive(Debug)]
pub struct Inheritance {
    /// What it has said.
    pub hello: Hello,
    /// Its listening sockets, each with its place.
    pub listeners: Vec<(String, Socket)>,
    /// The pid file, locked.
    pub pid_file: Option<File>,
    receiver: Receiver,
}

/// The old process, as long as it has something.
#[derive(Debug)]
pub struct Predecessor {
    socket: UnixStream,
    /// It has said what it has since it serves nobody new: from then on that becomes less.
    pub has_settled: bool,
}

fn number(variable: &str) -> io::Result<Option<RawFd>> {
    let Some(value) = std::env::var_os(variable) else {
        return Ok(None);
    };
    let number = value.to_str().and_then(|text| text.trim().parse().ok());
    number.map(Some).ok_or_else(|| {
        let text = format!("{variable} is no number of a descriptor");
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}

/// What the process inherits, if another one has started it to take over.
///
/// # Errors
///
/// The other one has said something that is not understood, or nothing.
pub fn inherit() -> io::Result<Option<Inheritance>> {
    let Some(number) = number(CHANNEL)? else {
        return Ok(None);
    };
    let socket = UnixStream::from(adopt(number)?);
    socket.set_read_timeout(Some(START_MAX))?;
    socket.set_write_timeout(Some(WRITE_MAX))?;
    let mut receiver = Receiver::new(socket);
    let mut next = || -> io::Result<Message> {
        let ended = || io::Error::from(io::ErrorKind::UnexpectedEof);
        receiver.receive()?.ok_or_else(ended)
    };
    let first = next()?;
    if first.kind != kind::HELLO {
        return Err(io::Error::other("no hello from the old process"));
    }
    let hello = Hello::decode(&first.body).map_err(io::Error::other)?;
    let pid_file = first.descriptors.into_iter().next().map(File::from);
    let mut listeners = Vec::new();
    loop {
        let message = next()?;
        match message.kind {
            kind::BEGIN => break,
            kind::LISTENERS => {
                let places = decode_places(&message.body).map_err(io::Error::other)?;
                if places.len() != message.descriptors.len() {
                    return Err(io::Error::other("listening sockets are missing"));
                }
                let sockets = message.descriptors.into_iter().map(Socket::from);
                listeners.extend(places.into_iter().zip(sockets));
            }
            other => return Err(unknown(other)),
        }
    }
    Ok(Some(Inheritance {
        hello,
        listeners,
        pid_file,
        receiver,
    }))
}

fn unknown(kind: u8) -> io::Error {
    io::Error::other(format!("a message of unknown kind {kind}"))
}

/// The listening socket of `--inherit-fd`, and its place.
///
/// # Errors
///
/// It is no listening socket for TCP.
pub fn adopt_listener(number: RawFd) -> io::Result<(String, Socket)> {
    let socket = Socket::from(adopt(number)?);
    if !socket.is_listener()? {
        return Err(io::Error::other("it is not a listening socket"));
    }
    let address: Option<SocketAddr> = socket.local_addr()?.as_socket();
    let address = address.ok_or_else(|| io::Error::other("it is not a TCP socket"))?;
    Ok((address.to_string(), socket))
}

/// Tells whoever has started this process in the manner of earlier versions that clients can connect.
///
/// # Errors
///
/// The pipe in the environment is none.
pub fn tell_ready() -> io::Result<()> {
    if let Some(number) = number(READY)? {
        let mut pipe = File::from(adopt(number)?);
        io::Write::write_all(&mut pipe, &[1])?;
    }
    Ok(())
}

impl Inheritance {
    /// Tells the old process that clients can connect. What it sends from now on goes to `events`.
    ///
    /// # Errors
    ///
    /// It has gone.
    pub fn ready(self, events: UnboundedSender<Event>) -> io::Result<Predecessor> {
        let Self { receiver, .. } = self;
        receiver.socket().set_read_timeout(None)?;
        let socket = receiver.socket().try_clone()?;
        send(&socket, kind::READY, TAKES_TOTALS, &[])?;
        Builder::new()
            .name("upgrade-in".to_owned())
            .spawn(move || read(receiver, &events))?;
        Ok(Predecessor {
            socket,
            has_settled: false,
        })
    }
}

impl Predecessor {
    /// Asks for a cancel request to be run.
    ///
    /// # Errors
    ///
    /// It has gone.
    pub fn cancel(&self, cancel: &Cancel) -> io::Result<()> {
        send(&self.socket, kind::CANCEL, &cancel.encode(), &[])
    }

    /// Answers for a session: this process has it now, or cannot take it at the moment. To be called before
    /// anything is done with it: until then the old process takes it back if this one ends.
    pub fn answer(&self, is_taken: bool) {
        let kind = if is_taken { kind::TAKEN } else { kind::REFUSED };
        if let Err(error) = send(&self.socket, kind, &[], &[]) {
            tracing::warn!(%error, "the old process cannot be told of a client");
        }
    }
}

fn read(mut receiver: Receiver, events: &UnboundedSender<Event>) {
    loop {
        let event = match receiver.receive() {
            Ok(None) => break,
            Ok(Some(message)) => event(message),
            Err(error) => Err(error),
        };
        match event {
            Ok(event) => {
                if events.send(event).is_err() {
                    // Nobody is interested when the process ends.
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "the old process says what is not understood");
                break;
            }
        }
    }
    let _ = events.send(Event::PredecessorGone);
}

fn event(message: Message) -> io::Result<Event> {
    let Message {
        kind,
        body,
        descriptors,
    } = message;
    match kind {
        kind::SESSION => Ok(Event::Session(body, descriptors.into_iter().next())),
        kind::PAIR => Ok(Event::Pair(body, descriptors)),
        kind::SERVER => Ok(Event::Server(body, descriptors.into_iter().next())),
        kind::CHANGED => Ok(Event::Changed),
        kind::TOTALS => Ok(Event::Totals(body)),
        kind::REMAINS => Ok(Event::Remains(
            Remains::decode(&body).map_err(io::Error::other)?,
        )),
        kind::GUESTS => Ok(Event::Guests(
            decode_guests(&body).map_err(io::Error::other)?,
        )),
        kind::CANCEL_DONE => {
            let (shard, ticket) = decode_done(&body).map_err(io::Error::other)?;
            Ok(Event::CancelDone { shard, ticket })
        }
        other => Err(unknown(other)),
    }
}
