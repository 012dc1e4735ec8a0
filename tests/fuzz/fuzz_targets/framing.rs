//! Arbitrary bytes, cut at arbitrary places, as a stream of messages.
//!
//! **Owns:** no panic in the framer or the account of owed replies; what the framer finds does not
//! depend on where the stream is cut.
//! **Does not own:** what the messages mean.
//!
//! Run: `cargo +nightly fuzz run --fuzz-dir tests/fuzz framing`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_doorman::protocol::framer::{Framer, Interest};
use pg_doorman::server::sync::{Owner, Sync};

static INTEREST: Interest = Interest::of(b"QPSEC");

/// Tags, lengths and bodies of the messages in `stream`, read in pieces of `piece` bytes; `None` at
/// the end if the stream is no stream of messages.
fn messages(stream: &[u8], piece: usize) -> Vec<Option<(u8, usize, Vec<u8>)>> {
    let mut framer = Framer::new(&INTEREST, 10_000);
    let (mut found, mut len) = (Vec::new(), 0);
    for mut read in stream.chunks(piece.max(1)) {
        loop {
            let (used, whole) = match framer.next(read) {
                Ok(None) => break,
                Err(_) => {
                    found.push(None);
                    return found;
                }
                Ok(Some(part)) => {
                    let collected = matches!(part.tag, b'Q' | b'P' | b'S' | b'E' | b'C');
                    let body = part.body.filter(|_| collected).unwrap_or_default().to_vec();
                    (part.len, part.is_last.then_some((part.tag, body)))
                }
            };
            len += used;
            read = &read[used..];
            if let Some((tag, body)) = whole {
                found.push(Some((tag, std::mem::take(&mut len), body)));
            }
        }
    }
    found
}

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (piece, stream) = input;
    let whole = messages(&stream, stream.len());
    assert_eq!(whole, messages(&stream, usize::from(piece)));
    // The same messages as requests and replies in turn: any order is possible, none may panic.
    let mut sync = Sync::default();
    for (tag, len, _) in whole.into_iter().flatten() {
        if len % 2 == 0 {
            sync.sent(tag, len % 3 == 0, Owner::Client);
        } else {
            let _ = sync.received(tag);
        }
    }
    assert!(!(sync.is_settled() && sync.is_out_of_step()));
});
