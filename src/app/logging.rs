//! The log.
//!
//! **Owns:** where events go and in which form.
//! **Does not own:** the events.

use tracing::Level;
use tracing_subscriber::EnvFilter;

use super::cli::LogFormat;

/// Starts writing events of `level` and worse to standard output. Directives of `RUST_LOG` for
/// single targets work in addition.
pub fn start(level: Level, format: LogFormat, has_colours: bool) {
    let filter = EnvFilter::from_default_env().add_directive(level.into());
    let events = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(has_colours);
    match format {
        LogFormat::Text => events.init(),
        LogFormat::Structured => events.json().init(),
        LogFormat::Debug => events.pretty().init(),
    }
}
