//! What the log would say again and again.
//!
//! **Owns:** which events are the same, how often each was held back.
//! **Does not own:** the levels, writing.
//!
//! A server that is down makes an event for every attempt, and a thousand clients a thousand more. The
//! first of a kind is written at once; those that follow until [`tell_suppressed`] are counted, and
//! told there with their number. Two events are the same if they come from one place in the program and
//! say the same, but for the process id of a server and the port of a client.
//!
//! **Invariants**
//! 1. Only events about clients and servers are held back, and none while the level is `debug` or
//!    `trace`: who looks closely sees everything.
//! 2. What is remembered is bounded. Beyond that, all events of one place in the program are the same.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Target of the events that tell of the others.
pub(super) const TARGET: &str = "pg_doorman::repeated";
/// Events that are told apart.
const CAUSES_MAX: usize = 512;
/// Bytes of an event by which it is told apart.
const TEXT_BYTES_MAX: usize = 300;
/// The parts of the program whose events may be many.
const SOURCES: &[&str] = &[
    "pg_doorman::session",
    "pg_doorman::pool",
    "pg_doorman::server",
    "shards",
];

type Causes = HashMap<(Identifier, String), u64>;

static CAUSES: LazyLock<Mutex<Causes>> = LazyLock::new(Mutex::default);

fn causes() -> MutexGuard<'static, Causes> {
    // Whoever panicked had no half-done work there.
    CAUSES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets the first of the same events pass.
pub(super) struct Floods;

impl<S: Subscriber> Layer<S> for Floods {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let target = event.metadata().target();
        if !may_flood(target) || LevelFilter::current() >= LevelFilter::DEBUG {
            return true;
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        note(&mut causes(), event.metadata().callsite(), text.0)
    }
}

fn may_flood(target: &str) -> bool {
    !super::NEVER_A_FLOOD.contains(&target)
        && SOURCES.iter().any(|source| target.starts_with(source))
}

/// True if it is the first of its kind.
fn note(causes: &mut Causes, place: Identifier, text: String) -> bool {
    let is_full = causes.len() >= CAUSES_MAX;
    let mut key = (place, text);
    if is_full && !causes.contains_key(&key) {
        "more".clone_into(&mut key.1);
    }
    let is_first = !causes.contains_key(&key);
    let count = causes.entry(key).or_default();
    *count += u64::from(!is_first);
    is_first
}

/// Tells of the events that were held back, and lets each pass again. To be called every so often.
pub fn tell_suppressed() {
    let told = std::mem::take(&mut *causes());
    for ((_, event), times) in told.into_iter().filter(|(_, times)| *times > 0) {
        tracing::warn!(target: TARGET, times, %event, "repeated since the last report");
    }
}

/// An event as a text by which it is told apart, and which tells of it.
struct Text(String);

impl Text {
    fn add(&mut self, field: &Field, value: &dyn fmt::Display) {
        if field.name() == "pid" || self.0.len() >= TEXT_BYTES_MAX {
            return;
        }
        let mut value = value.to_string();
        if field.name() == "client"
            && let Some(end) = value.rfind(':')
        {
            value.truncate(end);
        }
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        // Writing to a `String` cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value}"),
            name => write!(self.0, "{name}={value}"),
        };
        let mut end = self.0.len().min(TEXT_BYTES_MAX);
        while !self.0.is_char_boundary(end) {
            end -= 1;
        }
        self.0.truncate(end);
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, &value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::{Callsite, Metadata};
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn events_are_about_clients_and_servers_or_pass() {
        assert!(may_flood("pg_doorman::pool::driver"));
        assert!(may_flood("shards::listener"));
        for target in ["pg_doorman::app::control", "pg_doorman::clients", TARGET] {
            assert!(!may_flood(target), "{target}");
        }
    }

    #[test]
    fn the_first_of_a_kind_passes_and_others_are_counted() {
        static HERE: tracing::callsite::DefaultCallsite =
            tracing::callsite::DefaultCallsite::new(&META);
        static META: Metadata<'static> = tracing::metadata! {
            name: "x",
            target: "x",
            level: tracing::Level::INFO,
            fields: &[],
            callsite: &HERE,
            kind: tracing::metadata::Kind::EVENT,
        };
        let place = || HERE.metadata().callsite();
        let mut causes = Causes::new();
        assert!(note(&mut causes, place(), "a".to_owned()));
        assert!(!note(&mut causes, place(), "a".to_owned()));
        assert!(note(&mut causes, place(), "b".to_owned()));
        assert_eq!(causes[&(place(), "a".to_owned())], 1);
        for number in 0..2 * CAUSES_MAX {
            note(&mut causes, place(), number.to_string());
        }
        assert_eq!(causes.len(), CAUSES_MAX + 1);
    }

    #[test]
    fn ports_and_process_ids_do_not_tell_events_apart() {
        use std::sync::Arc;
        struct Collect(Arc<Mutex<Vec<String>>>);
        impl<S: Subscriber> Layer<S> for Collect {
            fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
                let mut text = Text(String::new());
                event.record(&mut text);
                self.0.lock().unwrap().push(text.0);
            }
        }
        let seen = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::registry().with(Collect(Arc::clone(&seen)));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(client = %"10.0.0.1:4", pid = 3, reason = "why", "refused");
            tracing::info!(text = %"ж".repeat(400), "long");
        });
        let seen = seen.lock().unwrap();
        assert_eq!(seen[0], "refused client=10.0.0.1 reason=why");
        assert!(seen[1].len() <= TEXT_BYTES_MAX);
    }
}
