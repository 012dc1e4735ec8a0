//! What somebody is told who has logged in to the console.
//!
//! **Owns:** its parameters, its key, its number.
//! **Does not own:** the login itself (`login`), the messages after it (`console`).
//!
//! **Invariants**
//! 1. The key of a console cancels nothing.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html` ("Start-up").

use rand::Rng;

use crate::protocol::backend::TransactionStatus;
use crate::protocol::cancel_key::{CancelKey, CancelSecret, SLOT_MAX};
use crate::protocol::writer;
use crate::server::parameters::ParameterSet;

use super::shard::Shard;

/// What a console tells of itself at login. Values that the client asks for win, except for those of
/// the version and the encoding of the texts.
const PARAMETERS: [(&str, &str); 6] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("TimeZone", "Etc/UTC"),
    ("server_encoding", "UTF-8"),
    ("standard_conforming_strings", "on"),
    ("application_name", "pg_doorman"),
];

/// A key that cancels nothing: clients expect to get one. It names the last slot, and whatever session
/// should ever have that has another secret.
pub fn dead_key(shard: &Shard, is_long: bool) -> CancelKey {
    let mut random = rand::rng();
    let secret = if is_long {
        CancelSecret::Long(random.random())
    } else {
        CancelSecret::Short(random.random())
    };
    CancelKey {
        generation: shard.generation,
        shard: shard.index as u16,
        slot: SLOT_MAX,
        secret,
    }
}

/// The messages that end a login to the console.
pub fn greeting(asked: &ParameterSet, key: &CancelKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    writer::authentication_ok(&mut out);
    for (name, own) in PARAMETERS {
        let value = asked.get(name).filter(|_| name != "server_encoding");
        writer::parameter_status(&mut out, name.as_bytes(), value.unwrap_or(own).as_bytes());
    }
    writer::parameter_status(&mut out, b"server_version", server_version().as_bytes());
    if let Some(pid) = key.pid() {
        writer::backend_key_data(&mut out, pid, key.secret.as_bytes());
    }
    writer::ready_for_query(&mut out, TransactionStatus::Idle);
    out
}

/// The version without what stands behind the numbers: drivers want to compare it.
fn server_version() -> &'static str {
    let version = env!("CARGO_PKG_VERSION");
    version
        .split_once('-')
        .map_or(version, |(numbers, _)| numbers)
}

/// Names a console to the console: above all process ids that clients are told.
pub fn console_id(shard: &Shard) -> u32 {
    let number = shard.roster.next_number() & 0xF_FFFF;
    1 << 31 | (shard.index as u32 & 0x7FF) << 20 | number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        let is_number = |part: &str| part.parse::<u32>().is_ok();
        assert!(server_version().split('.').all(is_number));
    }
}
