//! The subcommands, a file each: `Args`, and `run(args)`.

mod api_key_args;
pub mod customer;
pub mod keygen;
pub mod publish_server;
mod retry_args;
pub mod send;
pub mod tenant;

use std::str::FromStr as _;
use std::time::Duration;

use jiff::SignedDuration;

/// Where a server keeps what outlives it, and `whk tenant` looks for its API key.
const DATA_DIR: &str = "whk-data";

/// Parses a duration flag, such as `500ms`, `30s` or `1h 30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let problem = || "a duration such as 500ms, 30s or 5m is needed".to_owned();
    let parsed = SignedDuration::from_str(text).map_err(|_| problem())?;
    Duration::try_from(parsed).map_err(|_| problem())
}

/// Parses a flag that counts something of which at least one is needed, and at most a million makes sense.
fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1_000_000) => Ok(count),
        _ => Err("a whole number from 1 to 1000000 is needed".into()),
    }
}

/// Parses a flag in bytes, or jobs, of which at least one is needed.
fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if size > 0 => Ok(size),
        _ => Err("a whole number of at least 1 is needed".into()),
    }
}
