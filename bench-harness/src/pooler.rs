//! A target while it runs.
//!
//! Owns: writing its files, starting its processes, knowing when it is ready, ending it.
//! Does not own: the descriptions (`target.rs`).
//! Invariants: every measurement gets fresh processes, so none inherits the memory or the server
//! connections of another; dropping a [`Pooler`] ends it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::chown;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use nix::unistd::User;
use tempfile::TempDir;

use crate::child::{self, Launch, Supervised};
use crate::client::Client;
use crate::knock::Manner;
use crate::postgres::Postgres;
use crate::probe::Probe;
use crate::target::Target;

/// How long a pooler may take until it serves a login.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A running target.
#[derive(Debug)]
pub(crate) struct Pooler {
    pub(crate) address: SocketAddr,
    /// How clients log in.
    pub(crate) manner: Manner,
    pub(crate) probe: Probe,
    // Dropped in this order: the processes end before their directory goes.
    processes: Vec<Supervised>,
    dir: Option<TempDir>,
}

impl Pooler {
    /// Starts the target in front of `server` and waits until a client can log in.
    ///
    /// # Errors
    /// It does not start; the end of its log is in the message.
    pub(crate) fn start(target: &Target, server: &Postgres, pool_size: u32) -> Result<Self> {
        if target.is_direct() {
            let probe = Probe {
                pooler: Vec::new(),
                server: server.pid(),
            };
            return Ok(Self {
                address: server.address(),
                manner: Manner::default(),
                probe,
                processes: Vec::new(),
                dir: None,
            });
        }
        let user = server.user().filter(|_| target.as_server_user);
        let dir = server.create_dir("pooler-")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let standard = placeholders(target, server, pool_size, dir.path(), address.port());
        write_files(target, &standard, dir.path(), user)?;
        if target.tls {
            make_certificate(dir.path(), user)?;
        }
        let manner = Manner {
            tls: target.tls,
            password: target.password.clone(),
        };
        let mut processes = Vec::new();
        for number in 1..=target.processes {
            processes.push(Supervised::start(&Launch {
                name: &format!("pooler-{number}"),
                command: target
                    .command
                    .iter()
                    .map(|word| target.fill(word, &standard))
                    .collect(),
                user,
                dir: dir.path(),
                environment: &target.environment,
                stop: Signal::SIGTERM,
            })?);
        }
        for process in &mut processes {
            let mut buffer = [0; 4096];
            process
                .wait_until(START_LIMIT, || {
                    Client::connect_as(address, &manner, &mut buffer)?.terminate()
                })
                .with_context(|| format!("target {}", target.name))?;
        }
        let pids = processes.iter().map(Supervised::pid).collect();
        let probe = Probe {
            pooler: pids,
            server: server.pid(),
        };
        Ok(Self {
            address,
            manner,
            probe,
            processes,
            dir: Some(dir),
        })
    }
}

impl Pooler {
    /// All that its processes wrote, and those that they have started.
    pub(crate) fn log_text(&self) -> String {
        let texts: Vec<String> = self.processes.iter().map(Supervised::log_text).collect();
        texts.concat()
    }

    /// Logs in.
    ///
    /// # Errors
    /// No connection, or it refuses.
    pub(crate) fn connect(&self, buffer: &mut [u8]) -> Result<Client> {
        Client::connect_as(self.address, &self.manner, buffer)
    }

    /// The directory with its files; `None` for PostgreSQL itself.
    pub(crate) fn dir(&self) -> Option<&Path> {
        self.dir.as_ref().map(TempDir::path)
    }
}

/// The standard placeholders of configuration templates.
fn placeholders(
    target: &Target,
    server: &Postgres,
    pool_size: u32,
    dir: &Path,
    port: u16,
) -> BTreeMap<&'static str, String> {
    let pool_size_each = (pool_size / u32::from(target.processes)).max(1);
    let socket_dir = server.socket_dir().display().to_string();
    BTreeMap::from([
        ("dir", dir.display().to_string()),
        ("port", port.to_string()),
        ("server_port", server.address().port().to_string()),
        ("server_socket_dir", socket_dir),
        ("pool_size", pool_size.to_string()),
        ("pool_size_each", pool_size_each.to_string()),
    ])
}

/// Writes the target's files, readable for the user it runs as.
fn write_files(
    target: &Target,
    standard: &BTreeMap<&str, String>,
    dir: &Path,
    user: Option<&User>,
) -> Result<()> {
    for (name, text) in &target.files {
        let path = dir.join(name);
        fs::write(&path, target.fill(text, standard))
            .with_context(|| format!("cannot write {}", path.display()))?;
        give(&path, user)?;
    }
    Ok(())
}

fn give(path: &Path, user: Option<&User>) -> Result<()> {
    let Some(user) = user else { return Ok(()) };
    chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        .with_context(|| format!("cannot give {} to {}", path.display(), user.name))
}

/// Writes `server.crt` and `server.key`, an ECDSA key on P-256.
fn make_certificate(dir: &Path, user: Option<&User>) -> Result<()> {
    let words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
                 -keyout server.key -out server.crt -subj /CN=localhost -days 9";
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    child::output(&words, None, dir).context("cannot make a certificate")?;
    give(&dir.join("server.crt"), user)?;
    give(&dir.join("server.key"), user)
}

/// A TCP port of loopback that nobody listens on.
///
/// # Errors
/// There is none left.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr().context("no free port")?.port())
}
