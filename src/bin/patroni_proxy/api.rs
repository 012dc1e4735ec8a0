//! The HTTP API.
//!
//! **Owns:** paths, what a connection may take.
//! **Does not own:** the answers (`report`, `control`), HTTP itself (`hyper`).
//!
//! **Invariant:** a connection is one request and ends after [`CONNECTION_MAX`]; there are at most
//! [`CONNECTIONS_MAX`] at a time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

/// How long a connection may take in all; asking clusters takes 5 s a host that is silent.
const CONNECTION_MAX: Duration = Duration::from_secs(60);
/// How long a client may take to say what it wants.
const HEADER_MAX: Duration = Duration::from_secs(2);
/// Connections at a time.
const CONNECTIONS_MAX: usize = 64;
/// Pause after a connection could not be accepted.
const RETRY: Duration = Duration::from_millis(100);

/// What control is asked.
#[derive(Debug)]
pub(crate) enum Question {
    /// Ask all clusters; the receivers end when that is done.
    Update(oneshot::Sender<Vec<oneshot::Receiver<()>>>),
    /// The numbers.
    Metrics(oneshot::Sender<String>),
    /// The backends as JSON.
    Backends(oneshot::Sender<String>),
    /// What is missing.
    Missing(oneshot::Sender<Vec<String>>),
}

/// Serves until it is dropped.
pub(crate) async fn serve(listener: TcpListener, questions: UnboundedSender<Question>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Closed by nobody, so there will be one.
        let place = Arc::clone(&places).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let questions = questions.clone();
                tokio::spawn(async move {
                    serve_one(stream, questions).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the API was not accepted");
                sleep(RETRY).await;
            }
        }
    }
}

async fn serve_one(stream: TcpStream, questions: UnboundedSender<Question>) {
    let service = service_fn(|request: Request<Incoming>| {
        let questions = questions.clone();
        async move { Ok::<_, Infallible>(answer(&request, &questions).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if !matches!(timeout(CONNECTION_MAX, connection).await, Ok(Ok(()))) {
        tracing::debug!("a connection to the API has failed or took too long");
    }
}

/// Asks control.
async fn ask<T>(
    questions: &UnboundedSender<Question>,
    question: impl FnOnce(oneshot::Sender<T>) -> Question,
) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    questions.send(question(answer)).ok()?;
    answered.await.ok()
}

async fn answer(
    request: &Request<Incoming>,
    questions: &UnboundedSender<Question>,
) -> Response<Full<Bytes>> {
    let plain = "text/plain";
    let exact = request
        .uri()
        .path_and_query()
        .map_or("", |path| path.as_str());
    if exact == "/update_clusters" {
        let pending = ask(questions, Question::Update).await.unwrap_or_default();
        let count = pending.len();
        for done in pending {
            // Ends by being dropped.
            let _ = done.await;
        }
        return respond(
            StatusCode::OK,
            plain,
            format!("Updated {count} cluster(s)\n"),
        );
    }
    match request.uri().path() {
        "/metrics" => {
            let text = ask(questions, Question::Metrics).await.unwrap_or_default();
            respond(StatusCode::OK, "text/plain; version=0.0.4", text)
        }
        "/backends" => {
            let text = ask(questions, Question::Backends).await.unwrap_or_default();
            respond(StatusCode::OK, "application/json", text)
        }
        "/health/ready" => match ask(questions, Question::Missing).await {
            Some(missing) if missing.is_empty() => respond(StatusCode::OK, plain, "OK".to_owned()),
            missing => {
                let text = missing.unwrap_or_default().join("\n") + "\n";
                respond(StatusCode::SERVICE_UNAVAILABLE, plain, text)
            }
        },
        _ => respond(StatusCode::OK, plain, "OK".to_owned()),
    }
}

fn respond(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
