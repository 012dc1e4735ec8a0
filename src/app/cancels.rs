//! Cancel requests between shards.
//!
//! **Owns:** the two messages: a request to the shard of its session, and the word that it is over.
//! **Does not own:** what a request does (`session::cancel`).
//!
//! **Invariant:** one message is sent for one received. A request may be lost, the word that one is over
//! is not: it goes through the post office.

use std::rc::Rc;

use shards::{Outbox, Seat};

use crate::session::Shard;
use crate::session::cancel::{self, CONTROL, Forwarded};

use super::hand_over::Post;
use super::mailbox::ShardMessage;
use super::post::PostOffice;

/// The way to other shards, as sessions know it.
pub struct MeshOutbox(pub Outbox<ShardMessage>);

impl cancel::Outbox for MeshOutbox {
    fn send_cancel(
        &self,
        to: usize,
        ticket: u32,
        request: Box<Forwarded>,
    ) -> Result<(), Box<Forwarded>> {
        let to = if to == CONTROL {
            Seat::Control
        } else {
            Seat::of_shard(to)
        };
        let sent = self
            .0
            .try_send(to, ShardMessage::Cancel { ticket, request });
        match sent.map_err(shards::SendError::into_message) {
            Err(ShardMessage::Cancel { request, .. }) => Err(request),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Runs a request that came to the process that takes over, then says that it is over.
pub async fn run_cancel_for_heir(
    shard: Rc<Shard>,
    post: Rc<Post>,
    ticket: u32,
    request: Box<Forwarded>,
) {
    shard.cancels.run_anywhere(&request).await;
    post.tell_control(ShardMessage::CancelDone { ticket }).await;
}

/// Runs a request that came from shard `from`, then says that it is over.
pub async fn run_cancel(
    shard: Rc<Shard>,
    office: Rc<PostOffice>,
    (from, ticket): (usize, u32),
    request: Box<Forwarded>,
) {
    shard.cancels.run(&request).await;
    office.send(from, ShardMessage::CancelDone { ticket });
}
