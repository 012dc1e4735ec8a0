//! Users and databases that are not in the file.
//!
//! **Owns:** finding out whether there is such a user, and having it known on all shards.
//! **Does not own:** the question (`session::lookup`), the list of guests (`app::guests`).
//! **Invariant:** nobody who has not proved anything makes pools for names of databases: who wants a
//! database that is not in the file proves at the settings of all such databases first.

use std::rc::Rc;
use std::sync::Arc;

use crate::auth::lookup::Found;
use crate::config::auth_query::{ANY, asking_pool};
use crate::config::{AuthQuery, Origin, Secret};
use crate::server::chores::Guest;
use crate::session::directory::Tenant;
use crate::session::lookup::{Asking, LookupError, Verdict, ask};

use super::{Proofs, Refusal, unknown_tenant};

impl Proofs<'_> {
    /// The user at the settings of the database: of the file, or found.
    pub(super) async fn tenant(&mut self) -> Option<Rc<Tenant>> {
        let config = Arc::clone(&self.directory.config);
        let settings = config.pool_of(self.client.database)?;
        let (door, user) = (settings.name.as_str(), self.client.user);
        // A second time, if it was forgotten between two looks.
        for _ in 0..2 {
            let known = self.directory.guest(door, user);
            let is_of_file = known
                .as_ref()
                .is_some_and(|known| known.origin() == Origin::File);
            let (Some(query), false) = (&settings.auth_query, is_of_file) else {
                return known;
            };
            let shard = Rc::clone(self.shard);
            match shard.lookups.consult(door, user, query).await {
                Verdict::Nobody => return None,
                Verdict::Fresh => {
                    self.directory = shard.directory();
                    if let Some(known) = self.directory.guest(door, user) {
                        return Some(known);
                    }
                    shard.lookups.forget(door, user);
                }
                Verdict::Ask(asking) => return self.ask_server(door, query, known, asking).await,
            }
        }
        None
    }

    async fn ask_server(
        &mut self,
        door: &str,
        query: &AuthQuery,
        known: Option<Rc<Tenant>>,
        asking: Asking<'_>,
    ) -> Option<Rc<Tenant>> {
        let user = self.client.user;
        let asker = self.directory.tenant(&asking_pool(door), &query.asker())?;
        let asker = Rc::clone(&asker.pool);
        match ask(&asker, query, user).await {
            Err(error) => {
                tracing::warn!(pool = door, user, %error, "auth_query has failed");
                // Where there is no answer, what was right before is better than nothing.
                known.filter(|_| matches!(error, LookupError::NoAnswer(_)))
            }
            Ok(Found::Nobody) => {
                if known.is_some() {
                    self.tell(Guest::gone(door, user)).await;
                }
                asking.found_nobody();
                None
            }
            Ok(Found::Stored { secret, left }) => {
                let is_news = known.is_none_or(|known| *known.password() != secret);
                if is_news && !self.tell(Guest::found(door, user, Some(secret))).await {
                    return None;
                }
                asking.found_somebody(left);
                self.directory.guest(door, user)
            }
        }
    }

    /// The user in the database that was asked for, after its proof.
    pub(super) async fn enter(&mut self, tenant: Rc<Tenant>) -> Result<Rc<Tenant>, Refusal> {
        let (database, user) = (self.client.database, self.client.user);
        if tenant.database() != ANY {
            return Ok(tenant);
        }
        let inside = self.directory.tenant(database, user);
        let is_known = inside.is_some_and(|inside| inside.password() == tenant.password());
        if !is_known {
            self.tell(Guest::found(database, user, None)).await;
        }
        let inside = self.directory.tenant(database, user);
        let inside = inside.ok_or_else(|| unknown_tenant(database, user))?;
        if let Some(keys) = tenant.pool.learned.get() {
            inside.pool.learn_keys(&keys);
        }
        Ok(Rc::clone(inside))
    }

    /// Has all shards know of a guest; they do when this returns. False if there are too many.
    async fn tell(&mut self, guest: Guest) -> bool {
        let told = self.shard.host.errands.guest(guest).await;
        if let Err(error) = &told {
            tracing::warn!(user = self.client.user, %error, "a user that was found cannot be served");
        }
        self.directory = self.shard.directory();
        told.is_ok()
    }

    /// The proof of a user was wrong: perhaps the password has changed.
    pub(super) fn doubt(&self, tenant: &Tenant) {
        if tenant.origin() == Origin::Found {
            self.shard
                .lookups
                .doubt(tenant.database(), self.client.user);
        }
    }
}

impl Tenant {
    /// What it was made of.
    pub fn password(&self) -> &Secret {
        &self.user().password
    }

    fn origin(&self) -> Origin {
        self.user().origin
    }
}
