//! Messages to other shards that must not be lost.
//!
//! **Owns:** what did not fit into a lane, until it does.
//! **Does not own:** the lanes (`shards`), what a message means.
//!
//! Lanes are bounded and nobody waits to send. What is refused stays here, with its sender, and is
//! tried again; whatever is sent later to the same shard queues up behind it, so the order is kept.
//! Senders have few messages under way by their nature (a pool one want, a client one move), so this
//! does not grow without bound.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use shards::{Outbox, Seat};

use crate::metrics::Fleet;
use crate::metrics::pool::Leave;
use crate::pool::travel::Letter;
use crate::pool::{Alarm, Mail, PoolId};
use crate::server::passport::ServerRecord;

use super::mailbox::ShardMessage;

/// How long a full lane is left alone.
const PAUSE: Duration = Duration::from_millis(1);

/// The post office of a shard.
pub struct PostOffice {
    outbox: Outbox<ShardMessage>,
    here: usize,
    fleet: Fleet,
    waiting: RefCell<Vec<VecDeque<ShardMessage>>>,
    alarm: Alarm,
}

impl PostOffice {
    /// The post office of shard `here` of `count`.
    pub fn new(
        outbox: Outbox<ShardMessage>,
        (here, count): (usize, usize),
        fleet: Fleet,
    ) -> Rc<Self> {
        let waiting = (0..count).map(|_| VecDeque::new()).collect();
        Rc::new(Self {
            outbox,
            here,
            fleet,
            waiting: RefCell::new(waiting),
            alarm: Alarm::default(),
        })
    }

    /// Sends `message` to shard `to`, now or later.
    pub fn send(&self, to: usize, message: ShardMessage) {
        let mut waiting = self.waiting.borrow_mut();
        let Some(queue) = waiting.get_mut(to) else {
            tracing::error!(to, "a message to a shard that does not exist");
            return;
        };
        let refused = if queue.is_empty() {
            self.try_send(to, message).err()
        } else {
            Some(message)
        };
        if let Some(message) = refused {
            self.fleet.shard(self.here).messages_delayed.add(1);
            queue.push_back(message);
            self.alarm.at_most(shards::now() + PAUSE);
        }
    }

    fn try_send(&self, to: usize, message: ShardMessage) -> Result<(), ShardMessage> {
        self.outbox
            .try_send(Seat::of_shard(to), message)
            .map_err(shards::SendError::into_message)
    }

    /// Tries again to send what was refused, for ever.
    pub async fn keep_trying(self: Rc<Self>) {
        loop {
            self.alarm.ring().await;
            for (to, queue) in self.waiting.borrow_mut().iter_mut().enumerate() {
                self.send_waiting(to, queue);
            }
        }
    }

    fn send_waiting(&self, to: usize, queue: &mut VecDeque<ShardMessage>) {
        while let Some(message) = queue.pop_front() {
            if let Err(message) = self.try_send(to, message) {
                queue.push_front(message);
                self.alarm.at_most(shards::now() + PAUSE);
                return;
            }
        }
    }
}

impl Mail for PostOffice {
    fn send(&self, to: usize, id: PoolId, letter: Letter) {
        let message = ShardMessage::Pool(Box::new((id, letter)));
        Self::send(self, to, message);
    }

    fn emigrate(&self, server: Box<ServerRecord>, leave: Leave) {
        let outbox = self.outbox.clone();
        let mut message = ShardMessage::EmigrantServer(server, leave);
        shards::spawn(async move {
            while let Err(refused) = outbox.try_send(Seat::Control, message) {
                message = refused.into_message();
                shards::sleep(PAUSE).await;
            }
        });
    }
}
