//! The table and the JSON.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::cpu::Cpu;

/// All rounds of all measurements, in the order they were first met.
#[derive(Debug, Default)]
pub(crate) struct Report {
    names: Vec<String>,
    rounds: BTreeMap<String, Vec<f64>>,
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    unit: &'static str,
    median: f64,
    lowest: f64,
    highest: f64,
    rounds: Vec<f64>,
}

fn unit(name: &str) -> &'static str {
    if name.starts_with("CPU") {
        "µs/event"
    } else if name.contains("memory") {
        "MB"
    } else if name.contains("idle") {
        "% of a core"
    } else {
        "events/s"
    }
}

impl Report {
    pub(crate) fn add(&mut self, name: &str, figure: f64) {
        println!("    {name}: {figure:.1} {}", unit(name));
        if !self.rounds.contains_key(name) {
            self.names.push(name.to_owned());
        }
        self.rounds.entry(name.to_owned()).or_default().push(figure);
    }

    /// What a measurement used of the processor, per event; `own` is the relay's, or that of the
    /// loop in its place.
    pub(crate) fn cpu(&mut self, name: &str, servers: Cpu, own: f64) {
        for (who, figure) in [
            ("Postgres", servers.postgres),
            ("Kafka", servers.kafka),
            ("own", own),
        ] {
            self.add(&format!("CPU, {who}: {name}"), figure);
        }
    }

    /// The ratio of the medians.
    fn ratio(&self, of: &str, to: &str) -> Option<f64> {
        Some(median(self.rounds.get(of)?) / median(self.rounds.get(to)?))
    }

    /// Prints medians, and the ratios `(name, of, to, at least)`.
    pub(crate) fn print(&self, ratios: &[(&str, &str, &str, f64)]) {
        let names = self.names.iter().map(|name| name.chars().count());
        let width = names.max().unwrap_or(0);
        println!(
            "\n{:<width$} {:>12} {:>12} {:>12}",
            "", "median", "lowest", "highest"
        );
        for line in self.lines() {
            println!(
                "{:<width$} {:>12.1} {:>12.1} {:>12.1} {}",
                line.name, line.median, line.lowest, line.highest, line.unit
            );
        }
        println!();
        for (name, of, to, least) in ratios {
            if let Some(ratio) = self.ratio(of, to) {
                let verdict = if ratio >= *least { "reached" } else { "MISSED" };
                println!("{name:<width$} {ratio:>12.2}   at least {least:.2}: {verdict}");
            }
        }
    }

    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        std::fs::write(file, serde_json::to_string_pretty(&self.lines())?)?;
        Ok(())
    }

    fn lines(&self) -> Vec<Line> {
        let line = |name: &String| {
            let rounds = &self.rounds[name];
            Line {
                name: name.clone(),
                unit: unit(name),
                median: median(rounds),
                lowest: rounds.iter().copied().fold(f64::INFINITY, f64::min),
                highest: rounds.iter().copied().fold(0.0, f64::max),
                rounds: rounds.clone(),
            }
        };
        self.names.iter().map(line).collect()
    }
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
