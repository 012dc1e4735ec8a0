//! The way from control to the shards.
//!
//! **Owns:** that no message is lost, and that each shard gets them in order.

use std::time::Duration;

use shards::{ControlSeat, ShardId};

use crate::message::ShardMessage;

/// How often a message that did not fit is tried again.
const RETRY: Duration = Duration::from_millis(5);

/// All shards.
pub(crate) struct Shards {
    seat: ControlSeat<ShardMessage>,
}

impl Shards {
    /// Those that `seat` sends to.
    pub(crate) fn new(seat: ControlSeat<ShardMessage>) -> Self {
        Self { seat }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.seat.shard_count()
    }

    /// Sends what `message` makes for each shard.
    pub(crate) async fn tell(&self, mut message: impl FnMut() -> Option<ShardMessage>) {
        for shard in 0..self.count() {
            let Some(mut unsent) = message() else { return };
            while let Err(error) = self.seat.try_send(ShardId::new(shard as u16), unsent) {
                unsent = error.into_message();
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
