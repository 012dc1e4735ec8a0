//! The numbers over HTTP, for Prometheus and for those who ask whether the process is alive.
//!
//! **Owns:** the listening socket of `[prometheus]`, paths and methods, what a connection may take.
//! **Does not own:** the numbers and their text (`metrics`), HTTP itself (`hyper`).
//!
//! Runs on the control thread: no shard does anything for a scrape, and reading their numbers does not
//! stop them.
//!
//! **Invariants**
//! 1. A connection is one request, of a few KiB at most, and ends after [`CONNECTION_MAX`] whatever the
//!    client does; there are at most [`CONNECTIONS_MAX`] at a time.
//! 2. Who says nothing keeps nobody away: if there are as many as there may be, the oldest that has not
//!    said what it wants makes room for the next. If all have, the next waits.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
use shards::OpenSockets;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
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
const HEADER_MAX: Duration = Duration::from_secs(1);
/// Connections at a time.
const CONNECTIONS_MAX: usize = 16;
/// Who asks more often is told of the same sockets again: with many clients it takes a while to look at all.
const SOCKETS_AGE_MAX: Duration = Duration::from_secs(1);
/// How long those are waited for who are being answered when the process ends.
const ANSWERS_MAX: Duration = Duration::from_secs(1);
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
    /// Sockets of the process.
    pub sockets: Arc<RecentSockets>,
}

/// The sockets of the process as they were up to [`SOCKETS_AGE_MAX`] ago.
#[derive(Debug, Default)]
pub struct RecentSockets(Mutex<Option<(Instant, OpenSockets)>>);

impl RecentSockets {
    fn get(&self) -> OpenSockets {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *recent {
            Some((at, counts)) if at.elapsed() < SOCKETS_AGE_MAX => counts,
            _ => {
                let counts = OpenSockets::count().unwrap_or_default();
                *recent = Some((Instant::now(), counts));
                counts
            }
        }
    }
}

impl Sources {
    /// The text at `/metrics`. Looks at every descriptor of the process: it may take a while.
    fn render(&self) -> String {
        let sockets = self.sockets.get();
        let process = ProcessSnapshot {
            version: env!("CARGO_PKG_VERSION"),
            clients: self.connections.count(),
            message_memory_bytes: self.budget.claimed(),
            virtual_memory_bytes: sockets::virtual_memory_bytes(),
            connection_counts: connection_counts(&self.fleet),
            socket_counts: [sockets.tcp, sockets.tcp6, sockets.unix, sockets.others],
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
    places: Arc<Semaphore>,
}

/// The connections of a socket for metrics.
#[derive(Debug)]
pub struct Answers(Arc<Semaphore>);

impl Answers {
    /// Waits until nobody is being answered, but not for long.
    pub async fn finish(&self) {
        let all = self.0.acquire_many(CONNECTIONS_MAX as u32);
        if timeout(ANSWERS_MAX, all).await.is_err() {
            tracing::debug!("a connection for metrics is cut off");
        }
    }
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
        Self::on(listener, sources)
    }

    /// Serves on a socket that listens.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn on(listener: std::net::TcpListener, sources: Sources) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            sources,
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        })
    }

    /// Those who will be answered.
    pub fn answers(&self) -> Answers {
        Answers(Arc::clone(&self.places))
    }

    /// The socket once more, for another process.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn socket(&self) -> io::Result<std::net::TcpListener> {
        self.listener.try_clone()
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
        let mut guests = Guests {
            all: VecDeque::new(),
            places: self.places,
        };
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let place = guests.make_room().await;
                    let sources = Arc::clone(&sources);
                    let has_asked = Arc::new(AtomicBool::new(false));
                    let flag = Arc::clone(&has_asked);
                    let task = tokio::spawn(async move {
                        serve_one(stream, sources, &flag).await;
                        drop(place);
                    });
                    guests.all.push_back((task.abort_handle(), has_asked));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection for metrics was not accepted");
                    sleep(RETRY).await;
                }
            }
        }
    }
}

/// The connections that there are, the oldest first, and whether they have said what they want.
struct Guests {
    all: VecDeque<(AbortHandle, Arc<AtomicBool>)>,
    places: Arc<Semaphore>,
}

impl Guests {
    /// A place for one more.
    async fn make_room(&mut self) -> Option<OwnedSemaphorePermit> {
        self.all.retain(|(task, _)| !task.is_finished());
        if self.places.available_permits() == 0 {
            let mut all = self.all.iter();
            let silent = all.position(|(_, has_asked)| !has_asked.load(Ordering::Relaxed));
            if let Some((task, _)) = silent.and_then(|at| self.all.remove(at)) {
                task.abort();
            }
        }
        // Closed by nobody, so there will be one.
        Arc::clone(&self.places).acquire_owned().await.ok()
    }
}

/// One connection, which is one request.
async fn serve_one(stream: TcpStream, sources: Arc<Sources>, has_asked: &AtomicBool) {
    let service = service_fn(|request: Request<Incoming>| {
        has_asked.store(true, Ordering::Relaxed);
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
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
        return Page::Short(response);
    }
    Page::Short(match path {
        "/health/ready" if sources.fleet.is_closing() => {
            plain(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n")
        }
        "/health/live" | "/health/ready" => plain(StatusCode::OK, "ok\n"),
        _ if path.starts_with("/health/") => plain(StatusCode::NOT_FOUND, "not found\n"),
        // Whatever path a monitor was told: earlier versions did not look at it.
        _ => return Page::Metrics,
    })
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
            sockets: Arc::default(),
            fleet: Fleet::new(1),
            connections: Connections::default(),
            budget: Budget::default(),
        };
        for (method, path, status) in [
            (Method::GET, "/metrics", 200),
            (Method::GET, "/health/live", 200),
            (Method::GET, "/health/ready", 200),
            (Method::HEAD, "/metrics", 200),
            (Method::GET, "/", 200),
            (Method::GET, "/metrics/", 200),
            (Method::HEAD, "/health/live", 200),
            (Method::GET, "/health/other", 404),
            (Method::POST, "/", 405),
            (Method::POST, "/metrics", 405),
            (Method::DELETE, "/health/live", 405),
        ] {
            let Page::Short(response) = page(&method, path, &sources) else {
                assert!(status == 200 && !path.starts_with("/health"), "{path}");
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
