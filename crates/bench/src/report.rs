//! The table and the JSON.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

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

/// What a measurement should reach beside another one.
pub(crate) struct Aim {
    pub(crate) name: &'static str,
    pub(crate) of: &'static str,
    pub(crate) to: &'static str,
    pub(crate) least: f64,
}

/// What became of an aim.
#[derive(Debug, Serialize)]
struct Outcome {
    name: &'static str,
    ratio: f64,
    at_least: f64,
    reached: bool,
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

    /// Prints medians, and whether their ratios are what they should be.
    pub(crate) fn print(&self, aims: &[Aim]) {
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
        for Outcome {
            name,
            ratio,
            at_least,
            reached,
        } in self.ratios(aims)
        {
            let verdict = if reached { "reached" } else { "MISSED" };
            println!("{name:<width$} {ratio:>12.2}   at least {at_least:.2}: {verdict}");
        }
    }

    pub(crate) fn write(&self, file: &Path, aims: &[Aim]) -> Result<()> {
        let all = json!({ "measurements": self.lines(), "ratios": self.ratios(aims) });
        std::fs::write(file, serde_json::to_string_pretty(&all)?)?;
        Ok(())
    }

    /// Of the medians, where both were measured.
    fn ratios(&self, aims: &[Aim]) -> Vec<Outcome> {
        let ratio = |aim: &Aim| {
            let ratio = median(self.rounds.get(aim.of)?) / median(self.rounds.get(aim.to)?);
            Some(Outcome {
                name: aim.name,
                ratio,
                at_least: aim.least,
                reached: ratio >= aim.least,
            })
        };
        aims.iter().filter_map(ratio).collect()
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
