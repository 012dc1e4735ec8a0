//! What clients may prove: tokens, roles, passwords in clear, certificates, PAM; and who does not exist.
//!
//! Owns: methods that `auth` does not have. Does not own: TLS itself (`tls`), proofs for servers
//! (`passing_on`).
//!
//! Source: client-authentication.html, RFC 7519, RFC 8725.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};

use crate::common::postgres::{DATABASE, PASSWORD, programs_directory};
use crate::common::tls::{Certificates, Wanted};
use crate::common::{
    Client, Config, Doorman, Postgres, User, eventually, message, unique, with_one_and_two_shards,
};

with_one_and_two_shards!(
    a_token_logs_in_its_user,
    a_password_in_clear_in_the_file_is_enough,
    rules_may_ask_for_the_password_in_clear,
);

/// Files that are gone when the value is dropped.
#[derive(Debug)]
pub(crate) struct Files(PathBuf);

impl Files {
    pub(crate) fn new() -> Self {
        let name = format!("doorman-it-{}-{}", std::process::id(), unique("files"));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    /// Writes a file by renaming; its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let (new, path) = (self.0.join("new"), self.0.join(name));
        let mut file = std::fs::File::create(&new).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        std::fs::rename(new, &path).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A key to sign with, and its public half.
pub(crate) struct Signer {
    pub(crate) algorithm: Algorithm,
    pub(crate) pair: KeyPair,
}

impl Signer {
    pub(crate) fn rsa() -> Self {
        Self {
            algorithm: Algorithm::RS256,
            pair: KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(),
        }
    }

    fn ec() -> Self {
        Self {
            algorithm: Algorithm::ES256,
            pair: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        }
    }

    fn key(&self) -> EncodingKey {
        let pem = self.pair.serialize_pem();
        match self.algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(),
            _ => EncodingKey::from_ec_pem(pem.as_bytes()).unwrap(),
        }
    }

    fn sign(&self, kid: Option<&str>, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = kid.map(str::to_owned);
        encode(&header, claims, &self.key()).unwrap()
    }

    pub(crate) fn token(&self, user: &str) -> String {
        self.sign(
            None,
            &json!({ "preferred_username": user, "exp": now() + 60 }),
        )
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}

fn token_user(files: &Files, text: &str) -> User {
    let path = files.write("keys", text);
    User::new("app", 2).secret(&format!("jwt-pkey-fpath:{path}"))
}

fn a_token_logs_in_its_user(shards: usize) {
    let files = Files::new();
    let signer = Signer::rsa();
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .hba("host all all 127.0.0.1/32 md5")
        .users(vec![token_user(&files, &signer.pair.public_key_pem())])
        .start();
    for _ in 0..4 {
        let login = doorman.login().password(&signer.token("app"));
        assert_eq!(login.connect().value("select current_user"), "app");
    }
    let long = json!({ "preferred_username": "app", "exp": now() + 60, "x": "y".repeat(40_000) });
    let login = doorman.login().password(&signer.sign(None, &long));
    assert_eq!(login.connect().value("select 1"), "1");
}

#[test]
fn a_token_that_proves_nothing_is_refused() {
    let files = Files::new();
    let signer = Signer::rsa();
    let doorman = Config::new(Postgres::shared())
        .hba("host all all 127.0.0.1/32 scram-sha-256")
        .users(vec![token_user(&files, &signer.pair.public_key_pem())])
        .start();
    let public = signer.pair.public_key_pem();
    let forged = EncodingKey::from_secret(public.as_bytes());
    let claims = json!({ "preferred_username": "app", "exp": now() + 60 });
    let forged = encode(&Header::new(Algorithm::HS256), &claims, &forged).unwrap();
    let good = signer.token("app");
    // {"alg":"none"}
    let none = format!("eyJhbGciOiJub25lIn0.{}.", good.split('.').nth(1).unwrap());
    let expired = json!({ "preferred_username": "app", "exp": now() - 2 });
    let early = json!({ "preferred_username": "app", "exp": now() + 60, "nbf": now() + 30 });
    let endless = json!({ "preferred_username": "app" });
    for token in [
        forged,
        none,
        Signer::rsa().token("app"),
        Signer::ec().token("app"),
        signer.sign(None, &expired),
        signer.sign(None, &early),
        signer.sign(None, &endless),
        format!("{good}x"),
        PASSWORD.to_owned(),
        String::new(),
    ] {
        let refusal = doorman.login().password(&token).refusal();
        assert_eq!(refusal.sqlstate(), "28P01", "{token}");
        let wanted = "JWT token validation failed. Please provide a valid token.";
        assert_eq!(refusal.message(), wanted, "{token}");
    }
    let refusal = doorman.login().password(&signer.token("bob")).refusal();
    assert_eq!(
        refusal.message(),
        "JWT token username mismatch. Token contains username 'bob' but you're trying to connect \
         as 'app'."
    );
    // Who does not exist is asked for a token like everybody here.
    for token in [signer.token("app"), signer.token("bob"), String::new()] {
        let refusal = doorman.login().user("bob").password(&token).refusal();
        assert_eq!(refusal.sqlstate(), "28P01", "{refusal:?}");
    }
    assert!(!doorman.log().contains(&good), "a token is in the log");
    let login = doorman.login().password(&good);
    assert_eq!(login.connect().value("select 1"), "1");
}

#[test]
fn a_set_of_keys_changes_with_a_reload_and_audience_and_issuer_count() {
    let files = Files::new();
    let (old, new) = (Signer::rsa(), Signer::ec());
    let set = |signers: &[(&Signer, &str)]| {
        let keys = signers.iter().map(|(signer, id)| {
            let mut jwk = Jwk::from_encoding_key(&signer.key(), signer.algorithm).unwrap();
            jwk.common.key_id = Some((*id).to_owned());
            jwk
        });
        serde_json::to_string(&JwkSet {
            keys: keys.collect(),
        })
        .unwrap()
    };
    let config = Config::new(Postgres::shared())
        .hba("host all all 127.0.0.1/32 jwt")
        .general("jwt_audience", "pooler")
        .general("jwt_issuer", "sso");
    let user = token_user(&files, &set(&[(&old, "one")]));
    let doorman = config.users(vec![user]).start();
    let claims = |audience: Value, issuer: &str| json!({ "preferred_username": "app", "exp": now() + 60, "aud": audience, "iss": issuer });
    let good = claims(json!(["x", "pooler"]), "sso");
    let login = |token: String| doorman.login().password(&token);
    let mut client = login(old.sign(Some("one"), &good)).connect();
    let pid = client.backend_pid();
    for token in [
        old.sign(Some("two"), &good),
        old.sign(Some("one"), &claims(json!("x"), "sso")),
        old.sign(Some("one"), &claims(json!("pooler"), "x")),
        old.token("app"),
        new.sign(Some("two"), &good),
    ] {
        assert_eq!(login(token).refusal().sqlstate(), "28P01");
    }
    files.write("keys", &set(&[(&old, "one"), (&new, "two")]));
    doorman.sighup();
    eventually("the new key is used", || {
        login(new.sign(Some("two"), &good)).attempt().is_ok()
    });
    // Servers of the pool have stayed.
    assert_eq!(client.backend_pid(), pid);
}

#[test]
fn a_role_in_a_token_of_talos_is_the_user() {
    let files = Files::new();
    let signer = Signer::rsa();
    let key = files.write("key-1.pem", &signer.pair.public_key_pem());
    let users = ["owner", "read_only"].map(|name| User::new(name, 2));
    let talos = format!("\n[talos]\nkeys = ['{key}']\ndatabases = ['{DATABASE}']\n");
    let config = Config::new(Postgres::shared())
        .hba("host all talos 127.0.0.1/32 md5")
        .users(users.to_vec());
    let text = config.text() + &talos;
    let doorman = config.start();
    doorman.rewrite_text(&text);
    doorman.sighup();
    let token = |kid: &str, roles: &[&str]| {
        let access = json!({ format!("pg:{DATABASE}"): { "roles": roles } });
        let claims = json!({ "clientId": "svc", "exp": now() + 60, "resource_access": access });
        doorman
            .login()
            .user("talos")
            .password(&signer.sign(Some(kid), &claims))
    };
    eventually("the keys are there", || {
        token("key-1", &["read_only"]).attempt().is_ok()
    });
    let mut client = token("key-1", &["read_only", "owner"]).connect();
    assert_eq!(client.value("show application_name"), "svc");
    let mut console = doorman
        .login()
        .user("admin")
        .password("admin")
        .database("pgdoorman");
    console = console.parameter("application_name", "console");
    assert!(console.attempt().is_err(), "the rules know talos only");
    for (kid, roles) in [
        ("key-2", &["owner"][..]),
        ("key-1", &["god"]),
        ("key-1", &[]),
        ("key-1", &["read_write"]),
    ] {
        let refusal = token(kid, roles).refusal();
        assert_eq!(refusal.sqlstate(), "3D000", "{kid} {roles:?}");
    }
}

fn a_password_in_clear_in_the_file_is_enough(shards: usize) {
    // No server_username: the same password is good for the server.
    let user = User::without_server("app", 2).secret(PASSWORD);
    let doorman = Config::new(Postgres::shared())
        .shards(shards)
        .hba("host all all 127.0.0.1/32 scram-sha-256")
        .users(vec![user])
        .start();
    doorman.assert_serves();
    assert_eq!(
        doorman.login().password("wrong").refusal().sqlstate(),
        "28P01"
    );
    assert!(!doorman.log().contains(&format!("\"{PASSWORD}\"")));
}

fn rules_may_ask_for_the_password_in_clear(shards: usize) {
    let postgres = Postgres::shared();
    let users = vec![
        User::new("app", 2).secret(&postgres.verifier("app")),
        User::new("app_md5", 2).secret(&postgres.verifier("app_md5")),
        User::new("nothing", 2),
    ];
    let doorman = Config::new(postgres)
        .shards(shards)
        .hba("host all all 127.0.0.1/32 password\nhost all all all trust")
        .users(users)
        .start();
    for user in ["app", "app_md5"] {
        let mut client = Client::dial(doorman.port());
        client.send(&doorman.login().user(user).startup_packet());
        assert_eq!(client.expect('R').body, [0, 0, 0, 3], "{user}");
        client.send(&message::message(b'p', &message::text(PASSWORD)));
        assert_eq!(client.expect('R').body, [0, 0, 0, 0], "{user}");
    }
    for (user, password) in [
        ("app", "wrong"),
        ("app", ""),
        ("app_md5", "wrong"),
        ("nothing", ""),
        ("nothing", PASSWORD),
        ("nobody", PASSWORD),
    ] {
        let refusal = doorman.login().user(user).password(password).refusal();
        assert_eq!(refusal.sqlstate(), "28P01", "{user}");
        assert!(
            refusal.message().starts_with("Authentication failed."),
            "{user}"
        );
    }
}

/// What a client is told until the end, with what changes at each try taken out.
fn conversation(doorman: &Doorman, user: &str) -> Vec<String> {
    let mut client = Client::dial(doorman.port());
    client.send(&doorman.login().user(user).startup_packet());
    let mut told = vec![format!("{:?}", client.expect('R').body)];
    let nonce = "rOprNGfwEbeRWgbNEkqO";
    let first = format!("n,,n=,r={nonce}");
    let length = u32::try_from(first.len()).unwrap().to_be_bytes();
    let name = message::text("SCRAM-SHA-256");
    let initial = [&name[..], &length, first.as_bytes()].concat();
    client.send(&message::message(b'p', &initial));
    let challenge = String::from_utf8(client.expect('R').body[4..].to_vec()).unwrap();
    let parts: Vec<&str> = challenge.split(',').collect();
    let proof = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let last = format!("c=biws,{},p={proof}", parts[0]);
    client.send(&message::message(b'p', last.as_bytes()));
    let refusal = client.expect('E').error_fields();
    told.push(format!("{} {}", parts[0].len(), parts[2]));
    told.push(format!("{} {}", refusal.sqlstate, refusal.message));
    told.push(parts[1].len().to_string());
    told.push(parts[1].to_owned());
    assert!(client.is_closed());
    told
}

#[test]
fn who_does_not_exist_looks_like_a_wrong_password() {
    let postgres = Postgres::shared();
    let doorman = Config::new(postgres)
        .shards(2)
        .hba("host all all 127.0.0.1/32 scram-sha-256")
        .users(vec![User::new("app", 2).secret(&postgres.verifier("app"))])
        .start();
    let known = conversation(&doorman, "app");
    let unknown = conversation(&doorman, "nobody");
    assert_eq!(known[..4], unknown[..4]);
    assert_ne!(known[4], unknown[4], "the same salt");
    for _ in 0..4 {
        assert_eq!(conversation(&doorman, "nobody"), unknown, "another salt");
    }
    assert_ne!(conversation(&doorman, "somebody")[4], unknown[4]);
    let refusal = doorman.login().user("nobody").refusal();
    assert_eq!(refusal.sqlstate(), "28P01");
    let refusal = doorman.login().database("nowhere").refusal();
    assert_eq!(refusal.sqlstate(), "3D000");
}

/// Logs in by psql and by psycopg2, with this password.
fn by_programs(doorman: &Doorman, user: &str, password: &str) -> [String; 2] {
    let python = "import psycopg2\nc = psycopg2.connect('')\nk = c.cursor()\n\
                  k.execute('select session_user')\nprint(k.fetchone()[0])";
    let psql = programs_directory().join("psql");
    let psql_args = ["-X", "-At", "-c", "select session_user"];
    let mut commands = [Command::new(psql), Command::new("/usr/bin/python3")];
    commands[0].args(psql_args);
    commands[1].args(["-c", python]);
    commands.map(|mut command| {
        let output = command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", doorman.port().to_string())
            .env("PGUSER", user)
            .env("PGDATABASE", DATABASE)
            .env("PGPASSWORD", password)
            .env("PGCONNECT_TIMEOUT", "10")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    })
}

#[test]
fn programs_log_in_by_every_password() {
    let files = Files::new();
    let postgres = Postgres::shared();
    let signer = Signer::ec();
    let path = files.write("keys", &signer.pair.public_key_pem());
    let users = vec![
        User::without_server("app", 2).secret(&postgres.verifier("app")),
        User::without_server("app_md5", 2).secret(&postgres.verifier("app_md5")),
        User::without_server("app_clear", 2).secret(PASSWORD),
        User::new("token", 2).secret(&format!("jwt-pkey-fpath:{path}")),
    ];
    let doorman = Config::new(postgres)
        .hba("host all token all jwt\nhost all app_clear all password\nhost all all all md5")
        .users(users)
        .start();
    for user in ["app", "app_md5", "app_clear"] {
        assert_eq!(by_programs(&doorman, user, PASSWORD), [user, user]);
    }
    let named = by_programs(&doorman, "token", &signer.token("token"));
    assert_eq!(named, ["app", "app"]);
}

/// psql over TLS with the certificate `name`; its output or its error.
fn psql_with(
    certificates: &Certificates,
    port: u16,
    user: &str,
    name: &str,
) -> Result<String, String> {
    let output = Command::new(programs_directory().join("psql"))
        .args(["-X", "-At", "-c", "select current_user"])
        .arg(format!(
            "host=localhost hostaddr=127.0.0.1 port={port} user={user} dbname={DATABASE} \
             connect_timeout=10 sslmode=verify-full sslrootcert={} sslcert={} sslkey={} password=wrong",
            certificates.file("ca.crt"),
            certificates.file(&format!("{name}.crt")),
            certificates.file(&format!("{name}.key")),
        ))
        .output()
        .unwrap();
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[test]
fn a_certificate_names_its_user_or_one_of_the_map() {
    let certificates = Certificates::new();
    for name in ["app", "bob@example.com"] {
        let wanted = Wanted {
            common_name: name,
            hosts: &[],
            is_expired: false,
        };
        certificates.make(name, &wanted);
        let key = certificates.file(&format!("{name}.key"));
        Command::new("chmod").args(["600", &key]).status().unwrap();
    }
    let users = vec![
        User::new("app", 2),
        User::new("bob", 2),
        User::new("strict", 2),
    ];
    let doorman = Config::new(Postgres::shared())
        .general("tls_certificate", certificates.file("server.crt"))
        .general("tls_private_key", certificates.file("server.key"))
        .general("tls_ca_cert", certificates.file("ca.crt"))
        .general("tls_mode", "verify-full")
        .general("pg_ident", "m /^(.*)@example\\.com$ \\1")
        .hba(
            "hostssl all bob all cert map=m\nhostssl all strict all trust clientcert=verify-full\n\
             hostssl all all all cert",
        )
        .users(users)
        .start();
    let port = doorman.port();
    assert_eq!(
        psql_with(&certificates, port, "app", "app").unwrap(),
        "app\n"
    );
    let mapped = psql_with(&certificates, port, "bob", "bob@example.com");
    assert_eq!(mapped.unwrap(), "app\n");
    let refused = "certificate authentication failed for user";
    for (user, name) in [("bob", "app"), ("app", "bob@example.com")] {
        let error = psql_with(&certificates, port, user, name).unwrap_err();
        assert!(error.contains(refused), "{user} {name}: {error}");
    }
    let error = psql_with(&certificates, port, "strict", "app").unwrap_err();
    assert!(error.contains("is not permitted by HBA"), "{error}");
}
