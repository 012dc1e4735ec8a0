//! Cancel requests between shards.
//!
//! **Owns:** the two messages: a request to the shard of its session, and the word that it is over.
//! **Does not own:** what a request does (`session::cancel`).
//!
//! **Invariant:** one message is sent for one received. A lost word costs its canceller the wait until
//! its deadline, nothing else.

use std::rc::Rc;
use std::time::Instant;

use shards::{Outbox, Seat, ShardId, sleep};

use crate::metrics::Droppable;
use crate::session::Shard;
use crate::session::cancel::{self, Forwarded, ROOM_PAUSE, ROOM_WAIT_MAX};

use super::mailbox::ShardMessage;

/// The way to other shards, as sessions know it.
pub struct MeshOutbox(pub Outbox<ShardMessage>);

impl cancel::Outbox for MeshOutbox {
    fn send_cancel(
        &self,
        to: usize,
        ticket: u32,
        request: Box<Forwarded>,
    ) -> Result<(), Box<Forwarded>> {
        let to = Seat::Shard(ShardId::new(to as u16));
        let sent = self
            .0
            .try_send(to, ShardMessage::Cancel { ticket, request });
        match sent.map_err(shards::SendError::into_message) {
            Err(ShardMessage::Cancel { request, .. }) => Err(request),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Runs a request that came from another shard, then says that it is over.
pub async fn run_cancel(
    shard: Rc<Shard>,
    outbox: Outbox<ShardMessage>,
    (from, ticket): (Seat, u32),
    request: Box<Forwarded>,
) {
    shard.cancels.run(&request).await;
    let give_up = Instant::now() + ROOM_WAIT_MAX;
    let mut is_delayed = false;
    while outbox
        .try_send(from, ShardMessage::CancelDone { ticket })
        .is_err()
    {
        if Instant::now() >= give_up {
            shard.metrics().dropped(Droppable::Cancel);
            return;
        }
        if !std::mem::replace(&mut is_delayed, true) {
            shard.metrics().messages_delayed.add(1);
        }
        sleep(ROOM_PAUSE).await;
    }
}
