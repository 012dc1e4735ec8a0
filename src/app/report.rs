//! What the log tells every fifteen seconds.
//!
//! **Owns:** the line about each pool that has clients.
//! **Does not own:** the numbers (`metrics`).

use crate::metrics::Fleet;
use crate::metrics::window::{PoolView, views};

/// Writes a line for each pool that has clients.
pub(super) fn write(fleet: &Fleet) {
    for view in views(fleet) {
        if view.now.clients > 0 {
            tracing::info!("{}", line(&view));
        }
    }
}

fn line(view: &PoolView) -> String {
    let PoolView {
        database,
        user,
        now,
        recent,
        averages,
    } = view;
    let millis = |micros: u64| format!("{}.{:03}", micros / 1000, micros % 1000);
    let percentile = |percent| {
        let query = millis(recent.queries.percentile_us(percent));
        let transaction = millis(recent.transactions.percentile_us(percent));
        format!("p{percent}: {query}/{transaction}")
    };
    format!(
        "[{user}@{database}] {}qps/{}tps, {} clients [active: {}, idle: {}, waiting: {}], \
         {} servers [active: {}, idle: {}], query/xact ms: [{}], avg_wait: {} ms",
        averages.queries,
        averages.transactions,
        now.clients,
        now.clients_active,
        now.clients_idle(),
        now.clients_waiting,
        now.servers(),
        now.servers_active,
        now.servers_idle,
        [99, 95, 90, 50].map(percentile).join(" "),
        millis(averages.wait_us),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Enrolled;

    #[test]
    fn a_line_has_the_numbers_of_the_pool() {
        let fleet = Fleet::new(1);
        let pool = Enrolled::new(&fleet, 0, "db", "u");
        pool.clients.add(3);
        pool.clients_active.add(1);
        pool.servers_active.add(1);
        pool.queries.record(1500);
        let line = line(&views(&fleet)[0]);
        assert!(line.starts_with("[u@db] 0qps/0tps, 3 clients [active: 1, idle: 2, waiting: 0]"));
        assert!(
            line.contains("1 servers [active: 1, idle: 0], query/xact ms: [p99: 1.5"),
            "{line}"
        );
    }
}
