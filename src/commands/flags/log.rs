//! The flags about logs, which every command has.

use clap::ValueEnum;

use crate::common::telemetry::{self, LogFilterError, LogFormat};

/// The flags about logs.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Logs")]
pub struct LogArgs {
    /// Format of the log lines on stderr; auto is text on a terminal and JSON otherwise
    #[arg(long, value_enum, default_value_t, global = true, env = "WHK_LOG_FORMAT", value_name = "FORMAT")]
    log_format: LogFormatFlag,
    /// Log lines to write: error, warn, info, debug or trace, or directives per module such as
    /// `info,whk::deliver=debug`
    #[arg(long, default_value = "info", value_name = "LEVEL", global = true, env = "WHK_LOG")]
    log: String,
}

/// The value of `--log-format`.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum LogFormatFlag {
    /// Text on a terminal, JSON otherwise
    #[default]
    Auto,
    /// Text, one line per event
    Text,
    /// JSON, one object per line
    Json,
}

impl LogArgs {
    /// Starts logging for this process.
    ///
    /// # Errors
    /// `--log` isn't a level or a list of directives.
    pub fn init(&self) -> Result<(), LogFilterError> {
        telemetry::init(&self.log, self.log_format.into())
    }
}

impl From<LogFormatFlag> for LogFormat {
    fn from(flag: LogFormatFlag) -> Self {
        match flag {
            LogFormatFlag::Auto => Self::Auto,
            LogFormatFlag::Text => Self::Text,
            LogFormatFlag::Json => Self::Json,
        }
    }
}
