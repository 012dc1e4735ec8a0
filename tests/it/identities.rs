//! Which rule decides, what strangers learn from the answer, and clients known to the operating system.
//!
//! Owns: rules against users, the same answers for everybody who proves nothing, `peer`. Does not own: the
//! proofs themselves (`auth`, `proofs`).
//!
//! Source: auth-pg-hba-conf.html, auth-password.html, auth-peer.html, setpriv(1).

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::postgres::{DATABASE, PASSWORD, programs_directory};
use crate::common::{Client, Config, Doorman, Postgres, User, is_root, message, unique};
use crate::proofs::{Files, Signer};

/// A pooler with these rules and one user for each form of stored password.
fn doorman(rules: &str, files: &Files) -> Doorman {
    let postgres = Postgres::shared();
    let keys = files.write("keys", &Signer::rsa().pair.public_key_pem());
    let users = vec![
        User::new("app", 2).secret(&postgres.verifier("app")),
        User::new("app_md5", 2).secret(&postgres.verifier("app_md5")),
        User::new("broken", 2).secret("SCRAM-SHA-256$x"),
        User::new("empty", 2),
        User::new("token", 2).secret(&format!("jwt-pkey-fpath:{keys}")),
    ];
    Config::new(postgres).hba(rules).users(users).start()
}

/// Everything that a client is told until it is refused, without what differs at each try.
fn told(doorman: &Doorman, user: &str, password: &str) -> Vec<String> {
    let mut client = Client::dial(doorman.port());
    client.send(&doorman.login().user(user).startup_packet());
    let mut told = Vec::new();
    loop {
        let message = client.receive();
        if message.tag == b'E' {
            let error = message.error_fields();
            told.push(format!("{} {}", error.sqlstate, error.message));
            assert!(client.is_closed());
            return told;
        }
        assert_eq!(message.tag, b'R', "{user}");
        let code = message.body[3];
        told.push(format!("{code}, {} bytes", message.body.len()));
        match code {
            3 | 5 => client.send(&message::message(b'p', &message::text(password))),
            10 => {
                let first = b"n,,n=,r=rOprNGfwEbeRWgbNEkqO";
                let length = u32::try_from(first.len()).unwrap().to_be_bytes();
                let name = message::text("SCRAM-SHA-256");
                let body = [&name[..], &length, first].concat();
                client.send(&message::message(b'p', &body));
            }
            11 => {
                let challenge = String::from_utf8(message.body[4..].to_vec()).unwrap();
                let nonce = challenge.split(',').next().unwrap();
                let proof = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
                let last = format!("c=biws,{nonce},p={proof}");
                client.send(&message::message(b'p', last.as_bytes()));
            }
            code => panic!("{user} is asked for {code}"),
        }
    }
}

#[test]
fn whoever_proves_nothing_is_told_the_same() {
    let files = Files::new();
    for (method, users) in [
        ("scram-sha-256", &["app", "app_md5", "broken", "empty"][..]),
        ("md5", &["app", "broken", "empty"]),
        ("password", &["app", "app_md5", "broken", "empty"]),
        ("jwt", &["app", "app_md5", "broken", "empty", "token"]),
    ] {
        let rules = format!("host all all 127.0.0.1/32 {method}\nhost all all all trust");
        let doorman = doorman(&rules, &files);
        let nobody = told(&doorman, "nobody", "wrong");
        assert!(nobody.len() > 1, "{method}: {nobody:?}");
        for user in users {
            assert_eq!(
                told(&doorman, user, "wrong"),
                nobody,
                "{method} {user}, who has another password"
            );
        }
    }
}

#[test]
fn strangers_are_asked_for_md5_where_all_others_are() {
    let postgres = Postgres::shared();
    let user = User::new("app_md5", 2).secret(&postgres.verifier("app_md5"));
    let config = Config::new(postgres).hba("host all all all md5");
    let doorman = config.users(vec![user]).start();
    let known = told(&doorman, "app_md5", "wrong");
    assert_eq!(known[0], "5, 8 bytes");
    assert_eq!(told(&doorman, "nobody", "wrong"), known);
}

/// How long a refusal takes, in the middle of many tries of each user in turn.
fn times(doorman: &Doorman, users: &[&str]) -> Vec<Duration> {
    let mut times = vec![Vec::new(); users.len()];
    for _ in 0..21 {
        for (user, times) in users.iter().zip(&mut times) {
            let began = Instant::now();
            told(doorman, user, "wrong");
            times.push(began.elapsed());
        }
    }
    let middle = times.iter_mut().map(|times| {
        times.sort();
        times[times.len() / 2]
    });
    middle.collect()
}

#[test]
fn a_refused_password_takes_the_same_time_whoever_it_is() {
    let files = Files::new();
    let doorman = doorman("host all all 127.0.0.1/32 password", &files);
    let users = ["app", "app_md5", "broken", "empty", "nobody"];
    let times = times(&doorman, &users);
    // Without the work of a verifier it would be a tenth.
    let [least, most] = [times.iter().min(), times.iter().max()].map(Option::unwrap);
    assert!(*most < *least * 3, "{users:?}: {times:?}");
}

#[test]
fn nothing_behind_the_first_rule_that_fits_lets_anybody_in() {
    let files = Files::new();
    for (method, sqlstate) in [
        ("reject", "28000"),
        ("ldap", "28000"),
        // There is no system's user at the other end of TCP, and no certificate without TLS.
        ("peer", "28000"),
        ("cert", "28000"),
        ("md5", "28P01"),
        ("scram-sha-256", "28P01"),
        ("password", "28P01"),
        ("jwt", "28P01"),
        ("pam", "28P01"),
    ] {
        let rules = format!("host all all 127.0.0.1/32 {method}\nhost all all all trust");
        let doorman = doorman(&rules, &files);
        for user in ["app", "app_md5", "broken", "empty", "token", "nobody"] {
            let refusal = doorman.login().user(user).password("wrong").refusal();
            assert_eq!(refusal.sqlstate(), sqlstate, "{method} {user}");
        }
    }
    // What fits nobody here stands in nobody's way.
    let rules = "host all app 10.0.0.0/8 reject\nhost x all all reject\nhost all all all trust";
    doorman(rules, &files).assert_serves();
}

#[test]
fn the_password_of_a_user_of_pam_is_no_other_proof() {
    let postgres = Postgres::shared();
    let files = Files::new();
    let signer = Signer::rsa();
    let keys = files.write("keys", &signer.pair.public_key_pem());
    for (method, secret, password) in [
        ("password", postgres.verifier("app"), PASSWORD.to_owned()),
        ("password", PASSWORD.to_owned(), PASSWORD.to_owned()),
        ("jwt", format!("jwt-pkey-fpath:{keys}"), signer.token("app")),
        ("md5", postgres.verifier("app"), PASSWORD.to_owned()),
    ] {
        let user = User::new("app", 2)
            .secret(&secret)
            .key("auth_pam_service", "doorman-it-no-such-service");
        let rules = format!("host all all all {method}");
        let doorman = Config::new(postgres).hba(&rules).users(vec![user]).start();
        let refusal = doorman.login().password(&password).refusal();
        assert_eq!(refusal.sqlstate(), "28P01", "{method}");
    }
}

#[test]
fn the_console_is_opened_by_what_its_rule_asks_for() {
    for (method, is_asked) in [
        ("password", true),
        ("md5", true),
        ("scram-sha-256", true),
        ("jwt", false),
        ("pam", false),
        ("ldap", false),
        ("reject", false),
    ] {
        let rules = format!("host all all all {method}\nhost all all all trust");
        let doorman = Config::new(Postgres::shared()).hba(&rules).start();
        let console = doorman.login().database("pgdoorman");
        let right = console.clone().user("admin").password("admin");
        if !is_asked {
            assert_eq!(right.refusal().sqlstate(), "28000", "{method}");
            continue;
        }
        right.connect();
        for (user, password) in [("admin", "wrong"), ("admin", ""), ("app", "admin")] {
            let refusal = console.clone().user(user).password(password).refusal();
            assert_eq!(refusal.sqlstate(), "28P01", "{method} {user}");
        }
    }
}

/// A directory that other users of the system can enter, gone with the value.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let name = format!("it-{}-{}", std::process::id(), unique("p"));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What psql prints, or its error, as this user of the system.
fn psql_as(
    system: &str,
    directory: &Directory,
    port: u16,
    (user, database): (&str, &str),
) -> Result<String, String> {
    let mut command = Command::new("setpriv");
    command
        .args([&format!("--reuid={system}"), "--clear-groups", "--"])
        .arg(programs_directory().join("psql"))
        .args(["-X", "-At", "-w", "-U", user, "-d", database])
        .args(["-h", directory.0.to_str().unwrap()])
        .args(["-p", &port.to_string(), "-c", "show server_version"])
        .current_dir("/")
        .env("PGPASSWORD", "wrong");
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

#[test]
fn the_user_of_the_system_at_the_other_end_of_a_socket_is_who_it_is() {
    if !is_root("peer") {
        return;
    }
    let directory = Directory::new();
    let users = ["app", "daemon", "mapped"].map(|name| User::new(name, 2));
    let doorman = Config::new(Postgres::shared())
        .general("unix_socket_dir", directory.0.to_str().unwrap())
        .general("unix_socket_mode", "0777")
        .general(
            "pg_ident",
            "m nobody mapped\nm /^dae(.*)$ app\nc daemon admin",
        )
        .hba(
            "local pgdoorman all peer map=c\nlocal all mapped,app peer map=m\n\
             local all all peer\nlocal all all trust",
        )
        .users(users.to_vec())
        .start();
    let ask =
        |system: &str, user: &str| psql_as(system, &directory, doorman.port(), (user, DATABASE));
    for (system, user) in [
        ("daemon", "daemon"),
        ("nobody", "mapped"),
        ("daemon", "app"),
    ] {
        ask(system, user).unwrap_or_else(|error| panic!("{system} as {user}: {error}"));
    }
    for (system, user) in [
        ("nobody", "daemon"),
        ("root", "daemon"),
        ("daemon", "mapped"),
        ("nobody", "app"),
        ("root", "app"),
        ("daemon", "nobody"),
    ] {
        let error = ask(system, user).unwrap_err();
        let wanted = format!("peer authentication failed for user \"{user}\"");
        assert!(error.contains(&wanted), "{system} as {user}: {error}");
    }
    // The system knows the user, the pooler does not.
    let error = ask("nobody", "nobody").unwrap_err();
    assert!(error.contains("Authentication failed."), "{error}");
    let console =
        |system: &str, user: &str| psql_as(system, &directory, doorman.port(), (user, "pgdoorman"));
    let error = console("nobody", "admin").unwrap_err();
    assert!(error.contains("peer authentication failed"), "{error}");
    // The console has no such command, so its greeting is what was waited for.
    let answer = console("daemon", "admin");
    let is_open = |error: &String| !error.contains("authentication") && !error.contains("HBA");
    assert!(answer.as_ref().err().is_none_or(is_open), "{answer:?}");
}
