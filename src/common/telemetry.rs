//! Logs: for people on a terminal, JSON lines otherwise, always on stderr.

use std::io::{self, IsTerminal as _};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::task;

/// The flags about logs that every command has.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// Format of the log lines on stderr; auto is text on a terminal and JSON otherwise
    #[arg(long, value_enum, default_value_t, global = true, env = "WHK_LOG_FORMAT", help_heading = "Logs")]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or directives such as `whk::deliver=debug`
    #[arg(
        long,
        default_value = "info",
        value_name = "LEVEL",
        global = true,
        env = "WHK_LOG",
        help_heading = "Logs"
    )]
    pub log: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
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
pub fn init(args: &LogArgs) -> Result<(), LogFilterError> {
    let filter = EnvFilter::try_new(&args.log).map_err(|_| LogFilterError(args.log.clone()))?;
    let json = match args.log_format {
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
