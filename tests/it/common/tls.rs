//! Certificates, and TLS around the connections of tests.
//!
//! Owns: an authority with certificates in a directory of their own; tunnels that turn plain connections
//! into encrypted ones.
//! Does not own: what is said in them.
//! Invariants: files are gone when the value is dropped; a tunnel ends with either of its ends.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::{message, unique};

/// An authority, and certificates that it has signed.
#[derive(Debug)]
pub(crate) struct Certificates {
    directory: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate to be made.
#[derive(Clone, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) common_name: &'a str,
    /// Other names: hosts and addresses.
    pub(crate) hosts: &'a [&'a str],
    pub(crate) is_expired: bool,
}

impl Certificates {
    /// An authority; `server.crt` with `server.key` for localhost and 127.0.0.1.
    pub(crate) fn new() -> Self {
        let name = format!("doorman-it-{}-{}", std::process::id(), unique("tls"));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, unique("authority"));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let certificates = Self { directory, issuer };
        std::fs::write(certificates.path("ca.crt"), certificates.issuer.pem()).unwrap();
        certificates.make("server", &Wanted::server());
        certificates
    }

    /// Those of the tests that do not need their own.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Certificates> = OnceLock::new();
        SHARED.get_or_init(Self::new)
    }

    /// A file in the directory, for a configuration.
    pub(crate) fn file(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes `name.crt` and `name.key`.
    pub(crate) fn make(&self, name: &str, wanted: &Wanted<'_>) {
        let hosts: Vec<_> = wanted.hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, wanted.common_name);
        if wanted.is_expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        self.write(name, &certificate.pem(), &key.serialize_pem());
    }

    fn write(&self, name: &str, certificate: &str, key: &str) {
        std::fs::write(self.path(&format!("{name}.crt")), certificate).unwrap();
        let key_file = self.path(&format!("{name}.key"));
        std::fs::write(&key_file, key).unwrap();
        set_private(&key_file);
    }

    /// Writes `name.crt` and `name.key`, signed by itself and marked as an authority, as `openssl req
    /// -x509` does.
    pub(crate) fn make_self_signed(&self, name: &str, host: &str) {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        self.write(name, &certificate.pem(), &key.serialize_pem());
    }

    /// The side of a client that trusts this authority. `client`: the name of a certificate to show.
    pub(crate) fn client_config(&self, client: Option<&str>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for file in std::fs::read_dir(&self.directory).unwrap() {
            let file = file.unwrap().path();
            if file.file_name().is_some_and(|name| name == "ca.crt") {
                roots
                    .add(CertificateDer::from_pem_file(file).unwrap())
                    .unwrap();
            }
        }
        let builder = ClientConfig::builder().with_root_certificates(roots);
        match client {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let chain = CertificateDer::from_pem_file(self.path(&format!("{name}.crt")));
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key")));
                builder
                    .with_client_auth_cert(vec![chain.unwrap()], key.unwrap())
                    .unwrap()
            }
        }
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Wanted<'_> {
    pub(crate) const fn server() -> Self {
        Self {
            common_name: "localhost",
            hosts: &["localhost", "127.0.0.1"],
            is_expired: false,
        }
    }

    pub(crate) const fn client() -> Self {
        Self {
            common_name: "app",
            hosts: &[],
            is_expired: false,
        }
    }
}

fn set_private(file: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Asks for TLS and begins it.
pub(crate) fn ask(
    port: u16,
    config: &Arc<ClientConfig>,
) -> io::Result<(TcpStream, ClientConnection)> {
    let mut tcp = TcpStream::connect(("127.0.0.1", port))?;
    tcp.set_nodelay(true)?;
    tcp.write_all(&message::ssl_request())?;
    let mut answer = [0];
    tcp.read_exact(&mut answer)?;
    if answer != *b"S" {
        return Err(io::Error::other("no TLS"));
    }
    hand_shake(tcp, config)
}

/// Makes the handshake on a connection.
pub(crate) fn hand_shake(
    mut tcp: TcpStream,
    config: &Arc<ClientConfig>,
) -> io::Result<(TcpStream, ClientConnection)> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    while tls.is_handshaking() || tls.wants_write() {
        tls.complete_io(&mut tcp)?;
    }
    Ok((tcp, tls))
}

/// Turns a TLS connection into a plain one: what is sent to the result is encrypted, each piece written in
/// parts of `part_bytes`.
pub(crate) fn unwrap((tcp, tls): (TcpStream, ClientConnection), part_bytes: usize) -> TcpStream {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    relay(far, (tcp, tls), part_bytes);
    near
}

/// Passes bytes between a plain connection and an encrypted one, in two threads.
fn relay(plain: TcpStream, (tcp, tls): (TcpStream, ClientConnection), part_bytes: usize) {
    plain.set_nodelay(true).unwrap();
    let tls = Arc::new(Mutex::new(tls));
    let (from_plain, from_tcp) = (plain.try_clone().unwrap(), tcp.try_clone().unwrap());
    let other = Arc::clone(&tls);
    std::thread::spawn(move || {
        let _ = decrypt(from_tcp, &plain, &other);
        let _ = plain.shutdown(Shutdown::Write);
    });
    std::thread::spawn(move || {
        let _ = encrypt(from_plain, &tcp, &tls, part_bytes);
        let mut tls = tls.lock().unwrap();
        tls.send_close_notify();
        let _ = flush(&mut tls, &tcp, part_bytes);
        let _ = tcp.shutdown(Shutdown::Write);
    });
}

fn decrypt(
    mut tcp: TcpStream,
    mut plain: &TcpStream,
    tls: &Mutex<ClientConnection>,
) -> io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let count = tcp.read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        let mut rest = &bytes[..count];
        while !rest.is_empty() {
            let mut text = Vec::new();
            let mut tls = tls.lock().unwrap();
            tls.read_tls(&mut rest)?;
            let state = tls.process_new_packets().map_err(io::Error::other)?;
            text.resize(state.plaintext_bytes_to_read(), 0);
            tls.reader().read_exact(&mut text)?;
            drop(tls);
            plain.write_all(&text)?;
        }
    }
}

fn encrypt(
    mut plain: TcpStream,
    tcp: &TcpStream,
    tls: &Mutex<ClientConnection>,
    part_bytes: usize,
) -> io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let count = plain.read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        let mut out = Vec::new();
        {
            let mut tls = tls.lock().unwrap();
            tls.writer().write_all(&bytes[..count])?;
            while tls.wants_write() {
                tls.write_tls(&mut out)?;
            }
        }
        write_parts(&out, tcp, part_bytes)?;
    }
}

fn flush(tls: &mut ClientConnection, tcp: &TcpStream, part_bytes: usize) -> io::Result<()> {
    let mut out = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut out)?;
    }
    write_parts(&out, tcp, part_bytes)
}

fn write_parts(bytes: &[u8], mut tcp: &TcpStream, part_bytes: usize) -> io::Result<()> {
    for part in bytes.chunks(part_bytes) {
        tcp.write_all(part)?;
    }
    Ok(())
}

/// Listens for plain connections and passes each on to `port`, encrypted. Returns its own port.
pub(crate) fn tunnel(port: u16, config: ClientConfig) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let own = listener.local_addr().unwrap().port();
    let config = Arc::new(config);
    std::thread::spawn(move || {
        for plain in listener.incoming() {
            let config = Arc::clone(&config);
            std::thread::spawn(move || {
                // Who is not let in sees its connection end.
                if let (Ok(plain), Ok(tls)) = (plain, ask(port, &config)) {
                    relay(plain, tls, usize::MAX);
                }
            });
        }
    });
    own
}

/// Whether all poolers of this run are talked to over TLS, and talk so to PostgreSQL: `IT_TLS=1`.
pub(crate) fn is_everywhere() -> bool {
    std::env::var_os("IT_TLS").is_some()
}
