//! What a server is asked, as far as the log may want to tell it.
//!
//! **Owns:** the first bytes of the message that began the query that runs.
//! **Does not own:** when a query is slow, what is told (`session::slow`).
//!
//! **Invariant:** nothing is allocated for a question but once for each server, when the first is noted.
//!
//! Source: PostgreSQL documentation, `protocol-message-formats.html`.

use crate::protocol::framer::HEADER_BYTES;

/// Bytes of a text that are kept.
pub const TEXT_BYTES_MAX: usize = 1000;
/// Messages that are looked at for one that says what is asked.
const LOOKS: usize = 4;

/// What runs, in its own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// Nothing was noted.
    Unknown,
    /// The beginning of the text. True if it goes on.
    Text(&'a [u8], bool),
    /// A prepared statement of this name.
    Statement(&'a [u8]),
}

/// The note about one question.
#[derive(Debug, Default)]
pub struct Question {
    bytes: Vec<u8>,
    is_statement: bool,
    is_cut: bool,
}

impl Question {
    /// Notes what the messages in `chunk` ask first.
    pub fn note(&mut self, chunk: &[u8]) {
        self.forget();
        let mut rest = chunk;
        for _ in 0..LOOKS {
            let Some((&[tag, l0, l1, l2, l3], body)) = rest.split_first_chunk::<HEADER_BYTES>()
            else {
                return;
            };
            let length = (u32::from_be_bytes([l0, l1, l2, l3]) as usize).saturating_sub(4);
            let is_whole = body.len() >= length;
            let body = body.get(..length).unwrap_or(body);
            match tag {
                b'Q' => return self.keep(body, is_whole),
                // The name of the statement, and its text; that of the portal, and of the statement.
                b'P' => return self.keep(behind_zero(body), is_whole),
                b'B' => {
                    self.is_statement = true;
                    return self.keep(behind_zero(body), is_whole);
                }
                _ => {}
            }
            rest = rest.get(HEADER_BYTES + length..).unwrap_or_default();
        }
    }

    fn keep(&mut self, text: &[u8], is_whole: bool) {
        let end = memchr::memchr(0, text);
        let text = end.map_or(text, |end| &text[..end]);
        let kept = text.get(..TEXT_BYTES_MAX).unwrap_or(text);
        self.is_cut = kept.len() < text.len() || (end.is_none() && !is_whole);
        self.bytes.reserve_exact(TEXT_BYTES_MAX);
        self.bytes.extend_from_slice(kept);
    }

    /// What was noted.
    pub fn asked(&self) -> Asked<'_> {
        match (self.is_statement, self.bytes.is_empty()) {
            (true, _) => Asked::Statement(&self.bytes),
            (false, true) => Asked::Unknown,
            (false, false) => Asked::Text(&self.bytes, self.is_cut),
        }
    }

    /// It is answered.
    pub fn forget(&mut self) {
        self.bytes.clear();
        self.is_statement = false;
        self.is_cut = false;
    }
}

fn behind_zero(body: &[u8]) -> &[u8] {
    let end = memchr::memchr(0, body);
    end.map_or(&[], |end| &body[end + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32 + 4).to_be_bytes();
        [&[tag][..], &length, body].concat()
    }

    #[test]
    fn the_first_message_that_asks_is_noted() {
        let mut question = Question::default();
        question.note(&message(b'Q', b"select 1\0"));
        assert_eq!(question.asked(), Asked::Text(b"select 1", false));
        let parse = [message(b'C', b"Sa\0"), message(b'P', b"a\0select 2\0\0\0")].concat();
        question.note(&parse);
        assert_eq!(question.asked(), Asked::Text(b"select 2", false));
        question.note(&message(b'B', b"\0a\0\0\0\0\0"));
        assert_eq!(question.asked(), Asked::Statement(b"a"));
        question.note(&message(b'S', b""));
        assert_eq!(question.asked(), Asked::Unknown);
        let long = message(b'Q', &[b'x'; 5000]);
        for len in 0..long.len() {
            question.note(&long[..len]);
            if let Asked::Text(text, is_cut) = question.asked() {
                assert!(is_cut && text.len() <= TEXT_BYTES_MAX);
            }
        }
        assert!(question.bytes.capacity() <= TEXT_BYTES_MAX);
    }

    #[test]
    fn any_bytes_are_looked_at() {
        let mut question = Question::default();
        let bytes: Vec<u8> = (0..=255)
            .chain([b'P', 0, 0, 0, 0, b'Q', 255, 255, 255, 255])
            .collect();
        for from in 0..bytes.len() {
            question.note(&bytes[from..]);
        }
    }
}
