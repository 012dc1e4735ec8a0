//! Files of keys and certificates, versions and suites.
//!
//! Owns: what is refused, and with which words; the forms that keys may have.
//! Does not own: connections (`tls`, `tls_servers`).
//!
//! Source: RFC 7468, RFC 5958, RFC 8017, RFC 5915.

use std::process::Command;

use crate::common::tls::{self, Certificates, Wanted};
use crate::common::{Config, Doorman, Postgres, unique};
use crate::tls::{encrypted, psql};

/// What the check of a configuration says.
fn check(config: &Config) -> Result<String, String> {
    let file =
        std::env::temp_dir().join(format!("{}-{}.toml", unique("check"), std::process::id()));
    std::fs::write(&file, config.text()).unwrap();
    let output = Command::new(crate::common::doorman::program())
        .arg("-t")
        .arg(&file)
        .output()
        .unwrap();
    std::fs::remove_file(file).unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(text)
    }
}

#[test]
fn a_file_that_cannot_be_used_is_named_before_the_start() {
    let certificates = Certificates::new();
    let wrong =
        |key: &str, file: &str| check(&encrypted(&certificates).general(key, file)).unwrap_err();
    certificates.make("other", &Wanted::server());
    let other = certificates.file("other.key");
    let said = wrong("tls_private_key", &other);
    assert!(
        said.contains("belongs to another certificate") && said.contains(&other),
        "{said}"
    );
    let garbage = certificates.file("garbage");
    std::fs::write(
        &garbage,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    assert!(wrong("tls_certificate", &garbage).contains(&garbage));
    let missing = certificates.file("missing");
    let said = wrong("server_tls_ca_cert", &missing);
    assert!(!said.contains("panic"), "{said}");
    let said = check(
        &encrypted(&certificates)
            .general("server_tls_ca_cert", missing.as_str())
            .general("server_tls_mode", "verify-ca"),
    )
    .unwrap_err();
    assert!(said.contains(&missing), "{said}");
    assert!(check(&encrypted(&certificates)).is_ok());
    let expired = Wanted {
        is_expired: true,
        ..Wanted::server()
    };
    certificates.make("server", &expired);
    assert!(
        check(&encrypted(&certificates))
            .unwrap()
            .contains("good only from")
    );
}

#[test]
fn keys_may_have_any_of_the_usual_forms() {
    let certificates = Certificates::new();
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let (key, certificate) = (certificates.file("k"), certificates.file("c"));
    let same_key = || -> Doorman {
        Config::new(Postgres::shared())
            .general("tls_certificate", certificate.as_str())
            .general("tls_private_key", key.as_str())
            .start()
    };
    let subject = ["-subj", "/CN=localhost", "-days", "9"];
    for algorithm in [&["rsa", "rsa:2048"][..], &["ec", "ec"]] {
        let curve: &[&str] = if algorithm[0] == "ec" {
            &["-pkeyopt", "ec_paramgen_curve:P-256"]
        } else {
            &[]
        };
        let plain = certificates.file("plain");
        let new = [
            "req",
            "-x509",
            "-newkey",
            algorithm[1],
            "-nodes",
            "-keyout",
            &plain,
        ];
        let out = ["-out", certificate.as_str()];
        openssl(&[&new[..], &out, &subject, curve].concat());
        let traditional = [algorithm[0], "-in", &plain, "-out", key.as_str()];
        let form: &[&str] = if algorithm[0] == "rsa" {
            &["-traditional"]
        } else {
            &[]
        };
        openssl(&[&traditional[..], form].concat());
        let text = std::fs::read_to_string(&key).unwrap();
        assert!(text.contains("RSA PRIVATE KEY") || text.contains("EC PRIVATE KEY"));
        let doorman = same_key();
        if !tls::is_everywhere() {
            assert!(psql(doorman.port(), "sslmode=require").is_ok());
        }
        std::fs::copy(&plain, &key).unwrap();
        assert!(
            check(
                &Config::new(Postgres::shared())
                    .general("tls_certificate", certificate.as_str())
                    .general("tls_private_key", key.as_str())
            )
            .is_ok()
        );
    }
}

#[test]
fn versions_can_be_chosen() {
    let certificates = Certificates::shared();
    let version = |config: Config, options: &str| {
        let doorman = config.start();
        psql(doorman.port(), &format!("sslmode=require {options}"))
    };
    if tls::is_everywhere() {
        return;
    }
    let config = || encrypted(certificates);
    let old = version(config().general("tls_max_version", "TLSv1.2"), "").unwrap();
    assert!(old.contains("TLSv1.2"), "{old}");
    let new = config().general("tls_min_version", "TLSv1.3");
    assert!(version(new, "ssl_max_protocol_version=TLSv1.2").is_err());
    let suite = config().general("tls_ciphers", "TLS_CHACHA20_POLY1305_SHA256");
    let text = version(suite, "").unwrap();
    assert!(text.contains("CHACHA20"), "{text}");
}
