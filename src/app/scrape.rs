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
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue,
};
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
use crate::metrics::snapshot::{ProcessSnapshot, ShardSnapshot, connection_counts};
use crate::metrics::window::views;
use crate::session::budget::Budget;
use crate::session::shard::Connections;

use super::sockets;

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
    /// The text at `/metrics`. Reads the sockets of the machine: it may take a while.
    fn render(&self) -> String {
        let sockets = sockets::count().unwrap_or_default();
        let sum = |counts: &[u64]| counts.iter().sum();
        let process = ProcessSnapshot {
            version: env!("CARGO_PKG_VERSION"),
            clients: self.connections.count(),
            message_memory_bytes: self.budget.claimed(),
            virtual_memory_bytes: sockets::virtual_memory_bytes(),
            connection_counts: connection_counts(&self.fleet),
            socket_counts: [
                sum(&sockets.tcp),
                sum(&sockets.tcp6),
                sum(&sockets.unix),
                sockets.unknown,
            ],
        };
        let shards = ShardSnapshot::take_all(&self.fleet);
        render(&process, &shards, &views(&self.fleet))
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
                        serve_one(stream, sources).await;
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
async fn serve_one(stream: TcpStream, sources: Arc<Sources>) {
    let service = service_fn(|request: Request<Incoming>| {
        let sources = Arc::clone(&sources);
        async move {
            let takes_gzip = takes_gzip(request.headers());
            let page = page(request.method(), request.uri().path(), &sources);
            Ok::<_, Infallible>(match page {
                Page::Short(response) => response,
                Page::Metrics => metrics(sources, takes_gzip).await,
            })
        }
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

/// What is asked for.
enum Page {
    /// All numbers.
    Metrics,
    /// This answer.
    Short(Response<Full<Bytes>>),
}

fn page(method: &Method, path: &str, sources: &Sources) -> Page {
    match (path, method) {
        ("/metrics", &Method::GET) => Page::Metrics,
        ("/health/ready", &Method::GET) if sources.fleet.is_closing() => {
            Page::Short(plain(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"))
        }
        _ => Page::Short(short(method, path)),
    }
}

fn short(method: &Method, path: &str) -> Response<Full<Bytes>> {
    if !matches!(path, "/metrics" | "/health/live" | "/health/ready") {
        return plain(StatusCode::NOT_FOUND, "not found\n");
    }
    if method != Method::GET {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        let allowed = HeaderValue::from_static("GET");
        response.headers_mut().insert(ALLOW, allowed);
        return response;
    }
    plain(StatusCode::OK, "ok\n")
}

/// Whether the client understands gzip, as it says.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter();
    let mut codings = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    codings.any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let is_off = weight
            .trim()
            .strip_prefix("q=")
            .is_some_and(|q| q.parse() == Ok(0.0_f32));
        name.trim().eq_ignore_ascii_case("gzip") && !is_off
    })
}

/// All numbers. They are put together beside the other work of the control thread.
async fn metrics(sources: Arc<Sources>, takes_gzip: bool) -> Response<Full<Bytes>> {
    let rendered = tokio::task::spawn_blocking(move || {
        let text = sources.render().into_bytes();
        if takes_gzip {
            compressed(&text).map(|bytes| (bytes, true))
        } else {
            Ok((text, false))
        }
    });
    let (body, is_gzip) = match rendered.await {
        Ok(Ok(rendered)) => rendered,
        Ok(Err(error)) => return failed(&error),
        Err(error) => return failed(&error),
    };
    let mut response = Response::new(Full::from(body));
    response.headers_mut().insert(CONTENT_TYPE, EXPOSITION);
    if is_gzip {
        let gzip = HeaderValue::from_static("gzip");
        response.headers_mut().insert(CONTENT_ENCODING, gzip);
    }
    response
}

fn compressed(text: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text)?;
    encoder.finish()
}

fn failed(error: &dyn std::error::Error) -> Response<Full<Bytes>> {
    tracing::error!(%error, "metrics cannot be put together");
    plain(StatusCode::INTERNAL_SERVER_ERROR, "failed\n")
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
            let Page::Short(response) = page(&method, path, &sources) else {
                assert_eq!((path, status), ("/metrics", 200));
                continue;
            };
            assert_eq!(response.status(), status, "{method} {path}");
            assert!(response.headers().contains_key(CONTENT_TYPE));
            assert_eq!(response.headers().contains_key(ALLOW), status == 405);
        }
        sources.fleet.close();
        let ready = page(&Method::GET, "/health/ready", &sources);
        assert!(matches!(ready, Page::Short(response) if response.status() == 503));
        let alive = page(&Method::GET, "/health/live", &sources);
        assert!(matches!(alive, Page::Short(response) if response.status() == 200));
    }

    #[test]
    fn gzip_is_taken_by_those_who_say_so() {
        for (value, expected) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("identity", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(takes_gzip(&headers), expected, "{value}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
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
