//! What the result of a statement looks like.
//!
//! **Owns:** what two descriptions have to have in common, and which texts have results that a change of
//! tables may change.
//! **Does not own:** who has been told what (`session::prepared`), asking for it (`session::guard`).
//!
//! PostgreSQL gives a prepared statement the result that it had at its Parse, and refuses to run it when
//! that has changed. A server that parses the statement after the change knows only the new result, so
//! the pooler compares.
//!
//! **Invariant:** two results that a client might read differently have different shapes, but for one
//! in four billion. Which table a column comes from, and its format, are not parts of it, nor are they for
//! PostgreSQL. The digest is the same in every build: processes tell it each other.
//!
//! Source: PostgreSQL documentation, `protocol-message-formats.html` (`RowDescription`), `sql-prepare.html`.

use std::ops::Range;

use super::text::{without_space, word};

/// What a description says of a column behind its name.
const COLUMN_BYTES: usize = 18;
/// Where that has OID, size and modifier of the type.
const TYPE: Range<usize> = 6..16;

/// Start and factor of FNV-1a with 64 bits.
const FNV: (u64, u64) = (0xcbf2_9ce4_8422_2325, 0x0000_0100_0000_01b3);

/// A digest of a result's columns: their names and types. The same on all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape(u32);

impl Shape {
    /// Nobody knows.
    pub const UNKNOWN: Self = Self(0);
    /// There is no result.
    pub const NOTHING: Self = Self(1);
    /// Its description is too long to be looked at.
    pub const UNSEEN: Self = Self(2);

    /// As a number, for another process, where it has the same meaning.
    pub const fn digest(self) -> u32 {
        self.0
    }

    /// The opposite of [`Shape::digest`].
    pub const fn from_digest(digest: u32) -> Self {
        Self(digest)
    }

    /// True if somebody knows.
    pub fn is_known(self) -> bool {
        self != Self::UNKNOWN
    }

    /// That of a description, by the tag and the body of its message. The body may be missing if the
    /// message was too long.
    pub fn of(tag: u8, body: Option<&[u8]>) -> Self {
        if tag != b'T' {
            return Self::NOTHING;
        }
        body.and_then(Self::of_columns).unwrap_or(Self::UNSEEN)
    }

    fn of_columns(body: &[u8]) -> Option<Self> {
        let mut sum = FNV.0;
        let mut add = |bytes: &[u8]| {
            for byte in bytes {
                sum = (sum ^ u64::from(*byte)).wrapping_mul(FNV.1);
            }
        };
        let (count, mut rest) = body.split_first_chunk::<2>()?;
        for _ in 0..u16::from_be_bytes(*count) {
            let (name, behind) = rest.split_at(memchr::memchr(0, rest)? + 1);
            add(name);
            // The table's OID and the number of the column there are left out, and so is the format.
            let (column, behind) = behind.split_first_chunk::<COLUMN_BYTES>()?;
            add(&column[TYPE]);
            rest = behind;
        }
        let digest = (sum >> 32) as u32 ^ sum as u32;
        Some(Self(digest.max(Self::UNSEEN.0 + 1)))
    }
}

/// True if the command has a result that depends on what its names stand for.
pub fn may_change(text: &[u8]) -> bool {
    let text = without_space(text);
    if text.starts_with(b"(") {
        return true;
    }
    let (first, rest) = word(text);
    let is = |word: &str| first.eq_ignore_ascii_case(word.as_bytes());
    if ["insert", "update", "delete", "merge"].into_iter().any(is) {
        let end = b"returning".len();
        return rest
            .windows(end)
            .any(|part| part.eq_ignore_ascii_case(b"returning"));
    }
    ["select", "with", "values", "table"].into_iter().any(is)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::writer::{self, Column};

    fn shape(columns: &[Column<'_>]) -> Shape {
        let mut out = Vec::new();
        writer::row_description(&mut out, columns);
        Shape::of(b'T', out.get(5..))
    }

    #[test]
    fn names_types_and_their_number_make_a_shape() {
        let one = shape(&[Column::int4("a")]);
        assert_eq!(one, shape(&[Column::int4("a")]));
        for other in [
            shape(&[]),
            shape(&[Column::int4("b")]),
            shape(&[Column::int8("a")]),
            shape(&[Column::int4("a"), Column::int4("a")]),
            Shape::of(b'n', Some(b"")),
            Shape::of(b'T', None),
        ] {
            assert!(other != one && other.is_known());
        }
    }

    #[test]
    fn the_digest_is_that_of_earlier_versions() {
        let columns = [Column::int4("a"), Column::int8("b")];
        assert_eq!(shape(&columns).digest(), 0x4630_ec09);
        assert_eq!(Shape::from_digest(7).digest(), 7);
    }

    #[test]
    fn the_table_and_the_format_of_a_column_do_not() {
        let column = |place: [u8; 6], format| {
            let mut body = vec![0, 1, b'a', 0];
            body.extend_from_slice(&place);
            body.extend_from_slice(&[0, 0, 0, 23, 0, 4, 255, 255, 255, 255, 0, format]);
            Shape::of(b'T', Some(&body))
        };
        assert_eq!(column([0; 6], 0), column([1; 6], 1));
        assert_ne!(column([0; 6], 0), Shape::UNSEEN);
    }

    #[test]
    fn a_description_that_cannot_be_read_is_a_shape_of_its_own() {
        for body in [&b""[..], b"\0", b"\0\x01a\0", b"\0\x01a"] {
            assert_eq!(Shape::of(b'T', Some(body)), Shape::UNSEEN);
        }
    }

    #[test]
    fn texts_whose_result_may_change_are_known() {
        for text in [
            "select * from t",
            " /* c */ SELECT 1",
            "with a as (select 1) table a",
            "(select 1)",
            "values (1)",
            "table t",
            "insert into t values (1) Returning *",
        ] {
            assert!(may_change(text.as_bytes()), "{text}");
        }
        for text in [
            "",
            "insert into t values (1)",
            "begin",
            "fetch 1 from c",
            "show all",
        ] {
            assert!(!may_change(text.as_bytes()), "{text}");
        }
    }
}
