//! Arbitrary bytes where a proxy's header is expected.
//!
//! **Owns:** "a header is read the same whatever follows it, a prefix of it is never a whole one, and what it
//! begins with can be told at once".
//! **Does not own:** who is believed.
//!
//! Run: `cargo +nightly fuzz run --fuzz-dir tests/fuzz proxy`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_doorman::protocol::parse_first_packet;
use pg_doorman::protocol::proxy::{
    PROXY_HEADER_BYTES_MAX, may_be_proxy_header, parse_proxy_header,
};

fuzz_target!(|input: &[u8]| {
    let read = parse_proxy_header(input);
    let Ok(Some((_, used))) = read else {
        if let Ok(None) = read {
            assert!(input.len() < PROXY_HEADER_BYTES_MAX);
            assert!(may_be_proxy_header(input));
        }
        return;
    };
    assert!(used <= input.len() && used <= PROXY_HEADER_BYTES_MAX);
    assert_eq!(parse_proxy_header(&input[..used]), read);
    for cut in 0..used {
        assert_eq!(parse_proxy_header(&input[..cut]), Ok(None));
    }
    assert!(parse_first_packet(&input[..used]).is_err(), "a packet too");
});
