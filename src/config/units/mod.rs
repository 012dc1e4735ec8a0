//! Values with a unit: `"5s"`, `"16MB"`, or a bare number.
//!
//! ```text
//!  value  = integer | text
//!  text   = blank* digit+ blank* suffix? blank*        suffix in any letter case
//!  time   : ms s m h d           bare number = milliseconds
//!  size   : B K KB M MB G GB     bare number = bytes, steps of 1024
//! ```
//!
//! **Owns:** this grammar and its error texts.
//! **Does not own:** limits of a particular key (`validate`).
//! **Invariants:** arithmetic is checked, a value that does not fit 64 bits is an error; what
//! `Display` prints parses to the same value.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A length of time in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigDuration(u64);

/// An amount of memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

/// Why a text is not a value with a unit. Holds the message for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitError(String);

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UnitError {}

/// What differs between the kinds of values.
trait Unit: Sized {
    /// The words of the error texts.
    const NAME: &'static str;
    /// Suffixes with their factors. The first one that divides a value is what `Display` prints,
    /// hence the order: largest first.
    const SUFFIXES: &'static [(&'static str, u64)];
    /// The suffixes as the operator may write them.
    const SPELLED: &'static str;

    fn from_base(value: u64) -> Self;

    fn parse(text: &str) -> Result<Self, UnitError> {
        let name = Self::NAME;
        let trimmed = text.trim();
        let number = trimmed.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let suffix = &trimmed[number.len()..];
        let known = |(text, _): &&(&str, u64)| text.eq_ignore_ascii_case(suffix);
        let factor = match suffix {
            "" => Some(1),
            _ => Self::SUFFIXES.iter().find(known).map(|(_, factor)| *factor),
        };
        let number = number.trim_end();
        let (Some(factor), false) = (factor, number.is_empty()) else {
            return Err(UnitError(format!(
                "invalid {name} format: '{text}'. Expected a number or a string with suffix ({})",
                Self::SPELLED
            )));
        };
        // `parse` would accept a plus sign, the grammar does not.
        let digits_only = number.bytes().all(|byte| byte.is_ascii_digit());
        let Some(value) = number.parse::<u64>().ok().filter(|_| digits_only) else {
            return Err(UnitError(format!("invalid number in {name}: '{text}'")));
        };
        let value = value.checked_mul(factor);
        value
            .map(Self::from_base)
            .ok_or_else(|| UnitError(format!("{name} too large: '{text}'")))
    }

    fn write(value: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |(_, factor): &&(&str, u64)| *factor > 1 && value.is_multiple_of(*factor);
        match Self::SUFFIXES.iter().find(exact) {
            Some((suffix, factor)) if value > 0 => write!(f, "{}{suffix}", value / factor),
            _ => write!(f, "{value}"),
        }
    }
}

impl Unit for ConfigDuration {
    const NAME: &'static str = "duration";
    const SUFFIXES: &'static [(&'static str, u64)] = &[
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];
    const SPELLED: &'static str = "ms, s, m, h, d";

    fn from_base(value: u64) -> Self {
        Self(value)
    }
}

impl Unit for ByteSize {
    const NAME: &'static str = "byte size";
    const SUFFIXES: &'static [(&'static str, u64)] = &[
        ("GB", 1 << 30),
        ("G", 1 << 30),
        ("MB", 1 << 20),
        ("M", 1 << 20),
        ("KB", 1 << 10),
        ("K", 1 << 10),
        ("B", 1),
    ];
    const SPELLED: &'static str = "B, K, KB, M, MB, G, GB";

    fn from_base(value: u64) -> Self {
        Self(value)
    }
}

impl ConfigDuration {
    /// A value of whole milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// A value of whole seconds; saturates at the largest number of milliseconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Reads the text form.
    ///
    /// # Errors
    ///
    /// [`UnitError`] when the text does not follow the grammar or the value exceeds 64 bits.
    pub fn parse(text: &str) -> Result<Self, UnitError> {
        <Self as Unit>::parse(text)
    }

    /// The value as the standard type.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl ByteSize {
    /// A value of `bytes` bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Reads the text form.
    ///
    /// # Errors
    ///
    /// [`UnitError`] when the text does not follow the grammar or the value exceeds 64 bits.
    pub fn parse(text: &str) -> Result<Self, UnitError> {
        <Self as Unit>::parse(text)
    }

    /// The value in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ConfigDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Self::write(self.0, f)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Self::write(self.0, f)
    }
}

impl<'de> Deserialize<'de> for ConfigDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnitVisitor(PhantomData))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnitVisitor(PhantomData))
    }
}

struct UnitVisitor<U>(PhantomData<U>);

impl<U: Unit> Visitor<'_> for UnitVisitor<U> {
    type Value = U;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a {}: a number or a string with suffix ({})",
            U::NAME,
            U::SPELLED
        )
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<U, E> {
        Ok(U::from_base(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<U, E> {
        let value = u64::try_from(value);
        value
            .map(U::from_base)
            .map_err(|_| E::custom(format!("{} cannot be negative", U::NAME)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<U, E> {
        U::parse(text).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests;
