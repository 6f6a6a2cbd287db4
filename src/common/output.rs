//! What a command prints as its result: for people by default, JSON for programs.

use std::io::{self, Write as _};

use clap::ValueEnum;
use serde::Serialize;

/// The form of a command's result on stdout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
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
pub fn print(format: OutputFormat, text: &str, value: &impl Serialize) -> io::Result<()> {
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
