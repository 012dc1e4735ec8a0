//! `SHOW PREPARED_STATEMENTS`: the statements that clients have, by pool.
//!
//! **Owns:** its columns.
//! **Does not own:** the accounts and adding them up (`metrics::statements`), asking the shards for them.

use crate::metrics::statements::StatementAccount;

use super::table::{Column, Table};

/// One row an account, in their order.
pub fn table(accounts: &[StatementAccount]) -> Table {
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
    for account in accounts {
        let hash = (account.key >> 64) as u64;
        table.push(vec![
            account.pool.to_string(),
            hash.to_string(),
            account.name.to_string(),
            account.text.to_string(),
            account.uses.to_string(),
            account.names.to_string(),
            account.idle_servers.to_string(),
            account.shards.to_string(),
        ]);
    }
    table
}
