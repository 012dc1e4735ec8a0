//! Servers for the proxy to connect to: each says who it is and then echoes.
//!
//! Owns: addresses of the loopback network that no other test uses, the echo.
//! Does not own: the client's side (`proxy`).

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use socket2::{Domain, SockAddr, Socket, Type};

/// A host of the loopback network. Each has the port that its maker was given.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    host: String,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

/// An address of 127.0.0.0/8 that is handed out once.
pub(crate) fn loopback() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // Two test processes at a time are apart.
    let process = std::process::id() % 200 + 20;
    format!("127.{process}.{}.{}", count / 200 + 1, count % 200 + 1)
}

impl Backend {
    /// Listens at a new address; says the address to whoever connects, then echoes until the end of
    /// the stream, and tells how many bytes that were.
    pub(crate) fn new(port: u16) -> Self {
        Self::at(&loopback(), port)
    }

    /// As `new` at a given address.
    pub(crate) fn at(host: &str, port: u16) -> Self {
        let backend = Self {
            host: host.to_owned(),
            streams: Arc::default(),
        };
        let listener = TcpListener::bind((host, port)).unwrap();
        let own = backend.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                own.streams
                    .lock()
                    .unwrap()
                    .push(stream.try_clone().unwrap());
                let greeting = format!("{}\n", own.host);
                std::thread::spawn(move || echo(stream, &greeting));
            }
        });
        backend
    }

    /// Where it is.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.streams.lock().unwrap().len()
    }
}

fn echo(mut stream: TcpStream, greeting: &str) {
    let mut count = 0;
    let mut bytes = vec![0; 64 * 1024];
    if stream.write_all(greeting.as_bytes()).is_err() {
        return;
    }
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(length) if stream.write_all(&bytes[..length]).is_ok() => count += length,
            _ => return,
        }
    }
    let _ = stream.write_all(format!("end after {count}\n").as_bytes());
    let _ = stream.shutdown(Shutdown::Write);
}

/// A listening socket whose queue is full: who connects gets no answer at all.
pub(crate) struct Deaf {
    host: String,
    _sockets: Vec<Socket>,
}

impl Deaf {
    pub(crate) fn new(port: u16) -> Self {
        let host = loopback();
        let address: std::net::SocketAddr = format!("{host}:{port}").parse().unwrap();
        let address = SockAddr::from(address);
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&address).unwrap();
        listener.listen(0).unwrap();
        let mut sockets = vec![listener];
        // The queue takes one more than it was told.
        for _ in 0..4 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address);
            sockets.push(socket);
        }
        Self {
            host,
            _sockets: sockets,
        }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }
}
