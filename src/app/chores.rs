//! What shards have done beside them: PAM, commands, computing that takes long.
//!
//! **Owns:** how much of it runs at a time, and what commands have printed.
//! **Does not own:** what is asked for (`server::chores`), the way there and back (`control`).
//! **Invariants:** no chore stops the control thread or a shard. Threads are bounded: a PAM module that
//! hangs takes one of `PAM_MAX`, and when all hang, logins by PAM end with their time limit.
//!
//! A command is run once for all shards that want its answer, and again when that is too old or was
//! refused, but not more often than once a second.
//!
//! Source: `pam`(3), `pam_authenticate`(3), `pam_acct_mgmt`(3), sh(1).

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::io::AsyncReadExt as _;
use tokio::sync::{Mutex, Semaphore};

use crate::auth::derive_keys;
use crate::auth::jwt::SigningKey;
use crate::config::{PasswordCommand, Secret};
use crate::server::chores::{Chore, Done};

/// Threads that compute.
const COMPUTING_MAX: usize = 2;
/// Threads that wait for PAM.
const PAM_MAX: usize = 16;
/// Threads that wait for the directory of users.
const NAMES_MAX: usize = 4;
/// Commands that run at a time.
const COMMANDS_MAX: usize = 8;
/// The longest password that a command may print, in bytes.
const PASSWORD_BYTES_MAX: usize = 64 * 1024;
/// A command is not run again earlier than that, even if its answer was refused.
const REPEAT_MIN: Duration = Duration::from_secs(1);
/// Answers of commands that are remembered.
const ANSWERS_MAX: usize = 1024;

/// What names an answer: the command and its environment.
type Question = (Arc<PasswordCommand>, Vec<(&'static str, String)>);
type Answer = Option<(Instant, Result<Secret, String>)>;

/// Does chores.
#[derive(Clone, Debug)]
pub struct Chores {
    computing: Arc<Semaphore>,
    pam: Arc<Semaphore>,
    names: Arc<Semaphore>,
    commands: Arc<Semaphore>,
    answers: Arc<Mutex<HashMap<Question, Arc<Mutex<Answer>>>>>,
}

impl Default for Chores {
    fn default() -> Self {
        Self {
            computing: Arc::new(Semaphore::new(COMPUTING_MAX)),
            pam: Arc::new(Semaphore::new(PAM_MAX)),
            names: Arc::new(Semaphore::new(NAMES_MAX)),
            commands: Arc::new(Semaphore::new(COMMANDS_MAX)),
            answers: Arc::default(),
        }
    }
}

impl Chores {
    /// Does `chore`; waits for its turn and its end.
    ///
    /// # Errors
    ///
    /// Why it could not be done.
    pub async fn run(self, chore: Chore) -> Result<Done, String> {
        match chore {
            Chore::CheckPam {
                service,
                user,
                password,
                from,
            } => {
                let check = move || check_pam(&service, &user, &password, &from);
                blocking(&self.pam, check).await?.map(Done::Allowed)
            }
            Chore::CheckPassword { password, verifier } => {
                let check = move || {
                    derive_keys(password.expose(), verifier.salt(), verifier.iterations())
                        .is_ok_and(|keys| verifier.is_made_from(&keys))
                };
                blocking(&self.computing, check).await.map(Done::Allowed)
            }
            Chore::RunCommand {
                command,
                environment,
                is_stale,
            } => {
                let secret = self.password_of(command, environment, is_stale).await;
                secret.map(Done::Secret)
            }
            Chore::SignToken { key, user } => {
                let sign = move || {
                    let key = SigningKey::parse(key.expose()).map_err(|error| error.to_string())?;
                    let token = key.sign(&user, now()).map_err(|error| error.to_string())?;
                    Ok(Done::Secret(Secret::new(token)))
                };
                blocking(&self.computing, sign).await?
            }
            Chore::SystemUser(uid) => {
                let look = move || nix::unistd::User::from_uid(uid.into());
                let found = blocking(&self.names, look).await?;
                let user = found.map_err(|error| format!("user {uid}: {error}"))?;
                Ok(Done::Name(user.map(|user| user.name)))
            }
        }
    }

    async fn password_of(
        &self,
        command: Arc<PasswordCommand>,
        environment: Vec<(&'static str, String)>,
        is_stale: bool,
    ) -> Result<Secret, String> {
        let question = (Arc::clone(&command), environment);
        let place = {
            let mut answers = self.answers.lock().await;
            if answers.len() >= ANSWERS_MAX && !answers.contains_key(&question) {
                // Commands come from the configuration, so this means many reloads.
                answers.clear();
            }
            Arc::clone(answers.entry(question.clone()).or_default())
        };
        // Others who want the same answer wait here.
        let mut answer = place.lock().await;
        if let Some((at, known)) = &*answer {
            let age = at.elapsed();
            let is_good = known.is_ok() && !is_stale && age < command.ttl;
            if is_good || age < REPEAT_MIN {
                return known.clone();
            }
        }
        let fresh = self.execute(&question).await;
        *answer = Some((Instant::now(), fresh.clone()));
        fresh
    }

    async fn execute(&self, (command, environment): &Question) -> Result<Secret, String> {
        let _turn = self
            .commands
            .acquire()
            .await
            .map_err(|error| error.to_string())?;
        let limit = command.timeout;
        tokio::time::timeout(limit, print_password(&command.text, environment))
            .await
            .map_err(|_| format!("has not ended within {limit:?}"))?
    }
}

/// Runs a command of the shell; what it has printed, without the end of the line. It is killed when
/// nobody waits any more.
async fn print_password(
    text: &str,
    environment: &[(&'static str, String)],
) -> Result<Secret, String> {
    let mut child = tokio::process::Command::new("/bin/sh")
        .args(["-c", text])
        .envs(environment.iter().map(|(name, value)| (*name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot be started: {error}"))?;
    let output = child.stdout.take().ok_or("has no output")?;
    let mut printed = Vec::new();
    let mut limited = output.take(PASSWORD_BYTES_MAX as u64 + 2);
    let read = limited.read_to_end(&mut printed).await;
    read.map_err(|error| format!("cannot be read: {error}"))?;
    if printed.len() > PASSWORD_BYTES_MAX + 1 {
        return Err(format!("has printed more than {PASSWORD_BYTES_MAX} bytes"));
    }
    let status = child.wait().await;
    let status = status.map_err(|error| format!("cannot be waited for: {error}"))?;
    if !status.success() {
        return Err(format!("has failed: {status}"));
    }
    let printed = String::from_utf8(printed).map_err(|_| "has not printed UTF-8")?;
    let printed = Secret::new(printed);
    let password = printed.expose();
    let password = password.strip_suffix('\n').unwrap_or(password);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() || password.contains('\0') {
        return Err("has printed no password".to_owned());
    }
    Ok(Secret::new(password))
}

async fn blocking<T: Send + 'static>(
    turns: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let turn = Arc::clone(turns).acquire_owned().await;
    let turn = turn.map_err(|error| error.to_string())?;
    tokio::task::spawn_blocking(move || {
        let result = work();
        drop(turn);
        result
    })
    .await
    .map_err(|error| error.to_string())
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

#[cfg(not(feature = "pam"))]
fn check_pam(service: &str, _: &str, _: &Secret, _: &str) -> Result<bool, String> {
    Err(format!(
        "service {service}: this program was built without PAM"
    ))
}

#[cfg(feature = "pam")]
use pam::check as check_pam;

#[cfg(feature = "pam")]
mod pam {
    use std::ffi::{OsStr, OsString};

    use nonstick::items::{Items as _, ItemsMut as _};
    use nonstick::{
        AuthnFlags, ConversationAdapter, ErrorCode, PamShared as _, Result as PamResult,
        Transaction as _, TransactionBuilder,
    };

    use crate::config::Secret;

    /// Answers what modules ask: the name and the password, nothing else.
    struct Answers<'a>(&'a str, &'a Secret);

    impl ConversationAdapter for Answers<'_> {
        fn prompt(&self, _: impl AsRef<OsStr>) -> PamResult<OsString> {
            Ok(self.0.into())
        }

        fn masked_prompt(&self, _: impl AsRef<OsStr>) -> PamResult<OsString> {
            Ok(self.1.expose().into())
        }

        fn error_msg(&self, message: impl AsRef<OsStr>) {
            tracing::info!(user = self.0, message = ?message.as_ref(), "PAM says");
        }

        fn info_msg(&self, message: impl AsRef<OsStr>) {
            self.error_msg(message);
        }
    }

    /// Asks PAM. An error is one of the set-up; a wrong password is none.
    pub(super) fn check(
        service: &str,
        user: &str,
        password: &Secret,
        from: &str,
    ) -> Result<bool, String> {
        // An empty password would be taken for "none is needed" by some modules.
        if password.expose().is_empty()
            || [service, user, from].iter().any(|text| text.contains('\0'))
        {
            return Ok(false);
        }
        match ask(service, user, password, from) {
            Ok(is_allowed) => Ok(is_allowed),
            Err(
                error @ (ErrorCode::AuthenticationError
                | ErrorCode::UserUnknown
                | ErrorCode::MaxTries
                | ErrorCode::PermissionDenied
                | ErrorCode::AccountExpired
                | ErrorCode::CredentialsExpired
                | ErrorCode::NewAuthTokRequired),
            ) => {
                tracing::debug!(service, user, %error, "PAM refuses");
                Ok(false)
            }
            Err(error) => Err(format!("PAM service {service}: {error}")),
        }
    }

    fn ask(service: &str, user: &str, password: &Secret, from: &str) -> PamResult<bool> {
        let answers = Answers(user, password).into_conversation();
        let builder = TransactionBuilder::new_with_service(service).username(user);
        let mut transaction = builder.build(answers)?;
        transaction
            .items_mut()
            .set_remote_host(Some(OsStr::new(from)))?;
        let flags = AuthnFlags::SILENT | AuthnFlags::DISALLOW_NULL_AUTHTOK;
        transaction.authenticate(flags)?;
        transaction.account_management(flags)?;
        // A module may have taken the client for somebody else.
        let named = transaction.items().user()?;
        Ok(named.is_some_and(|named| named == *user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(text: &str, ttl: Duration) -> Arc<PasswordCommand> {
        Arc::new(PasswordCommand {
            text: text.to_owned(),
            timeout: Duration::from_millis(500),
            ttl,
        })
    }

    fn run(
        chores: &Chores,
        command: &Arc<PasswordCommand>,
        is_stale: bool,
    ) -> Result<Secret, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let environment = vec![("PGUSER", "bob".to_owned())];
        let answer = chores.password_of(Arc::clone(command), environment, is_stale);
        runtime.block_on(answer)
    }

    #[test]
    fn a_command_finds_its_environment_and_is_asked_once() {
        let chores = Chores::default();
        let command = command("echo $PGUSER $$", Duration::from_secs(60));
        let first = run(&chores, &command, false).unwrap();
        assert!(first.expose().starts_with("bob "));
        assert_eq!(run(&chores, &command, false).unwrap(), first);
        // Refused, but the answer is not a second old.
        assert_eq!(run(&chores, &command, true).unwrap(), first);
    }

    #[test]
    fn a_refused_answer_is_asked_for_again() {
        let chores = Chores::default();
        let command = command("echo $$", Duration::from_secs(60));
        let first = run(&chores, &command, false).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            for place in chores.answers.lock().await.values() {
                let mut answer = place.lock().await;
                let old = Instant::now().checked_sub(2 * REPEAT_MIN).unwrap();
                *answer = answer.take().map(|(_, secret)| (old, secret));
            }
        });
        assert_eq!(run(&chores, &command, false).unwrap(), first);
        assert_ne!(run(&chores, &command, true).unwrap(), first);
    }

    #[test]
    fn a_command_that_prints_no_password_is_an_error() {
        let chores = Chores::default();
        for (text, reason) in [
            ("true", "has printed no password"),
            ("echo x; exit 3", "has failed"),
            ("sleep 10", "has not ended"),
            ("printf '\\377'", "UTF-8"),
            (
                "head -c 70000 /dev/zero | tr '\\0' x",
                "has printed more than",
            ),
        ] {
            let error = run(&chores, &command(text, Duration::ZERO), false).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let long = "head -c 65536 /dev/zero | tr '\\0' x; echo";
        let secret = run(&chores, &command(long, Duration::ZERO), false).unwrap();
        assert_eq!(secret.expose().len(), 65536);
    }
}
