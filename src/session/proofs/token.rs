//! Tokens that clients send as passwords.
//!
//! **Owns:** asking for them, and whose they have to be.
//! **Does not own:** signatures and claims (`auth::jwt`, `auth::talos`).
//! **Invariant:** one token is verified in a turn of the shard, whose other clients are served between
//! two. That is 22 µs for RSA of 2,048 bits and 74 µs for P-256 (`openssl speed`), about what an errand
//! would cost.

use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::auth::jwt::TokenRules;
use crate::auth::talos::Talos;
use crate::config::Secret;
use crate::protocol::sqlstate;
use crate::session::directory::Tenant;
use crate::session::report::Failure;

use super::{Proofs, Proven, Refusal, unknown_tenant, wrong_password, wrong_proof};

impl Proofs<'_> {
    /// Asks for a token.
    pub(super) async fn token(&mut self) -> Result<Secret, Refusal> {
        let token = self.clear().await?;
        let text = "Invalid JWT token format. Token must be valid UTF-8 text.";
        token.ok_or_else(|| wrong_password(text))
    }

    /// Whether a token says that the client is who it wants to be.
    pub(super) async fn check_token(
        &self,
        token: &Secret,
        tenant: Option<&Rc<Tenant>>,
    ) -> Result<(), Refusal> {
        self.shard.gate.pass().await;
        let keys = tenant.and_then(|tenant| tenant.token_keys.as_ref());
        let keys = keys.ok_or_else(wrong_proof)?;
        let general = &self.directory.config.general;
        let rules = TokenRules {
            audience: general.jwt_audience.as_deref(),
            issuer: general.jwt_issuer.as_deref(),
            now: now(),
        };
        let user = self.client.user;
        keys.check_user(token.expose(), user, &rules)
            .map_err(|error| {
                tracing::info!(user, client = self.peer, %error, "token refused");
                wrong_password(error.client_message(user))
            })
    }

    /// Asks somebody who has no key; the token is verified as that of somebody who has one.
    pub(super) async fn imitate_token(&mut self) -> Result<(), Refusal> {
        let token = self.token().await?;
        let other = self.others().find(|one| one.token_keys.is_some());
        let other = other.map(Rc::clone);
        self.check_token(&token, other.as_ref()).await
    }

    /// A token that names a role, which is the user of the pool.
    pub(super) async fn by_role(&mut self, talos: &Talos) -> Result<Proven, Refusal> {
        let refuse =
            |text: String| -> Refusal { Failure::new(sqlstate::INVALID_CATALOG_NAME, text).into() };
        let token = self.clear().await?.ok_or_else(|| {
            refuse("Invalid Talos token format. Token must be valid UTF-8 text.".to_owned())
        })?;
        self.shard.gate.pass().await;
        let bearer = talos.check(token.expose(), now()).map_err(|error| {
            tracing::info!(client = self.peer, %error, "Talos token refused");
            refuse(format!("Invalid Talos token: {error}"))
        })?;
        let database = self.client.database;
        let tenant = self.directory.tenant(database, bearer.role.user());
        // The others of PAM's prove themselves to PAM.
        let tenant = tenant.filter(|tenant| tenant.is_person() && tenant.pam_service.is_none());
        let tenant = tenant.ok_or_else(|| unknown_tenant(database, self.client.user))?;
        Ok(Proven {
            tenant: Rc::clone(tenant),
            application_name: Some(bearer.client_id),
        })
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}
