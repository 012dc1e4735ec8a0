//! `SHOW HELP`: the commands that work.
//!
//! **Owns:** the list as a result.
//! **Does not own:** the commands (`command`); the list is made of their tables.

use super::command::{SUBJECTS, USAGES};
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
    shown.chain(USAGES.iter().map(|usage| (*usage).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::command::parse;

    #[test]
    fn what_help_lists_is_understood() {
        let rows = table().rows().len();
        assert_eq!(rows, SUBJECTS.len() + USAGES.len(), "one row a command");
        for item in items() {
            let text = item.replace(['[', ']'], "").replace(" id", " 1");
            let text = text.split('|').next().unwrap();
            assert!(matches!(parse(text.as_bytes())[..], [Ok(_)]), "{item}");
        }
    }
}
