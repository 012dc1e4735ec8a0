//! A scripted REST endpoint of Patroni, over HTTP or HTTPS.
//!
//! Owns: one listening socket, one thread a connection, what is answered at the moment.
//! Does not own: what answers mean.
//! Invariant: every request is counted before it is answered.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::common::DEADLINE;

/// What is done with a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// This body, with this status.
    Body(u16, String),
    /// Nothing, and the connection stays open.
    Silence,
}

/// A running endpoint. Its threads end with the test process.
#[derive(Clone)]
pub(crate) struct Rest {
    port: u16,
    is_secure: bool,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
    /// TLS of connections to come.
    tls: Arc<Mutex<Option<Arc<ServerConfig>>>>,
}

impl Rest {
    /// Tells of `members` over HTTP.
    pub(crate) fn new(members: &[Value]) -> Self {
        Self::with(members, None)
    }

    /// Tells of `members`, over HTTPS if there is a configuration for it.
    pub(crate) fn with(members: &[Value], tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let rest = Self {
            port: listener.local_addr().unwrap().port(),
            is_secure: tls.is_some(),
            answer: Arc::new(Mutex::new(Answer::Silence)),
            asked: Arc::default(),
            tls: Arc::new(Mutex::new(tls.map(Arc::new))),
        };
        rest.tell(members);
        let acceptor = rest.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let rest = acceptor.clone();
                std::thread::spawn(move || {
                    stream.set_read_timeout(Some(DEADLINE)).unwrap();
                    let tls = rest.tls.lock().unwrap().clone();
                    match tls.map(|tls| ServerConnection::new(tls).unwrap()) {
                        None => rest.serve(stream),
                        Some(tls) => rest.serve(StreamOwned::new(tls, stream)),
                    }
                });
            }
        });
        rest
    }

    fn serve(&self, mut stream: impl Read + Write) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            // Who does not trust the certificate goes away.
            match stream.read(&mut byte) {
                Ok(1) => request.push(byte[0]),
                _ => return,
            }
        }
        assert!(request.starts_with(b"GET /cluster HTTP/1.1\r\n"));
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.answer.lock().unwrap().clone();
        match answer {
            Answer::Silence => {
                // Until the other side gives up.
                let _ = stream.read(&mut [0]);
            }
            Answer::Body(status, body) => {
                let length = body.len();
                let head = format!("HTTP/1.1 {status} Some\r\nContent-Length: {length}\r\n\r\n");
                let _ = stream.write_all((head + &body).as_bytes());
                let _ = stream.flush();
            }
        }
    }

    /// The base address for the configuration.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Answers with `members` from now on, as Patroni 3.0 does: without `scope`.
    pub(crate) fn tell(&self, members: &[Value]) {
        let body = json!({ "members": members }).to_string();
        self.answer(Answer::Body(200, body));
    }

    /// Answers so from now on.
    pub(crate) fn answer(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// How connections to come are encrypted.
    pub(crate) fn set_tls(&self, tls: ServerConfig) {
        *self.tls.lock().unwrap() = Some(Arc::new(tls));
    }

    /// Requests so far.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// A member that runs. `role` as Patroni writes it.
pub(crate) fn member(host: &str, role: &str) -> Value {
    let state = if role == "leader" {
        "running"
    } else {
        "streaming"
    };
    json!({
        "name": format!("member {host}"), "role": role, "state": state, "host": host, "port": 1,
        "api_url": "http://nowhere:8008/patroni", "timeline": 7,
    })
}

/// `member` with one more field.
pub(crate) fn with(mut member: Value, name: &str, value: Value) -> Value {
    member[name] = value;
    member
}
