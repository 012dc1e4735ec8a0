//! Passwords: md5, SCRAM-SHA-256, in clear.
//!
//! **Owns:** the questions and the reading of answers.
//! **Does not own:** the arithmetic (`auth`), computing that takes long (an errand).
//! **Invariants:** what takes a millisecond or longer is not computed here, and only so much of it is
//! under way for one shard (`cap`). A question to somebody who does not exist costs what a question
//! to anybody does.
//!
//! Source: PostgreSQL documentation, `auth-password.html`, `auth-pam.html`, `sasl-authentication.html`.

use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::Rng as _;
use zeroize::Zeroizing;

use crate::auth::md5::Md5Secret;
use crate::auth::scram::{ScramAccepted, ScramServer, ScramVerifier};
use crate::auth::{ScramError, StoredPassword};
use crate::config::Secret;
use crate::protocol::frontend::{PasswordMessage, SaslInitialResponse, SaslResponse};
use crate::protocol::writer;
use crate::server::chores::{Chore, Done};
use crate::server::credentials::{LearnedKeys, Source};
use crate::session::directory::Tenant;
use crate::session::startup::Ended;

use super::{Proofs, Refusal, wrong_password, wrong_proof};

impl Proofs<'_> {
    /// Asks for a proof by md5.
    pub(super) async fn md5(&mut self, secret: &Md5Secret) -> Result<(), Refusal> {
        if self.proves_md5(secret).await? {
            return Ok(());
        }
        Err(wrong_proof())
    }

    /// Whether the client answers an md5 challenge as one who knows `secret`.
    pub(super) async fn proves_md5(&mut self, secret: &Md5Secret) -> Result<bool, Ended> {
        let salt: [u8; 4] = rand::rng().random();
        let mut out = Vec::new();
        writer::authentication_md5_password(&mut out, salt);
        self.talk.stream.send(out);
        let body = self.talk.proof().await?;
        let message = PasswordMessage::decode(&body);
        Ok(message.is_ok_and(|message| secret.verify(salt, message.password)))
    }

    /// Asks somebody who does not exist.
    pub(super) async fn imitate_md5(&mut self) -> Result<(), Refusal> {
        let nobody: [u8; 16] = rand::rng().random();
        let password = STANDARD.encode(nobody);
        let secret = Md5Secret::from_password(&password, self.client.user);
        self.proves_md5(&secret).await?;
        Err(wrong_proof())
    }

    /// Asks for a proof by SCRAM; the pool may log in to its server with what it reveals.
    pub(super) async fn scram_of(
        &mut self,
        tenant: &Rc<Tenant>,
        verifier: &ScramVerifier,
    ) -> Result<(), Refusal> {
        let accepted = self.scram(ScramServer::new(verifier.clone())).await?;
        let pool = &tenant.pool;
        if matches!(pool.settings.login.source, Source::Learned(_)) {
            let ScramAccepted { keys, verifier, .. } = accepted;
            pool.learn_keys(&LearnedKeys { keys, verifier });
        }
        Ok(())
    }

    /// Asks somebody who does not exist.
    pub(super) async fn imitate_scram(&mut self) -> Result<(), Refusal> {
        let machine = ScramServer::mock(self.client.user, &self.shard.mock_secret);
        let machine = machine.iterating(self.usual_iterations());
        self.scram(machine).await.map(drop)
    }

    /// Asks who wants the console; only `is_admin` can be right.
    pub(super) async fn scram_of_admin(
        &mut self,
        verifier: Option<ScramVerifier>,
        is_admin: bool,
    ) -> Result<(), Refusal> {
        let machine = match verifier.filter(|_| is_admin) {
            Some(verifier) => ScramServer::new(verifier),
            None => ScramServer::mock(self.client.user, &self.shard.mock_secret),
        };
        self.scram(machine).await.map(drop)
    }

    async fn scram(&mut self, machine: ScramServer) -> Result<ScramAccepted, Refusal> {
        let refuse = |error: ScramError| {
            tracing::debug!(%error, "SCRAM exchange failed");
            wrong_password(error.client_message())
        };
        let malformed = || {
            wrong_password(
                "Authentication protocol error. Your client may not support SCRAM \
                 authentication properly.",
            )
        };
        let mut out = Vec::new();
        let machine = machine.bound_to(self.end_point.map(<[u8]>::to_vec));
        writer::authentication_sasl(&mut out, machine.mechanisms());
        self.talk.stream.send(out);
        let body = self.talk.proof().await?;
        let first = SaslInitialResponse::decode(&body).map_err(|_| malformed())?;
        let nonce = STANDARD.encode(rand::rng().random::<[u8; 18]>());
        let response = first.response.unwrap_or_default();
        let (machine, message) = machine
            .handle_first(first.mechanism, response, &nonce)
            .map_err(refuse)?;
        let mut out = Vec::new();
        writer::authentication_sasl_continue(&mut out, &message);
        self.talk.stream.send(out);
        let body = self.talk.proof().await?;
        let SaslResponse(last) = SaslResponse::decode(&body).map_err(|_| malformed())?;
        let accepted = machine.handle_final(last).map_err(refuse)?;
        let mut out = Vec::new();
        writer::authentication_sasl_final(&mut out, &accepted.server_final);
        self.talk.stream.send(out);
        Ok(accepted)
    }

    /// Asks for a password in clear; none if it is not UTF-8.
    pub(super) async fn clear(&mut self) -> Result<Option<Secret>, Refusal> {
        let mut out = Vec::new();
        writer::authentication_cleartext_password(&mut out);
        self.talk.stream.send(out);
        let body = Zeroizing::new(self.talk.proof().await?);
        let message = PasswordMessage::decode(&body).ok();
        let text = message.and_then(|message| std::str::from_utf8(message.password).ok());
        Ok(text.map(Secret::new))
    }

    /// Asks for a password in clear and compares it with what is stored. This takes the time of a SCRAM
    /// verifier, whatever it is.
    pub(super) async fn clear_password(
        &mut self,
        stored: Option<&StoredPassword>,
    ) -> Result<(), Refusal> {
        let password = self.clear().await?;
        // As in PostgreSQL, nobody has an empty one.
        let password = password.filter(|password| !password.expose().is_empty());
        let password = password.ok_or_else(wrong_proof)?;
        let verifier = if let Some(StoredPassword::Scram(verifier)) = stored {
            verifier.clone()
        } else {
            let secret = &self.shard.mock_secret;
            ScramServer::mock_verifier(self.client.user, secret, self.usual_iterations())
        };
        let is_made_from = self.check_password(&password, verifier).await;
        let is_right = match stored {
            Some(StoredPassword::Scram(_)) => is_made_from,
            Some(StoredPassword::Md5(secret)) => secret.is_of(&password, self.client.user),
            _ => false,
        };
        if is_right {
            return Ok(());
        }
        Err(wrong_proof())
    }

    async fn check_password(&self, password: &Secret, verifier: ScramVerifier) -> bool {
        let chore = Chore::CheckPassword {
            password: password.clone(),
            verifier,
        };
        self.is_allowed(chore).await
    }

    /// Asks for a password in clear and has PAM check it.
    pub(super) async fn pam(&mut self, service: &str) -> Result<(), Refusal> {
        let Some(password) = self.clear().await? else {
            let text = "Invalid password format. Password must be valid UTF-8 text.";
            return Err(wrong_password(text));
        };
        let from = self
            .client
            .ip
            .map_or_else(|| "local".to_owned(), |ip| ip.to_string());
        let chore = Chore::CheckPam {
            service: service.to_owned(),
            user: self.client.user.to_owned(),
            password,
            from,
        };
        if self.is_allowed(chore).await {
            return Ok(());
        }
        Err(wrong_proof())
    }

    async fn is_allowed(&self, chore: Chore) -> bool {
        let caps = &self.shard.proofs;
        let cap = match &chore {
            Chore::CheckPam { .. } => &caps.pam,
            _ => &caps.other,
        };
        let _place = cap.enter().await;
        match self.shard.host.errands.chore(chore).await {
            Ok(Done::Allowed(is_allowed)) => is_allowed,
            Ok(_) => false,
            Err(error) => {
                tracing::warn!(user = self.client.user, %error, "a password cannot be checked");
                false
            }
        }
    }
}
