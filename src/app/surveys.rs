//! Surveys between shards.
//!
//! **Owns:** the two messages: the question for an account, and the account.
//! **Does not own:** what is in an account (`session::survey`).
//!
//! **Invariant:** one message is sent for one received; none is lost, they go through the post office.

use std::rc::Rc;

use crate::session::Shard;
use crate::session::survey::{self, Surveyors};

use super::mailbox::ShardMessage;
use super::post::PostOffice;

/// The way to other shards, as surveys know it.
pub struct MeshSurveyors(pub Rc<PostOffice>);

impl Surveyors for MeshSurveyors {
    fn ask(&self, to: usize, ticket: u32) {
        self.0.send(to, ShardMessage::Survey { ticket });
    }
}

/// Takes this shard's account for survey `ticket` of shard `from`.
pub async fn answer(shard: Rc<Shard>, office: Rc<PostOffice>, (from, ticket): (usize, u32)) {
    let accounts = Box::new(survey::take(&shard).await);
    office.send(from, ShardMessage::Surveyed { ticket, accounts });
}
