//! What a client has to prove, and whether it does.
//!
//! **Owns:** which method applies, and that a user who does not exist looks like a wrong password.
//! **Does not own:** rules (`auth::hba`), the exchanges (`ask`, `token`, `system`), what comes before and
//! after (`login`).
//! **Invariant:** nobody is let in but by a rule and, if it asks for one, by a proof.
//!
//! ```text
//!   first rule that fits ──▶ verdict ──┬─▶ method ──▶ exchange with the client
//!                      what is stored ─┘
//!   user `talos`, and the rule allows a password or a token ──▶ a token, which names a role
//! ```
//!
//! A database that does not exist is told at once (`3D000`), as always. In one that exists, an unknown
//! user is asked like the others there, with a salt that stays the same and as many iterations as most have, and is then refused like one
//! with a wrong password; so is one who has nothing that the rule asks for. Where nothing is asked (`trust`), there is nothing to imitate: `3D000`.
//!
//! Source: PostgreSQL documentation, `client-authentication.html`, `auth-methods.html`.

mod admin;
mod ask;
pub mod cap;
mod guests;
mod system;
mod token;

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::auth::StoredPassword;
use crate::auth::hba::{self, HbaClient, Holder, LoginMethod, Verdict};
use crate::auth::scram::MOCK_ITERATIONS;
use crate::auth::talos;
use crate::config::General;
use crate::config::hba::HbaMethod;
use crate::protocol::sqlstate;

use super::directory::{Directory, Tenant};
use super::report::Failure;
use super::shard::Shard;
use super::startup::{Conversation, Ended};

/// Told for a wrong password of md5, PAM and passwords in clear.
const WRONG_PASSWORD: &str = "Authentication failed. Please check your username and password.";
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
    /// Its address and port, for the log.
    pub peer: String,
}

/// What the configuration says about a client.
fn verdict<'a>(general: &'a General, client: &HbaClient<'_>) -> Verdict<'a> {
    match &general.pg_hba {
        Some(rules) => Verdict::by_rules(rules, client, &general.pg_ident),
        None => Verdict::by_networks(&general.hba, client.ip),
    }
}

impl Proofs<'_> {
    /// Finds out who the client is.
    ///
    /// # Errors
    ///
    /// Why it is not let in.
    pub async fn authenticate(mut self) -> Result<Proven, Refusal> {
        let directory = Rc::clone(&self.directory);
        let verdict = verdict(&directory.config.general, &self.client);
        if self.client.user == talos::USER
            && verdict.allows_roles()
            && let Some(keys) = &directory.talos
        {
            return self.by_role(keys).await;
        }
        if verdict == Verdict::Refuse {
            return Err(self.not_permitted());
        }
        if directory.config.pool_of(self.client.database).is_none() {
            return Err(self.unknown());
        }
        let tenant = self.tenant().await;
        let outcome = self.prove(verdict, tenant.as_ref()).await;
        let Some(tenant) = tenant else {
            // Asked like everybody, and right by chance or by PAM: still nobody.
            return Err(outcome.err().unwrap_or_else(wrong_proof));
        };
        outcome.inspect_err(|_| self.doubt(&tenant))?;
        self.enter(tenant).await.map(Proven::user)
    }

    /// Has the client prove what the rules and the user want.
    async fn prove(
        &mut self,
        verdict: Verdict<'_>,
        tenant: Option<&Rc<Tenant>>,
    ) -> Result<(), Refusal> {
        let holder = tenant.map(|tenant| tenant.holder());
        let method = hba::choose(verdict, holder, cfg!(feature = "pam"));
        match (method, tenant.map(|tenant| (tenant, &tenant.stored))) {
            (LoginMethod::Trust, Some(_)) => Ok(()),
            (LoginMethod::Md5, Some((_, StoredPassword::Md5(secret)))) => self.md5(secret).await,
            (LoginMethod::Scram, Some((tenant, StoredPassword::Scram(verifier)))) => {
                self.scram_of(tenant, verifier).await
            }
            (LoginMethod::Compare, Some((_, stored))) => self.clear_password(Some(stored)).await,
            (LoginMethod::Token, Some((tenant, _))) => {
                let token = self.token().await?;
                self.check_token(&token, Some(tenant)).await
            }
            (LoginMethod::Name, Some(_)) => self.name(verdict).await,
            (LoginMethod::Pam, _) => self.pam(&pam_service(verdict, tenant)).await,
            (LoginMethod::Unknown, _) => Err(self.unknown()),
            (LoginMethod::Imitate, _) => {
                if tenant.is_some() {
                    let user = self.client.user;
                    tracing::info!(user, "nothing is stored that the rule could ask for");
                }
                self.imitate(verdict).await
            }
            _ => Err(self.not_permitted()),
        }
    }

    /// The name that the client has without being asked.
    async fn name(&self, verdict: Verdict<'_>) -> Result<(), Refusal> {
        match verdict {
            Verdict::Rule(rule) if rule.method == HbaMethod::Cert => self.certificate(rule),
            Verdict::Rule(rule) if rule.method == HbaMethod::Peer => self.system_user(rule).await,
            _ => Err(self.not_permitted()),
        }
    }

    /// Goes through the motions with a user who does not exist, or who cannot prove anything.
    async fn imitate(&mut self, verdict: Verdict<'_>) -> Result<(), Refusal> {
        let outcome = match verdict {
            Verdict::Rule(rule) => match rule.method {
                HbaMethod::Password => self.clear_password(None).await,
                HbaMethod::Jwt => self.imitate_token().await,
                _ => self.name(verdict).await,
            },
            Verdict::Exchange { with_md5 } => self.imitate_exchange(with_md5).await,
            Verdict::Refuse | Verdict::Trust => Err(self.not_permitted()),
        };
        outcome.and(Err(wrong_proof()))
    }

    /// Asks what all the others are asked; if they differ, what most poolers ask.
    async fn imitate_exchange(&mut self, with_md5: bool) -> Result<(), Refusal> {
        match self.kind_of_others() {
            Some(Kind::Md5) if with_md5 => self.imitate_md5().await,
            Some(Kind::Pam(service)) => self.pam(&service).await,
            Some(Kind::Token) => self.imitate_token().await,
            _ => self.imitate_scram().await,
        }
    }

    fn kind_of_others(&self) -> Option<Kind> {
        let mut others = self.others();
        let kind = others.next()?.kind();
        others.all(|one| one.kind() == kind).then_some(kind)
    }

    /// The users at the settings of the database.
    fn others(&self) -> impl Iterator<Item = &Rc<Tenant>> {
        let door = self.directory.config.pool_of(self.client.database);
        let users = door.map(|door| self.directory.users(&door.name));
        users.into_iter().flatten().filter(|one| one.is_person())
    }

    /// The iterations that most users of the database have; those of `PostgreSQL` if there are none.
    fn usual_iterations(&self) -> u32 {
        let mut counts = BTreeMap::new();
        for one in self.others() {
            if let StoredPassword::Scram(verifier) = &one.stored {
                *counts.entry(verifier.iterations()).or_insert(0_u32) += 1;
            }
        }
        let usual = counts.into_iter().max_by_key(|(_, count)| *count);
        usual.map_or(MOCK_ITERATIONS, |(iterations, _)| iterations)
    }

    fn not_permitted(&self) -> Refusal {
        let text = hba::not_permitted_message(&self.client);
        Failure::new(sqlstate::INVALID_AUTHORIZATION, text).into()
    }

    fn unknown(&self) -> Refusal {
        let HbaClient { database, user, .. } = self.client;
        unknown_tenant(database, user).into()
    }
}

/// What a user is asked, as far as a stranger can see.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Md5,
    Other,
    /// Of this service.
    Pam(String),
    Token,
}

impl Tenant {
    fn kind(&self) -> Kind {
        match (&self.pam_service, &self.stored) {
            (Some(service), _) => Kind::Pam(service.clone()),
            (None, StoredPassword::Md5(_)) => Kind::Md5,
            (None, StoredPassword::JwtPublicKey(_)) => Kind::Token,
            (None, _) => Kind::Other,
        }
    }

    const fn holder(&self) -> Holder<'_> {
        Holder {
            stored: &self.stored,
            is_of_pam: self.pam_service.is_some(),
        }
    }
}

/// The service of the rule, else the user's.
fn pam_service(verdict: Verdict<'_>, tenant: Option<&Rc<Tenant>>) -> String {
    let of_rule = match verdict {
        Verdict::Rule(rule) => rule.options.pam_service.as_deref(),
        _ => None,
    };
    let of_user = tenant.and_then(|tenant| tenant.pam_service.as_deref());
    of_rule.or(of_user).unwrap_or(PAM_SERVICE).to_owned()
}

impl Proven {
    const fn user(tenant: Rc<Tenant>) -> Self {
        Self {
            tenant,
            application_name: None,
        }
    }
}

fn wrong_proof() -> Refusal {
    wrong_password(WRONG_PASSWORD)
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
