//! One SVG per scenario: bars of the headline figures with the range over the rounds.
//!
//! Owns: the drawing.
//! Does not own: the figures (`report.rs`).
//! Invariants: bars begin at zero; the same target has the same colour in every plot of a run.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::metric::Metric;
use crate::report::{Results, ScenarioResult};
use crate::scenario::Unit;
use crate::statistics::Summary;

const PANEL_WIDTH_MIN: u32 = 420;
/// Room for the name of a target below its bar.
const BAR_WIDTH: u32 = 105;
const HEIGHT: u32 = 380;
/// Colours that stay apart for colour-blind readers.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0x99, 0x99, 0x99),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0xb8, 0xa9, 0x00),
];

/// A bar: target, position of the target in the run, figure.
type Bar = (String, usize, Summary);

/// Draws every scenario that has figures into `dir`.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn draw_all(results: &Results, dir: &Path) -> Result<()> {
    for scenario in &results.scenarios {
        let metrics: Vec<Metric> = scenario
            .metrics()
            .into_iter()
            .filter(|metric| metric.is_headline())
            .collect();
        if metrics.is_empty() {
            continue;
        }
        let path = dir.join(format!("{}.svg", scenario.name));
        draw(scenario, &metrics, &path)
            .map_err(|reason| anyhow!("cannot draw {}: {reason}", path.display()))?;
    }
    Ok(())
}

fn draw(
    scenario: &ScenarioResult,
    metrics: &[Metric],
    path: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let panel = PANEL_WIDTH_MIN.max(80 + BAR_WIDTH * scenario.cells.len() as u32);
    let size = (panel * metrics.len() as u32, HEIGHT);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    let title = format!("{}: {}", scenario.name, scenario.description);
    let root = root.titled(&title, ("sans-serif", 18))?;
    for (area, &metric) in root.split_evenly((1, metrics.len())).iter().zip(metrics) {
        let bars: Vec<Bar> = scenario
            .cells
            .iter()
            .enumerate()
            .filter_map(|(index, cell)| Some((cell.target.clone(), index, cell.summary(metric)?)))
            .collect();
        draw_panel(area, metric, scenario.unit, &bars)?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    metric: Metric,
    unit: Unit,
    bars: &[Bar],
) -> Result<(), Box<dyn std::error::Error>> {
    let top = bars
        .iter()
        .map(|(_, _, summary)| summary.max)
        .fold(0.0, f64::max);
    let top = if top > 0.0 { top * 1.15 } else { 1.0 };
    let mut chart = ChartBuilder::on(area)
        .caption(metric.title(unit), ("sans-serif", 15))
        .margin(10)
        .x_label_area_size(45)
        .y_label_area_size(55)
        .build_cartesian_2d(-0.5..bars.len() as f64 - 0.5, 0.0..top)?;
    let label = |position: &f64| {
        let nearest = position.round();
        let is_bar = nearest >= 0.0 && (position - nearest).abs() < 0.01;
        bars.get(nearest as usize)
            .filter(|_| is_bar)
            .map_or(String::new(), |bar| bar.0.clone())
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE.mix(0.0))
        .x_labels(bars.len() * 2 + 1)
        .x_label_formatter(&label)
        .x_label_style(("sans-serif", 12))
        .y_label_formatter(&|value| ((value * 1e3).round() / 1e3).to_string())
        .draw()?;
    for (position, (_, colour, summary)) in bars.iter().enumerate() {
        let x = position as f64;
        let colour = COLOURS[colour % COLOURS.len()];
        let corners = [(x - 0.35, 0.0), (x + 0.35, summary.median)];
        chart.draw_series([Rectangle::new(corners, colour.filled())])?;
        let range = [(x, summary.min), (x, summary.max)];
        chart.draw_series([PathElement::new(range, BLACK.stroke_width(2))])?;
        let text = metric.format(summary.median);
        let place = (x - 0.3, summary.max + top * 0.06);
        chart.draw_series([Text::new(text, place, ("sans-serif", 13))])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panel_is_drawn_with_one_label_per_target() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("plot.svg");
        {
            let root = SVGBackend::new(&path, (400, 300)).into_drawing_area();
            let bar = |name: &str, index, value| {
                (
                    name.to_owned(),
                    index,
                    Summary::of(&[value]).expect("one round"),
                )
            };
            let bars = [
                bar("direct", 0, 10.0),
                bar("pgbouncer", 1, 7.0),
                bar("third", 2, 5.0),
            ];
            draw_panel(&root, Metric::Throughput, Unit::Transaction, &bars).expect("drawable");
            root.present().expect("writable");
        }
        let text = std::fs::read_to_string(&path).expect("the plot");
        for name in ["direct", "pgbouncer", "third", "tx/s"] {
            assert_eq!(
                text.matches(&format!("\n{name}\n")).count(),
                1,
                "{name} in {text}"
            );
        }
    }
}
