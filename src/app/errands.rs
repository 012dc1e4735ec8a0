//! Errands of a shard, run by the control thread.
//!
//! **Owns:** the errands that are on their way, and the keys that were derived before.
//! **Does not own:** the work (`control`).
//!
//! **Invariant:** keys are remembered by the whole of what they were derived from, and the memory is
//! bounded.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};

use shards::{Outbox, Seat};

use crate::auth::ScramKeys;
use crate::config::Secret;
use crate::server::chores::{Chore, Done, Guest};
use crate::server::errands::{Answer, Errands};

use super::mailbox::{ShardMessage, Work, WorkResult};

/// Derived keys that are remembered.
const REMEMBERED_MAX: usize = 256;

enum Errand {
    Running(Option<Waker>),
    Done(Box<WorkResult>),
}

struct Remembered {
    password: Secret,
    salt: Vec<u8>,
    iterations: u32,
    keys: ScramKeys,
}

#[derive(Default)]
struct Desk {
    next: u32,
    errands: HashMap<u32, Errand>,
    remembered: Vec<Remembered>,
}

/// Sends a shard's errands to the control thread and takes the answers.
pub struct ErrandDesk {
    outbox: Outbox<ShardMessage>,
    desk: RefCell<Desk>,
}

/// Forgets an errand nobody waits for any more.
struct Running(Rc<ErrandDesk>, u32);

impl Drop for Running {
    fn drop(&mut self) {
        let errand = self.0.desk.borrow_mut().errands.remove(&self.1);
        drop(errand);
    }
}

impl ErrandDesk {
    /// A desk that sends through `outbox`.
    pub fn new(outbox: Outbox<ShardMessage>) -> Rc<Self> {
        Rc::new(Self {
            outbox,
            desk: RefCell::default(),
        })
    }

    /// Takes the answer to an errand.
    pub fn answer(&self, number: u32, result: Box<WorkResult>) {
        let mut desk = self.desk.borrow_mut();
        let Some(errand) = desk.errands.get_mut(&number) else {
            return;
        };
        let before = std::mem::replace(errand, Errand::Done(result));
        drop(desk);
        if let Errand::Running(Some(waker)) = before {
            waker.wake();
        }
    }

    /// Has the control thread do some work.
    pub(super) async fn run(self: Rc<Self>, work: Work) -> io::Result<WorkResult> {
        let number = {
            let mut desk = self.desk.borrow_mut();
            desk.next = desk.next.wrapping_add(1);
            let number = desk.next;
            desk.errands.insert(number, Errand::Running(None));
            number
        };
        let running = Running(Rc::clone(&self), number);
        let message = ShardMessage::Ask {
            number,
            work: Box::new(work),
        };
        if self.outbox.try_send(Seat::Control, message).is_err() {
            return Err(io::Error::other("the control thread is busy"));
        }
        let result = poll_fn(|context| {
            let mut desk = self.desk.borrow_mut();
            match desk.errands.remove(&number) {
                Some(Errand::Done(result)) => Poll::Ready(Ok(*result)),
                Some(Errand::Running(_)) => {
                    let waker = Some(context.waker().clone());
                    desk.errands.insert(number, Errand::Running(waker));
                    Poll::Pending
                }
                None => Poll::Ready(Err(io::Error::other("the errand was forgotten"))),
            }
        })
        .await;
        drop(running);
        result
    }

    fn recall(&self, password: &str, salt: &[u8], iterations: u32) -> Option<ScramKeys> {
        let desk = self.desk.borrow();
        let found = desk.remembered.iter().find(|known| {
            known.password.expose() == password
                && known.salt == salt
                && known.iterations == iterations
        });
        found.map(|known| known.keys.clone())
    }

    fn remember(&self, known: Remembered) {
        let mut desk = self.desk.borrow_mut();
        if desk.remembered.len() >= REMEMBERED_MAX {
            desk.remembered.remove(0);
        }
        desk.remembered.push(known);
    }
}

/// The desk as the pools know it.
pub struct DeskErrands(pub Rc<ErrandDesk>);

impl Errands for DeskErrands {
    fn resolve(&self, host: &str, port: u16) -> Answer<Vec<SocketAddr>> {
        let desk = Rc::clone(&self.0);
        let work = Work::Resolve {
            host: host.to_owned(),
            port,
        };
        Box::pin(async move {
            match desk.run(work).await? {
                WorkResult::Resolved(Ok(addresses)) => Ok(addresses),
                WorkResult::Resolved(Err(reason)) => Err(io::Error::other(reason)),
                _ => Err(io::Error::other("an answer to another errand")),
            }
        })
    }

    fn derive_keys(&self, password: &str, salt: &[u8], iterations: u32) -> Answer<ScramKeys> {
        if let Some(keys) = self.0.recall(password, salt, iterations) {
            return Box::pin(std::future::ready(Ok(keys)));
        }
        let desk = Rc::clone(&self.0);
        let (password, salt) = (Secret::new(password), salt.to_vec());
        Box::pin(async move {
            let work = Work::Derive {
                password: password.clone(),
                salt: salt.clone(),
                iterations,
            };
            match Rc::clone(&desk).run(work).await? {
                WorkResult::Derived(Ok(keys)) => {
                    desk.remember(Remembered {
                        password,
                        salt,
                        iterations,
                        keys: keys.clone(),
                    });
                    Ok(keys)
                }
                WorkResult::Derived(Err(reason)) => Err(io::Error::other(reason)),
                _ => Err(io::Error::other("an answer to another errand")),
            }
        })
    }

    fn chore(&self, chore: Chore) -> Answer<Done> {
        let desk = Rc::clone(&self.0);
        Box::pin(async move {
            match desk.run(Work::Chore(chore)).await? {
                WorkResult::Done(outcome) => outcome.map_err(io::Error::other),
                _ => Err(io::Error::other("an answer to another errand")),
            }
        })
    }

    fn guest(&self, guest: Guest) -> Answer<()> {
        let desk = Rc::clone(&self.0);
        Box::pin(async move {
            match desk.run(Work::Guest(guest)).await? {
                WorkResult::Reloaded(outcome) => outcome.map_err(io::Error::other),
                _ => Err(io::Error::other("an answer to another errand")),
            }
        })
    }

    fn reload(&self) -> Answer<()> {
        let desk = Rc::clone(&self.0);
        Box::pin(async move {
            match desk.run(Work::Reload).await? {
                WorkResult::Reloaded(outcome) => outcome.map_err(io::Error::other),
                _ => Err(io::Error::other("an answer to another errand")),
            }
        })
    }
}
