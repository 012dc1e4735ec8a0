//! What is asked of TLS, towards clients and towards servers.
//!
//! **Owns:** the words of the file for modes, versions and cipher suites, and their rules.
//! **Does not own:** keys and certificates themselves (`tls` reads them).
//! **Invariant:** a combination that could never work is refused here, with the key that is to blame.
//!
//! Source: PostgreSQL documentation, `libpq-ssl.html` "Protection Provided in Different Modes",
//! `libpq-connect.html` "sslnegotiation".

use std::fmt;
use std::path::PathBuf;

use super::error::{Fault, KeyPath};
use super::schema::{General, Pool};

/// A version of TLS that is spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246.
    V1_2,
    /// RFC 8446.
    V1_3,
}

/// Which versions and cipher suites are spoken with clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsProtocol {
    /// The lowest version.
    pub min: TlsVersion,
    /// The highest version.
    pub max: TlsVersion,
    /// Names of cipher suites, the preferred first; none = all.
    pub ciphers: Vec<String>,
}

/// How much a connection to a server insists on TLS, as `sslmode` of libpq.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerTlsMode {
    /// Never.
    Disable,
    /// Only if the server refuses a plain connection.
    Allow,
    /// If the server offers it.
    Prefer,
    /// Always; whoever the server is.
    Require,
    /// Always, with a certificate of a known authority.
    VerifyCa,
    /// Always, with a certificate of a known authority for the host's name.
    VerifyFull,
}

impl ServerTlsMode {
    /// The mode of this name.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "disable" => Self::Disable,
            "allow" => Self::Allow,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => return None,
        })
    }

    /// True if a plain connection is out of the question.
    pub const fn is_mandatory(self) -> bool {
        matches!(self, Self::Require | Self::VerifyCa | Self::VerifyFull)
    }
}

impl fmt::Display for ServerTlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        })
    }
}

/// TLS towards the server of one pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerTls {
    /// How much it is insisted on.
    pub mode: ServerTlsMode,
    /// Begin with TLS at once instead of asking for it.
    pub is_direct: bool,
    /// Authorities that sign server certificates, PEM; `system` = those of the operating system.
    pub ca: Option<PathBuf>,
    /// The certificate to show to servers, PEM.
    pub certificate: Option<PathBuf>,
    /// Its key, PEM.
    pub private_key: Option<PathBuf>,
}

impl Default for ServerTls {
    fn default() -> Self {
        Self {
            mode: ServerTlsMode::Allow,
            is_direct: false,
            ca: None,
            certificate: None,
            private_key: None,
        }
    }
}

impl ServerTls {
    /// Stands for the authorities of the operating system.
    pub const SYSTEM: &'static str = "system";
}

/// The versions and suites towards clients.
pub(super) fn protocol(
    general: &General,
    warnings: &mut Vec<String>,
) -> Result<TlsProtocol, Fault> {
    let mut version = |key: &'static str, text: &Option<String>, default| {
        let fault = |reason: String| Fault::new(KeyPath::of(&["general", key]), reason);
        match text.as_deref() {
            None => Ok(default),
            Some("TLSv1.2") => Ok(TlsVersion::V1_2),
            Some("TLSv1.3") => Ok(TlsVersion::V1_3),
            Some(old @ ("TLSv1" | "TLSv1.0" | "TLSv1.1")) if key == "tls_min_version" => {
                warnings.push(format!(
                    "general.{key} = {old}: TLS 1.2 is the lowest version spoken here"
                ));
                Ok(TlsVersion::V1_2)
            }
            Some(old @ ("TLSv1" | "TLSv1.0" | "TLSv1.1")) => Err(fault(format!(
                "{old} is not spoken here: the lowest version is TLSv1.2"
            ))),
            Some(other) => Err(fault(format!(
                "Invalid {key}: {other}: expected TLSv1.2 or TLSv1.3"
            ))),
        }
    };
    let min = version(
        "tls_min_version",
        &general.tls_min_version,
        TlsVersion::V1_2,
    )?;
    let max = version(
        "tls_max_version",
        &general.tls_max_version,
        TlsVersion::V1_3,
    )?;
    if min > max {
        let reason = "tls_max_version is lower than tls_min_version";
        let key = KeyPath::of(&["general", "tls_max_version"]);
        return Err(Fault::new(key, reason));
    }
    let names = general.tls_ciphers.as_deref().unwrap_or_default();
    let ciphers = names
        .split([':', ',', ' '])
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    Ok(TlsProtocol { min, max, ciphers })
}

/// The keys of one table that are about TLS towards servers.
struct Keys<'a> {
    mode: &'a Option<String>,
    negotiation: &'a Option<String>,
    ca: &'a Option<PathBuf>,
    certificate: &'a Option<PathBuf>,
    private_key: &'a Option<PathBuf>,
}

impl<'a> Keys<'a> {
    fn of_general(general: &'a General) -> Self {
        Self {
            mode: &general.server_tls_mode,
            negotiation: &general.server_tls_negotiation,
            ca: &general.server_tls_ca_cert,
            certificate: &general.server_tls_certificate,
            private_key: &general.server_tls_private_key,
        }
    }

    fn of_pool(pool: &'a Pool) -> Self {
        Self {
            mode: &pool.server_tls_mode,
            negotiation: &pool.server_tls_negotiation,
            ca: &pool.server_tls_ca_cert,
            certificate: &pool.server_tls_certificate,
            private_key: &pool.server_tls_private_key,
        }
    }

    /// These keys over `base`, with the rules of values.
    fn over(&self, mut base: ServerTls, path: &[&str]) -> Result<ServerTls, Fault> {
        let fault = |key: &str, reason: String| {
            let path: Vec<_> = path.iter().copied().chain([key]).collect();
            Fault::new(KeyPath::of(&path), reason)
        };
        if let Some(word) = self.mode {
            base.mode = ServerTlsMode::parse(word).ok_or_else(|| {
                let words = "disable, allow, prefer, require, verify-ca or verify-full";
                let reason = format!("Invalid server_tls_mode: {word}: expected {words}");
                fault("server_tls_mode", reason)
            })?;
        }
        match self.negotiation.as_deref() {
            None => {}
            Some("postgres") => base.is_direct = false,
            Some("direct") => base.is_direct = true,
            Some(other) => {
                let reason =
                    format!("Invalid server_tls_negotiation: {other}: expected postgres or direct");
                return Err(fault("server_tls_negotiation", reason));
            }
        }
        match (self.certificate, self.private_key) {
            (None, None) => {}
            (Some(certificate), Some(key)) => {
                base.certificate = Some(certificate.clone());
                base.private_key = Some(key.clone());
            }
            (Some(_), None) => {
                let reason = "server_tls_certificate is set but server_tls_private_key is not";
                return Err(fault("server_tls_certificate", reason.to_owned()));
            }
            (None, Some(_)) => {
                let reason = "server_tls_private_key is set but server_tls_certificate is not";
                return Err(fault("server_tls_private_key", reason.to_owned()));
            }
        }
        if self.ca.is_some() {
            base.ca.clone_from(self.ca);
        }
        if base.is_direct && !base.mode.is_mandatory() {
            let reason = format!(
                "server_tls_negotiation = direct needs server_tls_mode require, verify-ca or \
                 verify-full, not {}",
                base.mode
            );
            return Err(fault("server_tls_negotiation", reason));
        }
        Ok(base)
    }
}

/// TLS towards servers as `[general]` has it.
pub(super) fn of_general(general: &General) -> Result<ServerTls, Fault> {
    // The two older keys, which the newer one overrides.
    let mode = match (general.server_tls, general.verify_server_certificate) {
        (true, true) => ServerTlsMode::VerifyFull,
        (true, false) => ServerTlsMode::Prefer,
        (false, _) => ServerTlsMode::Allow,
    };
    let base = ServerTls {
        mode,
        ..ServerTls::default()
    };
    Keys::of_general(general).over(base, &["general"])
}

/// TLS towards the server of a pool.
pub(super) fn of_pool(name: &str, pool: &Pool, general: &ServerTls) -> Result<ServerTls, Fault> {
    Keys::of_pool(pool).over(general.clone(), &["pools", name])
}
