//! Who may use the console.
//!
//! **Owns:** what rules mean for it, and its one user.
//! **Does not own:** the exchanges (`ask`, `system`), the console.
//! **Invariant:** whatever the name is, the same is asked; only with the right name it is enough.
//!
//! Source: PostgreSQL documentation, `client-authentication.html`.

use std::rc::Rc;

use crate::auth::hba::Verdict;
use crate::auth::md5::Md5Secret;
use crate::auth::scram::ScramVerifier;
use crate::config::hba::HbaMethod;

use super::{Proofs, Refusal, verdict, wrong_password};

impl Proofs<'_> {
    /// Finds out whether the client may use the console. `trust` lets in everybody.
    ///
    /// # Errors
    ///
    /// Why it may not.
    pub async fn authenticate_admin(mut self) -> Result<(), Refusal> {
        let directory = Rc::clone(&self.directory);
        let general = &directory.config.general;
        let admin = general.admin_username.as_str();
        let secret = Md5Secret::from_password(general.admin_password.expose(), admin);
        let verdict = verdict(general, &self.client);
        let proves = match verdict {
            Verdict::Trust => return Ok(()),
            Verdict::Refuse => return Err(self.not_permitted()),
            Verdict::Exchange { with_md5: true } => self.proves_md5(&secret).await?,
            Verdict::Exchange { with_md5: false } => {
                let verifier = general.admin_verifier.as_ref();
                let verifier = verifier.and_then(|text| ScramVerifier::parse(text.expose()).ok());
                let is_admin = self.client.user == admin;
                self.scram_of_admin(verifier, is_admin).await?;
                true
            }
            Verdict::Rule(rule) => match rule.method {
                HbaMethod::Password => {
                    let password = self.clear().await?;
                    password.is_some_and(|password| secret.is_of(&password, admin))
                }
                HbaMethod::Cert | HbaMethod::Peer => {
                    self.name(verdict).await?;
                    true
                }
                // There is neither a key of tokens nor a service for it.
                _ => return Err(self.not_permitted()),
            },
        };
        if proves && self.client.user == admin {
            return Ok(());
        }
        let user = self.client.user;
        let text = format!("password authentication failed for user \"{user}\"");
        Err(wrong_password(text))
    }
}
