//! Ctrl-C.
//!
//! Owns: the flag that says the user wants to stop.
//! Does not own: what is cleaned up then; every owner does that when it is dropped.
//! Invariants: the first signal asks, the second ends the program at once (the kernel then ends
//! the children, see `child.rs`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Catches SIGINT, SIGTERM and SIGHUP from now on.
///
/// # Errors
/// The system refuses a signal handler.
pub(crate) fn catch() -> Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // Registered first, hence run first: it acts only when the flag is already set.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&REQUESTED))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&REQUESTED)))
            .context("cannot catch signals")?;
    }
    Ok(())
}

/// Whether the user asked to stop.
pub(crate) fn is_requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Turns the user's wish to stop into an error.
///
/// # Errors
/// The user asked to stop.
pub(crate) fn check() -> Result<()> {
    if is_requested() {
        bail!("interrupted");
    }
    Ok(())
}
