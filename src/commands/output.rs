//! Printing of results: text for people by default, JSON for programs.

use std::io::{self, Write as _};

use clap::ValueEnum;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;

/// The value of `--output`: the format of a result on stdout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputFormat {
    /// Text for people
    #[default]
    Text,
    /// JSON, in one line
    Json,
}

/// Prints a result: `text` as it is, or `value` as one line of JSON.
///
/// # Errors
/// stdout can't be written, for example because the reader of a pipe has ended.
pub(super) fn print(format: OutputFormat, text: &str, value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match format {
        OutputFormat::Text => writeln!(out, "{}", text.trim_end())?,
        OutputFormat::Json => {
            serde_json::to_writer(&mut out, value)?;
            writeln!(out)?;
        }
    }
    out.flush()
}

/// Returns a table of `rows` under `heading`.
#[must_use]
pub(super) fn table<const N: usize>(
    heading: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(heading);
    for row in rows {
        table.add_row(row);
    }
    let lines = table.lines().map(|line| line.trim().to_owned() + "\n");
    lines.collect()
}

/// Returns names and values, one pair per line. Pairs with an empty value are left out.
#[must_use]
pub(super) fn fields<const N: usize>(fields: [(&str, String); N]) -> String {
    let filled = fields.iter().filter(|(_, value)| !value.is_empty());
    filled.map(|(name, value)| format!("{name:<18}{value}\n")).collect()
}
