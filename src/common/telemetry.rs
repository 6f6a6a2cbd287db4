//! Logging to stderr: text on a terminal, JSON lines otherwise.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::task;

/// Format of the log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Text.
    Text,
    /// JSON, with one object per line.
    Json,
}

/// The directives of `--log` can't be parsed.
#[derive(Debug, thiserror::Error)]
#[error("--log {0:?} isn't a level or a list of directives")]
pub struct LogFilterError(String);

/// Starts logging in this process, and logs panics from now on.
///
/// `directives` is a level, or a list such as `info,whk::deliver=debug`.
///
/// # Errors
/// The directives can't be parsed.
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
    // A second call keeps the first subscriber. Tests in one process call this more than once.
    drop(started);
    task::log_panics();
    Ok(())
}
