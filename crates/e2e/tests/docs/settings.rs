//! The table of settings.

use service::settings::{KNOWN, Setting};

use crate::pages::{read, section};

const SERVICES: usize = 3;

fn row(setting: &Setting) -> String {
    let services = if setting.services.len() == SERVICES {
        "all".to_owned()
    } else {
        let names: Vec<_> = setting
            .services
            .iter()
            .map(|service| service.name())
            .collect();
        names.join(", ")
    };
    format!(
        "| `{}` | {} | {} | {} | {services} |",
        setting.name, setting.meaning, setting.expected, setting.default,
    )
}

#[test]
fn the_settings_are_those_that_the_services_know() {
    let readme = read("README.md");
    let table: Vec<&str> = section(&readme, "## Settings")
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let known: Vec<String> = KNOWN.iter().map(row).collect();
    assert!(
        table == known,
        "the table of settings in README.md must be\n{}",
        known.join("\n")
    );
}
