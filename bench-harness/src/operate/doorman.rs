//! A pooler that is operated: its files change, and it is told to read them again.
//!
//! Owns: starting it with an edition, its certificates, the two ways to reload.
//! Does not own: what changes (`edition.rs`).
//! Invariants: a reload that returns was taken: the pooler tells the number of the edition.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::console::Oracle;
use super::edition::{self, CERTIFICATE, CHANGED, Edition, KEPT};
use super::{Bench, TARGET};
use crate::child;
use crate::interrupt;
use crate::pooler::Pooler;

/// How long a signal may take to have its effect.
const RELOAD_LIMIT: Duration = Duration::from_secs(10);
/// How long anything else may take.
const LIMIT: Duration = Duration::from_secs(20);
const CONFIGURATION: &str = "pg_doorman.toml";
const KEY: &str = "server.key";

/// How the pooler is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Signal,
    Console,
}

/// Two certificates with the same key.
struct Certificates {
    key: String,
    certificates: [String; 2],
}

/// A running pooler and its files.
pub(crate) struct Doorman {
    pub(crate) pooler: Pooler,
    /// The pooler, as one asks it.
    pub(crate) console: Oracle,
    pub(crate) edition: Edition,
    file: PathBuf,
    certificates: Certificates,
    is_second_certificate: bool,
}

impl Doorman {
    /// Starts it with the first edition, in front of the bench's server.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start(bench: &Bench<'_>) -> Result<Self> {
        let certificates = Certificates::create(bench)?;
        let mut edition = Edition::first(bench.server.address().port())?;
        let mut target = bench.catalogue.target(TARGET, 2)?;
        let filled_in_later = edition.text().replace("port = 1\n", "port = {port}\n");
        let files = [
            (CONFIGURATION, &filled_in_later),
            (CERTIFICATE, &certificates.certificates[0]),
            (KEY, &certificates.key),
        ];
        for (name, text) in files {
            target.files.insert(name.to_owned(), text.clone());
        }
        let pooler = Pooler::start(&target, bench.server, 20)?;
        edition.listen(pooler.address.port())?;
        let dir = pooler.dir().context("a pooler without files")?;
        Ok(Self {
            console: Oracle::new(bench.server, pooler.address),
            file: dir.join(CONFIGURATION),
            pooler,
            edition,
            certificates,
            is_second_certificate: false,
        })
    }

    /// Writes the edition and has the pooler read it.
    ///
    /// # Errors
    /// It does not, or the user interrupts.
    pub(crate) fn reload(&self, way: Way) -> Result<()> {
        edition::replace(&self.file, &self.edition.text())?;
        let mark = self.edition.mark().to_string();
        let is_taken = || -> Result<bool> {
            let told = self.console.setting("max_client_conn")?;
            Ok(told.as_ref() == Some(&mark))
        };
        if way == Way::Console {
            self.console.command("RELOAD")?;
            if !is_taken()? {
                bail!("RELOAD has returned and the configuration is another one");
            }
            return Ok(());
        }
        let process = self.pooler.probe.pooler.first().context("no process")?;
        signal::kill(Pid::from_raw(*process as i32), Signal::SIGHUP).context("cannot signal")?;
        until("SIGHUP to have its effect", RELOAD_LIMIT, is_taken)
    }

    /// Puts the other certificate in place.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn swap_certificate(&mut self) -> Result<()> {
        self.is_second_certificate = !self.is_second_certificate;
        let text = &self.certificates.certificates[usize::from(self.is_second_certificate)];
        edition::replace(&self.file.with_file_name(CERTIFICATE), text)
    }

    /// The clients of both databases.
    ///
    /// # Errors
    /// The console does not answer.
    pub(crate) fn clients(&self) -> Result<BTreeSet<String>> {
        self.console.clients(&[KEPT.0, CHANGED.0])
    }
}

impl Certificates {
    fn create(bench: &Bench<'_>) -> Result<Self> {
        let dir = bench.server.create_dir("certificates-")?;
        let openssl = |words: &str| {
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            child::output(&words, None, dir.path())
        };
        let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key";
        openssl(&format!(
            "openssl req -x509 {new_key} -out 1 -subj /CN=first -days 9"
        ))?;
        openssl("openssl req -x509 -key key -out 2 -subj /CN=second -days 9")?;
        Ok(Self {
            key: read(&dir, "key")?,
            certificates: [read(&dir, "1")?, read(&dir, "2")?],
        })
    }
}

fn read(dir: &TempDir, name: &str) -> Result<String> {
    fs::read_to_string(dir.path().join(name)).with_context(|| format!("cannot read {name}"))
}

/// Asks until the answer is yes.
///
/// # Errors
/// It is not within `limit`, it cannot be asked, or the user interrupts.
pub(crate) fn until(
    what: &str,
    limit: Duration,
    mut is_so: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !is_so()? {
        interrupt::check()?;
        if Instant::now() > deadline {
            bail!("waited in vain for {what}");
        }
        thread::sleep(child::POLL);
    }
    Ok(())
}

/// Waits until the load is complete: so many clients, and a full pool.
///
/// # Errors
/// As for [`until`].
pub(crate) fn wait_for_load(
    doorman: &Doorman,
    server: &Oracle,
    clients: usize,
    servers: usize,
) -> Result<()> {
    until("all clients", LIMIT, || {
        Ok(doorman.clients()?.len() == clients)
    })?;
    until("a full pool", LIMIT, || {
        Ok(server.sessions_of(KEPT.1)?.len() == servers)
    })
}
