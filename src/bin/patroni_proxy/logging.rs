//! The log: lines of text on standard output.
//!
//! **Owns:** what is written: `RUST_LOG` if it is set, otherwise the level of the configuration.

use std::sync::OnceLock;

use tracing::Level;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt, reload};

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts writing.
pub(crate) fn start(level: Level) {
    let (filter, handle) = reload::Layer::new(filter(level));
    if FILTER.set(handle).is_ok() {
        let lines = fmt::layer().with_ansi(false);
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .init();
    }
}

/// Writes events of `level` and worse from now on, unless the environment says otherwise.
pub(crate) fn set_level(level: Level) {
    if let Some(handle) = FILTER.get()
        && let Err(error) = handle.reload(filter(level))
    {
        tracing::warn!(%error, "log_level stays as it was");
    }
}

fn filter(level: Level) -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level.as_str()))
}
