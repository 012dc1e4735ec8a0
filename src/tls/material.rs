//! Everything that handshakes need, made of one configuration.
//!
//! **Owns:** the rustls configurations towards clients and towards the server of each pool, their
//! replacement by a reload.
//! **Does not own:** reading files (`files`), verifying (`verify`).
//!
//! ```text
//!   configuration ──▶ Material ──install──▶ Keyring ──▶ shards, at each handshake
//! ```
//!
//! **Invariant:** connections that exist keep what they were made with; new ones use what is installed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::{ClientConfig, ServerConfig};

use crate::config::{Config, General, ServerTls, ServerTlsMode, TlsMode};

use super::error::TlsError;
use super::limit::RateLimit;
use super::verify::ServerCheck;
use super::x509::{Certificate, end_point_hash};
use super::{ALPN, files, suites};

/// What clients get who ask for TLS.
#[derive(Clone, Debug)]
pub struct Acceptor {
    /// For rustls.
    pub config: Arc<ServerConfig>,
    /// The hash of the certificate that binds logins to it, if it has one.
    pub end_point: Option<Arc<[u8]>>,
}

/// How a server is talked to over TLS.
#[derive(Clone, Debug)]
pub struct Connector {
    /// For rustls.
    pub config: Arc<ClientConfig>,
}

/// All keys and certificates of one configuration.
#[derive(Debug)]
pub struct Material {
    acceptor: Option<Acceptor>,
    connectors: HashMap<Box<str>, Connector>,
    tickets: Option<Tickets>,
    /// What is worth telling; nothing here prevents a start.
    pub warnings: Vec<String>,
}

/// Makes and reads tickets of sessions, for all shards.
#[derive(Clone, Debug)]
struct Tickets {
    maker: Arc<dyn ProducesTickets>,
    /// What clients had to prove who got them: the mode and the authorities.
    proof: (TlsMode, Vec<CertificateDer<'static>>),
}

/// The keys and certificates in use. Clones share them.
#[derive(Clone, Debug)]
pub struct Keyring {
    material: Arc<ArcSwap<Material>>,
    /// The limit of handshakes with clients.
    pub limit: RateLimit,
}

impl Keyring {
    /// A keyring with `material`.
    pub fn new(material: Material) -> Self {
        Self {
            material: Arc::new(ArcSwap::from_pointee(material)),
            limit: RateLimit::default(),
        }
    }

    /// Reads the files of a new configuration, without using them yet. Blocks on file IO.
    ///
    /// # Errors
    ///
    /// The first file or setting that cannot be used.
    pub fn read(&self, config: &Config) -> Result<Material, TlsError> {
        Material::read(config, self.material.load().tickets.clone())
    }

    /// Uses `material` for all handshakes from now on.
    pub fn install(&self, material: Material) {
        self.material.store(Arc::new(material));
    }

    /// What clients get who ask for TLS; none if it is not offered.
    pub fn acceptor(&self) -> Option<Acceptor> {
        self.material.load().acceptor.clone()
    }

    /// How the server of a pool is talked to; none if it is not configured any more, or never over
    /// TLS.
    pub fn connector(&self, pool: &str) -> Option<Connector> {
        self.material.load().connectors.get(pool).cloned()
    }
}

impl Material {
    /// Reads all files of `config`. Blocks on file IO.
    ///
    /// # Errors
    ///
    /// The first file or setting that cannot be used.
    pub fn load(config: &Config) -> Result<Self, TlsError> {
        Self::read(config, None)
    }

    /// No TLS with anybody.
    pub fn none() -> Self {
        Self {
            acceptor: None,
            connectors: HashMap::new(),
            tickets: None,
            warnings: Vec::new(),
        }
    }

    fn read(config: &Config, before: Option<Tickets>) -> Result<Self, TlsError> {
        let mut material = Self::none();
        material.tickets = before;
        if config.general.tls_mode != TlsMode::Disable {
            material.read_acceptor(&config.general)?;
        }
        let mut made: Vec<(&ServerTls, Connector)> = Vec::new();
        for pool in &config.pools {
            let tls = &pool.server_tls;
            if tls.mode == ServerTlsMode::Disable {
                continue;
            }
            let known = made.iter().find(|(known, _)| *known == tls);
            let connector = match known {
                Some((_, connector)) => connector.clone(),
                None => connector(tls)?,
            };
            made.push((tls, connector.clone()));
            let name = pool.name.as_str().into();
            material.connectors.insert(name, connector);
        }
        Ok(material)
    }

    fn read_acceptor(&mut self, general: &General) -> Result<(), TlsError> {
        let (Some(certificate), Some(key)) = (&general.tls_certificate, &general.tls_private_key)
        else {
            return Ok(());
        };
        let certificate_key = "general.tls_certificate";
        let chain = files::certificates(certificate_key, certificate)?;
        let private = files::private_key("general.tls_private_key", key)?;
        if let Some(leaf) = chain.first()
            && let Some(remark) = remark(leaf)
        {
            let file = certificate.display();
            self.warnings
                .push(format!("{certificate_key} ({file}): {remark}"));
        }
        let end_point = chain.first().and_then(|leaf| end_point_hash(leaf));
        let (verifier, authorities) = client_verifier(general)?;
        let provider = suites::provider_of(&general.tls_protocol)
            .map_err(|reason| TlsError::new("general.tls_ciphers", None, reason))?;
        let versions = suites::versions(&general.tls_protocol);
        let wrong = |error| TlsError::new(certificate_key, Some(certificate), error);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(wrong)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, private)
            .map_err(|error| fits_not(&error, certificate_key, certificate, key))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = self.tickets_for((general.tls_mode, authorities))?;
        // One is enough to come back with; each costs the client a record at its login.
        config.send_tls13_tickets = 1;
        self.acceptor = Some(Acceptor {
            config: Arc::new(config),
            end_point: end_point.map(Into::into),
        });
        Ok(())
    }

    /// Tickets of clients who had to prove something else are not read.
    fn tickets_for(
        &mut self,
        proof: (TlsMode, Vec<CertificateDer<'static>>),
    ) -> Result<Arc<dyn ProducesTickets>, TlsError> {
        if let Some(tickets) = self.tickets.as_ref().filter(|one| one.proof == proof) {
            return Ok(Arc::clone(&tickets.maker));
        }
        let maker = Ticketer::new()
            .map_err(|error| TlsError::new("general.tls_certificate", None, error))?;
        self.tickets = Some(Tickets {
            maker: Arc::clone(&maker),
            proof,
        });
        Ok(maker)
    }
}

type ClientCheck = Arc<dyn rustls::server::danger::ClientCertVerifier>;

/// Who verifies certificates of clients, and by which authorities.
fn client_verifier(
    general: &General,
) -> Result<(ClientCheck, Vec<CertificateDer<'static>>), TlsError> {
    let (TlsMode::VerifyFull, Some(file)) = (general.tls_mode, &general.tls_ca_cert) else {
        return Ok((WebPkiClientVerifier::no_client_auth(), Vec::new()));
    };
    let key = "general.tls_ca_cert";
    let (store, found) = files::authorities(key, file)?;
    let provider = Arc::new(suites::provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider)
        .build()
        .map_err(|error| TlsError::new(key, Some(file), error))?;
    Ok((verifier, found))
}

/// Why a certificate and a key do not go together.
fn fits_not(
    error: &rustls::Error,
    name: &str,
    certificate: &std::path::Path,
    key: &std::path::Path,
) -> TlsError {
    let reason = match error {
        rustls::Error::InconsistentKeys(_) => {
            format!(
                "the key in {} belongs to another certificate",
                key.display()
            )
        }
        other => format!("with the key in {}: {other}", key.display()),
    };
    TlsError::new(name, Some(certificate), reason)
}

/// What is odd about a certificate of ours.
fn remark(der: &CertificateDer<'_>) -> Option<String> {
    let certificate = Certificate::parse(der)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    certificate.is_out_of_time(now).then(|| {
        format!(
            "the certificate is good only from {} to {} (UTC): clients that verify it do not connect",
            certificate.not_before, certificate.not_after
        )
    })
}

fn connector(tls: &ServerTls) -> Result<Connector, TlsError> {
    let provider = Arc::new(suites::provider());
    let check = server_check(tls, &provider)?;
    let wrong = |error| TlsError::new("server_tls_mode", None, error);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(check));
    let mut config = match (&tls.certificate, &tls.private_key) {
        (Some(certificate), Some(key)) => {
            let name = "server_tls_certificate";
            let chain = files::certificates(name, certificate)?;
            let private: PrivateKeyDer<'_> = files::private_key("server_tls_private_key", key)?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| fits_not(&error, name, certificate, key))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    // PostgreSQL gives no tickets.
    config.resumption = Resumption::disabled();
    Ok(Connector {
        config: Arc::new(config),
    })
}

fn server_check(tls: &ServerTls, provider: &Arc<CryptoProvider>) -> Result<ServerCheck, TlsError> {
    let key = "server_tls_ca_cert";
    let (verifies, checks_name) = match tls.mode {
        ServerTlsMode::VerifyFull => (true, true),
        ServerTlsMode::VerifyCa => (true, false),
        // As libpq: who names authorities wants them asked.
        ServerTlsMode::Require => (tls.ca.is_some(), false),
        ServerTlsMode::Disable | ServerTlsMode::Allow | ServerTlsMode::Prefer => (false, false),
    };
    let file = tls
        .ca
        .as_deref()
        .filter(|file| file.as_os_str() != ServerTls::SYSTEM);
    // A file that is named and cannot be read is a mistake in any mode.
    let authorities = file.map(|file| files::authorities(key, file)).transpose()?;
    if !verifies {
        return Ok(ServerCheck::none(provider));
    }
    let authorities = match authorities {
        Some(authorities) => authorities,
        None => (files::system_authorities(key)?, Vec::new()),
    };
    ServerCheck::new(provider, authorities, checks_name)
        .map_err(|reason| TlsError::new(key, file, reason))
}
