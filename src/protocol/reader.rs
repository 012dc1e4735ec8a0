//! A cursor over one message body.
//!
//! **Owns:** bounds checks of every field read from a body.
//! **Does not own:** the order of fields (`frontend`, `backend`).
//! **Invariant:** no read goes past the body, whatever lengths the body claims.
//!
//! Source: PostgreSQL documentation, `protocol-message-types.html`.

use super::error::DecodeError;

/// What is left of a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(body: &'a [u8]) -> Self {
        Self { left: body }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self
            .left
            .split_first_chunk::<N>()
            .ok_or(DecodeError::InsufficientData)?;
        self.left = tail;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn bytes4(&mut self) -> Result<[u8; 4], DecodeError> {
        self.array()
    }

    /// The bytes before the next zero byte; the zero byte is consumed too.
    pub(super) fn cstr(&mut self) -> Result<&'a [u8], DecodeError> {
        let end = memchr::memchr(0, self.left).ok_or(DecodeError::UnterminatedString)?;
        let (text, tail) = self.left.split_at(end);
        self.left = tail.get(1..).unwrap_or_default();
        Ok(text)
    }

    pub(super) const fn rest(self) -> &'a [u8] {
        self.left
    }

    /// Checks that every byte of the body was used.
    pub(super) const fn finish(self) -> Result<(), DecodeError> {
        if self.left.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::TrailingBytes)
        }
    }
}
