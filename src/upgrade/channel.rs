//! The socket between two processes: messages and descriptors.
//!
//! **Owns:** sending and receiving whole messages with their descriptors.
//! **Does not own:** what they mean; threads: all calls block, up to the socket's time limits.
//!
//! Descriptors go with the first bytes of their message, so they have arrived when the message has.
//! Many of them on their way at once are refused by the kernel (as many as a process may have open);
//! then sending waits until the other side has taken some.
//!
//! **Invariant:** a descriptor that was sent is received with its message, or that one tells that it is missing,
//! or the conversation is over.
//!
//! Source: `unix(7)`, `cmsg(3)`.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::frame::{self, DESCRIPTORS_MAX};

/// The pause when too many descriptors are on their way.
const CROWDED_PAUSE: Duration = Duration::from_millis(1);
/// Such pauses until the other side is given up.
const CROWDED_MAX: u32 = 10_000;
/// Such pauses until a message is taken without its descriptors. The other side waits for its answer: it may not
/// wait for so long that it gives this one up.
const ROOM_MAX: u32 = 20;
/// Bytes that are read at once.
const READ_BYTES: usize = 64 * 1024;

/// A message as received.
#[derive(Debug)]
pub struct Message {
    /// What it is.
    pub kind: u8,
    /// What it says.
    pub body: Vec<u8>,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
}

/// Sends a message.
///
/// # Errors
///
/// `InvalidInput`: it is too long, and nothing was sent. Others are the socket's: the other side has gone
/// or does not read.
pub fn send(
    socket: &UnixStream,
    kind: u8,
    body: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let too_much = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
    let bytes = frame::encode(kind, descriptors.len(), body).map_err(too_much)?;
    let mut sent = send_with(socket, &bytes, descriptors)?;
    while sent < bytes.len() {
        sent += send_with(socket, &bytes[sent..], &[])?;
    }
    Ok(())
}

fn send_with(
    socket: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut crowded = 0;
    loop {
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors))
        {
            return Err(io::Error::other("too many descriptors for one message"));
        }
        let slices = [IoSlice::new(bytes)];
        match sendmsg(socket, &slices, &mut ancillary, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            Err(Errno::TOOMANYREFS) if crowded < CROWDED_MAX => {
                crowded += 1;
                sleep(CROWDED_PAUSE);
            }
            sent => return Ok(sent?),
        }
    }
}

/// The receiving end of a conversation.
#[derive(Debug)]
pub struct Receiver {
    socket: UnixStream,
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    /// Descriptors have come that this process had no room for.
    has_lost: bool,
}

impl Receiver {
    /// Receives from `socket`.
    pub const fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            bytes: Vec::new(),
            descriptors: VecDeque::new(),
            has_lost: false,
        }
    }

    /// The socket.
    pub const fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// The next message; `None` at the end of the conversation. If this process has too many descriptors
    /// open, it waits until there is room; if there is none all the same, those of a message are missing.
    ///
    /// # Errors
    ///
    /// The socket's, or that something else than messages has come.
    pub fn receive(&mut self) -> io::Result<Option<Message>> {
        loop {
            if let Some((header, body, end)) =
                frame::decode(&self.bytes).map_err(io::Error::other)?
            {
                let count = header.descriptors.min(self.descriptors.len());
                if count < header.descriptors && !std::mem::take(&mut self.has_lost) {
                    return Err(io::Error::other("descriptors are missing"));
                }
                let message = Message {
                    kind: header.kind,
                    body: body.to_vec(),
                    descriptors: self.descriptors.drain(..count).collect(),
                };
                self.bytes.drain(..end);
                return Ok(Some(message));
            }
            if self.read()? == 0 {
                if self.bytes.is_empty() {
                    return Ok(None);
                }
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Waits until a descriptor can be received: what the kernel cannot deliver is lost.
    fn wait_for_room(&self) {
        let mut tries = 0;
        while tries < ROOM_MAX
            && matches!(
                rustix::io::dup(&self.socket),
                Err(Errno::MFILE | Errno::NFILE)
            )
        {
            tries += 1;
            sleep(CROWDED_PAUSE);
        }
    }

    fn read(&mut self) -> io::Result<usize> {
        self.wait_for_room();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let before = self.bytes.len();
        self.bytes.resize(before + READ_BYTES, 0);
        let mut slices = [IoSliceMut::new(&mut self.bytes[before..])];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            match recvmsg(&self.socket, &mut slices, &mut ancillary, flags) {
                Err(Errno::INTR) => {}
                received => break received,
            }
        };
        let count = received.as_ref().map_or(0, |received| received.bytes);
        self.bytes.truncate(before + count);
        let received = received?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            self.has_lost = true;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;

    #[test]
    fn descriptors_arrive_with_their_messages() {
        let (near, far) = UnixStream::pair().unwrap();
        let sender = std::thread::spawn(move || {
            for number in 0..200_u32 {
                let (mut reader, writer) = UnixStream::pair().unwrap();
                reader.write_all(&number.to_be_bytes()).unwrap();
                let body = vec![number as u8; number as usize * 100];
                let both = [writer.as_fd(), reader.as_fd()];
                send(&near, 7, &body, &both[..(number % 3) as usize]).unwrap();
                drop(writer);
            }
        });
        let mut receiver = Receiver::new(far);
        let mut number = 0_u32;
        while let Some(message) = receiver.receive().unwrap() {
            assert_eq!(message.kind, 7);
            assert_eq!(message.body, vec![number as u8; number as usize * 100]);
            assert_eq!(message.descriptors.len(), (number % 3) as usize);
            if let Some(first) = message.descriptors.into_iter().next() {
                let mut said = [0; 4];
                UnixStream::from(first).read_exact(&mut said).unwrap();
                assert_eq!(u32::from_be_bytes(said), number);
            }
            number += 1;
        }
        assert_eq!(number, 200);
        sender.join().unwrap();
    }

    #[test]
    fn an_end_in_the_middle_of_a_message_is_an_error() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let bytes = frame::encode(1, 0, b"abc").unwrap();
        near.write_all(&bytes[..bytes.len() - 1]).unwrap();
        drop(near);
        assert!(Receiver::new(far).receive().is_err());
    }

    #[test]
    fn a_message_without_its_descriptors_is_an_error() {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(&frame::encode(1, 1, b"").unwrap()).unwrap();
        assert!(Receiver::new(far).receive().is_err());
    }
}
