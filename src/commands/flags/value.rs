//! Parsers for the values of flags.

use std::str::FromStr as _;
use std::time::Duration;

use ipnet::IpNet;
use jiff::{Span, SpanRelativeTo};

/// Parses a duration such as `500ms`, `1h 30m` or `30d`. A day is 24 hours.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let problem = |_| "expected a duration such as 500ms, 30s, 5m or 30d".to_owned();
    let span = Span::from_str(text).map_err(problem)?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(problem)?;
    Duration::try_from(duration).map_err(problem)
}

/// Parses a rate: a number per second, 0.001 or more.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=1e9).contains(&rate) => Ok(rate),
        _ => Err("expected a number per second of at least 0.001".into()),
    }
}

/// Parses a network such as `10.0.0.0/8`.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    text.parse()
        .map_err(|_| "expected a network such as 10.0.0.0/8, or 10.0.0.1/32 for one address".to_owned())
}

/// Parses a count from 1 to 1,000,000. More connections, requests or jobs at once than that are a typing error.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1_000_000) => Ok(count),
        _ => Err("expected a whole number from 1 to 1000000".into()),
    }
}

/// Parses a size in bytes or jobs of at least 1.
pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if size > 0 => Ok(size),
        _ => Err("expected a whole number of at least 1".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_from_milliseconds_to_weeks() {
        let seconds = |text: &str| duration(text).map(|duration| duration.as_secs_f64());
        assert_eq!(seconds("500ms"), Ok(0.5));
        assert_eq!(seconds("1h 30m"), Ok(5_400.0));
        assert_eq!(seconds("1.5h"), Ok(5_400.0));
        assert_eq!(seconds("30d"), Ok(2_592_000.0));
        assert_eq!(seconds("2w"), Ok(1_209_600.0));
        assert_eq!(seconds("0s"), Ok(0.0));
        for invalid in ["", "5", "-5s", "1 month", "1y", "soon"] {
            assert!(duration(invalid).is_err(), "{invalid}");
        }
    }
}
