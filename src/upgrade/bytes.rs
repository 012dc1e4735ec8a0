//! Values as bytes.
//!
//! **Owns:** numbers (big-endian), flags, strings and lists with their lengths before them.
//! **Does not own:** which values make up a message.
//! **Invariants:** what was written is read back; reading never panics, never allocates more than there
//! are bytes, and fails for what is left over at the end.

use std::fmt;

/// Bytes that are no message of this form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// Writes values one behind the other.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// What has been written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// A flag.
    pub fn flag(&mut self, value: bool) {
        self.0.push(u8::from(value));
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Sixteen bytes.
    pub fn u128(&mut self, value: u128) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// A length and so many bytes.
    pub fn bytes(&mut self, value: &[u8]) {
        self.u32(value.len() as u32);
        self.0.extend_from_slice(value);
    }

    /// As `bytes`.
    pub fn text(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }
}

/// Reads values in the order in which they were written.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (first, rest) = self.0.split_first_chunk().ok_or(Malformed("too short"))?;
        self.0 = rest;
        Ok(*first)
    }

    /// A flag.
    ///
    /// # Errors
    ///
    /// It is neither of the two values, or not there.
    pub fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("no flag")),
        }
    }

    /// One byte.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.take::<1>().map(|[value]| value)
    }

    /// Two bytes.
    ///
    /// # Errors
    ///
    /// They are not there.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.take().map(u16::from_be_bytes)
    }

    /// Four bytes.
    ///
    /// # Errors
    ///
    /// They are not there.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_be_bytes)
    }

    /// Eight bytes.
    ///
    /// # Errors
    ///
    /// They are not there.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_be_bytes)
    }

    /// Sixteen bytes.
    ///
    /// # Errors
    ///
    /// They are not there.
    pub fn u128(&mut self) -> Result<u128, Malformed> {
        self.take().map(u128::from_be_bytes)
    }

    /// A length and so many bytes.
    ///
    /// # Errors
    ///
    /// They are not there.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()? as usize;
        let (value, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(Malformed("too short"))?;
        self.0 = rest;
        Ok(value)
    }

    /// As `bytes`.
    ///
    /// # Errors
    ///
    /// As there, or it is no text.
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("no text"))
    }

    /// Nothing may be left.
    ///
    /// # Errors
    ///
    /// Something is.
    pub const fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed("too long"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_and_no_part_of_it_is(
            numbers: (u8, u16, u32, u64, u128),
            is_set: bool,
            text: String,
            bytes: Vec<u8>,
        ) {
            let mut writer = Writer::default();
            writer.flag(is_set);
            writer.u8(numbers.0);
            writer.u16(numbers.1);
            writer.u32(numbers.2);
            writer.u64(numbers.3);
            writer.u128(numbers.4);
            writer.text(&text);
            writer.bytes(&bytes);
            let written = writer.into_bytes();
            let read = |written: &[u8]| {
                let mut reader = Reader::new(written);
                let is_set = reader.flag()?;
                let numbers =
                    (reader.u8()?, reader.u16()?, reader.u32()?, reader.u64()?, reader.u128()?);
                let (text, bytes) = (reader.text()?.to_owned(), reader.bytes()?.to_vec());
                reader.end()?;
                Ok::<_, Malformed>((is_set, numbers, text, bytes))
            };
            prop_assert_eq!(read(&written), Ok((is_set, numbers, text, bytes)));
            for end in 0..written.len() {
                prop_assert!(read(&written[..end]).is_err());
            }
            let longer = [&written[..], b"x"].concat();
            prop_assert!(read(&longer).is_err());
        }
    }
}
