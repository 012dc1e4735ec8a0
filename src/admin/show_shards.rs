//! `SHOW SHARDS`: the numbers of each shard.
//!
//! **Owns:** which columns there are, made of the table of numbers.
//! **Does not own:** the numbers and their table (`metrics`).
//!
//! A column has the name of the field. Shares are shown in per cent. A number that is counted by kind
//! has a column for each kind, and behind a sum of times comes its mean.

use std::borrow::Cow;

use crate::metrics::Fleet;
use crate::metrics::descriptors::Unit;
use crate::metrics::snapshot::{Reading, ShardSnapshot};

use super::table::{Column, Table};

/// Sums of times: the field of the sum, the field of its count, the column of the mean.
const MEANS: &[(&str, &str, &str)] = &[("wants_wait_us", "wants_granted", "wants_wait_avg_us")];

/// One row a shard, in their order.
pub fn table(fleet: &Fleet) -> Table {
    let rows: Vec<_> = ShardSnapshot::take_all(fleet).iter().map(cells).collect();
    let first = rows.first().into_iter().flatten();
    let mut table = Table::new(first.map(|(column, _)| column.clone()).collect());
    for row in rows {
        table.push(row.into_iter().map(|(_, value)| value).collect());
    }
    table
}

/// The columns and values of one shard.
fn cells(shard: &ShardSnapshot) -> Vec<(Column, String)> {
    let mut cells = vec![(Column::int("shard"), shard.shard.to_string())];
    for reading in &shard.readings {
        let Some(field) = reading.descriptor.source.field() else {
            continue;
        };
        let (name, value) = cell(field, reading);
        cells.push((Column::numeric(name), value));
        if let Some((sum, count, mean)) = MEANS.iter().find(|(sum, ..)| *sum == field) {
            let value = shard.value(sum).checked_div(shard.value(count));
            cells.push((
                Column::numeric(*mean),
                value.unwrap_or_default().to_string(),
            ));
        }
    }
    cells
}

fn cell(field: &'static str, reading: &Reading) -> (Cow<'static, str>, String) {
    let value = reading.value;
    if reading.descriptor.unit == Unit::Permille {
        let stem = field.trim_end_matches("_permille");
        let percent = format!("{}.{}", value / 10, value % 10);
        return (format!("{stem}_percent").into(), percent);
    }
    let name = match reading.kind {
        None => field.into(),
        Some(kind) => format!("{field}_{}", kind.name()).into(),
    };
    (name, value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Droppable;

    /// The value of a column in a row.
    fn value(table: &Table, row: usize, column: &str) -> String {
        let at = table.columns().iter().position(|c| c.name == column);
        table.rows()[row][at.expect(column)].clone()
    }

    #[test]
    fn a_shard_is_a_row() {
        let fleet = Fleet::new(2);
        let metrics = fleet.shard(1);
        metrics.clients.set(9);
        metrics.busy_permille.set(123);
        metrics.wants_wait_us.add(1000);
        metrics.wants_granted.add(4);
        metrics.dropped(Droppable::Grant);
        let table = table(&fleet);
        assert_eq!(table.rows().len(), 2);
        for (column, expected) in [
            ("shard", "1"),
            ("clients", "9"),
            ("busy_percent", "12.3"),
            ("wants_granted", "4"),
            ("wants_wait_avg_us", "250"),
            ("messages_dropped_grant", "1"),
            ("messages_dropped_cancel", "0"),
        ] {
            assert_eq!(value(&table, 1, column), expected, "{column}");
        }
        // Nothing was granted: there is no mean, and nothing is divided by zero.
        assert_eq!(value(&table, 0, "wants_wait_avg_us"), "0");
        assert_eq!(value(&table, 0, "busy_percent"), "0.0");
    }

    #[test]
    fn means_are_of_fields_that_exist() {
        let shard = ShardSnapshot::take(0, Fleet::new(1).shard(0));
        let fields: Vec<_> = shard
            .readings
            .iter()
            .filter_map(|reading| reading.descriptor.source.field())
            .collect();
        for (sum, count, _) in MEANS {
            assert!(fields.contains(sum) && fields.contains(count), "{sum}");
        }
    }
}
