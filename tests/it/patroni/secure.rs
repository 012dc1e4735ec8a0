//! Endpoints with HTTPS.
//!
//! Owns: what certificates must be, and that a reload takes up other ones.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};

use super::{Backend, Guest, Rest, Setup, member};
use crate::common::port;
use crate::common::tls::{Certificates, Wanted};

/// A server with the certificate `server`; `asks`: it wants one from its clients.
pub(crate) fn server(certificates: &Certificates, asks: bool) -> ServerConfig {
    let certificate = |name| CertificateDer::from_pem_file(certificates.file(name)).unwrap();
    let key = PrivateKeyDer::from_pem_file(certificates.file("server.key")).unwrap();
    let builder = if asks {
        let mut roots = RootCertStore::empty();
        roots.add(certificate("ca.crt")).unwrap();
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
            .build()
            .unwrap();
        ServerConfig::builder().with_client_cert_verifier(verifier)
    } else {
        ServerConfig::builder().with_no_client_auth()
    };
    builder
        .with_single_cert(vec![certificate("server.crt")], key)
        .unwrap()
}

/// An endpoint over HTTPS that tells of one leader.
fn endpoint(certificates: &Certificates, asks: bool) -> (Rest, Setup) {
    let rest = Rest::with(
        &[member("127.1.1.1", "leader")],
        Some(server(certificates, asks)),
    );
    let mut setup = Setup::new().hosts(&[rest.url()]);
    setup.port("p", &["leader"], 1);
    (rest, setup)
}

/// Whether a cluster with these options answers.
fn answers(setup: &Setup, tls: &Value) -> bool {
    let proxy = setup.clone().tls(tls.clone()).start_unready();
    proxy.update();
    let has_answered = proxy.get("/health/ready").0 == 200;
    assert_eq!(
        has_answered,
        proxy.count("TLS handshake") == 0,
        "{}",
        proxy.log()
    );
    has_answered
}

#[test]
fn certificates_are_verified_unless_that_is_switched_off() {
    let certificates = Certificates::new();
    let other = Certificates::new();
    let (_rest, setup) = endpoint(&certificates, false);
    let ca = certificates.file("ca.crt");
    assert!(answers(&setup, &json!({"ca_cert": ca})));
    assert!(answers(&setup, &json!({"skip_verify": true})));
    assert!(!answers(&setup, &json!({"ca_cert": other.file("ca.crt")})));
    assert!(!answers(&setup, &json!({"skip_verify": false})));
    let elsewhere = Wanted {
        hosts: &["elsewhere.example"],
        ..Wanted::server()
    };
    certificates.make("server", &elsewhere);
    let (_rest, setup) = endpoint(&certificates, false);
    assert!(!answers(&setup, &json!({"ca_cert": ca})));
    assert!(answers(
        &setup,
        &json!({"ca_cert": ca, "skip_verify": true})
    ));
}

#[test]
fn a_certificate_of_ones_own_is_shown() {
    let certificates = Certificates::new();
    certificates.make("client", &Wanted::client());
    let (rest, setup) = endpoint(&certificates, true);
    let ca = certificates.file("ca.crt");
    let own = json!({
        "ca_cert": ca, "client_cert": certificates.file("client.crt"),
        "client_key": certificates.file("client.key"),
    });
    assert!(answers(&setup, &own));
    let asked = rest.asked();
    let proxy = setup.tls(json!({"ca_cert": ca})).start_unready();
    proxy.update();
    assert_eq!(proxy.get("/health/ready").0, 503);
    assert_eq!(rest.asked(), asked);
}

#[test]
fn a_reload_takes_up_other_options_and_other_files() {
    let host_port = port::free();
    let [one, two] = [(); 2].map(|()| Backend::new(host_port));
    let certificates = Certificates::new();
    let rest = Rest::with(
        &[member(one.host(), "leader")],
        Some(server(&certificates, false)),
    );
    let mut setup = Setup::new().hosts(&[rest.url()]);
    let listen = setup.port("p", &["leader"], host_port);
    let setup = setup.tls(json!({"ca_cert": certificates.file("ca.crt")}));
    let mut proxy = setup.start();
    let mut guest = Guest::of(listen, one.host());
    // The endpoint gets a certificate of an authority that is not trusted.
    let other = Certificates::new();
    rest.set_tls(server(&other, false));
    rest.tell(&[member(two.host(), "leader")]);
    proxy.update();
    guest.assert_alive();
    let setup = setup.tls(json!({"ca_cert": other.file("ca.crt")}));
    proxy.reload(&setup);
    assert_eq!(proxy.count("Cluster 'c' TLS configuration changed"), 1);
    guest.assert_cut();
    let mut guest = Guest::of(listen, two.host());
    // The file changes, its name does not.
    rest.set_tls(server(&certificates, false));
    rest.tell(&[member(one.host(), "leader")]);
    std::fs::copy(certificates.file("ca.crt"), other.file("ca.crt")).unwrap();
    proxy.reload(&setup.key("log_level", "info"));
    guest.assert_cut();
    Guest::of(listen, one.host()).assert_alive();
}
