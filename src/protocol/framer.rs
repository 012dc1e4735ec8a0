//! Incremental framing of the PostgreSQL v3 byte stream. No IO, no clock.
//!
//! **Owns:** where one message ends and the next begins, and the start of a message that was cut.
//! **Does not own:** what a message means (`frontend`, `backend`), reading sockets.
//!
//! Bytes are forwarded as they come, so the framer hands out *parts*: the piece of one message that
//! lies in the current input. Most messages are one part. Of a message that is cut, the body is
//! collected only if its tag is listed as interesting, and only up to a limit; everything else is
//! skipped by count.
//!
//! **Invariant:** tags, lengths and collected bodies do not depend on how the bytes were split.
//!
//! Source: PostgreSQL documentation, `protocol-message-formats.html`: one tag byte, then an `Int32`
//! length that counts itself but not the tag.

use std::fmt;

/// Bytes of a tag and a length.
pub const HEADER_BYTES: usize = 5;
/// Bodies up to this size are collected when they are cut.
pub const COLLECTED_BYTES_MAX: usize = 64 * 1024;
/// The largest body that is accepted at all, in bytes.
pub const BODY_BYTES_MAX: u32 = 256 * 1024 * 1024;

/// Which tags have bodies that the owner wants to see whole.
#[derive(Debug)]
pub struct Interest([bool; 256]);

impl Interest {
    /// The bodies of these tags are interesting.
    pub const fn of(tags: &[u8]) -> Self {
        let mut table = [false; 256];
        let mut index = 0;
        while index < tags.len() {
            table[tags[index] as usize] = true;
            index += 1;
        }
        Self(table)
    }

    fn contains(&self, tag: u8) -> bool {
        self.0[usize::from(tag)]
    }
}

/// The piece of one message that lies in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The message's tag.
    pub tag: u8,
    /// Bytes of the input that belong to this part, header included.
    pub len: usize,
    /// The message begins with this part.
    pub is_first: bool,
    /// The message ends with this part.
    pub is_last: bool,
    /// With the last part of an interesting message: its whole body, unless it was too long.
    pub body: Option<&'a [u8]>,
}

/// Finds messages in a stream of bytes.
#[derive(Debug)]
pub struct Framer {
    interest: &'static Interest,
    body_bytes_max: u32,
    /// Header bytes of a message whose header was cut.
    header: [u8; HEADER_BYTES],
    header_len: u8,
    /// Body bytes still to come of the current message.
    body_left: u32,
    #[expect(
        clippy::box_collection,
        reason = "one word instead of three in every idle session; most never collect"
    )]
    collected: Option<Box<Vec<u8>>>,
}

impl Framer {
    /// A framer at a message boundary.
    pub const fn new(interest: &'static Interest, body_bytes_max: u32) -> Self {
        let header = [0; HEADER_BYTES];
        Self {
            interest,
            body_bytes_max,
            header,
            header_len: 0,
            body_left: 0,
            collected: None,
        }
    }

    /// True between messages.
    pub const fn is_at_boundary(&self) -> bool {
        self.header_len == 0
    }

    /// Frees the memory of a message that was collected, once it has been handled.
    pub fn free_collected(&mut self) {
        if self.is_at_boundary() {
            self.collected = None;
        }
    }

    /// Bytes still missing of a message whose header has been seen; 0 at a boundary.
    pub const fn missing_bytes(&self) -> u32 {
        self.body_left
    }

    /// The next part in `input`; `None` when `input` is empty. The caller drops `len` bytes from
    /// its input before the next call.
    ///
    /// # Errors
    ///
    /// [`FrameError`]: the stream has no resynchronisation point after that and must be closed.
    pub fn next<'a>(&'a mut self, input: &'a [u8]) -> Result<Option<Part<'a>>, FrameError> {
        if self.header_len == 0
            && let Some((&[tag, l0, l1, l2, l3], rest)) = input.split_first_chunk::<HEADER_BYTES>()
        {
            let body_bytes = self.check(tag, u32::from_be_bytes([l0, l1, l2, l3]))?;
            if let Some(body) = rest.get(..body_bytes as usize) {
                let len = HEADER_BYTES + body.len();
                let body = Some(body);
                return Ok(Some(Part {
                    tag,
                    len,
                    is_first: true,
                    is_last: true,
                    body,
                }));
            }
        }
        if input.is_empty() {
            return Ok(None);
        }
        self.next_cut(input).map(Some)
    }

    fn check(&self, tag: u8, length: u32) -> Result<u32, FrameError> {
        let Some(body_bytes) = length.checked_sub(4) else {
            return Err(FrameError::LengthBelowMinimum { tag, length });
        };
        if body_bytes > self.body_bytes_max {
            let limit = self.body_bytes_max;
            return Err(FrameError::LengthAboveLimit {
                tag,
                body_bytes,
                limit,
            });
        }
        Ok(body_bytes)
    }

    /// A part of a message that begins before or ends after `input`.
    fn next_cut<'a>(&'a mut self, input: &'a [u8]) -> Result<Part<'a>, FrameError> {
        let is_first = self.header_len == 0;
        let have = usize::from(self.header_len);
        let taken = (HEADER_BYTES - have).min(input.len());
        let (head, rest) = input.split_at(taken);
        if let Some(missing) = self.header.get_mut(have..have + taken) {
            missing.copy_from_slice(head);
        }
        self.header_len += taken as u8;
        let [tag, l0, l1, l2, l3] = self.header;
        if usize::from(self.header_len) < HEADER_BYTES {
            return Ok(Part {
                tag,
                len: taken,
                is_first,
                is_last: false,
                body: None,
            });
        }
        if taken > 0 {
            self.body_left = self.check(tag, u32::from_be_bytes([l0, l1, l2, l3]))?;
            let collect = self.interest.contains(tag);
            self.collected =
                (collect && self.body_left as usize <= COLLECTED_BYTES_MAX).then(Box::default);
        }
        let body = &rest[..rest.len().min(self.body_left as usize)];
        self.body_left -= body.len() as u32;
        let is_last = self.body_left == 0;
        if let Some(collected) = &mut self.collected {
            collected.extend_from_slice(body);
        }
        if is_last {
            self.header_len = 0;
        }
        let whole = self
            .collected
            .as_deref()
            .filter(|_| is_last)
            .map(Vec::as_slice);
        Ok(Part {
            tag,
            len: taken + body.len(),
            is_first,
            is_last,
            body: whole,
        })
    }
}

/// Why a byte stream stopped being a PostgreSQL protocol stream.
///
/// Always the peer's fault, always fatal to that one connection. SQLSTATE `08P01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The peer declared more than is accepted.
    LengthAboveLimit {
        /// The message's tag.
        tag: u8,
        /// The declared size of the body in bytes.
        body_bytes: u32,
        /// The accepted size in bytes.
        limit: u32,
    },
    /// The length field was below 4, the size of the field itself.
    LengthBelowMinimum {
        /// The message's tag.
        tag: u8,
        /// The declared length.
        length: u32,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LengthAboveLimit {
                tag,
                body_bytes,
                limit,
            } => write!(
                f,
                "message '{}' of {body_bytes} bytes exceeds the limit of {limit} bytes",
                tag.escape_ascii()
            ),
            Self::LengthBelowMinimum { tag, length } => {
                write!(
                    f,
                    "invalid length {length} of message '{}'",
                    tag.escape_ascii()
                )
            }
        }
    }
}

impl std::error::Error for FrameError {}

#[cfg(test)]
mod tests {
    use super::*;

    static INTEREST: Interest = Interest::of(b"QS");

    type Seen = Vec<(u8, usize, Option<Vec<u8>>)>;

    fn collect(reads: &[&[u8]]) -> Seen {
        let mut framer = Framer::new(&INTEREST, 100);
        let mut seen = Seen::new();
        let mut len = 0;
        for read in reads {
            let mut rest = *read;
            while let Some(part) = framer.next(rest).unwrap() {
                assert_eq!(part.is_first, len == 0);
                len += part.len;
                if part.is_last {
                    let wanted = INTEREST.contains(part.tag);
                    let body = part.body.filter(|_| wanted).map(<[u8]>::to_vec);
                    seen.push((part.tag, std::mem::take(&mut len), body));
                }
                let used = part.len;
                rest = &rest[used..];
            }
        }
        assert!(framer.is_at_boundary());
        seen
    }

    /// Goal: framing must not depend on read boundaries.
    /// Method: cut one four-message stream at every pair of positions and compare.
    #[test]
    fn messages_are_independent_of_read_boundaries() {
        let stream = [
            &b"Q\0\0\0\x07hi\0"[..],
            b"d\0\0\0\x0cABCDEFGH",
            b"S\0\0\0\x04",
            b"Q\0\0\0\x05\0",
        ]
        .concat();
        let expected = collect(&[&stream]);
        let hi = Some(b"hi\0".to_vec());
        let nul = Some(vec![0]);
        assert_eq!(
            expected,
            [
                (b'Q', 8, hi),
                (b'd', 13, None),
                (b'S', 5, Some(vec![])),
                (b'Q', 6, nul)
            ]
        );
        for i in 0..=stream.len() {
            for j in i..=stream.len() {
                let reads = [&stream[..i], &stream[i..j], &stream[j..]];
                assert_eq!(collect(&reads), expected, "cut at {i},{j}");
            }
        }
        let bytes: Vec<_> = stream.chunks(1).collect();
        assert_eq!(collect(&bytes), expected);
    }

    #[test]
    fn nothing_is_kept_of_a_message_that_is_over() {
        let mut framer = Framer::new(&INTEREST, 100);
        assert!(framer.next(b"Q\0\0\0\x07h").is_ok());
        framer.free_collected();
        let part = framer.next(b"i\0").unwrap().unwrap();
        assert_eq!(part.body, Some(&b"hi\0"[..]));
        framer.free_collected();
        assert!(framer.collected.is_none());
    }

    #[test]
    fn impossible_lengths_are_errors_wherever_the_header_is_cut() {
        for (bytes, low) in [(b"Q\0\0\0\x03x", true), (b"Q\0\0\0\x69x", false)] {
            for cut in 0..5 {
                let mut framer = Framer::new(&INTEREST, 100);
                let (head, tail) = bytes.split_at(cut);
                assert!(framer.next(head).is_ok(), "cut at {cut}");
                let error = framer.next(tail).unwrap_err();
                let is_low = matches!(error, FrameError::LengthBelowMinimum { .. });
                assert_eq!(is_low, low, "cut at {cut}: {error}");
            }
        }
    }
}
