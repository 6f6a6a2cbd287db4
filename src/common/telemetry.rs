//! Logs: for people on a terminal, JSON lines otherwise, always on stderr.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::task;

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// `--log` isn't understood.
#[derive(Debug, thiserror::Error)]
#[error("--log {0:?} isn't a level or a list of directives")]
pub struct LogFilterError(String);

/// Starts logging for this process.
///
/// # Errors
/// `--log` isn't understood.
pub fn init(directives: &str, format: LogFormat) -> Result<(), LogFilterError> {
    let filter = EnvFilter::try_new(directives).map_err(|_| LogFilterError(directives.to_owned()))?;
    let json = match format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = if json {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).finish().try_init()
    } else {
        builder.with_target(false).with_ansi(io::stderr().is_terminal()).finish().try_init()
    };
    // A second call, as tests in one process make, keeps the first subscriber.
    drop(started);
    task::log_panics();
    Ok(())
}
