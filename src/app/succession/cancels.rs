//! Cancel requests between two processes.
//!
//! **Owns:** what the control thread does for a request of the other process, and for one that it has to be
//! asked for.
//! **Does not own:** requests between shards (`app::cancels`), the conversation (`donor`, `heir`).
//!
//! **Invariant:** each request that a shard has sent out is answered, whatever comes of it.

use std::time::{Duration, Instant};

use shards::{Seat, ShardId};

use crate::session::cancel::Forwarded;

use super::super::control::Control;
use super::super::mailbox::ShardMessage;
use super::steps::Phase;
use super::word::{Cancel, encode_done, kind};

/// How long a cancel request may wait for its effect in the process that has the session.
const CANCEL_MAX: Duration = Duration::from_secs(10);

impl Control {
    /// A cancel request has come to the heir: its session may be here.
    pub(super) async fn cancel_here(&mut self, cancel: Cancel) {
        let number = self.cancels_there.len() as u32;
        self.cancels_there.push((cancel.shard, cancel.ticket));
        let request = Box::new(Forwarded {
            key: cancel.key,
            slot: None,
            until: Instant::now() + CANCEL_MAX,
        });
        let message = ShardMessage::Cancel {
            ticket: number,
            request,
        };
        self.send(ShardId::new(0), message).await;
    }

    /// A cancel request of the heir is over.
    pub(in crate::app) fn cancelled_here(&self, number: u32) {
        if let Phase::Departing { donor, .. } = &self.succession.phase
            && let Some((shard, ticket)) = self.cancels_there.get(number as usize)
        {
            donor.send(kind::CANCEL_DONE, encode_done(*shard, *ticket), Vec::new());
        }
    }

    /// A shard asks whether the process before this one has the session of a cancel request.
    pub(in crate::app) async fn cancel_there(&self, from: Seat, ticket: u32, request: &Forwarded) {
        let Seat::Shard(shard) = from else {
            return;
        };
        let cancel = Cancel {
            shard: shard.index() as u16,
            ticket,
            key: request.key,
        };
        let predecessor = self.succession.predecessor.as_ref();
        if predecessor.is_none_or(|predecessor| predecessor.cancel(&cancel).is_err()) {
            self.send(shard, ShardMessage::CancelDone { ticket }).await;
        }
    }
}
