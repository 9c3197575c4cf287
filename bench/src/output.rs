//! The only place that prints.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use crate::row::Row;

const TITLES: [&str; 5] = ["what", "goal", "measured", "met", "details"];

/// What is being done, for who waits.
pub(crate) fn progress(words: &str) {
    eprintln!("{words}");
}

/// A child's answer to its parent.
pub(crate) fn answer(figure: impl std::fmt::Display) {
    println!("{figure}");
}

/// The figures as a Markdown table, aligned.
pub(crate) fn table(rows: &[Row]) {
    let cells: Vec<[String; 5]> = rows.iter().map(cells).collect();
    let titles = TITLES.map(ToOwned::to_owned);
    let width = |column: usize| {
        let all = cells.iter().chain([&titles]);
        all.map(|row| row[column].chars().count()).max().unwrap_or(0)
    };
    let widths = [0, 1, 2, 3, 4].map(width);
    print_cells(&titles, &widths);
    print_cells(&widths.map(|width| "-".repeat(width)), &widths);
    for row in &cells {
        print_cells(row, &widths);
    }
}

fn cells(row: &Row) -> [String; 5] {
    let met = match row.goal.is_met(row.measured) {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "",
    };
    let measured = row.unit.show(row.measured);
    [row.what.to_owned(), row.goal.show(row.unit), measured, met.to_owned(), row.details.clone()]
}

fn print_cells(cells: &[String; 5], widths: &[usize; 5]) {
    let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
    println!("| {} |", padded.collect::<Vec<_>>().join(" | "));
}
