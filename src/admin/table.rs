//! A result: columns and rows.
//!
//! **Owns:** its messages, `RowDescription` and `DataRow`.
//! **Does not own:** what is in it.
//! **Invariants:** a row has as many values as there are columns; values are text, and never NULL.

use std::borrow::Cow;

use crate::protocol::writer;

/// What the values of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// `int4`
    Int,
    /// `numeric`: numbers that may outgrow 32 bits, or have a fraction.
    Numeric,
    /// `text`
    Text,
}

impl ColumnType {
    /// OID and size of the type.
    const fn on_the_wire(self) -> (u32, i16) {
        match self {
            Self::Int => (23, 4),
            Self::Numeric => (1700, -1),
            Self::Text => (25, -1),
        }
    }
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The heading.
    pub name: Cow<'static, str>,
    /// What its values are.
    pub kind: ColumnType,
}

impl Column {
    /// A column of type `int4`.
    pub fn int(name: impl Into<Cow<'static, str>>) -> Self {
        let (name, kind) = (name.into(), ColumnType::Int);
        Self { name, kind }
    }

    /// A column of type `numeric`.
    pub fn numeric(name: impl Into<Cow<'static, str>>) -> Self {
        let (name, kind) = (name.into(), ColumnType::Numeric);
        Self { name, kind }
    }

    /// A column of type `text`.
    pub fn text(name: impl Into<Cow<'static, str>>) -> Self {
        let (name, kind) = (name.into(), ColumnType::Text);
        Self { name, kind }
    }
}

/// Columns and rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub const fn new(columns: Vec<Column>) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row: a value for each column.
    pub fn push(&mut self, row: Vec<String>) {
        debug_assert_eq!(row.len(), self.columns.len(), "a value for each column");
        self.rows.push(row);
    }

    /// The columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The rows.
    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    /// Appends the description of the columns.
    pub fn describe(&self, out: &mut Vec<u8>) {
        let columns: Vec<_> = self
            .columns
            .iter()
            .map(|column| {
                let (type_oid, type_size) = column.kind.on_the_wire();
                writer::Column {
                    name: &column.name,
                    type_oid,
                    type_size,
                }
            })
            .collect();
        writer::row_description(out, &columns);
    }

    /// Appends the rows.
    pub fn encode_rows(&self, out: &mut Vec<u8>) {
        for row in &self.rows {
            writer::data_row(out, row.iter().map(|value| Some(value.as_bytes())));
        }
    }

    /// Appends the messages of the table.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.describe(out);
        self.encode_rows(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_its_description_and_its_rows() {
        let columns = vec![Column::text("t"), Column::int("i"), Column::numeric("n")];
        let mut table = Table::new(columns);
        table.push(vec!["a".to_owned(), "-1".to_owned(), "0.5".to_owned()]);
        let mut out = Vec::new();
        table.encode(&mut out);
        let column = |name: u8, oid: u32, size: i16| {
            let mut bytes = vec![name, 0, 0, 0, 0, 0, 0, 0];
            bytes.extend(oid.to_be_bytes());
            bytes.extend(size.to_be_bytes());
            bytes.extend((-1_i32).to_be_bytes());
            bytes.extend([0, 0]);
            bytes
        };
        let description = [
            &b"T\0\0\0\x42\0\x03"[..],
            &column(b't', 25, -1),
            &column(b'i', 23, 4),
            &column(b'n', 1700, -1),
        ];
        let row = b"D\0\0\0\x18\0\x03\0\0\0\x01a\0\0\0\x02-1\0\0\0\x030.5";
        assert_eq!(out, [&description.concat()[..], row].concat());
    }
}
