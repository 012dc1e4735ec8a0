//! Messages between two processes at a binary upgrade: no bytes may panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_doorman::upgrade::bytes::Reader;
use pg_doorman::upgrade::frame;

fuzz_target!(|data: &[u8]| {
    let Ok(Some(_)) = frame::decode(data) else {
        let mut reader = Reader::new(data);
        while reader.bytes().is_ok() && reader.text().is_ok() && reader.flag().is_ok() {}
        return;
    };
});
