//! The form of a message between two processes.
//!
//! **Owns:** where a message begins and ends, its version, its checksum.
//! **Does not own:** what is in it, the descriptors that go with it (`channel`).
//!
//! ```text
//!   magic "PGDH" │ version u16 │ kind u8 │ descriptors u8 │ length u32 │ CRC-32 u32 │ body
//! ```
//!
//! The checksum is of all that comes before it, and of the body.
//!
//! **Invariants:** a message is taken whole or not at all; what is not of this form, or of another
//! version, ends the conversation.

use super::bytes::Malformed;

/// Version of the form of all messages. Goes up with every change of any of them.
pub const VERSION: u16 = 1;
/// Most descriptors with one message.
pub const DESCRIPTORS_MAX: usize = 64;
/// Most bytes in a body. What one client has is bounded by its own limits, far below.
pub const BODY_BYTES_MAX: usize = 256 * 1024 * 1024;

const MAGIC: [u8; 4] = *b"PGDH";
const HEADER_BYTES: usize = 16;

/// Start of a message, as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: u8,
    /// Descriptors that go with it.
    pub descriptors: usize,
    /// Bytes of the body.
    pub length: usize,
}

/// A message at the start of bytes: its header, its body, and how many bytes it takes.
pub type Decoded<'a> = (Header, &'a [u8], usize);

/// A message of this kind with `descriptors` descriptors.
///
/// # Errors
///
/// The body is too long, or there are too many descriptors.
pub fn encode(kind: u8, descriptors: usize, body: &[u8]) -> Result<Vec<u8>, Malformed> {
    if body.len() > BODY_BYTES_MAX || descriptors > DESCRIPTORS_MAX {
        return Err(Malformed("too much for one message"));
    }
    let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.push(kind);
    out.push(descriptors as u8);
    out.extend_from_slice(&(body.len() as u32).to_be_bytes());
    let sum = checksum(&out, body);
    out.extend_from_slice(&sum.to_be_bytes());
    out.extend_from_slice(body);
    Ok(out)
}

/// The message at the start of `bytes`, and how many bytes it takes; none as long as it is not whole.
///
/// # Errors
///
/// It is no message of this form and version, or it was changed on the way.
pub fn decode(bytes: &[u8]) -> Result<Option<Decoded<'_>>, Malformed> {
    let shown = bytes.len().min(MAGIC.len());
    if bytes[..shown] != MAGIC[..shown] {
        return Err(Malformed("not a message"));
    }
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let [
        _,
        _,
        _,
        _,
        v0,
        v1,
        kind,
        descriptors,
        l0,
        l1,
        l2,
        l3,
        c0,
        c1,
        c2,
        c3,
    ] = *header;
    if u16::from_be_bytes([v0, v1]) != VERSION {
        return Err(Malformed("another version of the program's messages"));
    }
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    let descriptors = usize::from(descriptors);
    if length > BODY_BYTES_MAX || descriptors > DESCRIPTORS_MAX {
        return Err(Malformed("too much for one message"));
    }
    let end = HEADER_BYTES + length;
    let Some(body) = bytes.get(HEADER_BYTES..end) else {
        return Ok(None);
    };
    if checksum(&header[..12], body) != u32::from_be_bytes([c0, c1, c2, c3]) {
        return Err(Malformed("wrong checksum"));
    }
    let header = Header {
        kind,
        descriptors,
        length,
    };
    Ok(Some((header, body, end)))
}

fn checksum(start: &[u8], body: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(start);
    crc.update(body);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_form_of_version_one_stays() {
        let recorded = b"PGDH\0\x01\x04\x02\0\0\0\x03\x1e\xbe\x8a\xa6abc";
        assert_eq!(encode(4, 2, b"abc").unwrap(), recorded);
    }

    #[test]
    fn another_version_is_refused_before_its_body_is_read() {
        let mut encoded = encode(1, 0, b"abc").unwrap();
        encoded[5] += 1;
        assert!(decode(&encoded[..16]).is_err());
        assert!(decode(b"GET / HTTP").is_err());
        assert!(decode(b"PGx").is_err());
    }

    proptest! {
        #[test]
        fn a_message_is_read_when_it_is_whole_and_only_as_it_was_written(
            kind: u8,
            descriptors in 0..=DESCRIPTORS_MAX,
            body: Vec<u8>,
            behind: Vec<u8>,
            (at, bit) in (any::<prop::sample::Index>(), 0..8u8),
        ) {
            let encoded = encode(kind, descriptors, &body).unwrap();
            for end in 0..encoded.len() {
                prop_assert_eq!(decode(&encoded[..end]), Ok(None));
            }
            let both = [&encoded[..], &behind[..]].concat();
            let header = Header { kind, descriptors, length: body.len() };
            prop_assert_eq!(decode(&both), Ok(Some((header, &body[..], encoded.len()))));
            let mut wrong = encoded.clone();
            let at = at.index(wrong.len());
            wrong[at] ^= 1 << bit;
            prop_assert!(!matches!(decode(&wrong), Ok(Some(_))));
        }
    }
}
