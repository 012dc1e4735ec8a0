//! Nothing that proves who somebody is gets into the log, an error or the console.
//!
//! Everything is logged that there is, in both forms, while right and wrong proofs of every kind are
//! shown, and while files with faults next to passwords are read.

use std::process::Output;

use crate::command_line::Workplace;
use crate::common::postgres::PASSWORD;
use crate::common::{Client, Config, Doorman, Postgres, User, message, with_one_and_two_shards};

with_one_and_two_shards!(logins_leave_no_secret_in_the_log);

const ADMIN_PASSWORD: &str = "adm1n-s3cret-Zq";
const WRONG_PASSWORD: &str = "wr0ng-s3cret-Yx";
const FILE_PASSWORD: &str = "f1le-s3cret-Wv";
const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhcHAifQ.c2VjcmV0LXNpZ25hdHVyZQ";

/// What must not be seen anywhere.
fn secrets() -> Vec<String> {
    let postgres = Postgres::shared();
    let all = [ADMIN_PASSWORD, WRONG_PASSWORD, FILE_PASSWORD, TOKEN];
    let mut all = all.map(str::to_owned).to_vec();
    // The token's parts, too.
    all.extend(TOKEN.split('.').map(str::to_owned));
    for user in ["app", "app_md5"] {
        let verifier = postgres.verifier(user);
        // Salt, keys and hash by themselves.
        let parts = verifier.split([':', '$']).filter(|part| part.len() > 16);
        all.extend(parts.map(str::to_owned));
        all.push(verifier.trim_start_matches("md5").to_owned());
    }
    // Bytes as `Debug` shows them, and a password that is also a word.
    let bytes = |secret: &String| format!("{:?}", secret.as_bytes());
    let shown: Vec<_> = all.iter().map(bytes).collect();
    all.extend(shown);
    all.push(bytes(&PASSWORD.to_owned()));
    all.extend(['"', '\''].map(|quote| format!("{quote}{PASSWORD}{quote}")));
    all.push(format!("={PASSWORD}"));
    all
}

fn assert_silent(text: &str, secrets: &[String], place: &str) {
    for secret in secrets {
        let at = text.find(secret.as_str());
        let around = at.map(|at| {
            let start = text[..at].rfind('\n').unwrap_or(0);
            text[start..].chars().take(400).collect::<String>()
        });
        assert_eq!(around, None, "{place} has {secret}");
    }
}

fn doorman(shards: usize, format: &str) -> Doorman {
    let postgres = Postgres::shared();
    let users = vec![
        User::new("app", 2).secret(&postgres.verifier("app")),
        User::new("app_md5", 2)
            .secret(&postgres.verifier("app_md5"))
            .server("app_md5", PASSWORD),
        User::new("app_clear", 2)
            .secret(&postgres.verifier("app"))
            .server("app_clear", PASSWORD),
        // In clear, which no login can use.
        User::new("plain", 2).secret(FILE_PASSWORD),
        // The server refuses it.
        User::new("locked", 2)
            .secret(&postgres.verifier("app"))
            .server("app", WRONG_PASSWORD),
    ];
    Config::new(postgres)
        .shards(shards)
        .general("admin_password", ADMIN_PASSWORD)
        .general("log_client_connections", true)
        .general("log_min_duration", "1ms")
        .hba("host all app 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 md5")
        .users(users)
        .log_level("trace")
        .environment("LOG_FORMAT", format)
        .environment("RUST_LOG", "trace")
        .start()
}

fn show_everything(console: &mut Client) -> String {
    let mut told = String::new();
    for row in console.rows("show help") {
        let command = row[0].clone().unwrap();
        if command.starts_with("SHOW") {
            for value in console.rows(&command).into_iter().flatten().flatten() {
                told.push_str(&value);
                told.push('\n');
            }
        }
    }
    told
}

fn logins_leave_no_secret_in_the_log(shards: usize) {
    let secrets = secrets();
    for format in ["text", "structured", "debug"] {
        let doorman = doorman(shards, format);
        let login = |user: &str| doorman.login().user(user);
        for user in ["app", "app_md5", "app_clear"] {
            let mut client = login(user).connect();
            assert_eq!(client.value("select current_user"), user);
        }
        let mut told = String::new();
        for user in ["app", "app_md5", "app_clear", "plain", "locked", "nobody"] {
            for password in [WRONG_PASSWORD, FILE_PASSWORD, TOKEN, ""] {
                if let Err(refusal) = login(user).password(password).attempt() {
                    told += refusal.message();
                }
            }
        }
        told += login("locked").refusal().message();
        // A token where a user, a database and a setting are expected is no secret that we could
        // know; a proof that is no answer to anything is.
        let mut odd = Client::dial(doorman.port());
        odd.send(&login("app").startup_packet());
        odd.expect('R');
        odd.send(&message::message(b'p', &message::text(TOKEN)));
        told += &odd.expect('E').error_fields().message;
        let admin = login("admin").database("pgdoorman");
        assert_eq!(admin.password(WRONG_PASSWORD).refusal().sqlstate(), "28P01");
        let mut console = login("admin")
            .database("pgdoorman")
            .password(ADMIN_PASSWORD)
            .connect();
        told += &show_everything(&mut console);
        let faults = [
            format!(
                "[general]\nadmin_password = \"{FILE_PASSWORD}\"\nadmin_username = 1\n[pools]\n"
            ),
            format!("[general]\nadmin_password = \"{FILE_PASSWORD}\nadmin_username = 1\n"),
            format!(
                "[general]\nadmin_username = \"a\"\nadmin_password = [\"{FILE_PASSWORD}\"]\n[pools]\n"
            ),
        ];
        for text in faults {
            doorman.rewrite_text(&text);
            told += &console.error("reload").message;
            let Output { stdout, stderr, .. } = doorman.run_a_second_time();
            told += &String::from_utf8_lossy(&stdout);
            told += &String::from_utf8_lossy(&stderr);
        }
        drop(console);
        assert_silent(&told, &secrets, "what clients and operators are told");
        let log = doorman.log();
        // It has told a lot.
        assert!(
            log.contains("login refused") && log.contains("Config reload error"),
            "{log}"
        );
        assert_silent(&log, &secrets, format);
    }
}

#[test]
fn faults_beside_a_password_do_not_show_it() {
    let place = Workplace::new();
    let user = |keys: &str| {
        format!(
            "[general]\nadmin_username = \"a\"\nadmin_password = \"{ADMIN_PASSWORD}\"\n[pools.db]\n\
             [[pools.db.users]]\nusername = \"u\"\n{keys}\n"
        )
    };
    for text in [
        user(&format!(
            "password = \"{FILE_PASSWORD}\"\npool_size = \"many\""
        )),
        user(&format!("password = [\"{FILE_PASSWORD}\"]\npool_size = 1")),
        user(&format!(
            "password = \"{FILE_PASSWORD}\"\npool_size = 1\nserver_password = \"{FILE_PASSWORD}\""
        )),
        user(&format!("password = \"{FILE_PASSWORD}\npool_size = 1")),
        user(&format!(
            "password = \"\"\npool_size = 1\nserver_username = \"x\"\nserver_password = {FILE_PASSWORD}"
        )),
        user(&format!(
            "password = \"SCRAM-SHA-256$4096:{FILE_PASSWORD}\"\npool_size = 1"
        )),
        user(&format!(
            "passwort = \"{FILE_PASSWORD}\"\npassword = \"\"\npool_size = 1"
        )),
        user(&format!(
            "password = \"jwt-pkey-fpath\"\npool_size = 0\nserver_username = \"{FILE_PASSWORD}\""
        )),
    ] {
        place.write("x.toml", &text);
        let output = place.run(&["-l", "trace", "-t", "x.toml"]);
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        assert!(!told.is_empty());
        assert_silent(
            &told,
            &[FILE_PASSWORD.to_owned(), ADMIN_PASSWORD.to_owned()],
            &text,
        );
    }
}
