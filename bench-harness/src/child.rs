//! Programs the harness starts and never leaves behind.
//!
//! Owns: starting a program (as another user where needed), its log file, ending it.
//! Does not own: what the program is (`postgres.rs`, `target.rs`, `load.rs`).
//! Invariants: dropping a [`Supervised`] ends its whole process group; a harness that is killed
//! takes its children with it, because the kernel signals them (`setpriv --pdeathsig`). The kernel
//! watches the thread that started them, so only the main thread may start one.
//! Source: prctl(2), setpriv(1).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, User};

use crate::interrupt;

/// How often a wait looks whether it is over.
pub(crate) const POLL: Duration = Duration::from_millis(10);
/// How long a program may take to end after it was asked to.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// What to start.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) name: &'a str,
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// The user to run as; `None` for the harness's own.
    pub(crate) user: Option<&'a User>,
    pub(crate) dir: &'a Path,
    pub(crate) environment: &'a BTreeMap<String, String>,
    /// The signal that ends it cleanly.
    pub(crate) stop: Signal,
}

/// A running program; dropping it ends the program.
#[derive(Debug)]
pub(crate) struct Supervised {
    name: String,
    child: Child,
    log: PathBuf,
    stop: Signal,
}

/// A command that ends with the harness, in its own process group so that Ctrl-C in the terminal
/// reaches only the harness.
pub(crate) fn command(words: &[String], user: Option<&User>) -> Result<Command> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if let Some(user) = user {
        let (uid, gid) = (user.uid.to_string(), user.gid.to_string());
        command.args(["--reuid", &uid, "--regid", &gid, "--init-groups"]);
    }
    if words.is_empty() {
        bail!("a command needs at least a program");
    }
    command
        .arg("--")
        .args(words)
        .process_group(0)
        .stdin(Stdio::null());
    Ok(command)
}

impl Supervised {
    /// Starts a program whose output goes to `NAME.log` in its directory.
    ///
    /// # Errors
    /// The log cannot be created or `setpriv` cannot be started.
    pub(crate) fn start(launch: &Launch<'_>) -> Result<Self> {
        let log = launch.dir.join(format!("{}.log", launch.name));
        let output =
            File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let child = command(&launch.command, launch.user)?
            .current_dir(launch.dir)
            .envs(launch.environment)
            .stdout(output.try_clone().context("cannot share a log file")?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", launch.name))?;
        Ok(Self {
            name: launch.name.to_owned(),
            child,
            log,
            stop: launch.stop,
        })
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `is_ready`.
    ///
    /// # Errors
    /// The program ends first, `limit` passes, or the user interrupts; the end of its log is in
    /// the message.
    pub(crate) fn wait_until(
        &mut self,
        limit: Duration,
        mut is_ready: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            interrupt::check()?;
            let Err(reason) = is_ready() else {
                return Ok(());
            };
            if let Some(status) = self.child.try_wait().context("cannot wait for a program")? {
                bail!(
                    "{} ended at start ({status})\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "{} is not ready: {reason:#}\n{}",
                    self.name,
                    self.log_tail()
                );
            }
            thread::sleep(POLL);
        }
    }

    /// Whether it has not ended by itself.
    ///
    /// # Errors
    /// The system does not say.
    pub(crate) fn is_running(&mut self) -> Result<bool> {
        let status = self.child.try_wait().context("cannot wait for a program")?;
        Ok(status.is_none())
    }

    /// Waits for a program that ends by itself.
    ///
    /// # Errors
    /// The user interrupts, or it cannot be waited for.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        wait(&mut self.child)
    }

    /// All that the program wrote.
    pub(crate) fn log_text(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The last lines the program wrote.
    pub(crate) fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    fn end(&mut self) {
        // The group has the id of its first process.
        let Ok(group) = i32::try_from(self.child.id()).map(Pid::from_raw) else {
            return;
        };
        let _ = killpg(group, self.stop);
        let deadline = Instant::now() + STOP_LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        // Also reaches members of the group that outlived its first process.
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits for a child that ends by itself and kills it when the user interrupts.
///
/// # Errors
/// The user interrupts, or the child cannot be waited for.
pub(crate) fn wait(child: &mut Child) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a program")? {
            return Ok(status);
        }
        if let Err(interrupted) = interrupt::check() {
            let _ = child.kill();
            let _ = child.wait();
            return Err(interrupted);
        }
        thread::sleep(POLL);
    }
}

/// Runs a program to its end and returns what it wrote.
///
/// # Errors
/// It cannot be started or fails; its output is in the message.
pub(crate) fn output(words: &[String], user: Option<&User>, dir: &Path) -> Result<String> {
    let output = command(words, user)?
        .current_dir(dir)
        .output()
        .with_context(|| format!("cannot start {}", words[0]))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    if !output.status.success() {
        bail!("{} failed ({})\n{text}", words.join(" "), output.status);
    }
    Ok(text)
}

/// Sets the priority of this thread, which what it starts inherits. False if that is not allowed.
pub(crate) fn renice(niceness: &str) -> bool {
    let thread = nix::unistd::gettid().to_string();
    let renice = Command::new("renice")
        .args(["-n", niceness, "-p", &thread])
        .output();
    renice.is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch<'a>(
        script: &str,
        dir: &'a Path,
        environment: &'a BTreeMap<String, String>,
    ) -> Launch<'a> {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        Launch {
            name: "test",
            command,
            user: None,
            dir,
            environment,
            stop: Signal::SIGTERM,
        }
    }

    #[test]
    fn program_that_ends_at_start_is_reported_with_its_log() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let environment = BTreeMap::new();
        let mut child = Supervised::start(&launch(
            "echo no such option; exit 3",
            dir.path(),
            &environment,
        ))
        .expect("start sh");
        let error = child
            .wait_until(Duration::from_secs(10), || bail!("not yet"))
            .expect_err("the program ended");
        assert!(error.to_string().contains("no such option"), "{error}");
    }

    #[test]
    fn dropping_a_program_ends_its_descendants() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let environment = BTreeMap::new();
        let script = "sleep 1000 & echo $! > pid; wait";
        let mut child =
            Supervised::start(&launch(script, dir.path(), &environment)).expect("start sh");
        let mut pid = String::new();
        child
            .wait_until(Duration::from_secs(10), || {
                pid = fs::read_to_string(dir.path().join("pid"))?;
                if pid.ends_with('\n') {
                    Ok(())
                } else {
                    bail!("not yet")
                }
            })
            .expect("descendant started");
        drop(child);
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") || stat.contains(") X ") {
                break;
            }
            assert!(Instant::now() < deadline, "descendant lives on: {stat}");
            thread::yield_now();
        }
    }
}
