//! How the answers of commands look.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Rows under headings, in columns as wide as they need to be.
pub fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(headings[column].len())
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(headings);
    for row in rows {
        text += &line(row.each_ref().map(String::as_str));
    }
    text
}

/// Text from the database on one line: a key may hold anything, also what steers a terminal.
pub fn printable(text: &str, longest: usize) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut shown: String = plain.clone().take(longest).collect();
    if plain.count() > longest {
        shown.push('…');
    }
    shown
}

/// `2025-01-31T12:00:00Z`.
pub fn time(at: OffsetDateTime) -> String {
    let whole_seconds = at.replace_nanosecond(0).unwrap_or(at);
    let text = whole_seconds
        .to_offset(time::UtcOffset::UTC)
        .format(&Rfc3339);
    text.unwrap_or_else(|_| at.to_string())
}

/// Writes to standard output. A reader that has gone (`| head`) has seen what it wanted.
///
/// # Errors
/// When it cannot be written to, for another reason.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

/// Writes JSON, for `--json`.
///
/// # Errors
/// As [`print()`].
pub fn print_json(answer: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(answer)?;
    text.push('\n');
    print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["1", "a"], ["200", "ü"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(["ID", "KEY"], &rows), "ID   KEY\n1    a\n200  ü\n");
    }

    #[test]
    fn what_is_shown_cannot_steer_a_terminal() {
        assert_eq!(printable("a\u{1b}[2J\nb", 20), "a [2J b");
        assert_eq!(printable("äöüß", 3), "äöü…");
    }

    #[test]
    fn times_are_utc_to_the_second() {
        let at = time::macros::datetime!(2025-01-31 13:00:00.123 +1);
        assert_eq!(time(at), "2025-01-31T12:00:00Z");
    }
}
