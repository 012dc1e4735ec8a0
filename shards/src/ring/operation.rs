//! Operations that belong to no stream: accepting, connecting, watching an eventfd.
//!
//! **Owns:** what the kernel needs for them, and their results until somebody takes them.
//! **Does not own:** listening sockets (`listener`), the sockets' options (`connect`).
//!
//! **Invariant:** an entry outlives its owner until the kernel has reported its end; descriptors
//! that arrive for an owner who has gone are closed.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::task::Waker;

use io_uring::{cqueue, opcode, types};
use socket2::{SockAddr, Socket};

use super::{Ring, kind, user_data, wait_as};

/// What one operation is for.
enum Purpose {
    Accept {
        /// Kept open until the last completion: the kernel may not have looked the number up yet.
        socket: Rc<Socket>,
        accepted: VecDeque<OwnedFd>,
        error: Option<i32>,
    },
    Connect {
        socket: OwnedFd,
        address: Box<SockAddr>,
        result: Option<i32>,
    },
    Eventfd(types::Fd),
}

struct Operation {
    purpose: Purpose,
    waker: Option<Waker>,
    in_kernel: bool,
    abandoned: bool,
}

/// All operations of a shard that belong to no stream.
#[derive(Default)]
pub(super) struct Operations {
    entries: Vec<Option<Operation>>,
    free: Vec<u32>,
}

impl Operations {
    fn insert(&mut self, purpose: Purpose) -> u32 {
        let operation = Operation {
            purpose,
            waker: None,
            in_kernel: false,
            abandoned: false,
        };
        if let Some(id) = self.free.pop() {
            self.entries[id as usize] = Some(operation);
            return id;
        }
        self.entries.push(Some(operation));
        (self.entries.len() - 1) as u32
    }

    fn get(&mut self, id: u32) -> &mut Operation {
        self.entries[id as usize]
            .as_mut()
            .expect("an operation lives until its last completion")
    }

    /// The wakers of all who wait for an operation.
    pub(super) fn take_wakers(&mut self) -> impl Iterator<Item = Waker> {
        let entries = self.entries.iter_mut().flatten();
        entries.filter_map(|operation| operation.waker.take())
    }

    fn remove(&mut self, id: u32) -> Option<Operation> {
        self.free.push(id);
        self.entries[id as usize].take()
    }
}

/// Why accepting has stopped for the moment, or a new socket.
pub(crate) type Accepted = Result<OwnedFd, i32>;

impl Ring {
    /// Prepares accepting on a listening socket.
    pub(crate) fn accept_start(&mut self, socket: Rc<Socket>) -> u32 {
        self.operations.insert(Purpose::Accept {
            socket,
            accepted: VecDeque::new(),
            error: None,
        })
    }

    /// Takes an accepted socket, or arms the multishot accept and notes who waits for it.
    pub(crate) fn accept_next(&mut self, id: u32, waker: &Waker) -> Option<Accepted> {
        let operation = self.operations.get(id);
        let Purpose::Accept {
            socket: listening,
            accepted,
            error,
        } = &mut operation.purpose
        else {
            return Some(Err(libc::EINVAL));
        };
        let fd = types::Fd(listening.as_raw_fd());
        if let Some(socket) = accepted.pop_front() {
            return Some(Ok(socket));
        }
        if let Some(error) = error.take() {
            return Some(Err(error));
        }
        wait_as(&mut operation.waker, waker, &mut self.discarded);
        let arm = !operation.in_kernel && !self.stopping;
        operation.in_kernel |= arm;
        if arm {
            let entry = opcode::AcceptMulti::new(fd)
                .flags(libc::SOCK_CLOEXEC)
                .build();
            self.push_tracked(entry, kind::OPERATION, id);
        }
        None
    }

    /// Has the kernel stop accepting; when it has, the sockets that nobody has taken.
    pub(crate) fn accept_finish(&mut self, id: u32) -> Option<Vec<OwnedFd>> {
        let operation = self.operations.get(id);
        if operation.in_kernel {
            // Asked for again at each call: a cancellation misses an operation that is between two of
            // the kernel's lists.
            let data = user_data(kind::OPERATION, id);
            let entry = opcode::AsyncCancel::new(data).build();
            self.push(&entry.user_data(kind::UNTRACKED));
            return None;
        }
        match &mut operation.purpose {
            Purpose::Accept { accepted, .. } => Some(accepted.drain(..).collect()),
            Purpose::Connect { .. } | Purpose::Eventfd(_) => Some(Vec::new()),
        }
    }

    /// Starts connecting `socket`.
    pub(crate) fn connect_start(&mut self, socket: OwnedFd, address: SockAddr) -> u32 {
        let fd = types::Fd(socket.as_raw_fd());
        let address = Box::new(address);
        let (pointer, len) = (address.as_ptr(), address.len());
        let id = self.operations.insert(Purpose::Connect {
            socket,
            address,
            result: None,
        });
        self.operations.get(id).in_kernel = true;
        let entry = opcode::Connect::new(fd, pointer.cast(), len).build();
        self.push_tracked(entry, kind::OPERATION, id);
        id
    }

    /// The connected socket, or the error; `None` while the kernel is at it.
    pub(crate) fn connect_result(&mut self, id: u32, waker: &Waker) -> Option<io::Result<OwnedFd>> {
        let operation = self.operations.get(id);
        if let Purpose::Connect {
            result: Some(_), ..
        } = operation.purpose
        {
            let operation = self.operations.remove(id)?;
            let Purpose::Connect {
                socket,
                result: Some(result),
                address,
            } = operation.purpose
            else {
                return None;
            };
            drop(address);
            self.discarded.extend(operation.waker);
            let outcome = if result < 0 { Err(-result) } else { Ok(socket) };
            return Some(outcome.map_err(io::Error::from_raw_os_error));
        }
        wait_as(&mut operation.waker, waker, &mut self.discarded);
        None
    }

    /// Wakes the mailbox's reader whenever `eventfd` is written to. The caller keeps it open.
    pub(crate) fn watch_eventfd(&mut self, eventfd: types::Fd) {
        let id = self.operations.insert(Purpose::Eventfd(eventfd));
        self.poll_eventfd(id, eventfd);
    }

    fn poll_eventfd(&mut self, id: u32, eventfd: types::Fd) {
        self.operations.get(id).in_kernel = true;
        let entry = opcode::PollAdd::new(eventfd, libc::POLLIN as u32)
            .multi(true)
            .build();
        self.push_tracked(entry, kind::OPERATION, id);
    }

    /// The owner of an operation has gone.
    #[must_use = "to be dropped when the ring is not borrowed"]
    pub(crate) fn abandon(&mut self, id: u32) -> Option<Waker> {
        let operation = self.operations.get(id);
        let waker = operation.waker.take();
        operation.abandoned = true;
        if operation.in_kernel {
            let data = user_data(kind::OPERATION, id);
            self.push(
                &opcode::AsyncCancel::new(data)
                    .build()
                    .user_data(kind::UNTRACKED),
            );
        } else {
            self.operations.remove(id);
        }
        waker
    }

    pub(super) fn on_operation(&mut self, id: u32, result: i32, flags: u32) {
        let more = cqueue::more(flags);
        if !more {
            self.in_kernel -= 1;
        }
        let operation = self.operations.get(id);
        operation.in_kernel = more;
        match &mut operation.purpose {
            Purpose::Accept {
                accepted, error, ..
            } => {
                if result >= 0 {
                    // SAFETY: the kernel has just made this descriptor for this accept; nobody
                    // else knows it.
                    accepted.push_back(unsafe { OwnedFd::from_raw_fd(result) });
                } else if result != -libc::ECANCELED && result != -libc::EINTR {
                    *error = Some(-result);
                }
            }
            Purpose::Connect {
                result: outcome, ..
            } => *outcome = Some(result),
            Purpose::Eventfd(eventfd) => {
                // The kernel gives a multishot poll up when the completion queue is full.
                let again = (!more && !self.stopping).then_some(*eventfd);
                self.on_mail();
                if let Some(eventfd) = again {
                    self.poll_eventfd(id, eventfd);
                }
            }
        }
        let operation = self.operations.get(id);
        if operation.abandoned && !more {
            self.operations.remove(id);
        } else if let Some(waker) = &operation.waker {
            waker.wake_by_ref();
        }
    }
}
