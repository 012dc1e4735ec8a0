//! The log.
//!
//! **Owns:** where events go and in which form, how much is written, what is said once instead of
//! again and again (`floods`).
//! **Does not own:** the events.
//!
//! ```text
//!   event ──▶ level, RUST_LOG ──▶ floods ──▶ text, JSON or pretty ──▶ standard output (`line`)
//!                                                                └──▶ syslog (`syslog`)
//! ```
//!
//! **Invariant:** a line of text is one line: what a client has sent cannot begin another one, nor tell
//! a terminal anything but a colour.

mod floods;
mod line;
mod syslog;

use std::io;
use std::sync::OnceLock;

use tracing::Level;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, reload};

use super::cli::LogFormat;

pub use floods::tell_suppressed;
pub use syslog::Syslog;

/// The filter of levels, which can be changed.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Events of these targets are never held back: each is about something else.
const NEVER_A_FLOOD: &[&str] = &["pg_doorman::clients", "pg_doorman::slow", floods::TARGET];

/// Where the log goes.
#[derive(Debug)]
pub enum Destination {
    /// Standard output, in colours or not.
    Output {
        /// Whether there are colours.
        has_colours: bool,
    },
    /// The local syslog.
    Syslog(Syslog),
}

/// Starts writing events of `level` and worse. Directives of `RUST_LOG` for single targets work in
/// addition.
pub fn start(level: Level, format: LogFormat, destination: Destination) {
    let (filter, handle) = reload::Layer::new(filter(level));
    let written = match destination {
        Destination::Output { has_colours } => to_output(format, has_colours),
        Destination::Syslog(syslog) => to_syslog(format, syslog),
    };
    // Fails only for a second log of the same process, in tests.
    let is_first = FILTER.set(handle).is_ok();
    let subscriber = tracing_subscriber::registry()
        .with(filter)
        .with(floods::Floods)
        .with(written);
    if is_first {
        subscriber.init();
    }
}

/// Writes events of `level` and worse from now on.
///
/// # Errors
///
/// The log was not started.
pub fn set_level(level: Level) -> io::Result<()> {
    let handle = FILTER.get().ok_or(io::ErrorKind::NotFound)?;
    handle.reload(filter(level)).map_err(io::Error::other)
}

fn filter(level: Level) -> EnvFilter {
    EnvFilter::from_default_env().add_directive(level.into())
}

type Written<S> = Box<dyn Layer<S> + Send + Sync>;

fn to_output<S>(format: LogFormat, has_colours: bool) -> Written<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let events = fmt::layer().with_ansi(has_colours);
    match format {
        LogFormat::Text => Box::new(events.with_writer(line::Output { has_colours })),
        LogFormat::Structured => Box::new(events.json()),
        LogFormat::Debug => Box::new(events.pretty()),
    }
}

/// Time and severity are in the head that syslog has.
fn to_syslog<S>(format: LogFormat, syslog: Syslog) -> Written<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let events = fmt::layer().with_ansi(false).with_writer(syslog);
    match format {
        LogFormat::Structured => Box::new(events.json()),
        LogFormat::Text | LogFormat::Debug => Box::new(events.without_time().with_level(false)),
    }
}
