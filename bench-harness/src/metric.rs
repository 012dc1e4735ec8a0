//! The figures a measurement yields.
//!
//! Owns: their names, units, number formats, and which of them are compared as ratios.
//! Does not own: how they are measured.
//! Invariants: the order of the variants is the order of the columns.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::scenario::Unit;

/// A kind of figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// Units per second.
    Throughput,
    LatencyP50Ms,
    LatencyP99Ms,
    LatencyP999Ms,
    /// p99 of the same queries before the load began.
    QuietP99Ms,
    /// CPU of all threads and processes of the pooler per unit, µs.
    PoolerCpuUs,
    PoolerUserUs,
    PoolerSystemUs,
    /// CPU of PostgreSQL per unit, µs.
    ServerCpuUs,
    /// CPU of the load driver per unit, µs.
    DriverCpuUs,
    /// Slope of private memory over idle clients, KiB per client.
    KibPerIdleClient,
    /// The same when each client has run one simple and one extended query.
    KibPerUsedClient,
    /// Private memory without clients, KiB.
    KibWithoutClients,
    /// CPU of the machine that nobody in the measurement used, per cent of all CPUs.
    ForeignCpuPercent,
}

/// The figures of one measurement.
pub(crate) type Figures = BTreeMap<Metric, f64>;

impl Metric {
    /// The column title.
    pub(crate) fn title(self, unit: Unit) -> String {
        let unit = unit.symbol();
        match self {
            Self::Throughput => format!("{unit}/s"),
            Self::LatencyP50Ms => "p50 ms".into(),
            Self::LatencyP99Ms => "p99 ms".into(),
            Self::LatencyP999Ms => "p99.9 ms".into(),
            Self::QuietP99Ms => "p99 ms in quiet".into(),
            Self::PoolerCpuUs => format!("pooler CPU µs/{unit}"),
            Self::PoolerUserUs => "user".into(),
            Self::PoolerSystemUs => "system".into(),
            Self::ServerCpuUs => format!("PostgreSQL µs/{unit}"),
            Self::DriverCpuUs => format!("driver µs/{unit}"),
            Self::KibPerIdleClient => "KiB/idle client".into(),
            Self::KibPerUsedClient => "KiB/used client".into(),
            Self::KibWithoutClients => "KiB, no clients".into(),
            Self::ForeignCpuPercent => "foreign CPU %".into(),
        }
    }

    /// Whether the report shows a range and a ratio for it.
    pub(crate) fn is_headline(self) -> bool {
        matches!(
            self,
            Self::Throughput
                | Self::LatencyP99Ms
                | Self::PoolerCpuUs
                | Self::KibPerIdleClient
                | Self::KibPerUsedClient
        )
    }

    /// The value with as many digits as it deserves.
    pub(crate) fn format(self, value: f64) -> String {
        match self {
            Self::LatencyP50Ms | Self::LatencyP99Ms | Self::LatencyP999Ms | Self::QuietP99Ms
                if value < 100.0 =>
            {
                format!("{value:.3}")
            }
            Self::KibPerIdleClient | Self::KibPerUsedClient => format!("{value:.2}"),
            Self::KibWithoutClients | Self::ForeignCpuPercent => format!("{value:.0}"),
            _ if value.abs() >= 1000.0 => format!("{value:.0}"),
            _ => format!("{value:.1}"),
        }
    }
}
