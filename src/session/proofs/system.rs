//! Clients that are known without being asked: by their certificate, or by the operating system.
//!
//! **Owns:** comparing these names with the user.
//! **Does not own:** verifying certificates (`tls`), maps (`config::ident`).
//! **Invariant:** a client without such a name is refused.
//!
//! Source: PostgreSQL documentation, `auth-cert.html`, `auth-peer.html`; socket(7) `SO_PEERCRED`.

use nix::sys::socket::{getsockopt, sockopt};

use crate::config::hba::HbaRule;
use crate::protocol::sqlstate;
use crate::server::chores::{Chore, Done};
use crate::session::report::Failure;

use super::{Proofs, Refusal};

impl Proofs<'_> {
    /// The name in the client's certificate must be the user's, or mapped to it.
    pub(super) fn certificate(&self, rule: &HbaRule) -> Result<(), Refusal> {
        let name = self.client.certificate.filter(|name| !name.is_empty());
        self.compare(rule, name, "certificate")
    }

    /// The user at the other end of the Unix socket must be the user, or mapped to it.
    pub(super) async fn system_user(&self, rule: &HbaRule) -> Result<(), Refusal> {
        let peer = getsockopt(&self.talk.stream, sockopt::PeerCredentials).ok();
        let mut name = None;
        if let Some(peer) = peer {
            let _place = self.shard.proofs.other.enter().await;
            let chore = Chore::SystemUser(peer.uid());
            match self.shard.host.errands.chore(chore).await {
                Ok(Done::Name(found)) => name = found,
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "a user of the system cannot be looked up"),
            }
        }
        self.compare(rule, name.as_deref(), "peer")
    }

    fn compare(&self, rule: &HbaRule, name: Option<&str>, method: &str) -> Result<(), Refusal> {
        let user = self.client.user;
        let maps = &self.directory.config.general.pg_ident;
        let is_allowed =
            name.is_some_and(|name| maps.allows(rule.options.map.as_deref(), name, user));
        if is_allowed {
            return Ok(());
        }
        tracing::info!(
            user,
            name,
            method,
            line = rule.line,
            "no such name for this user"
        );
        let text = format!("{method} authentication failed for user \"{user}\"");
        Err(Failure::new(sqlstate::INVALID_AUTHORIZATION, text).into())
    }
}
