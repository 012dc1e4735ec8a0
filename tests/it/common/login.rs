//! Logging in: startup packet and authentication of the client side.
//!
//! Owns: what is sent before the first ReadyForQuery.
//! Does not own: the connection after it (`client`).
//!
//! Source: protocol-flow.html (start-up), sasl-authentication.html, RFC 5802.

use std::io;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

use super::client::{Client, ErrorFields, Message, is_close};
use super::{message, postgres};

/// Protocol 3.0.
pub(crate) const PROTOCOL_3_0: u32 = 0x0003_0000;

/// A login to be tried. Without further calls: user `app` with the right password, database
/// `it`, protocol 3.0.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    port: u16,
    password: String,
    protocol: u32,
    parameters: Vec<(String, String)>,
}

/// How a login failed.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The peer closed without a word.
    Closed,
    /// The peer sent an `ErrorResponse`.
    Error(ErrorFields),
}

impl Refusal {
    /// SQLSTATE of the error; empty for a bare close.
    pub(crate) fn sqlstate(&self) -> &str {
        match self {
            Self::Closed => "",
            Self::Error(fields) => &fields.sqlstate,
        }
    }

    /// Text of the error; empty for a bare close.
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::Closed => "",
            Self::Error(fields) => &fields.message,
        }
    }
}

impl Login {
    pub(crate) fn new(port: u16) -> Self {
        let login = Self {
            port,
            password: postgres::PASSWORD.to_owned(),
            protocol: PROTOCOL_3_0,
            parameters: Vec::new(),
        };
        login.user("app").database(postgres::DATABASE)
    }

    pub(crate) fn user(self, user: &str) -> Self {
        self.parameter("user", user)
    }

    pub(crate) fn database(self, database: &str) -> Self {
        self.parameter("database", database)
    }

    pub(crate) fn password(mut self, password: &str) -> Self {
        password.clone_into(&mut self.password);
        self
    }

    pub(crate) fn protocol(mut self, protocol: u32) -> Self {
        self.protocol = protocol;
        self
    }

    /// Adds or replaces a parameter of the startup packet.
    pub(crate) fn parameter(mut self, name: &str, value: &str) -> Self {
        self = self.without(name);
        self.parameters.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves a parameter out.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.parameters.retain(|(other, _)| other != name);
        self
    }

    /// The bytes of the startup packet.
    pub(crate) fn startup_packet(&self) -> Vec<u8> {
        message::startup(self.protocol, &self.parameters)
    }

    /// Logs in; a refusal fails the test.
    pub(crate) fn connect(&self) -> Client {
        self.attempt()
            .unwrap_or_else(|refusal| panic!("{self:?}: {refusal:?}"))
    }

    /// Logs in; silence fails the test.
    pub(crate) fn attempt(&self) -> Result<Client, Refusal> {
        self.attempt_on(Client::dial(self.port))
            .map(|(client, _)| client)
    }

    /// The refusal of a login that must fail.
    pub(crate) fn refusal(&self) -> Refusal {
        match self.attempt() {
            Ok(client) => panic!("{self:?} succeeded: {client:?}"),
            Err(refusal) => refusal,
        }
    }

    /// Logs in on a connection that exists. Returns also the messages before ReadyForQuery.
    pub(crate) fn attempt_on(&self, client: Client) -> Result<(Client, Vec<Message>), Refusal> {
        match self.try_on(client) {
            Ok(outcome) => outcome,
            Err(error) if is_close(&error) => Err(Refusal::Closed),
            Err(error) => panic!("{self:?}: {error}"),
        }
    }

    /// Like `attempt_on`; the outer error is one of the socket.
    pub(crate) fn try_on(
        &self,
        mut client: Client,
    ) -> io::Result<Result<(Client, Vec<Message>), Refusal>> {
        client.try_send(&self.startup_packet())?;
        let mut messages = Vec::new();
        let mut scram = None;
        loop {
            let message = client.try_receive()?;
            match message.tag {
                b'R' => self.authenticate(&mut client, &message.body, &mut scram)?,
                b'E' => return Ok(Err(Refusal::Error(message.error_fields()))),
                b'K' => client.key.clone_from(&message.body),
                b'Z' => return Ok(Ok((client, messages))),
                b'S' | b'N' | b'v' => {}
                other => panic!("{:?} during login", other as char),
            }
            messages.push(message);
        }
    }

    fn authenticate(
        &self,
        client: &mut Client,
        body: &[u8],
        scram: &mut Option<ScramSha256>,
    ) -> io::Result<()> {
        let (code, rest) = body
            .split_first_chunk::<4>()
            .expect("an authentication code");
        match u32::from_be_bytes(*code) {
            0 => Ok(()),
            3 => client.try_send(&message::message(b'p', &message::text(&self.password))),
            5 => {
                let salt = rest.try_into().expect("four bytes of salt");
                let hash = md5_hash(self.user_name().as_bytes(), self.password.as_bytes(), salt);
                client.try_send(&message::message(b'p', &message::text(&hash)))
            }
            10 => {
                let mechanism = message::text("SCRAM-SHA-256");
                let offered = rest.split(|byte| *byte == 0);
                assert!(
                    offered.into_iter().any(|name| name == b"SCRAM-SHA-256"),
                    "{rest:?}"
                );
                let binding = ChannelBinding::unsupported();
                let machine = scram.insert(ScramSha256::new(self.password.as_bytes(), binding));
                let first = machine.message();
                let length = u32::try_from(first.len()).unwrap().to_be_bytes();
                let body = [&mechanism[..], &length, first].concat();
                client.try_send(&message::message(b'p', &body))
            }
            11 => {
                let machine = scram.as_mut().expect("SASLContinue after SASL");
                machine.update(rest)?;
                client.try_send(&message::message(b'p', machine.message()))
            }
            12 => scram.as_mut().expect("SASLFinal after SASL").finish(rest),
            code => panic!("authentication request {code}"),
        }
    }

    fn user_name(&self) -> &str {
        let user = self.parameters.iter().find(|(name, _)| name == "user");
        user.map_or("", |(_, value)| value)
    }
}
