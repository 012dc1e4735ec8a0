//! `SHOW HELP`: the commands that work.
//!
//! **Owns:** the list as a result.
//! **Does not own:** the commands (`command`); the list is made of their tables.

use super::command::{SUBJECTS, WORDS};
use super::table::{Column, Table};

/// One row a command.
pub fn table() -> Table {
    let mut table = Table::new(vec![Column::text("item")]);
    for item in items() {
        table.push(vec![item]);
    }
    table
}

/// The commands as one types them.
pub fn items() -> impl Iterator<Item = String> {
    let shown = SUBJECTS.iter().map(|(name, _)| format!("SHOW {name}"));
    shown.chain(WORDS.iter().map(|(name, _)| (*name).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::command::parse;

    #[test]
    fn what_help_lists_is_understood() {
        assert_eq!(
            table().rows().len(),
            SUBJECTS.len() + WORDS.len(),
            "one row a command"
        );
        for item in items() {
            assert!(parse(item.as_bytes()).is_ok(), "{item}");
        }
    }
}
