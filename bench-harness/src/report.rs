//! The result of a run as JSON and Markdown.
//!
//! Owns: the shape of the results, summarising rounds, ratios to the baseline, the tables.
//! Does not own: the plots (`plot.rs`).
//! Invariants: a figure that was not measured is absent in JSON and `n/a` in a table, never zero.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use crate::machine::Machine;
use crate::metric::{Figures, Metric};
use crate::scenario::{Scenario, Unit};
use crate::statistics::Summary;
use crate::target::Target;

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) postgres: String,
    pub(crate) settings: Settings,
    pub(crate) targets: Vec<TargetFacts>,
    pub(crate) scenarios: Vec<ScenarioResult>,
}

/// What the run was asked for.
#[derive(Debug, Serialize)]
pub(crate) struct Settings {
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
    pub(crate) pool_size: u32,
    pub(crate) script: String,
    pub(crate) pgbench_jobs: u32,
    /// The target that ratios refer to.
    pub(crate) baseline: String,
}

/// What a target is.
#[derive(Debug, Serialize)]
pub(crate) struct TargetFacts {
    name: String,
    description: String,
    version: String,
    shards: u16,
    processes: u16,
}

impl TargetFacts {
    /// The facts of one target.
    pub(crate) fn new(target: &Target) -> Self {
        Self {
            name: target.name.clone(),
            description: target.description.clone(),
            version: target.version_text.clone(),
            shards: target.shards,
            processes: target.processes,
        }
    }
}

/// One scenario over all targets.
#[derive(Debug, Serialize)]
pub(crate) struct ScenarioResult {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) unit: Unit,
    pub(crate) cells: Vec<Cell>,
}

impl ScenarioResult {
    /// Puts the cells of a scenario together.
    pub(crate) fn new(scenario: &Scenario, cells: Vec<Cell>) -> Self {
        Self {
            name: scenario.name.clone(),
            description: scenario.description.clone(),
            unit: scenario.unit(),
            cells,
        }
    }

    /// The metrics that at least one target has.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let mut metrics: Vec<Metric> = self
            .cells
            .iter()
            .flat_map(|cell| cell.figures().into_iter().map(|(m, _)| m))
            .collect();
        metrics.sort();
        metrics.dedup();
        metrics
    }

    /// The summary of one metric of one target.
    pub(crate) fn summary(&self, target: &str, metric: Metric) -> Option<Summary> {
        self.cells
            .iter()
            .find(|cell| cell.target == target)?
            .summary(metric)
    }
}

/// One scenario on one target.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) target: String,
    rounds: Vec<Figures>,
    /// Why figures are missing.
    pub(crate) notes: Vec<String>,
}

impl Cell {
    /// A cell without figures; its note says so when the target cannot do the scenario.
    pub(crate) fn new(target: &Target, scenario: &Scenario) -> Self {
        let notes = target.lacks(scenario).into_iter().collect();
        Self {
            target: target.name.clone(),
            rounds: Vec::new(),
            notes,
        }
    }

    /// Adds the outcome of one round.
    pub(crate) fn add(&mut self, round: u32, outcome: Result<Figures>) {
        match outcome {
            Ok(figures) => self.rounds.push(figures),
            Err(error) => {
                let text = format!("{error:#}").replace('\n', " ");
                self.notes.push(format!("round {round} failed: {text}"));
            }
        }
    }

    /// One metric over all rounds.
    pub(crate) fn summary(&self, metric: Metric) -> Option<Summary> {
        let values: Vec<f64> = self
            .rounds
            .iter()
            .filter_map(|figures| figures.get(&metric))
            .copied()
            .collect();
        Summary::of(&values)
    }

    fn figures(&self) -> Vec<(Metric, Summary)> {
        let mut metrics: Vec<Metric> = self
            .rounds
            .iter()
            .flat_map(|figures| figures.keys().copied())
            .collect();
        metrics.sort();
        metrics.dedup();
        metrics
            .into_iter()
            .filter_map(|metric| Some((metric, self.summary(metric)?)))
            .collect()
    }
}

impl Serialize for Cell {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let figures: std::collections::BTreeMap<Metric, Summary> =
            self.figures().into_iter().collect();
        let mut fields = serializer.serialize_struct("Cell", 3)?;
        fields.serialize_field("target", &self.target)?;
        fields.serialize_field("figures", &figures)?;
        fields.serialize_field("notes", &self.notes)?;
        fields.end()
    }
}

impl Results {
    /// The whole report.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from("# Connection poolers side by side\n\n");
        self.write_facts(&mut text);
        for (metric, title) in [
            (Metric::PoolerCpuUs, "CPU of the pooler, µs per unit"),
            (Metric::Throughput, "Throughput, units per second"),
            (Metric::LatencyP99Ms, "p99 latency, ms"),
        ] {
            let Some(table) = self.overview(metric) else {
                continue;
            };
            let _ = write!(text, "## {title}\n\n{table}\n");
        }
        for scenario in &self.scenarios {
            let _ = write!(text, "## {}: {}\n\n", scenario.name, scenario.description);
            let _ = write!(
                text,
                "{}",
                self.scenario_table(scenario, &scenario.metrics())
            );
            if !scenario.metrics().is_empty() {
                let _ = write!(text, "\n![{0}]({0}.svg)\n", scenario.name);
            }
            text.push('\n');
        }
        text
    }

    fn write_facts(&self, text: &mut String) {
        let (machine, settings) = (&self.machine, &self.settings);
        let _ = write!(
            text,
            "{}* {}; script {}, pgbench with {} threads\n\
             * {} rounds of {} s, medians (min–max); pool size {}; × is relative to {}\n",
            machine.facts(),
            self.postgres,
            settings.script,
            settings.pgbench_jobs,
            settings.rounds,
            settings.seconds,
            settings.pool_size,
            settings.baseline,
        );
        for target in &self.targets {
            let _ = write!(text, "* **{}**: {}", target.name, target.description);
            if !target.version.is_empty() {
                let _ = write!(text, " ({})", target.version);
            }
            text.push('\n');
        }
        text.push('\n');
    }

    /// One metric of all scenarios and targets; `None` when fewer than two scenarios have it.
    fn overview(&self, metric: Metric) -> Option<String> {
        let names = self.targets.iter().map(|target| target.name.clone());
        let header: Vec<String> = std::iter::once("scenario".to_owned())
            .chain(names)
            .collect();
        let mut rows = Vec::new();
        for scenario in self
            .scenarios
            .iter()
            .filter(|s| s.metrics().contains(&metric))
        {
            let cells = self.targets.iter().map(|target| {
                let Some(summary) = scenario.summary(&target.name, metric) else {
                    return "n/a".to_owned();
                };
                let value = metric.format(summary.median);
                match self.ratio(scenario, &target.name, metric) {
                    Some(ratio) => format!("{value} ({ratio})"),
                    None => value,
                }
            });
            let unit = scenario.unit.symbol();
            let name = format!("{}, {unit}", scenario.name);
            rows.push(std::iter::once(name).chain(cells).collect());
        }
        (rows.len() > 1).then(|| table(&header, &rows))
    }

    /// The table of one scenario with the given columns, followed by its notes.
    pub(crate) fn scenario_table(&self, scenario: &ScenarioResult, metrics: &[Metric]) -> String {
        let mut header = vec!["target".to_owned()];
        for metric in metrics {
            header.push(metric.title(scenario.unit));
            if metric.is_headline() {
                header.push("×".into());
            }
        }
        let mut rows = Vec::new();
        let mut notes = String::new();
        for cell in &scenario.cells {
            let mut row = vec![cell.target.clone()];
            for &metric in metrics {
                let summary = cell.summary(metric);
                row.push(summary.map_or("n/a".into(), |summary| show(metric, &summary)));
                if metric.is_headline() {
                    row.push(
                        self.ratio(scenario, &cell.target, metric)
                            .unwrap_or_default(),
                    );
                }
            }
            rows.push(row);
            for note in &cell.notes {
                let _ = write!(notes, "\n* {}: {note}", cell.target);
            }
        }
        if !notes.is_empty() {
            notes.push('\n');
        }
        table(&header, &rows) + &notes
    }

    /// A target's median relative to the baseline's; `None` for the baseline itself.
    fn ratio(&self, scenario: &ScenarioResult, target: &str, metric: Metric) -> Option<String> {
        if target == self.settings.baseline {
            return None;
        }
        let baseline = scenario.summary(&self.settings.baseline, metric)?.median;
        let value = scenario.summary(target, metric)?.median;
        (baseline > 0.0).then(|| format!("{:.2}×", value / baseline))
    }
}

/// The median, and the range where it matters.
fn show(metric: Metric, summary: &Summary) -> String {
    let median = metric.format(summary.median);
    if !metric.is_headline() || summary.rounds.len() < 2 {
        return median;
    }
    format!(
        "{median} ({}–{})",
        metric.format(summary.min),
        metric.format(summary.max)
    )
}

/// A Markdown table with aligned columns, readable as plain text too.
pub(crate) fn table(header: &[String], rows: &[Vec<String>]) -> String {
    let width_of = |cell: &String| cell.chars().count();
    let mut widths: Vec<usize> = header.iter().map(width_of).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(width_of(cell));
        }
    }
    let line = |cells: &[String]| {
        let mut text = String::from("|");
        for (index, (cell, &width)) in cells.iter().zip(&widths).enumerate() {
            let _ = match index {
                0 => write!(text, " {cell:<width$} |"),
                _ => write!(text, " {cell:>width$} |"),
            };
        }
        text + "\n"
    };
    let mut rule = String::from("|");
    for (index, &width) in widths.iter().enumerate() {
        let dashes = "-".repeat(width.max(1));
        rule = if index == 0 {
            format!("{rule} {dashes} |")
        } else {
            format!("{rule} {dashes}:|")
        };
    }
    let mut text = line(header) + &rule + "\n";
    for row in rows {
        text.push_str(&line(row));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(target: &str, throughput: &[f64]) -> Cell {
        let rounds = throughput
            .iter()
            .map(|&v| Figures::from([(Metric::Throughput, v)]))
            .collect();
        Cell {
            target: target.into(),
            rounds,
            notes: Vec::new(),
        }
    }

    fn results(cells: Vec<Cell>) -> Results {
        let scenario = ScenarioResult {
            name: "simple-40".into(),
            description: "40 clients".into(),
            unit: Unit::Transaction,
            cells,
        };
        let settings = Settings {
            rounds: 3,
            seconds: 10,
            pool_size: 40,
            script: "select-only".into(),
            pgbench_jobs: 2,
            baseline: "base".into(),
        };
        let (machine, targets) = (Machine::read(), Vec::new());
        Results {
            machine,
            postgres: "15".into(),
            settings,
            targets,
            scenarios: vec![scenario],
        }
    }

    #[test]
    fn table_shows_median_range_and_ratio() {
        let results = results(vec![
            cell("base", &[10.0, 30.0, 20.0]),
            cell("mine", &[40.0]),
        ]);
        let text = results.scenario_table(&results.scenarios[0], &[Metric::Throughput]);
        assert!(text.contains("| base   | 20.0 (10.0–30.0) |"), "{text}");
        assert!(text.contains("40.0 | 2.00× |"), "{text}");
    }

    #[test]
    fn missing_figures_are_not_zero() {
        let mut empty = cell("mine", &[]);
        empty.add(2, Err(anyhow::anyhow!("no such luck")));
        let results = results(vec![cell("base", &[10.0]), empty]);
        let text = results.markdown();
        assert!(text.contains("n/a"), "{text}");
        assert!(
            text.contains("* mine: round 2 failed: no such luck"),
            "{text}"
        );
        let json = serde_json::to_value(&results).expect("serializable");
        let cells = &json["scenarios"][0]["cells"];
        assert_eq!(cells[0]["figures"]["throughput"]["median"], 10.0);
        assert!(
            cells[1]["figures"]
                .as_object()
                .expect("an object")
                .is_empty()
        );
    }

    #[test]
    fn table_columns_are_aligned_by_characters() {
        let text = table(
            &["a".into(), "µs".into()],
            &[vec!["long".into(), "1".into()]],
        );
        assert_eq!(text, "| a    | µs |\n| ---- | --:|\n| long |  1 |\n");
    }
}
