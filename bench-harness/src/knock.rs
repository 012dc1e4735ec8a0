//! How the harness's own clients get in: TLS without looking at the certificate, SCRAM-SHA-256.
//!
//! Owns: the steps of a login, each of which waits for one answer, so that thousands can be under way.
//! Does not own: what a client does afterwards (`client.rs`).
//! Invariants: a password is derived once for each salt, not at each login, so that the driver does not
//! spend the machine on it; nothing is read beyond the message that is waited for.
//!
//! ```text
//!   ──SSLRequest──▶ Asked ──ClientHello──▶ Shaking ──startup packet──▶ Named ──first message──▶ Challenged
//!     ──proof──▶ Proving ──▶ logged in        (without TLS from Named on, with trust logged in from there)
//! ```
//!
//! Source: protocol-flow.html, sasl-authentication.html, RFC 5802.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock, Mutex};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use sha2::{Digest, Sha256};

use crate::client::{SILENCE_LIMIT, message, startup_packet};

/// The longest message of a login.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// All clients say the same; it is the server's nonce that differs.
const NONCE: &str = "benchharnessbenchharness";

/// What a target wants of its clients.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manner {
    /// TLS.
    pub(crate) tls: bool,
    /// SCRAM-SHA-256 with this password.
    pub(crate) password: Option<String>,
}

/// A connection, encrypted or not.
#[derive(Debug)]
pub(crate) enum Wire {
    Plain(TcpStream),
    Encrypted(Box<rustls::StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    /// The socket.
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Encrypted(stream) => &stream.sock,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Encrypted(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Encrypted(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Encrypted(stream) => stream.flush(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Asked,
    Shaking,
    Named,
    Challenged,
    Proving,
}

/// A login under way.
#[derive(Debug)]
pub(crate) struct Knock {
    wire: Wire,
    step: Step,
    manner: Manner,
}

impl Knock {
    /// Connects and says the first word.
    ///
    /// # Errors
    /// No connection.
    pub(crate) fn begin(address: SocketAddr, manner: &Manner) -> Result<Self> {
        let socket = TcpStream::connect(address).context("cannot connect")?;
        socket.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        socket
            .set_read_timeout(Some(SILENCE_LIMIT))
            .context("cannot set a timeout")?;
        let (word, step) = if manner.tls {
            (vec![0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f], Step::Asked)
        } else {
            (startup_packet(), Step::Named)
        };
        let mut knock = Self {
            wire: Wire::Plain(socket),
            step,
            manner: manner.clone(),
        };
        knock.send(&word)?;
        Ok(knock)
    }

    /// Waits for an answer and says the next word. True when nothing more has to be proved: what comes
    /// is the end of the login, which the owner of the wire reads.
    ///
    /// # Errors
    /// The connection is lost, or the other side wants something else.
    pub(crate) fn advance(&mut self) -> Result<bool> {
        match self.step {
            Step::Asked => {
                let mut answer = [0];
                self.wire.read_exact(&mut answer).context("no answer")?;
                ensure!(answer == *b"S", "no TLS is offered");
                self.say_hello()?;
                self.step = Step::Shaking;
            }
            Step::Shaking => {
                if let Wire::Encrypted(stream) = &mut self.wire {
                    while stream.conn.is_handshaking() {
                        let (connection, socket) = (&mut stream.conn, &mut stream.sock);
                        connection.complete_io(socket).context("TLS handshake")?;
                    }
                }
                self.send(&startup_packet())?;
                self.step = Step::Named;
            }
            Step::Named if self.manner.password.is_none() => return Ok(true),
            Step::Named => {
                self.receive(10)?;
                let first = format!("n,,n=,r={NONCE}");
                let length = (first.len() as u32).to_be_bytes();
                let body = [b"SCRAM-SHA-256\0", length.as_slice(), first.as_bytes()].concat();
                self.send(&message(b'p', &body))?;
                self.step = Step::Challenged;
            }
            Step::Challenged => {
                let challenge = self.receive(11)?;
                let password = self.manner.password.as_deref().unwrap_or_default();
                let proof = prove(password, &String::from_utf8(challenge)?)?;
                self.send(&message(b'p', proof.as_bytes()))?;
                self.step = Step::Proving;
            }
            Step::Proving => {
                self.receive(12)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The connection.
    pub(crate) fn into_wire(self) -> Wire {
        self.wire
    }

    fn say_hello(&mut self) -> Result<()> {
        let socket = self.wire.socket().try_clone().context("cannot clone")?;
        let name = ServerName::try_from("localhost").context("a name")?;
        let connection = ClientConnection::new(Arc::clone(&TLS), name).context("no TLS")?;
        let mut stream = rustls::StreamOwned::new(connection, socket);
        while stream.conn.wants_write() {
            stream
                .conn
                .write_tls(&mut stream.sock)
                .context("cannot send")?;
        }
        self.wire = Wire::Encrypted(Box::new(stream));
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.wire.write_all(bytes).context("cannot send")?;
        self.wire.flush().context("cannot send")
    }

    /// The data of an authentication message of this kind.
    fn receive(&mut self, kind: u32) -> Result<Vec<u8>> {
        let mut header = [0; 5];
        self.wire.read_exact(&mut header).context("no answer")?;
        let [tag, length @ ..] = header;
        let length = u32::from_be_bytes(length) as usize;
        ensure!((4..MESSAGE_BYTES_MAX).contains(&length), "length {length}");
        let mut body = vec![0; length - 4];
        self.wire.read_exact(&mut body).context("no answer")?;
        if tag == b'R' && body.get(..4) == Some(kind.to_be_bytes().as_slice()) {
            return Ok(body.split_off(4));
        }
        let text = String::from_utf8_lossy(&body).replace('\0', " ");
        bail!("message {} instead of a question: {text}", char::from(tag))
    }
}

fn mac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length is allowed");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

/// The client's last message.
fn prove(password: &str, challenge: &str) -> Result<String> {
    let attribute = |name: &str| {
        let mut parts = challenge.split(',');
        let part = parts.find_map(|part| part.strip_prefix(name));
        part.with_context(|| format!("no {name} in {challenge}"))
    };
    let (nonce, salt) = (attribute("r=")?, attribute("s=")?);
    let iterations = attribute("i=")?.parse().context("iterations")?;
    let salted = salted(password, salt, iterations)?;
    let client_key = mac(&salted, b"Client Key");
    let without_proof = format!("c=biws,r={nonce}");
    let exchange = format!("n=,r={NONCE},{challenge},{without_proof}");
    let signature = mac(&Sha256::digest(client_key), exchange.as_bytes());
    let proof: Vec<u8> = client_key
        .iter()
        .zip(signature)
        .map(|(key, sign)| key ^ sign)
        .collect();
    Ok(format!("{without_proof},p={}", STANDARD.encode(proof)))
}

/// Password, salt, iterations.
type Recipe = (String, String, u32);

/// What comes of a password, kept for the next login.
fn salted(password: &str, salt: &str, iterations: u32) -> Result<[u8; 32]> {
    static KNOWN: LazyLock<Mutex<HashMap<Recipe, [u8; 32]>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN
        .lock()
        .map_err(|_| anyhow::anyhow!("a thread panicked"))?;
    let recipe = (password.to_owned(), salt.to_owned(), iterations);
    if let Some(salted) = known.get(&recipe) {
        return Ok(*salted);
    }
    let salt = STANDARD.decode(salt).context("salt")?;
    let salted = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password.as_bytes(), &salt, iterations);
    known.insert(recipe, salted);
    Ok(salted)
}

/// Without tickets: each login makes a whole handshake.
static TLS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let anyone = Arc::new(Anyone(provider.signature_verification_algorithms));
    let mut config = config_with(provider)
        .dangerous()
        .with_custom_certificate_verifier(anyone)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
});

fn config_with(
    provider: Arc<CryptoProvider>,
) -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for them")
}

/// Trusts every certificate, but checks who signs the handshake, as any client does.
#[derive(Debug)]
struct Anyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        text: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(text, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        text: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(text, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 7677 has an example, but with another nonce; the parts are checked against what is written there.
    #[test]
    fn a_password_becomes_what_the_standard_says() {
        let salted = salted("pencil", "W22ZaJ0SNY7soEsUEjb6gQ==", 4096).expect("a salt");
        let exchange = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,\
                        r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let server_key = mac(&salted, b"Server Key");
        let signature = mac(&server_key, exchange.as_bytes());
        assert_eq!(
            STANDARD.encode(signature),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
    }

    #[test]
    fn a_challenge_without_a_salt_is_refused() {
        assert!(prove("x", "r=a,i=4096").is_err());
    }
}
