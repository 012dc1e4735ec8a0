//! One `GET` over HTTP or HTTPS.
//!
//! **Owns:** the connection of one request, its deadline, the bound of its answer.
//! **Does not own:** HTTP itself (`hyper`), what the answer means (`cluster`).
//!
//! **Invariants**
//! 1. A request ends after [`FETCH_MAX`], whatever the host does.
//! 2. The status is not looked at: the body tells whether the answer is good. Redirections are not
//!    followed, `/cluster` has none.
//!
//! Source: RFC 9110, RFC 9112; RFC 7617 for names and passwords in the address.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::cluster::ParseError;

/// How long one request may take in all.
pub const FETCH_MAX: Duration = Duration::from_secs(5);
/// The largest answer, in bytes; one of a hundred members has 30 KiB.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Why a host gave no usable answer. Blame: the host, the way to it, or its address in the
/// configuration. Retry: another host, or later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchError(String);

impl FetchError {
    fn of(what: &str, error: &impl fmt::Display) -> Self {
        Self(format!("{what}: {error}"))
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FetchError {}

impl From<ParseError> for FetchError {
    fn from(error: ParseError) -> Self {
        Self(error.to_string())
    }
}

/// The body of the answer to `GET url`. `tls` is for `https`.
///
/// # Errors
///
/// If there is no whole answer in time.
pub async fn fetch(url: &str, tls: Option<&Arc<ClientConfig>>) -> Result<Bytes, FetchError> {
    let uri: Uri = url
        .parse()
        .map_err(|error| FetchError::of("not an address", &error))?;
    let answer = tokio::time::timeout(FETCH_MAX, exchange(&uri, tls));
    let late = |_| FetchError(format!("no answer within {} s", FETCH_MAX.as_secs()));
    answer.await.map_err(late)?
}

async fn exchange(uri: &Uri, tls: Option<&Arc<ClientConfig>>) -> Result<Bytes, FetchError> {
    let host = uri.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    let connect = TcpStream::connect((bare, port)).await;
    let stream = connect.map_err(|error| FetchError::of("cannot connect", &error))?;
    if !is_secure {
        return ask(uri, stream).await;
    }
    let tls = tls.ok_or_else(|| FetchError("https is not set up".to_owned()))?;
    let name = ServerName::try_from(bare.to_owned())
        .map_err(|error| FetchError::of("not a name of a host", &error))?;
    let connect = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
    let stream = connect
        .await
        .map_err(|error| FetchError::of("TLS handshake", &error))?;
    ask(uri, stream).await
}

fn request(uri: &Uri) -> Result<Request<Empty<Bytes>>, FetchError> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let mut builder = Request::get(target)
        .header(HOST, host)
        .header(ACCEPT, "application/json")
        .header(CONNECTION, "close")
        .header(
            USER_AGENT,
            concat!("patroni_proxy/", env!("CARGO_PKG_VERSION")),
        );
    if let Some(user) = user {
        builder = builder.header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(user)));
    }
    builder
        .body(Empty::new())
        .map_err(|error| FetchError::of("not a request", &error))
}

async fn ask<S>(uri: &Uri, stream: S) -> Result<Bytes, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| FetchError::of("HTTP", &error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let answer = async {
        let response = sender.send_request(request(uri)?).await.map_err(broken)?;
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await;
        body.map(http_body_util::Collected::to_bytes)
            .map_err(|error| FetchError::of("HTTP", &error))
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // What it has read before it ended is still to be taken.
        _ = connection => answer.await,
    }
}
