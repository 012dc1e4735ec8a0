//! The settings that the console shows, and those that it can change.
//!
//! **Owns:** their names, how their values are written and read, which can be changed while the process
//! runs.
//! **Does not own:** all the others (`config`), handing a change to the shards (`app::control`).
//!
//! What is changed here lasts until the configuration is read again.

use std::fmt;
use std::time::Duration;

use tracing::Level;

use crate::config::General;
use crate::config::units::{ByteSize, ConfigDuration};

/// One setting as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub key: &'static str,
    /// Its value; times are in milliseconds.
    pub value: String,
    /// It can be changed while the process runs.
    pub is_changeable: bool,
}

/// Why a setting was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetError {
    /// It can only be changed in the file, and takes effect at start.
    Fixed,
    /// There is no such setting.
    Unknown,
    /// It cannot have this value.
    Value(String),
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed => f.write_str("this setting cannot be changed while the process runs"),
            Self::Unknown => f.write_str("there is no such setting that could be changed"),
            Self::Value(reason) => f.write_str(reason),
        }
    }
}

/// Where a value is found, and what it is.
enum Place {
    Fixed(fn(&General) -> String),
    Bytes(fn(&mut General) -> &mut u64),
    Count(fn(&mut General) -> &mut u64),
    Size(fn(&mut General) -> &mut usize),
    Level(fn(&mut General) -> &mut Option<Level>),
    Switch(fn(&mut General) -> &mut bool),
    /// Zero is a value, too: off.
    Time(fn(&mut General) -> &mut Duration),
    /// At least a millisecond.
    Bound(fn(&mut General) -> &mut Duration),
}

#[rustfmt::skip]
const TABLE: &[(&str, Place)] = &[
    ("host", Place::Fixed(|general| general.host.clone())),
    ("port", Place::Fixed(|general| general.port.to_string())),
    ("connect_timeout", Place::Bound(|general| &mut general.connect_timeout)),
    ("idle_timeout", Place::Time(|general| &mut general.idle_timeout)),
    ("shutdown_timeout", Place::Time(|general| &mut general.shutdown_timeout)),
    ("tls_relay_max_lifetime", Place::Time(|general| &mut general.tls_relay_max_lifetime)),
    ("max_connections", Place::Count(|general| &mut general.max_connections)),
    ("client_login_timeout", Place::Time(|general| &mut general.client_login_timeout)),
    ("query_wait_timeout", Place::Bound(|general| &mut general.query_wait_timeout)),
    ("server_lifetime", Place::Time(|general| &mut general.server_lifetime)),
    ("server_idle_check_timeout", Place::Time(|general| &mut general.server_idle_check_timeout)),
    ("retain_connections_time", Place::Time(|general| &mut general.retain_connections_time)),
    ("retain_connections_max", Place::Size(|general| &mut general.retain_connections_max)),
    ("max_concurrent_creates", Place::Size(|general| &mut general.max_concurrent_creates)),
    ("max_memory_usage", Place::Bytes(|general| &mut general.max_memory_usage)),
    ("server_round_robin", Place::Switch(|general| &mut general.server_round_robin)),
    ("log_client_connections", Place::Switch(|general| &mut general.log_client_connections)),
    ("log_client_disconnections", Place::Switch(|general| &mut general.log_client_disconnections)),
    ("log_level", Place::Level(|general| &mut general.log_level)),
    ("log_min_duration", Place::Time(|general| &mut general.log_min_duration)),
    ("client_idle_timeout", Place::Time(|general| &mut general.limits.client_idle_timeout)),
    ("idle_transaction_timeout", Place::Time(|general| &mut general.limits.idle_transaction_timeout)),
    ("transaction_timeout", Place::Time(|general| &mut general.limits.transaction_timeout)),
    ("query_timeout", Place::Time(|general| &mut general.limits.query_timeout)),
    ("proxy_copy_data_timeout", Place::Time(|general| &mut general.limits.proxy_copy_data_timeout)),
    ("max_db_connections", Place::Size(|general| &mut general.limits.max_db_connections)),
    ("reserve_pool_size", Place::Size(|general| &mut general.limits.reserve_pool_size)),
    ("reserve_pool_timeout", Place::Time(|general| &mut general.limits.reserve_pool_timeout)),
    ("max_db_client_connections", Place::Size(|general| &mut general.limits.max_db_client_connections)),
    ("max_user_client_connections", Place::Size(|general| &mut general.limits.max_user_client_connections)),
    ("worker_threads", Place::Fixed(|general| general.worker_threads.to_string())),
];

/// All of them. Programs that know them from elsewhere look for `max_client_conn`, too.
pub fn of(general: &General) -> Vec<Setting> {
    let mut general = general.clone();
    let mut settings: Vec<_> = TABLE
        .iter()
        .map(|(key, place)| Setting {
            key,
            value: show(place, &mut general),
            // As earlier versions have told it.
            is_changeable: !matches!(place, Place::Fixed(_)) && *key != "connect_timeout",
        })
        .collect();
    settings.push(Setting {
        key: "max_client_conn",
        value: general.max_connections.to_string(),
        is_changeable: true,
    });
    settings
}

fn show(place: &Place, general: &mut General) -> String {
    match place {
        Place::Fixed(read) => read(general),
        Place::Bytes(at) | Place::Count(at) => at(general).to_string(),
        Place::Size(at) => at(general).to_string(),
        Place::Level(at) => at(general).map_or_else(
            || "-".to_owned(),
            |level| level.as_str().to_ascii_lowercase(),
        ),
        Place::Switch(at) => at(general).to_string(),
        Place::Time(at) | Place::Bound(at) => at(general).as_millis().to_string(),
    }
}

/// Changes one of them.
///
/// # Errors
///
/// [`SetError`]; nothing has changed then.
pub fn set(general: &mut General, key: &str, value: &str) -> Result<(), SetError> {
    let key = if key == "max_client_conn" {
        "max_connections"
    } else {
        key
    };
    let found = TABLE.iter().find(|(name, _)| *name == key);
    let (_, place) = found.ok_or(SetError::Unknown)?;
    let invalid = |what: &str| SetError::Value(format!("\"{value}\" is not {what}"));
    match place {
        Place::Fixed(_) => return Err(SetError::Fixed),
        Place::Bytes(at) => *at(general) = bytes(value).ok_or_else(|| invalid("a size"))?,
        Place::Count(at) => {
            let count = value.parse().ok().filter(|count| *count > 0);
            *at(general) = count.ok_or_else(|| invalid("a number above zero"))?;
        }
        Place::Size(at) => *at(general) = value.parse().map_err(|_| invalid("a number"))?,
        Place::Level(at) => {
            let level = value.parse().map_err(|_| invalid("a level"))?;
            *at(general) = Some(level);
        }
        Place::Switch(at) => {
            *at(general) = switch(value).ok_or_else(|| invalid("true or false"))?;
        }
        Place::Time(at) => *at(general) = time(value).ok_or_else(|| invalid("a time"))?,
        Place::Bound(at) => {
            let time = time(value).filter(|time| !time.is_zero());
            *at(general) = time.ok_or_else(|| invalid("a time above zero"))?;
        }
    }
    Ok(())
}

/// A plain number is milliseconds.
fn time(value: &str) -> Option<Duration> {
    match value.parse() {
        Ok(millis) => Some(Duration::from_millis(millis)),
        Err(_) => ConfigDuration::parse(value)
            .ok()
            .map(ConfigDuration::duration),
    }
}

fn bytes(value: &str) -> Option<u64> {
    match value.parse() {
        Ok(bytes) => Some(bytes),
        Err(_) => ByteSize::parse(value).ok().map(ByteSize::bytes),
    }
}

fn switch(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Some(true),
        "false" | "off" | "no" | "0" => Some(false),
        _ => None,
    }
}
