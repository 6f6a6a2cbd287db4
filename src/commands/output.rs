//! What a command prints as its result: for people by default, JSON for programs.

use std::io::{self, Write as _};

use clap::ValueEnum;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;

/// The form of a command's result on stdout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// Prints a result: `text` as it stands, or `value` as one line of JSON.
///
/// # Errors
/// stdout can't be written, as when the reader of a pipe is gone.
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

/// Rows under a heading, for people.
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

/// Names and values, a line each, for people. What has no value is left out.
#[must_use]
pub(super) fn fields<const N: usize>(fields: [(&str, String); N]) -> String {
    let filled = fields.iter().filter(|(_, value)| !value.is_empty());
    filled.map(|(name, value)| format!("{name:<18}{value}\n")).collect()
}
