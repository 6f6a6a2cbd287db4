//! The flags that select dead letters.

use std::fmt::Write as _;

use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::cause::{CauseFlag, FaultFlag};
use crate::api::DeadSelection;
use crate::commands::flags::value::duration;
use crate::commands::message::TenantFilter;
use crate::common::id::{EndpointId, MessageId};
use crate::common::retry::{CauseKind, Fault};
use crate::exit::UsageError;

/// Conditions on dead letters. A dead letter must meet every condition that is given.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Selection")]
pub(super) struct FilterArgs {
    #[command(flatten)]
    pub(super) tenant: TenantFilter,
    /// Only dead letters of this endpoint
    #[arg(long, value_name = "ENDPOINT-ID")]
    endpoint: Option<EndpointId>,
    /// Only dead letters with this cause; repeat the flag or separate causes with commas
    #[arg(long, value_enum, value_name = "CAUSE", value_delimiter = ',')]
    cause: Vec<CauseFlag>,
    /// Only dead letters that are the customer's or the system's fault
    #[arg(long, value_enum, value_name = "PARTY")]
    fault: Option<FaultFlag>,
    /// Only dead letters that died at this time or later: 2026-11-23T09:00:00Z, or a duration before now, such as 2h or 30d
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Only dead letters that died before this time, given like --since
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
}

impl FilterArgs {
    /// Returns the conditions as a query string. Each parameter follows an `&`.
    pub(super) fn query(&self) -> String {
        let mut query = String::new();
        // Writing to a String can't fail.
        let mut add = |name: &str, value: &str| {
            let _ = write!(query, "&{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
        };
        if let Some(endpoint) = self.endpoint {
            add("endpoint", &endpoint.to_string());
        }
        self.cause.iter().for_each(|cause| add("cause", CauseKind::from(*cause).as_str()));
        if let Some(fault) = self.fault {
            add(
                "fault",
                match fault {
                    FaultFlag::Customer => "customer",
                    FaultFlag::System => "system",
                },
            );
        }
        if let Some(since) = self.since {
            add("since", &since.to_string());
        }
        if let Some(until) = self.until {
            add("until", &until.to_string());
        }
        query
    }

    /// Returns whether a condition is given. `--tenant me` isn't one, because it selects all that the key can see.
    fn is_given(&self) -> bool {
        let of_one = self.tenant.tenant.as_deref().is_some_and(|tenant| tenant != crate::registry::name::ME);
        of_one || !self.query().is_empty()
    }

    fn selection(&self) -> DeadSelection {
        DeadSelection {
            endpoint: self.endpoint,
            cause: Some(self.cause.iter().copied().map(CauseKind::from).collect())
                .filter(|causes: &Vec<_>| !causes.is_empty()),
            fault: self.fault.map(Fault::from),
            since: self.since,
            until: self.until,
            ..DeadSelection::default()
        }
    }
}

/// The selection: message ids, conditions, or all.
#[derive(Debug, clap::Args)]
pub(super) struct SelectArgs {
    /// Ids of the messages
    #[arg(value_name = "MESSAGE-ID", conflicts_with_all = ["endpoint", "cause", "fault", "since", "until", "all"])]
    ids: Vec<MessageId>,
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    /// All dead letters that the API key can see; required if no id and no condition is given
    #[arg(long, help_heading = "Selection")]
    all: bool,
    /// Only print how many dead letters are selected
    #[arg(long, help_heading = "Operation")]
    pub(super) dry_run: bool,
    /// Maximum number of dead letters, the oldest first. Default: all that are selected
    #[arg(long, help_heading = "Operation", value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "ids")]
    pub(super) limit: Option<u64>,
}

impl SelectArgs {
    /// Returns the requests to send, one after another: one per message id, or a single one with the conditions.
    ///
    /// # Errors
    /// Nothing is selected.
    pub(super) fn selections(&self) -> Result<Vec<DeadSelection>, UsageError> {
        if !self.ids.is_empty() {
            let one = |id: &MessageId| DeadSelection { message: Some(*id), ..DeadSelection::default() };
            return Ok(self.ids.iter().map(one).collect());
        }
        if !self.all && !self.filter.is_given() {
            let needed = "no dead letters are selected; pass message ids, --tenant NAME, --endpoint, --cause, --fault, --since or \
                          --until, or --all";
            return Err(UsageError(needed.into()));
        }
        Ok(vec![DeadSelection { all: true, ..self.filter.selection() }])
    }
}

/// Parses a time, or a duration before now.
fn time(text: &str) -> Result<Timestamp, String> {
    let problem = || {
        "expected a time such as 2026-11-23T09:00:00Z, or a duration before now, such as 2h or 30d".to_owned()
    };
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let ago = duration(text).map_err(|_| problem())?;
    Timestamp::now().checked_sub(ago).map_err(|_| problem())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        select: SelectArgs,
    }

    fn select(arguments: &[&str]) -> SelectArgs {
        Line::try_parse_from([&["whk"], arguments].concat()).unwrap().select
    }

    #[test]
    fn a_time_is_absolute_or_a_duration_before_now() {
        assert_eq!(time("2026-11-23T09:00:00+01:00").unwrap(), "2026-11-23T08:00:00Z".parse().unwrap());
        let then = time("30d").unwrap();
        let days = Duration::from_secs(30 * 86_400);
        let ago = Duration::try_from(Timestamp::now().duration_since(then)).unwrap();
        assert!((days..days + Duration::from_secs(60)).contains(&ago), "{ago:?}");
        for invalid in ["yesterday", "2026-11-23", "-2h", "1 month", "9000000d"] {
            assert!(time(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn without_ids_and_conditions_all_is_required() {
        assert!(select(&[]).selections().is_err());
        assert!(select(&["--tenant", "me"]).selections().is_err());
        for given in
            [vec!["--all"], vec!["--tenant", "Acme"], vec!["--tenant", "me", "--cause", "gone,damaged"]]
        {
            assert_eq!(select(&given).selections().unwrap().len(), 1, "{given:?}");
        }
        let id = MessageId::new().to_string();
        let named = select(&[&id, &id]);
        assert_eq!(named.selections().unwrap().len(), 2);
        assert!(Line::try_parse_from(["whk", &id, "--all"]).is_err());
    }

    #[test]
    fn a_query_contains_the_given_conditions() {
        let id = EndpointId::new().to_string();
        let given = select(&[
            "--endpoint",
            &id,
            "--cause",
            "gone",
            "--fault",
            "system",
            "--since",
            "2026-01-01T00:00:00Z",
        ]);
        let query = given.filter.query();
        assert!(query.contains("&cause=gone&fault=system&since=2026%2D01%2D01T00%3A00%3A00Z"), "{query}");
    }
}
