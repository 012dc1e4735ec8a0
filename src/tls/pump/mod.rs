//! One side of a TLS connection: records in, plaintext out, and the other way round.
//!
//! **Owns:** driving rustls' unbuffered interface, so that a connection at rest keeps no buffer.
//! **Does not own:** the bytes (`transport` gives and takes them), keys (`material`).
//!
//! ```text
//!   received bytes ──receive──▶ plaintext, in the same memory    (and handshake bytes to send)
//!   plaintext ──encrypt──▶ records to send, as full as may be
//! ```
//!
//! **Invariants**
//! 1. Plaintext is shorter than the records it comes from, and takes their place.
//! 2. After an error nothing more is decrypted; what tells the peer of it is among the bytes to send.
//!
//! Source: RFC 8446 section 5, RFC 5246 section 6.2.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
    WriteTraffic,
};
use rustls::{ClientConfig, Error, HandshakeKind, ServerConfig};

/// Plaintext that is encrypted at once: four full records.
const SEGMENT_BYTES: usize = 64 * 1024;
/// Plaintext of one record.
const RECORD_BYTES: usize = 16 * 1024;
/// What a record adds to its plaintext at most: header, explicit nonce, content type, tag.
const OVERHEAD_BYTES: usize = 5 + 8 + 1 + 16;
/// Records with handshake messages or alerts that one call may have to send.
const ANSWERS_MAX: usize = 16;

thread_local! {
    /// The plaintext of one record on its way to where its ciphertext was.
    static RECORD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The connection; boxed by its owner.
enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// One side of a TLS connection.
pub struct Pump {
    side: Side,
    /// The peer has said that it sends nothing more.
    has_ended: bool,
    /// There was an error: nothing goes on.
    has_failed: bool,
}

/// What has become of received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The bytes from here on were not used: they are to be given again, with more behind them.
    pub used: usize,
    /// As many bytes at the start are plaintext now.
    pub plain: usize,
}

/// What one step of rustls has led to.
enum Step {
    /// There may be more to do.
    Again,
    /// Nothing without more bytes.
    Rest,
    /// The peer has ended its direction.
    Ended,
}

impl Pump {
    /// The server's side of a connection.
    ///
    /// # Errors
    ///
    /// If the configuration is of no use.
    pub fn accept(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self {
            side: Side::Server(UnbufferedServerConnection::new(config)?),
            has_ended: false,
            has_failed: false,
        })
    }

    /// The client's side of a connection to a server called `name`.
    ///
    /// # Errors
    ///
    /// If the configuration is of no use.
    pub fn connect(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        Ok(Self {
            side: Side::Client(UnbufferedClientConnection::new(config, name)?),
            has_ended: false,
            has_failed: false,
        })
    }

    /// Decrypts what has been received, in place. Handshake messages and alerts to be sent are
    /// appended to `out`, also if there is an error.
    ///
    /// # Errors
    ///
    /// What is wrong with the bytes or with the peer.
    pub fn receive(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<Progress, Error> {
        let mut progress = Progress { used: 0, plain: 0 };
        if self.has_failed {
            return Err(Error::HandshakeNotComplete);
        }
        RECORD.with_borrow_mut(|record| {
            let outcome = self.decrypt(bytes, &mut progress, record, out);
            if outcome.is_err() {
                self.has_failed = true;
                self.explain(out);
            }
            outcome.map(|()| progress)
        })
    }

    fn decrypt(
        &mut self,
        bytes: &mut [u8],
        progress: &mut Progress,
        record: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        loop {
            record.clear();
            let (discard, step) = self.step(&mut bytes[progress.used..], record, out);
            progress.used += discard;
            let end = progress.plain + record.len();
            if end > progress.used {
                return Err(Error::General("more plaintext than records".to_owned()));
            }
            bytes[progress.plain..end].copy_from_slice(record);
            progress.plain = end;
            match step? {
                Step::Again => {}
                Step::Rest => return Ok(()),
                Step::Ended => self.has_ended = true,
            }
        }
    }

    fn step(
        &mut self,
        bytes: &mut [u8],
        record: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> (usize, Result<Step, Error>) {
        match &mut self.side {
            Side::Client(client) => handle(client.process_tls_records(bytes), record, out),
            Side::Server(server) => handle(server.process_tls_records(bytes), record, out),
        }
    }

    /// After an error: the alert that tells the peer. Received bytes are not looked at any more.
    fn explain(&mut self, out: &mut Vec<u8>) {
        let mut record = Vec::new();
        for _ in 0..ANSWERS_MAX {
            if !self.wants_write() {
                return;
            }
            // What is to be sent comes before what has been received.
            let _ = self.step(&mut [], &mut record, out);
        }
    }

    /// Calls `write` with what can encrypt, if the handshake is over. `held` is what [`Pump::receive`]
    /// has not used: rustls remembers places in it.
    fn write(
        &mut self,
        held: &mut Vec<u8>,
        mut write: impl FnMut(&mut dyn Encrypts) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.has_failed {
            return Err(Error::HandshakeNotComplete);
        }
        for _ in 0..ANSWERS_MAX {
            let (discard, written) = match &mut self.side {
                Side::Client(client) => write_with(client.process_tls_records(held), &mut write),
                Side::Server(server) => write_with(server.process_tls_records(held), &mut write),
            };
            held.drain(..discard);
            if let Some(written) = written {
                return written;
            }
            self.has_ended = true;
        }
        Err(Error::HandshakeNotComplete)
    }

    /// Encrypts `plain`, calling `send` with the records of each part. `held` is what [`Pump::receive`]
    /// has not used.
    ///
    /// # Errors
    ///
    /// If the handshake is not over, or the keys are worn out.
    pub fn encrypt(
        &mut self,
        plain: &[u8],
        held: &mut Vec<u8>,
        mut send: impl FnMut(Vec<u8>),
    ) -> Result<(), Error> {
        for segment in plain.chunks(SEGMENT_BYTES) {
            let records = segment.len().div_ceil(RECORD_BYTES);
            let mut out = vec![0; segment.len() + records * OVERHEAD_BYTES];
            let mut len = 0;
            self.write(held, |traffic| {
                len = fill(&mut out, |out| traffic.encrypt(segment, out))?;
                Ok(())
            })?;
            out.truncate(len);
            send(out);
            self.answer(held, &mut send)?;
        }
        Ok(())
    }

    /// What rustls wants to send on its own account, such as new keys.
    fn answer(&mut self, held: &mut Vec<u8>, send: &mut impl FnMut(Vec<u8>)) -> Result<(), Error> {
        if !self.wants_write() {
            return Ok(());
        }
        let mut out = Vec::new();
        let progress = self.receive(held, &mut out)?;
        held.drain(..progress.used);
        if !out.is_empty() {
            send(out);
        }
        Ok(())
    }

    fn wants_write(&self) -> bool {
        match &self.side {
            Side::Client(client) => client.wants_write(),
            Side::Server(server) => server.wants_write(),
        }
    }

    /// The record that says that nothing more is sent; none if it is too early for it.
    pub fn close_notify(&mut self, held: &mut Vec<u8>) -> Option<Vec<u8>> {
        let mut out = vec![0; 64];
        let mut len = 0;
        self.write(held, |traffic| {
            len = fill(&mut out, |out| traffic.close(out))?;
            Ok(())
        })
        .ok()?;
        out.truncate(len);
        Some(out)
    }

    /// True until both sides have proved what they had to.
    pub fn is_handshaking(&self) -> bool {
        match &self.side {
            Side::Client(client) => client.is_handshaking(),
            Side::Server(server) => server.is_handshaking(),
        }
    }

    /// True if the peer has said that it sends nothing more.
    pub const fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// True if the session goes on from an earlier one.
    pub fn is_resumed(&self) -> bool {
        let kind = match &self.side {
            Side::Client(client) => client.handshake_kind(),
            Side::Server(server) => server.handshake_kind(),
        };
        kind == Some(HandshakeKind::Resumed)
    }

    /// The application protocol that both sides have agreed on.
    pub fn alpn(&self) -> Option<&[u8]> {
        match &self.side {
            Side::Client(client) => client.alpn_protocol(),
            Side::Server(server) => server.alpn_protocol(),
        }
    }

    /// The certificate of the peer, if it has shown one.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        let chain = match &self.side {
            Side::Client(client) => client.peer_certificates(),
            Side::Server(server) => server.peer_certificates(),
        };
        chain?.first()
    }

    /// Version and cipher suite, for people.
    pub fn describe(&self) -> String {
        let (version, suite) = match &self.side {
            Side::Client(client) => (client.protocol_version(), client.negotiated_cipher_suite()),
            Side::Server(server) => (server.protocol_version(), server.negotiated_cipher_suite()),
        };
        let version =
            version.and_then(|version| version.as_str().map(|text| text.replace('_', ".")));
        let suite = suite.map(|suite| suite.suite());
        let suite = suite.as_ref().and_then(rustls::CipherSuite::as_str);
        format!(
            "{} {}",
            version.as_deref().unwrap_or("TLS"),
            suite.unwrap_or("?")
        )
    }
}

impl std::fmt::Debug for Pump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pump")
    }
}

/// What can encrypt, for either side.
trait Encrypts {
    fn encrypt(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, EncryptError>;
    fn close(&mut self, out: &mut [u8]) -> Result<usize, EncryptError>;
}

impl<Data> Encrypts for WriteTraffic<'_, Data> {
    fn encrypt(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, EncryptError> {
        WriteTraffic::encrypt(self, plain, out)
    }

    fn close(&mut self, out: &mut [u8]) -> Result<usize, EncryptError> {
        self.queue_close_notify(out)
    }
}

/// Calls `write` if the time for it has come; none if the same is to be tried once more. Returns also how
/// many received bytes are done with.
fn write_with<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    write: &mut impl FnMut(&mut dyn Encrypts) -> Result<(), Error>,
) -> (usize, Option<Result<(), Error>>) {
    let UnbufferedStatus { discard, state } = status;
    let written = match state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => Some(write(&mut traffic)),
        Ok(ConnectionState::PeerClosed) => None,
        Ok(_) => Some(Err(Error::HandshakeNotComplete)),
        Err(error) => Some(Err(error)),
    };
    (discard, written)
}

/// Writes into `out`, which is made longer if that is needed.
fn fill(
    out: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<usize, Error> {
    loop {
        match write(out) {
            Ok(len) => return Ok(len),
            Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size }))
                if required_size > out.len() =>
            {
                out.resize(required_size, 0);
            }
            Err(_) => return Err(Error::EncryptError),
        }
    }
}

/// Does what rustls wants to have done. Returns how many received bytes are done with.
fn handle<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    record: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> (usize, Result<Step, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let state = match state {
        Ok(state) => state,
        Err(error) => return (discard, Err(error)),
    };
    let step = match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(next) = traffic.next_record() {
                match next {
                    Ok(next) => {
                        discard += next.discard;
                        record.extend_from_slice(next.payload);
                    }
                    Err(error) => return (discard, Err(error)),
                }
            }
            Ok(Step::Again)
        }
        ConnectionState::EncodeTlsData(mut data) => {
            let start = out.len();
            match data.encode(&mut []) {
                Err(EncodeError::InsufficientSize(size)) => {
                    out.resize(start + size.required_size, 0);
                    match data.encode(&mut out[start..]) {
                        Ok(_) => Ok(Step::Again),
                        Err(_) => Err(Error::EncryptError),
                    }
                }
                _ => Ok(Step::Again),
            }
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Step::Again)
        }
        ConnectionState::PeerClosed => Ok(Step::Ended),
        ConnectionState::BlockedHandshake
        | ConnectionState::WriteTraffic(_)
        | ConnectionState::Closed => Ok(Step::Rest),
        // Early data is not offered.
        _ => Err(Error::General("early data".to_owned())),
    };
    (discard, step)
}

#[cfg(test)]
mod tests;
