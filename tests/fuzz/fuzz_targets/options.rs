//! Arbitrary text as the `options` parameter.
//!
//! **Owns:** no panic; settings that were read can be quoted and read again.
//! **Does not own:** the startup packet around it.
//!
//! Run: `cargo +nightly fuzz run --fuzz-dir tests/fuzz options`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_doorman::protocol::parse_options;

fn quote(text: &str) -> String {
    text.chars()
        .flat_map(|character| ['\\', character])
        .collect()
}

fuzz_target!(|text: &str| {
    let Ok(settings) = parse_options(text) else {
        return;
    };
    let words: Vec<String> = settings
        .iter()
        .map(|(name, value)| format!("-c {}={}", quote(name), quote(value)))
        .collect();
    assert_eq!(parse_options(&words.join(" ")), Ok(settings));
});
