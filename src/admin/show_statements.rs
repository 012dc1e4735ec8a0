//! `SHOW PREPARED_STATEMENTS`: the statements that clients have, by pool.
//!
//! **Owns:** its columns.
//! **Does not own:** the accounts (`metrics::statements`), asking the shards for them.

use crate::metrics::statements::{StatementAccount, add_up};

use super::table::{Column, Table};

/// One row a pool and statement, the most used first.
pub fn table(accounts: Vec<StatementAccount>) -> Table {
    let mut table = Table::new(vec![
        Column::text("pool"),
        Column::numeric("hash"),
        Column::text("name"),
        Column::text("query"),
        Column::numeric("count_used"),
        Column::numeric("client_names"),
        Column::numeric("idle_servers"),
        Column::numeric("shards"),
    ]);
    for account in add_up(accounts) {
        let hash = (account.key >> 64) as u64;
        table.push(vec![
            account.pool.into(),
            hash.to_string(),
            account.name.into(),
            account.text.into(),
            account.uses.to_string(),
            account.names.to_string(),
            account.idle_servers.to_string(),
            account.shards.to_string(),
        ]);
    }
    table
}
