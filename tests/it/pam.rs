//! Passwords that PAM checks.
//!
//! Owns: services of PAM for the tests, which only root can make. Does not own: who is asked by PAM
//! (`identities`).
//!
//! Source: auth-pam.html; `pam.d`(5), `pam_exec`(8).

use std::path::PathBuf;
use std::process::Command;

use crate::common::postgres::PASSWORD;
use crate::common::{Config, Postgres, User, is_root, unique};
use crate::proofs::Files;

/// A service of PAM; gone when dropped.
struct Service(PathBuf, String);

impl Service {
    fn new(lines: &str) -> Self {
        let name = format!("doorman-it-{}-{}", std::process::id(), unique("pam"));
        let path = PathBuf::from("/etc/pam.d").join(&name);
        std::fs::write(&path, lines).unwrap();
        Self(path, name)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn pam_decides_about_passwords() {
    if !is_root("PAM") {
        return;
    }
    let files = Files::new();
    let script = files.write(
        "check",
        &format!(
            "#!/bin/sh\nread -r password\n\
             [ \"$PAM_USER/$PAM_RHOST/$password\" = 'app/127.0.0.1/{PASSWORD}' ]\n"
        ),
    );
    Command::new("chmod")
        .args(["755", &script])
        .status()
        .unwrap();
    let asking = Service::new(&format!(
        "auth required pam_exec.so expose_authtok quiet /bin/sh {script}\n\
         account required pam_permit.so\n"
    ));
    let denying = Service::new("auth required pam_permit.so\naccount required pam_deny.so\n");
    let open = Service::new("auth required pam_permit.so\naccount required pam_permit.so\n");
    let users = vec![
        User::new("app", 2).key("auth_pam_service", asking.1.as_str()),
        User::new("denied", 2).key("auth_pam_service", denying.1.as_str()),
        User::new("by_rule", 2),
        User::new("missing", 2).key("auth_pam_service", "doorman-it-no-such-service"),
    ];
    let rules = format!(
        "host all by_rule all pam pamservice={}\nhost all nobody all pam pamservice={}\n\
         host all all all scram-sha-256",
        asking.1, open.1
    );
    let doorman = Config::new(Postgres::shared())
        .hba(&rules)
        .users(users)
        .start();
    // The stored password is empty; PAM takes the place of every method.
    doorman.assert_serves();
    for (user, password) in [
        ("app", "wrong"),
        ("app", ""),
        ("denied", PASSWORD),
        ("by_rule", PASSWORD),
        ("missing", PASSWORD),
        // PAM would let this one in, if there was such a user.
        ("nobody", PASSWORD),
    ] {
        let refusal = doorman.login().user(user).password(password).refusal();
        assert_eq!(refusal.sqlstate(), "28P01", "{user}");
        let wanted = "Authentication failed. Please check your username and password.";
        assert_eq!(refusal.message(), wanted, "{user}");
    }
}

#[test]
fn slow_pam_holds_up_nobody_else() {
    if !is_root("PAM") {
        return;
    }
    let files = Files::new();
    let gate = files.write("gate", "closed");
    let script = format!("while grep -q closed {gate}; do sleep 0.05; done");
    let script = files.write("wait", &script);
    let slow = Service::new(&format!(
        "auth required pam_exec.so quiet /bin/sh {script}\naccount required pam_permit.so\n"
    ));
    let users = vec![
        User::new("app", 2),
        User::new("clear", 2).secret(PASSWORD),
        User::new("slow", 2).key("auth_pam_service", slow.1.as_str()),
    ];
    let rules = "host all slow all md5\nhost all clear all password\nhost all all all trust";
    let doorman = Config::new(Postgres::shared())
        .hba(rules)
        .users(users)
        .start();
    std::thread::scope(|scope| {
        // More than are asked at a time.
        let waiting: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| doorman.login().user("slow").connect()))
            .collect();
        for _ in 0..20 {
            doorman.assert_serves();
            doorman.login().user("clear").connect();
        }
        files.write("gate", "open");
        for one in waiting {
            assert_eq!(one.join().unwrap().value("select 1"), "1");
        }
    });
}
