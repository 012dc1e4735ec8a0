//! The heir as the old process sees it: another process, a socket to it, two threads for that.
//!
//! **Owns:** starting the heir, the threads that talk to it, its end if it fails.
//! **Does not own:** what is said when (`steps`).
//!
//! ```text
//!   control ──▶ lane ──▶ writer (a thread) ──▶ socket ──▶ heir
//!   control ◀── news ◀── reader (a thread) ◀── socket ◀──
//! ```
//!
//! **Invariants**
//! 1. Control never waits for the heir.
//! 2. When the conversation ends while this process runs, the heir is ended: there are never two who
//!    accept clients and do not know of each other.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, mpsc};
use std::thread::{Builder, JoinHandle, sleep};
use std::time::Duration;

use shards::succession::start;
use tokio::sync::mpsc::UnboundedSender;

use crate::upgrade::channel::{Receiver, send};

use super::program::{CHANNEL, Program};
use super::steps::Event;
use super::word::{Cancel, TAKES_TOTALS, kind};

/// How long the heir may take to read something.
const WRITE_MAX: Duration = Duration::from_secs(30);
/// How often, and how far apart, it is looked whether the heir has ended by itself.
const END_LOOKS: u32 = 50;
/// See [`END_LOOKS`].
const END_PAUSE: Duration = Duration::from_millis(10);

/// A message to the heir.
#[derive(Debug)]
pub struct Outgoing {
    /// What it is.
    pub kind: u8,
    /// What it says.
    pub body: Arc<Vec<u8>>,
    /// What goes with it.
    pub descriptors: Vec<Arc<OwnedFd>>,
}

/// The heir.
#[derive(Debug)]
pub struct Donor {
    lane: mpsc::Sender<Outgoing>,
    writer: JoinHandle<()>,
    socket: UnixStream,
    /// Its process.
    pub pid: u32,
}

impl Donor {
    /// Starts the heir. What comes of it goes to `events`.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start(program: &Program, events: UnboundedSender<Event>) -> io::Result<Self> {
        let (near, far) = UnixStream::pair()?;
        near.set_write_timeout(Some(WRITE_MAX))?;
        // What can fail does so before there is a process.
        let receiver = Receiver::new(near.try_clone()?);
        let (socket, out) = (near.try_clone()?, near);
        let mut command = program.command();
        command.env(CHANNEL, far.as_raw_fd().to_string());
        let child = start(&mut command, &[far.as_fd()])?;
        drop(far);
        let pid = child.id();
        let (lane, outgoing) = mpsc::channel();
        let writer = Builder::new()
            .name("upgrade-out".to_owned())
            .spawn(move || write(&out, &outgoing))?;
        Builder::new()
            .name("upgrade-in".to_owned())
            .spawn(move || read(receiver, child, &events))?;
        Ok(Self {
            lane,
            writer,
            socket,
            pid,
        })
    }

    /// Sends a message, some time.
    pub fn send(&self, kind: u8, body: Vec<u8>, descriptors: Vec<OwnedFd>) {
        let descriptors = descriptors.into_iter().map(Arc::new).collect();
        self.send_shared(kind, Arc::new(body), descriptors);
    }

    /// Sends a message that the caller keeps as well.
    pub fn send_shared(&self, kind: u8, body: Arc<Vec<u8>>, descriptors: Vec<Arc<OwnedFd>>) {
        // If the writer has ended, the reader tells so.
        let _ = self.lane.send(Outgoing {
            kind,
            body,
            descriptors,
        });
    }

    /// Ends the conversation, and with it the heir.
    pub fn end(&self) {
        // It may have ended already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Waits until all that was to be sent is on its way.
    pub fn finish(self) {
        drop(self.lane);
        // A thread that has panicked has nothing more to send.
        let _ = self.writer.join();
    }
}

fn write(socket: &UnixStream, outgoing: &mpsc::Receiver<Outgoing>) {
    while let Ok(message) = outgoing.recv() {
        let descriptors: Vec<BorrowedFd<'_>> =
            message.descriptors.iter().map(|one| one.as_fd()).collect();
        if let Err(error) = send(socket, message.kind, &message.body, &descriptors) {
            tracing::error!(%error, "the new process cannot be told something");
            if error.kind() == io::ErrorKind::InvalidInput {
                continue;
            }
            // Has the reader notice.
            let _ = socket.shutdown(Shutdown::Both);
            return;
        }
    }
}

/// Ends the heir, which may be about to end by itself: its sockets close before it has ended.
fn end(child: &mut Child) -> io::Result<ExitStatus> {
    for _ in 0..END_LOOKS {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        sleep(END_PAUSE);
    }
    // It may have ended meanwhile.
    let _ = child.kill();
    child.wait()
}

fn read(mut receiver: Receiver, mut child: Child, events: &UnboundedSender<Event>) {
    let reason = loop {
        match receiver.receive() {
            Ok(None) => break "it has ended the conversation".to_owned(),
            Err(error) => break error.to_string(),
            Ok(Some(message)) => {
                let event = match message.kind {
                    kind::READY => Event::HeirReady {
                        takes_totals: message.body.starts_with(TAKES_TOTALS),
                    },
                    kind::TAKEN => Event::SessionTaken,
                    kind::REFUSED => Event::SessionRefused,
                    kind::CANCEL => match Cancel::decode(&message.body) {
                        Ok(cancel) => Event::CancelHere(cancel),
                        Err(error) => break error.to_string(),
                    },
                    other => break format!("it has sent a message of unknown kind {other}"),
                };
                if events.send(event).is_err() {
                    return;
                }
            }
        }
    };
    let pid = child.id();
    let status = end(&mut child);
    let was_told = status.as_ref().is_ok_and(ExitStatus::success);
    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    // Nobody is interested when the process ends.
    let _ = events.send(Event::HeirGone {
        pid,
        reason: format!("{reason} ({status})"),
        was_told,
    });
}
