//! What the service manager is told, and what it gives: a stand-in speaks its protocol.
//!
//! Owns: messages to the socket of `NOTIFY_SOCKET`, sockets of `LISTEN_FDS`.
//! Does not own: daemons without a service manager (`daemon`), upgrades (`upgrade`).
//! Invariant: no process outlives its test.
//!
//! Source: `sd_notify(3)`, `sd_listen_fds(3)`, `systemd.service(5)`.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{Config, Login, Postgres, eventually, unique};
use crate::upgrade::{is_running, kill};

/// Opens a listening socket as the service manager would, and becomes the program.
const ACTIVATE: &str = "import os, socket, sys
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(('127.0.0.1', int(sys.argv[1])))
listener.listen(64)
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', WATCHDOG_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
";

struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

struct Service {
    child: Child,
    heirs: Vec<String>,
}

impl Drop for Service {
    fn drop(&mut self) {
        for pid in &self.heirs {
            kill("-KILL", pid);
        }
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Manager {
    fn new() -> Self {
        let path = std::env::temp_dir().join(unique("notify"));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        Self { socket, path }
    }

    /// The next message that is not of the watchdog.
    fn told(&self) -> String {
        loop {
            let text = self.receive();
            if text != "WATCHDOG=1" {
                return text;
            }
        }
    }

    fn receive(&self) -> String {
        let mut bytes = [0; 256];
        let count = self.socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    /// Waits for a message of the watchdog that was sent from now on.
    fn hears_watchdog(&self) {
        self.socket.set_nonblocking(true).unwrap();
        while self.socket.recv(&mut [0; 256]).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
        while self.receive() != "WATCHDOG=1" {}
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn pid_of(text: &str) -> String {
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix("MAINPID="));
    line.unwrap().to_owned()
}

/// From the socket that the manager has opened over reloads and an upgrade to the end.
#[test]
fn the_service_manager_gives_sockets_and_is_told_everything() {
    let manager = Manager::new();
    let config = Config::new(Postgres::shared()).shards(2).pool_size(2);
    let (port, file) = (
        config.port(),
        std::env::temp_dir().join(format!("{}.toml", unique("service"))),
    );
    std::fs::write(&file, config.text()).unwrap();
    let child = Command::new("python3")
        .args([
            "-c",
            ACTIVATE,
            &port.to_string(),
            env!("CARGO_BIN_EXE_pg_doorman"),
        ])
        .arg(&file)
        .env("NOTIFY_SOCKET", &manager.path)
        .env("WATCHDOG_USEC", "400000")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut service = Service {
        child,
        heirs: Vec::new(),
    };
    // Before the process has begun: the socket is there.
    let first = service.child.id().to_string();
    let told = manager.told();
    assert!(told.contains("READY=1"), "{told}");
    assert_eq!(pid_of(&told), first);
    let mut client = Login::new(port).connect();
    assert_eq!(client.value("select 1"), "1");
    manager.hears_watchdog();

    kill("-HUP", &first);
    let told = manager.told();
    assert!(told.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{told}");
    assert!(manager.told().contains("READY=1"));

    kill("-USR2", &first);
    let (one, other) = (manager.told(), manager.told());
    let heir = pid_of(&one);
    service.heirs.push(heir.clone());
    assert_ne!(heir, first);
    assert_eq!(pid_of(&other), heir);
    assert!([&one, &other].iter().any(|text| text.contains("READY=1")));
    eventually("the old process ends", || !is_running(&first));
    manager.hears_watchdog();
    assert_eq!(client.value("select 2"), "2");
    assert_eq!(Login::new(port).connect().value("select 3"), "3");

    kill("-STOP", &heir);
    manager
        .socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    while manager.socket.recv(&mut [0; 256]).is_ok() {}
    kill("-CONT", &heir);
    manager.hears_watchdog();
    kill("-TERM", &heir);
    assert_eq!(manager.told(), "STOPPING=1");
    eventually("the process ends", || !is_running(&heir));
    std::fs::remove_file(file).unwrap();
}
