//! The subcommands, a file each: `Args`, and `run(args)`.

mod api_key_args;
mod confirm;
mod connection;
pub mod consume_kafka;
pub mod customer;
mod delivery_args;
pub mod dlq;
mod kafka_args;
pub mod kafka_setup;
pub mod keygen;
pub mod message;
pub mod publish_server;
mod redis_args;
mod retry_args;
pub mod send;
pub mod tenant;

use std::str::FromStr as _;
use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

/// Where a server keeps what outlives it, and `whk tenant` looks for its API key.
const DATA_DIR: &str = "whk-data";

/// Parses a duration flag, such as `500ms`, `1h 30m` or `30d`: a day is 24 hours.
fn duration(text: &str) -> Result<Duration, String> {
    let problem = |_| "a duration such as 500ms, 30s, 5m or 30d is needed".to_owned();
    let span = Span::from_str(text).map_err(problem)?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(problem)?;
    Duration::try_from(duration).map_err(problem)
}

/// Parses a flag that says how many a second.
fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=1e9).contains(&rate) => Ok(rate),
        _ => Err("a number a second, 0.001 at least, is needed".into()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_up_to_weeks() {
        let seconds = |text: &str| duration(text).map(|duration| duration.as_secs_f64());
        assert_eq!(seconds("500ms"), Ok(0.5));
        assert_eq!(seconds("1h 30m"), Ok(5_400.0));
        assert_eq!(seconds("1.5h"), Ok(5_400.0));
        assert_eq!(seconds("30d"), Ok(2_592_000.0));
        assert_eq!(seconds("2w"), Ok(1_209_600.0));
        assert_eq!(seconds("0s"), Ok(0.0));
        for odd in ["", "5", "-5s", "1 month", "1y", "soon"] {
            assert!(duration(odd).is_err(), "{odd}");
        }
    }
}
