//! Figures as a table that is Markdown and can be read as it is.

use std::fmt::Write as _;
use std::time::Duration;

use super::Figures;

/// A row for each: name, T_D (mean, p99, longest), λ_M, T_M, P_A.
pub fn table(rows: &[(String, Figures)]) -> String {
    let mut cells = vec![
        [
            "detector",
            "T_D mean",
            "p99",
            "max",
            "mistakes/h",
            "T_M mean",
            "P_A",
        ]
        .map(str::to_owned),
    ];
    for (name, figures) in rows {
        cells.push([
            name.clone(),
            millis(figures.detection_mean()),
            millis(figures.detection(0.99)),
            millis(figures.detection(1.0)),
            rate(figures.mistakes_an_hour()),
            figures.mistake().map_or_else(|| "-".to_owned(), millis),
            accuracy(figures.accuracy()),
        ]);
    }
    let width = |column: usize| {
        cells
            .iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..7).map(width).collect();
    let mut out = String::new();
    for (place, row) in cells.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let _ = if column == 0 {
                write!(out, "| {cell:<width$} ")
            } else {
                write!(out, "| {cell:>width$} ")
            };
        }
        out.push_str("|\n");
        if place == 0 {
            for (column, width) in widths.iter().enumerate() {
                let (dashes, end) = ("-".repeat(width + 1), if column == 0 { "-" } else { ":" });
                let _ = write!(out, "|{dashes}{end}");
            }
            out.push_str("|\n");
        }
    }
    out
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn rate(an_hour: f64) -> String {
    if an_hour == 0.0 {
        "0".to_owned()
    } else if an_hour < 10.0 {
        format!("{an_hour:.2}")
    } else {
        format!("{an_hour:.0}")
    }
}

/// As many digits as tell it from 1.
fn accuracy(share: f64) -> String {
    if share >= 1.0 {
        return "1".to_owned();
    }
    format!("{share:.7}")
}
