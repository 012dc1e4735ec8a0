//! Messages of clients that are too long, or of no length at all.
//!
//! **Owns:** claiming memory for a message that does not come in one piece, what its client is told otherwise.
//! **Does not own:** how much there is (`budget`), holding the message (`client`).
//!
//! **Invariant:** whoever is refused has been told why.

use crate::protocol::sqlstate;

use super::client::{Session, Step};
use super::report::Failure;

impl Session {
    pub(super) fn invalid_length(&mut self, tag: u8, length: u32) -> Step {
        let memory = self.shard.directory().config.general.max_memory_usage;
        if u64::from(length) > memory {
            self.fail(&out_of_memory());
            return Step::End;
        }
        let text = format!(
            "invalid length {length} of message '{}'",
            tag.escape_ascii()
        );
        self.fail(&Failure::new(sqlstate::PROTOCOL_VIOLATION, text));
        Step::End
    }

    /// Claims memory for a message that does not come in one piece. Fails the session otherwise.
    pub(super) fn claim_memory(&mut self, bytes: usize) -> bool {
        if self.claim.is_some() {
            return true;
        }
        let limit = self.shard.directory().config.general.max_memory_usage;
        if let Some(claim) = self.shard.budget.claim(bytes as u64, limit) {
            self.claim = Some(Box::new(claim));
            true
        } else {
            self.fail(&out_of_memory());
            false
        }
    }
}

fn out_of_memory() -> Failure {
    Failure::new(
        sqlstate::OUT_OF_MEMORY,
        "Server is temporarily out of memory. Please try again later or reduce the size of your \
         query.",
    )
}
