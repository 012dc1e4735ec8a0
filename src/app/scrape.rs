//! The numbers over HTTP, for Prometheus and for those who ask whether the process is alive.
//!
//! **Owns:** the listening socket of `[prometheus]`, paths and methods, what a connection may take.
//! **Does not own:** the numbers and their text (`metrics`), HTTP itself (`hyper`).
//!
//! Runs on the control thread: no shard does anything for a scrape, and reading their numbers does not
//! stop them.
//!
//! **Invariant:** a connection is one request, of a few KiB at most, and ends after
//! [`CONNECTION_MAX`] whatever the client does; there are at most [`CONNECTIONS_MAX`] at a time.
//! Others wait to be accepted.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::config::Prometheus;
use crate::metrics::Fleet;
use crate::metrics::exposition::{self, render};
use crate::metrics::snapshot::{ProcessSnapshot, ShardSnapshot};
use crate::session::budget::Budget;
use crate::session::shard::Connections;

/// How long a connection may take in all.
const CONNECTION_MAX: Duration = Duration::from_secs(10);
/// How long a client may take to say what it wants.
const HEADER_MAX: Duration = Duration::from_secs(5);
/// Connections at a time.
const CONNECTIONS_MAX: usize = 16;
/// The largest head of a request, in bytes.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Pause after a connection could not be accepted, for want of descriptors perhaps.
const RETRY: Duration = Duration::from_millis(100);

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const EXPOSITION: HeaderValue = HeaderValue::from_static(exposition::CONTENT_TYPE);

/// Where the numbers come from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The numbers of all shards.
    pub fleet: Fleet,
    /// Open client connections.
    pub connections: Connections,
    /// Memory claimed by incomplete messages.
    pub budget: Budget,
}

impl Sources {
    /// The text at `/metrics`.
    fn render(&self) -> String {
        let process = ProcessSnapshot {
            version: env!("CARGO_PKG_VERSION"),
            clients: self.connections.count(),
            message_memory_bytes: self.budget.claimed(),
        };
        render(&process, &ShardSnapshot::take_all(&self.fleet))
    }
}

/// A socket that listens, and what is told there.
#[derive(Debug)]
pub struct Scrape {
    listener: std::net::TcpListener,
    sources: Sources,
}

/// The address in the configuration.
///
/// # Errors
///
/// If the host is no address.
pub fn address(prometheus: &Prometheus) -> io::Result<SocketAddr> {
    let ip = prometheus.host.parse::<IpAddr>().map_err(io::Error::other);
    Ok(SocketAddr::new(ip?, prometheus.port))
}

impl Scrape {
    /// Listens at `address`; nobody else may.
    ///
    /// # Errors
    ///
    /// If the address cannot be listened on.
    pub fn bind(address: SocketAddr, sources: Sources) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, sources })
    }

    /// Serves until the runtime ends.
    pub async fn serve(self) {
        let listener = match TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "metrics cannot be served");
                return;
            }
        };
        let sources = Arc::new(self.sources);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        // Closed by nobody, so there will be a place.
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let sources = Arc::clone(&sources);
                    tokio::spawn(async move {
                        serve_one(stream, &sources).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection for metrics was not accepted");
                    sleep(RETRY).await;
                }
            }
        }
    }
}

/// One connection, which is one request.
async fn serve_one(stream: TcpStream, sources: &Sources) {
    let service = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(answer(request.method(), request.uri().path(), sources))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_MAX, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection for metrics has failed"),
        Err(_) => tracing::debug!("a connection for metrics took too long"),
    }
}

fn answer(method: &Method, path: &str, sources: &Sources) -> Response<Full<Bytes>> {
    if !matches!(path, "/metrics" | "/health/live" | "/health/ready") {
        return plain(StatusCode::NOT_FOUND, "not found\n");
    }
    if method != Method::GET {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        let allowed = HeaderValue::from_static("GET");
        response.headers_mut().insert(ALLOW, allowed);
        return response;
    }
    if path != "/metrics" {
        return plain(StatusCode::OK, "ok\n");
    }
    let mut response = Response::new(Full::from(sources.render()));
    response.headers_mut().insert(CONTENT_TYPE, EXPOSITION);
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, PLAIN);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_methods_are_told_apart() {
        let sources = Sources {
            fleet: Fleet::new(1),
            connections: Connections::default(),
            budget: Budget::default(),
        };
        for (method, path, status) in [
            (Method::GET, "/metrics", 200),
            (Method::GET, "/health/live", 200),
            (Method::GET, "/health/ready", 200),
            (Method::GET, "/", 404),
            (Method::GET, "/metrics/", 404),
            (Method::POST, "/", 404),
            (Method::POST, "/metrics", 405),
            (Method::HEAD, "/health/live", 405),
        ] {
            let response = answer(&method, path, &sources);
            assert_eq!(response.status(), status, "{method} {path}");
            assert!(response.headers().contains_key(CONTENT_TYPE));
            assert_eq!(response.headers().contains_key(ALLOW), status == 405);
        }
        let response = answer(&Method::GET, "/metrics", &sources);
        assert_eq!(response.headers()[CONTENT_TYPE], exposition::CONTENT_TYPE);
    }

    #[test]
    fn an_address_has_brackets_only_where_it_needs_them() {
        let at = |host: &str| {
            address(&Prometheus {
                enabled: true,
                host: host.to_owned(),
                port: 1,
            })
        };
        assert_eq!(at("127.0.0.1").unwrap().to_string(), "127.0.0.1:1");
        assert_eq!(at("::1").unwrap().to_string(), "[::1]:1");
        assert!(at("localhost").is_err());
    }
}
