//! What a client has to prove, and whether it does.
//!
//! **Owns:** which method applies, and that a user who does not exist looks like a wrong password.
//! **Does not own:** rules (`auth::hba`), the exchanges (`ask`, `token`, `system`), what comes before and
//! after (`login`).
//! **Invariant:** nobody is let in but by a rule and, if it asks for one, by a proof.
//!
//! ```text
//!   first rule that fits: password, pam, jwt, cert, peer ──▶ that method, and no other
//!                         anything else ──▶ two walks over the rules, then by what is stored:
//!                                           SCRAM verifier, md5 hash, key of tokens; PAM if configured
//!   user `talos`, and the rules allow a password ──▶ a token, which names a role
//! ```
//!
//! A database that does not exist is told at once (`3D000`), as always. In one that exists, an unknown
//! user is asked like the others there, with a salt that stays the same, and is then refused like one
//! with a wrong password. Where nothing is asked (`trust`), there is nothing to imitate: `3D000`.
//!
//! Source: PostgreSQL documentation, `client-authentication.html`, `auth-methods.html`.

mod ask;
pub mod cap;
mod guests;
mod system;
mod token;

pub use ask::proves_md5;

use std::rc::Rc;

use crate::auth::hba::{self, Challenge, Decision, HbaClient, LoginMethod, WantedMethod};
use crate::auth::talos;
use crate::auth::{StoredPassword, VerifierError};
use crate::config::General;
use crate::config::hba::{HbaMethod, HbaRule};
use crate::protocol::sqlstate;

use super::directory::{Directory, Tenant};
use super::report::Failure;
use super::shard::Shard;
use super::startup::{Conversation, Ended};

/// Told for a wrong password of md5, PAM and passwords in clear.
const WRONG_PASSWORD: &str = "Authentication failed. Please check your username and password.";
/// Told where nothing could be proved.
const UNSUPPORTED: &str =
    "Authentication method not supported. Please contact your database administrator.";
/// The PAM service of rules and users that name none, as in PostgreSQL.
const PAM_SERVICE: &str = "postgresql";

/// Why a client is not let in.
#[derive(Debug)]
pub enum Refusal {
    /// The conversation has ended.
    Ended(Ended),
    /// The client is told.
    Told(Failure),
}

impl From<Ended> for Refusal {
    fn from(ended: Ended) -> Self {
        Self::Ended(ended)
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Told(failure)
    }
}

/// Who has been let in.
pub struct Proven {
    /// The user and the pool.
    pub tenant: Rc<Tenant>,
    /// What the client is called, if its proof has said so.
    pub application_name: Option<String>,
}

/// A client, and all that is needed to hear its proof.
pub struct Proofs<'a> {
    /// The shard.
    pub shard: &'a Rc<Shard>,
    /// Who exists.
    pub directory: Rc<Directory>,
    /// The conversation with the client.
    pub talk: &'a mut Conversation,
    /// What a proof over TLS is bound to.
    pub end_point: Option<&'a [u8]>,
    /// The client as rules see it.
    pub client: HbaClient<'a>,
    /// Its address and port.
    pub peer: String,
}

/// The verdicts of both walks over the rules: for md5, for SCRAM.
pub fn walk(general: &General, client: &HbaClient<'_>) -> (Decision, Decision) {
    let Some(rules) = &general.pg_hba else {
        let decision = hba::decide_by_network(&general.hba, client.ip);
        return (decision, decision);
    };
    let decide = |wanted| hba::decide(rules, client, &general.pg_ident, wanted);
    (decide(WantedMethod::Md5), decide(WantedMethod::ScramSha256))
}

impl Proofs<'_> {
    /// Finds out who the client is.
    ///
    /// # Errors
    ///
    /// Why it is not let in.
    pub async fn authenticate(mut self) -> Result<Proven, Refusal> {
        let directory = Rc::clone(&self.directory);
        let general = &directory.config.general;
        let rules = general.pg_hba.as_deref().unwrap_or_default();
        if let Some(rule) = hba::named(rules, &self.client) {
            return self.by_rule(rule).await.map(Proven::user);
        }
        let (md5, scram) = walk(general, &self.client);
        let is_allowed = md5 == Decision::Allow || scram == Decision::Allow;
        if self.client.user == talos::USER
            && is_allowed
            && let Some(keys) = &directory.talos
        {
            return self.by_role(keys).await;
        }
        if !hba::is_permitted(md5, scram) {
            return Err(forbidden(hba::not_permitted_message(&self.client)));
        }
        let Some(tenant) = self.tenant().await else {
            return Err(self.imitate(md5, scram).await);
        };
        refuse_pam(&tenant)?;
        match hba::combine(md5, scram, &tenant.stored) {
            LoginMethod::Trust => {}
            LoginMethod::NotPermitted => {
                return Err(forbidden(hba::not_permitted_message(&self.client)));
            }
            LoginMethod::Deny { .. } => {
                return Err(forbidden(hba::denied_message(&self.client, &self.peer)));
            }
            LoginMethod::Ask(challenge) => match &tenant.pam_service {
                Some(service) => self.pam(service).await?,
                None => self
                    .ask(challenge, &tenant)
                    .await
                    .inspect_err(|_| self.doubt(&tenant))?,
            },
        }
        self.enter(tenant).await.map(Proven::user)
    }

    /// The method of a rule that decides alone.
    async fn by_rule(&mut self, rule: &HbaRule) -> Result<Rc<Tenant>, Refusal> {
        let directory = Rc::clone(&self.directory);
        let maps = &directory.config.general.pg_ident;
        if !hba::shows_certificate(rule, &self.client, maps) {
            return Err(forbidden(hba::not_permitted_message(&self.client)));
        }
        let tenant = self.tenant().await;
        let tenant = tenant.as_ref();
        if tenant.is_none() && directory.config.pool_of(self.client.database).is_none() {
            return Err(self.unknown());
        }
        match &rule.method {
            HbaMethod::Cert => self.certificate(rule)?,
            HbaMethod::Peer => self.system_user(rule).await?,
            HbaMethod::Pam => {
                let own = tenant.and_then(|tenant| tenant.pam_service.as_deref());
                let service = rule.options.pam_service.as_deref().or(own);
                self.pam(service.unwrap_or(PAM_SERVICE)).await?;
            }
            HbaMethod::Jwt => {
                let token = self.token().await?;
                self.check_token(&token, tenant).await?;
            }
            HbaMethod::Password => self.clear_password(tenant).await?,
            _ => return Err(forbidden(hba::not_permitted_message(&self.client))),
        }
        match tenant {
            Some(tenant) => self.enter(Rc::clone(tenant)).await,
            // Asked like everybody, and right by chance or by PAM: still nobody.
            None => Err(wrong_password(WRONG_PASSWORD)),
        }
    }

    async fn ask(&mut self, challenge: Challenge, tenant: &Rc<Tenant>) -> Result<(), Refusal> {
        match (challenge, &tenant.stored) {
            (Challenge::Md5, StoredPassword::Md5(secret)) => self.md5(secret).await,
            (Challenge::Scram, StoredPassword::Scram(verifier)) => {
                self.scram_of(tenant, verifier).await
            }
            (Challenge::Scram, StoredPassword::InvalidScram(_)) => {
                Err(wrong_password(VerifierError::CLIENT_MESSAGE))
            }
            (Challenge::Cleartext, StoredPassword::JwtPublicKey(_)) => {
                let token = self.token().await?;
                self.check_token(&token, Some(tenant)).await
            }
            _ => Err(wrong_password(UNSUPPORTED)),
        }
    }

    /// Goes through the motions with a user who does not exist.
    async fn imitate(&mut self, md5: Decision, scram: Decision) -> Refusal {
        let asks = md5 == Decision::Allow || scram == Decision::Allow;
        let trusts = md5 == Decision::Trust || scram == Decision::Trust;
        let directory = Rc::clone(&self.directory);
        let config = &directory.config;
        let Some(settings) = config
            .pool_of(self.client.database)
            .filter(|_| asks && !trusts)
        else {
            return self.unknown();
        };
        // What all the others are asked; if they differ, what most poolers ask.
        let mut others = directory
            .users(&settings.name)
            .filter(|one| one.is_person());
        let first = others.next();
        let kind = first.map(|one| one.kind());
        let kind = kind.filter(|kind| others.all(|one| one.kind() == *kind));
        let outcome = match (kind, first) {
            (Some(Kind::Md5), _) if md5 == Decision::Allow => self.imitate_md5().await,
            (Some(Kind::Pam), Some(one)) => {
                let service = one.pam_service.as_deref().unwrap_or(PAM_SERVICE);
                let outcome = self.pam(service).await;
                // PAM may know more users than the pooler.
                outcome.and(Err(wrong_password(WRONG_PASSWORD)))
            }
            (Some(Kind::Token), _) => self.imitate_token(first).await,
            _ => self.imitate_scram().await,
        };
        outcome.err().unwrap_or_else(|| self.unknown())
    }

    fn unknown(&self) -> Refusal {
        let HbaClient { database, user, .. } = self.client;
        unknown_tenant(database, user).into()
    }
}

/// What a user is asked, as far as a stranger can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Md5,
    Other,
    Pam,
    Token,
}

impl Tenant {
    fn kind(&self) -> Kind {
        match &self.stored {
            _ if self.pam_service.is_some() => Kind::Pam,
            StoredPassword::Md5(_) => Kind::Md5,
            StoredPassword::JwtPublicKey(_) => Kind::Token,
            _ => Kind::Other,
        }
    }
}

impl Proven {
    const fn user(tenant: Rc<Tenant>) -> Self {
        Self {
            tenant,
            application_name: None,
        }
    }
}

/// Where there is no PAM, nothing else that is stored may take its place, not even `trust`.
fn refuse_pam(tenant: &Tenant) -> Result<(), Refusal> {
    if cfg!(not(feature = "pam")) && tenant.pam_service.is_some() {
        return Err(wrong_password(UNSUPPORTED));
    }
    Ok(())
}

fn forbidden(text: String) -> Refusal {
    Failure::new(sqlstate::INVALID_AUTHORIZATION, text).into()
}

fn wrong_password(text: impl Into<String>) -> Refusal {
    Failure::new(sqlstate::INVALID_PASSWORD, text).into()
}

/// What a client is told for which there is no pool.
fn unknown_tenant(database: &str, user: &str) -> Failure {
    Failure::with_ready(
        sqlstate::INVALID_CATALOG_NAME,
        format!(
            "No connection pool configured for database: {database}, user: {user}. Please check \
             your connection parameters and ensure the database/username is properly configured."
        ),
    )
}
