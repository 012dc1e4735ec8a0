//! Arbitrary bytes as the first packet of a connection.
//!
//! **Owns:** "a packet is read the same however many bytes follow it, and a prefix of it is
//! incomplete or already refused".
//! **Does not own:** `options`, which has its own target.
//!
//! Run: `cargo +nightly fuzz run --fuzz-dir tests/fuzz startup`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_doorman::protocol::{CancelKey, StartupPacket, parse_first_packet};

fuzz_target!(|input: &[u8]| {
    let Ok(Some((packet, used))) = parse_first_packet(input) else {
        return;
    };
    assert!(used <= input.len());
    assert_eq!(
        parse_first_packet(&input[..used]),
        Ok(Some((packet.clone(), used)))
    );
    assert_eq!(parse_first_packet(&input[..used - 1]), Ok(None));
    match packet {
        StartupPacket::Startup(message) => assert!(!message.user.is_empty()),
        StartupPacket::Cancel(key) => {
            if let Some(decoded) = CancelKey::decode(key.pid, &key.secret) {
                assert_eq!(decoded.pid(), Some(key.pid));
            }
        }
        StartupPacket::GssEnc | StartupPacket::Ssl => assert_eq!(used, 8),
    }
});
