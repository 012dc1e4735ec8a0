//! A throw-away PostgreSQL.
//!
//! Owns: finding the server programs, the cluster in a temporary directory, pgbench's tables.
//! Does not own: poolers and load.
//! Invariants: nothing outside the temporary directory is touched, and it goes when [`Postgres`]
//! is dropped; clients need no password, so it listens on loopback only.
//! Source: app-initdb.html, app-postgres.html, pgbench.html.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use tempfile::TempDir;

use crate::child::{self, Launch, Supervised};
use crate::client::Client;
use crate::pooler::free_port;

/// How long the server may take to start.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running server; dropping it ends the server and removes its files.
#[derive(Debug)]
pub(crate) struct Postgres {
    // Dropped in this order: the server ends before its directory goes.
    server: Supervised,
    dir: TempDir,
    programs: PathBuf,
    user: Option<User>,
    port: u16,
    /// Name and version, as `postgres --version` prints them.
    pub(crate) version: String,
}

impl Postgres {
    /// Creates a cluster and starts it.
    ///
    /// # Errors
    /// The programs are not installed, or the server does not start.
    pub(crate) fn start(programs: Option<&Path>, connections_max: u32) -> Result<Self> {
        let programs = find_programs(programs)?;
        let user = server_user()?;
        let dir = open_dir("pooler-bench-", None, user.as_ref())?;
        let cluster = dir.path().join("cluster");
        let words = |words: &[&str]| {
            words
                .iter()
                .map(|&word| word.to_owned())
                .collect::<Vec<_>>()
        };
        let path = |name: &str| programs.join(name).display().to_string();
        let initdb = words(&[
            &path("initdb"),
            "--pgdata",
            &cluster.display().to_string(),
            "--username",
            "postgres",
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ]);
        child::output(&initdb, user.as_ref(), dir.path())?;
        let version = child::output(&words(&[&path("postgres"), "--version"]), None, dir.path())?;
        let version = version.replace("postgres (PostgreSQL)", "PostgreSQL");
        let port = free_port()?;
        let mut command = words(&[&path("postgres"), "-D", &cluster.display().to_string()]);
        let settings = [
            format!("port={port}"),
            "listen_addresses=127.0.0.1".into(),
            format!("unix_socket_directories={}", dir.path().display()),
            format!("max_connections={connections_max}"),
            "shared_buffers=256MB".into(),
            "fsync=off".into(),
            // Work at unforeseeable moments would disturb the measurement.
            "autovacuum=off".into(),
            "max_wal_size=4GB".into(),
            "checkpoint_timeout=1d".into(),
        ];
        command.extend(
            settings
                .into_iter()
                .flat_map(|setting| ["-c".to_owned(), setting]),
        );
        let server = Supervised::start(&Launch {
            name: "postgres",
            command,
            user: user.as_ref(),
            dir: dir.path(),
            environment: &BTreeMap::new(),
            stop: Signal::SIGINT,
        })?;
        let mut postgres = Self {
            server,
            dir,
            programs,
            user,
            port,
            version,
        };
        let address = postgres.address();
        let mut buffer = [0; 4096];
        postgres.server.wait_until(START_LIMIT, || {
            Client::connect(address, &mut buffer)?.terminate()
        })?;
        Ok(postgres)
    }

    /// Creates and fills pgbench's tables.
    ///
    /// # Errors
    /// pgbench fails.
    pub(crate) fn fill(&self, scale: u32) -> Result<()> {
        let words = [
            self.pgbench(),
            "-i".into(),
            "-q".into(),
            "-s".into(),
            scale.to_string(),
            "-h".into(),
            "127.0.0.1".into(),
            "-p".into(),
            self.port.to_string(),
            "-U".into(),
            "postgres".into(),
            "postgres".into(),
        ];
        child::output(&words, None, self.dir.path())?;
        Ok(())
    }

    /// Where it listens on TCP.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// The directory of its Unix socket.
    pub(crate) fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The postmaster.
    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// The user it runs as, when that is not the harness's own.
    pub(crate) fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// The path of the pgbench program of the same installation.
    pub(crate) fn pgbench(&self) -> String {
        self.programs.join("pgbench").display().to_string()
    }

    /// The path of the psql program of the same installation.
    pub(crate) fn psql(&self) -> String {
        self.programs.join("psql").display().to_string()
    }

    /// A new directory beside the cluster that the server's user may also use.
    ///
    /// # Errors
    /// It cannot be created.
    pub(crate) fn create_dir(&self, prefix: &str) -> Result<TempDir> {
        open_dir(prefix, Some(self.dir.path()), self.user())
    }
}

/// A temporary directory everybody may enter, owned by `user`.
fn open_dir(prefix: &str, parent: Option<&Path>, user: Option<&User>) -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    let dir = match parent {
        Some(parent) => builder.tempdir_in(parent),
        None => builder.tempdir(),
    }
    .context("cannot create a temporary directory")?;
    let path = dir.path();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .and_then(|()| match user {
            Some(user) => chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())),
            None => Ok(()),
        })
        .with_context(|| format!("cannot open {} to the server's user", path.display()))?;
    Ok(dir)
}

/// PostgreSQL refuses to run as root; then it runs as user `postgres`.
fn server_user() -> Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres").context("cannot look up user postgres")?;
    user.map(Some)
        .context("there is no user postgres to run PostgreSQL as; is it installed?")
}

/// The directory with `initdb`, `postgres` and `pgbench`: the given one, the newest of Debian's,
/// or one in `PATH`.
fn find_programs(given: Option<&Path>) -> Result<PathBuf> {
    let is_complete = |dir: &PathBuf| {
        ["initdb", "postgres", "pgbench"]
            .iter()
            .all(|name| dir.join(name).is_file())
    };
    if let Some(dir) = given {
        let dir = dir.to_path_buf();
        if !is_complete(&dir) {
            bail!("{} lacks initdb, postgres or pgbench", dir.display());
        }
        return Ok(dir);
    }
    let mut debian: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let major = entry.file_name().to_str()?.parse().ok()?;
            Some((major, entry.path().join("bin")))
        })
        .collect();
    debian.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    let path = env::var_os("PATH").unwrap_or_default();
    debian
        .into_iter()
        .map(|(_, dir)| dir)
        .chain(env::split_paths(&path))
        .find(is_complete)
        .context("PostgreSQL's server programs and pgbench are not installed")
}
