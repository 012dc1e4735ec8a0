//! What a check found, and whether that is enough.
//!
//! Owns: figures, their bounds, the verdict, the report as Markdown and JSON.
//! Does not own: measuring.
//! Invariants: a figure with a bound that was not measured fails; a check that did not run to its
//! end fails; a figure without a bound decides nothing.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::machine::Machine;
use crate::report::table;

/// What a figure must be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {}", show(*least)),
            Self::AtMost(most) => write!(f, "≤ {}", show(*most)),
        }
    }
}

/// One measured value.
#[derive(Debug, Serialize)]
struct Figure {
    name: String,
    value: Option<f64>,
    target: Option<Bound>,
    passed: Option<bool>,
}

/// One check with all it found.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    name: &'static str,
    description: &'static str,
    passed: bool,
    figures: Vec<Figure>,
    notes: Vec<String>,
}

impl Finding {
    /// A check that has found nothing yet.
    pub(crate) fn new(name: &'static str, description: &'static str) -> Self {
        Self {
            name,
            description,
            passed: true,
            figures: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// The name of the check.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Whether every figure is as it must be.
    pub(crate) fn is_passed(&self) -> bool {
        self.passed
    }

    /// Adds a figure that decides.
    pub(crate) fn judge(&mut self, name: &str, value: Option<f64>, bound: Bound) {
        let passed = value.is_some_and(|value| bound.holds(value));
        self.passed &= passed;
        self.figures.push(Figure {
            name: name.to_owned(),
            value,
            target: Some(bound),
            passed: Some(passed),
        });
    }

    /// Adds a figure that is there to be seen.
    pub(crate) fn tell(&mut self, name: &str, value: impl Into<Option<f64>>) {
        self.figures.push(Figure {
            name: name.to_owned(),
            value: value.into(),
            target: None,
            passed: None,
        });
    }

    /// Adds a remark.
    pub(crate) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// The check did not run to its end.
    pub(crate) fn fail(&mut self, reason: &str) {
        self.passed = false;
        self.notes.push(format!("did not run to its end: {reason}"));
    }

    /// The figures as a table, with the remarks below.
    pub(crate) fn markdown(&self) -> String {
        let verdict = if self.passed { "pass" } else { "FAIL" };
        let mut text = format!("## {}: {verdict}\n\n{}\n\n", self.name, self.description);
        let header = ["figure", "measured", "target", "verdict"].map(str::to_owned);
        let rows: Vec<Vec<String>> = self.figures.iter().map(row).collect();
        text.push_str(&table(&header, &rows));
        if !self.notes.is_empty() {
            text.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(text, "* {note}");
        }
        text
    }
}

fn row(figure: &Figure) -> Vec<String> {
    let verdict = match figure.passed {
        Some(true) => "pass",
        Some(false) => "FAIL",
        None => "",
    };
    vec![
        figure.name.clone(),
        figure.value.map_or_else(|| "n/a".to_owned(), show),
        figure.target.map_or_else(String::new, |b| b.to_string()),
        verdict.to_owned(),
    ]
}

/// As many digits as a reader needs.
fn show(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}").trim_end_matches('0').to_owned(),
    }
}

/// All checks of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    /// What was checked.
    #[serde(skip)]
    pub(crate) title: &'static str,
    pub(crate) machine: Machine,
    pub(crate) postgres: String,
    /// The program that was checked.
    pub(crate) pooler: String,
    /// `None` when nothing is random.
    pub(crate) seed: Option<u64>,
    pub(crate) checks: Vec<Finding>,
}

impl Verdict {
    /// The whole report.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!(
            "# {}\n\n{}* {}; {}{}\n\n",
            self.title,
            self.machine.facts(),
            self.postgres,
            self.pooler,
            self.seed
                .map_or_else(String::new, |seed| format!("; seed {seed}")),
        );
        for check in &self.checks {
            let _ = writeln!(text, "{}", check.markdown());
        }
        text
    }

    /// Writes `NAME.json` and `NAME.md` into the directory, which need not exist.
    ///
    /// # Errors
    /// One of them cannot be written.
    pub(crate) fn write(&self, directory: &Path, name: &str) -> Result<()> {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let json = serde_json::to_string_pretty(self).context("cannot write JSON")?;
        for (extension, text) in [("json", json), ("md", self.markdown())] {
            let path = directory.join(format!("{name}.{extension}"));
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        eprintln!("Report: {}", directory.join(format!("{name}.md")).display());
        Ok(())
    }

    /// What the program ends with.
    ///
    /// # Errors
    /// A check has failed.
    pub(crate) fn conclude(&self) -> Result<()> {
        let failed = self.checks.iter().filter(|check| !check.is_passed());
        let failed: Vec<&str> = failed.map(Finding::name).collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_figure_out_of_bounds_fails_the_check() {
        let mut finding = Finding::new("x", "y");
        finding.judge("good", Some(0.5), Bound::AtLeast(0.5));
        finding.tell("whatever", -1.0);
        assert!(finding.is_passed());
        finding.judge("bad", Some(1.01), Bound::AtMost(1.0));
        assert!(!finding.is_passed());
        let text = finding.markdown();
        assert!(text.contains("x: FAIL"), "{text}");
        assert!(text.contains("1.01"), "{text}");
    }

    #[test]
    fn a_figure_that_was_not_measured_fails() {
        let mut finding = Finding::new("x", "y");
        finding.judge("absent", None, Bound::AtMost(1.0));
        assert!(!finding.is_passed());
        assert!(finding.markdown().contains("n/a"));
        let mut finding = Finding::new("x", "y");
        finding.fail("no luck");
        assert!(!finding.is_passed());
        assert!(finding.markdown().contains("end: no luck"));
    }

    #[test]
    fn values_are_shown_with_the_digits_they_deserve() {
        assert_eq!(show(12_345.6), "12346");
        assert_eq!(show(0.0), "0");
        assert_eq!(show(0.95), "0.95");
        assert_eq!(show(1.2345), "1.234");
        assert_eq!(show(123.45), "123.5");
    }
}
