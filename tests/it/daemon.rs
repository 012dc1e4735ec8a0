//! Running in the background.
//!
//! Source: daemon(7), sysexits.h.

use std::process::Command;

use crate::command_line::{Workplace, told};
use crate::common::{Config, Postgres, eventually, port};

/// Ends the daemon whose pid is in a file.
struct Daemon(String);

impl Daemon {
    fn of(place: &Workplace) -> Self {
        let text = place.read("daemon.pid");
        assert!(text.ends_with('\n'), "{text:?}");
        let pid = text.trim().to_owned();
        pid.parse::<u32>().unwrap();
        Self(pid)
    }

    fn is_running(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    fn kill(&self, signal: &str) {
        let _ = Command::new("/bin/kill").args([signal, &self.0]).status();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill("-KILL");
    }
}

fn config(listen: u16) -> String {
    let config = Config::new(Postgres::shared())
        .general("port", i64::from(listen))
        .general("daemon_pid_file", "daemon.pid");
    config.text()
}

#[test]
fn a_daemon_serves_when_the_command_returns_and_ends_by_a_signal() {
    let place = Workplace::new();
    let listen = port::free();
    place.write("pg_doorman.toml", &config(listen));
    let output = place.run(&["--daemon"]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let daemon = Daemon::of(&place);
    // No waiting: the port is there.
    std::net::TcpStream::connect(("127.0.0.1", listen)).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/stat", daemon.0)).unwrap();
    let fields: Vec<&str> = status.rsplit(") ").next().unwrap().split(' ').collect();
    assert_ne!(fields[3], daemon.0, "it does not lead its session");
    assert_eq!(fields[4], "0", "it has no terminal");
    let directory = std::fs::read_link(format!("/proc/{}/cwd", daemon.0)).unwrap();
    assert_eq!(directory, place.path("").canonicalize().unwrap());
    let output = std::fs::read_link(format!("/proc/{}/fd/1", daemon.0)).unwrap();
    assert_eq!(output.to_str(), Some("/dev/null"));
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.0)).unwrap();
    assert!(status.contains("Umask:\t0027"), "{status}");
    // A second one with the same pid file is refused, and harms nothing.
    let other = config(port::free());
    place.write("other.toml", &other);
    let output = place.run(&["-d", "other.toml"]);
    assert_eq!(output.status.code(), Some(71), "{}", told(&output));
    let expected = "Error daemonize: unable to lock pid file daemon.pid";
    assert!(told(&output).starts_with(expected), "{}", told(&output));
    assert!(daemon.is_running());
    daemon.kill("-TERM");
    eventually("the daemon ends", || !daemon.is_running());
    assert!(place.path("daemon.pid").exists());
}

#[test]
fn a_daemon_that_cannot_start_says_so_in_the_foreground() {
    let place = Workplace::new();
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let listen = taken.local_addr().unwrap().port();
    place.write("pg_doorman.toml", &config(listen));
    let output = place.run(&["-d"]);
    assert_eq!(output.status.code(), Some(78), "{}", told(&output));
    assert!(
        told(&output).contains("cannot listen on 127.0.0.1"),
        "{}",
        told(&output)
    );
    assert!(!place.path("daemon.pid").exists());
    // Whoever it belongs to, and whether it is locked or not.
    place.write("daemon.pid", "12345\n");
    assert_eq!(place.run(&["-d"]).status.code(), Some(78));
    assert_eq!(place.read("daemon.pid"), "12345\n");
    let text = config(port::free()).replace("daemon.pid", "no/such/directory/pid");
    place.write("pg_doorman.toml", &text);
    let output = place.run(&["-d"]);
    assert_eq!(output.status.code(), Some(71), "{}", told(&output));
    assert!(
        told(&output).contains("unable to open pid file"),
        "{}",
        told(&output)
    );
}
