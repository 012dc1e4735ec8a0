//! The proxy under test, its API and its clients.
//!
//! Owns: one `patroni_proxy` process a value with its configuration file; blocking clients.
//! Does not own: endpoints (`rest`) and backends (`backend`).
//! Invariants: the process is gone when the value or the test process is; its log is shown when the
//! test fails; no read of a client waits longer than the deadline.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use serde_json::{Value, json};

use crate::common::{DEADLINE, eventually, port, unique};

/// A configuration as a tree, which YAML and TOML can say alike. Asks its clusters once a minute, so
/// that a test decides when: see [`Proxy::update`].
#[derive(Clone, Debug)]
pub(crate) struct Setup(pub(crate) Value);

impl Setup {
    /// Without clusters.
    pub(crate) fn new() -> Self {
        Self(json!({
            "cluster_update_interval": 60, "worker_threads": 2, "log_level": "debug",
            "listen_address": format!("127.0.0.1:{}", port::free()), "clusters": {},
        }))
    }

    /// Sets a key of the top.
    pub(crate) fn key(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0[name] = value.into();
        self
    }

    /// Adds the cluster `c` or replaces its hosts.
    pub(crate) fn hosts(mut self, urls: &[String]) -> Self {
        self.0["clusters"]["c"]["hosts"] = json!(urls);
        self
    }

    /// Sets the options of TLS of cluster `c`.
    pub(crate) fn tls(mut self, options: Value) -> Self {
        self.0["clusters"]["c"]["tls"] = options;
        self
    }

    /// Adds a port to cluster `c`; tells where it listens.
    pub(crate) fn port(&mut self, name: &str, roles: &[&str], host_port: u16) -> u16 {
        let listen = port::free();
        self.0["clusters"]["c"]["ports"][name] = json!({
            "listen": format!("127.0.0.1:{listen}"), "roles": roles, "host_port": host_port,
        });
        listen
    }

    /// Sets a key of a port of cluster `c`.
    pub(crate) fn port_key(mut self, port: &str, name: &str, value: impl Into<Value>) -> Self {
        self.0["clusters"]["c"]["ports"][port][name] = value.into();
        self
    }

    /// Takes a port away from cluster `c`.
    pub(crate) fn without_port(mut self, port: &str) -> Self {
        let ports = self.0["clusters"]["c"]["ports"].as_object_mut().unwrap();
        ports.remove(port).unwrap();
        self
    }

    /// Starts with the configuration as YAML (which JSON is) and waits until the process is ready.
    pub(crate) fn start(&self) -> Proxy {
        let proxy = self.start_unready();
        eventually("patroni_proxy is ready", || {
            proxy.get("/health/ready").0 == 200
        });
        proxy
    }

    /// As `start`, but waits only until the API answers.
    pub(crate) fn start_unready(&self) -> Proxy {
        Proxy::start("patroni_proxy.yaml", &self.0.to_string())
    }
}

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    child: Child,
    directory: PathBuf,
    file: PathBuf,
    api: u16,
}

/// The port of `listen_address` in JSON or any text with that key.
fn api_port(text: &str) -> u16 {
    let rest = text.split("listen_address").nth(1).unwrap();
    let quoted = rest.split("127.0.0.1:").nth(1).unwrap();
    let digits: String = quoted.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// The program, ended with the test.
pub(crate) fn command() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    command.arg(env!("CARGO_BIN_EXE_patroni_proxy"));
    command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
    command.stdin(Stdio::null());
    command
}

/// Runs the program to its end with this file.
pub(crate) fn run(name: &str, text: &str, arguments: &[&str]) -> Output {
    let directory = std::env::temp_dir().join(unique(&format!("proxy-it-{}", std::process::id())));
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join(name), text).unwrap();
    let output = command().args(arguments).current_dir(&directory).output();
    std::fs::remove_dir_all(&directory).unwrap();
    output.unwrap()
}

impl Proxy {
    /// Starts with this file and waits until the API answers.
    pub(crate) fn start(name: &str, text: &str) -> Self {
        Self::start_with(name, text, &[])
    }

    /// As `start`, with more of an environment.
    pub(crate) fn start_with(name: &str, text: &str, environment: &[(&str, &str)]) -> Self {
        let unique = unique(&format!("proxy-it-{}", std::process::id()));
        let directory = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join(name);
        std::fs::write(&file, text).unwrap();
        let log = File::create(directory.join("log")).unwrap();
        let child = command()
            .arg(&file)
            .current_dir(&directory)
            .envs(environment.iter().copied())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("setpriv (package util-linux) is there");
        let mut proxy = Self {
            child,
            directory,
            file,
            api: api_port(text),
        };
        eventually("patroni_proxy answers", || {
            if let Some(status) = proxy.child.try_wait().unwrap() {
                panic!("patroni_proxy ended at start: {status}");
            }
            proxy.try_get("/health/live").is_ok()
        });
        proxy
    }

    fn try_get(&self, path: &str) -> io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.api))?;
        stream.set_read_timeout(Some(2 * DEADLINE))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let odd = || io::Error::other(format!("not HTTP: {text:?}"));
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(odd)?;
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        Ok((status.ok_or_else(odd)?, body.to_owned()))
    }

    /// Status and body of an answer of the API.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.try_get(path).unwrap()
    }

    /// Has all clusters asked, and waits until that has been acted on.
    pub(crate) fn update(&self) {
        let (status, text) = self.get("/update_clusters");
        assert_eq!(status, 200);
        assert!(text.starts_with("Updated "), "{text}");
    }

    /// The JSON of `/backends`.
    pub(crate) fn backends(&self) -> Value {
        serde_json::from_str(&self.get("/backends").1).unwrap()
    }

    /// One value of `/metrics` of a port of cluster `c`.
    pub(crate) fn metric(&self, name: &str, port: &str) -> u64 {
        let text = self.get("/metrics").1;
        let start = format!("patroni_proxy_{name}{{cluster=\"c\",port=\"{port}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("{start} in {text}"))
            .parse()
            .unwrap()
    }

    /// Replaces the configuration. Does not tell the process.
    pub(crate) fn rewrite(&self, text: &str) {
        let new = self.directory.join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    /// Reloads with this configuration and waits until that is done.
    pub(crate) fn reload(&mut self, setup: &Setup) {
        let before = self.count("Configuration reloaded successfully");
        let text = setup.0.to_string();
        self.rewrite(&text);
        self.signal("-HUP");
        eventually("the reload is over", || {
            self.count("Configuration reloaded successfully") > before
        });
        self.api = api_port(&text);
    }

    /// How often the log says so.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("/bin/kill").args([signal, &pid]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        eventually("patroni_proxy ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// True as long as the process has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let ended = self.child.try_wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("--- patroni_proxy: ended by itself: {ended:?}; log:\n{log}---");
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A client of the proxy.
#[derive(Debug)]
pub(crate) struct Guest(BufReader<TcpStream>);

impl Guest {
    /// Connects; what the backend says is not read yet.
    pub(crate) fn dial(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self(BufReader::new(stream))
    }

    /// Connects, and tells the host at the other end; none if there is none.
    pub(crate) fn connect(port: u16) -> (Self, Option<String>) {
        let mut guest = Self::dial(port);
        let host = guest.line();
        (guest, host)
    }

    /// Connects to the host that must be at the other end.
    pub(crate) fn of(port: u16, host: &str) -> Self {
        let (guest, found) = Self::connect(port);
        assert_eq!(found.as_deref(), Some(host));
        guest
    }

    /// A line without its end; none at the end of the stream or when it was cut.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("neither a line nor the end: {error}"),
        }
    }

    /// Fails unless the connection still works.
    pub(crate) fn assert_alive(&mut self) {
        writeln!(self.0.get_mut(), "still there").unwrap();
        assert_eq!(self.line().as_deref(), Some("still there"));
    }

    /// Fails unless the connection has been cut, or is before the deadline.
    pub(crate) fn assert_cut(&mut self) {
        assert_eq!(self.line(), None);
    }

    /// Ends the sending direction only.
    pub(crate) fn finish_sending(&self) {
        self.0.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    /// The socket.
    pub(crate) fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }

    /// Reads so many bytes.
    pub(crate) fn read_exact(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }
}
