//! Conversions between Rust values and the columns of the queue's database.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::types::{Type, Value};
use rusqlite::{Error, Row};

use crate::common::attempt::{self, Attempt};
use crate::common::endpoint_url::EndpointUrl;
use crate::common::id::MessageId;
use crate::common::job::Target;
use crate::common::retry::CauseKind;
use crate::queue::dead::{DeadCursor, DeadFilter, DeadLetter};
use crate::queue::message::{MessageRecord, MessageState};

/// Converts a time to its stored form, microseconds.
pub(super) fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

/// Converts stored microseconds to a time.
pub(super) fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or_default()
}

/// Returns the tenant of a lane. Lanes of direct mode have none.
pub(super) fn tenant_of(target: &Target) -> Option<String> {
    match target {
        Target::Endpoint(tenant, _) => Some(tenant.to_string()),
        Target::Url(_) => None,
    }
}

/// Converts a target to the columns `endpoint` and `url`, exactly one of which is set.
pub(super) fn columns_of(target: &Target) -> (Option<String>, Option<String>) {
    match target {
        Target::Endpoint(_, id) => (Some(id.to_string()), None),
        Target::Url(url) => (None, Some(url.uri().to_string())),
    }
}

/// Parses stored attempts. Returns none if they can't be parsed.
pub(super) fn attempts_from(stored: Option<String>) -> Vec<Attempt> {
    stored.and_then(|stored| serde_json::from_str(&stored).ok()).unwrap_or_default()
}

/// Adds an attempt, if one was made, to stored attempts.
pub(super) fn attempts_with(stored: Option<String>, attempt: Option<&Attempt>) -> Option<String> {
    let Some(made) = attempt else { return stored };
    let mut attempts = attempts_from(stored);
    attempt::keep(&mut attempts, made.clone());
    serde_json::to_string(&attempts).ok()
}

/// Reads a row of `dead`.
pub(super) fn letter(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    let cause = CauseKind::parse(&row.get::<_, String>("cause")?).ok_or_else(|| damaged("cause"))?;
    let died_at = Timestamp::from_millisecond(row.get("died_at")?).map_err(|_| damaged("died_at"))?;
    let tenant: Arc<str> = row.get::<_, String>("tenant")?.into();
    Ok(DeadLetter {
        id: MessageId::from_bytes(row.get("id")?),
        target: target(row, &tenant)?,
        tenant,
        cause,
        detail: row.get("detail")?,
        attempts: row.get("failures")?,
        published_at: time(row.get("published_at")?),
        died_at,
        bytes: row.get("bytes")?,
    })
}

/// Reads a row of `delivered`.
pub(super) fn delivered(row: &Row<'_>) -> rusqlite::Result<MessageRecord> {
    let tenant: Arc<str> = row.get::<_, String>("tenant")?.into();
    Ok(MessageRecord {
        id: MessageId::from_bytes(row.get("id")?),
        target: target(row, &tenant)?,
        tenant,
        published_at: time(row.get("published_at")?),
        state: MessageState::Delivered,
        attempts: attempts_from(row.get("attempts")?),
    })
}

fn target(row: &Row<'_>, tenant: &str) -> rusqlite::Result<Target> {
    if let Some(endpoint) = row.get::<_, Option<String>>("endpoint")? {
        let tenant = tenant.parse().map_err(|_| damaged("tenant"))?;
        return Ok(Target::Endpoint(tenant, endpoint.parse().map_err(|_| damaged("endpoint"))?));
    }
    let url: String = row.get("url")?;
    EndpointUrl::parse(&url).map(Target::Url).map_err(|_| damaged("url"))
}

/// Builds the error of a damaged value. It does not show the value, which may be a secret.
fn damaged(column: &'static str) -> Error {
    Error::FromSqlConversionFailure(0, Type::Text, format!("column {column} is damaged").into())
}

/// A filter of dead letters as the conditions of a WHERE clause, with their parameters.
pub(super) struct SqlFilter {
    pub(super) conditions: String,
    pub(super) params: Vec<Value>,
}

impl SqlFilter {
    pub(super) fn new(filter: &DeadFilter, after: Option<DeadCursor>) -> Self {
        let mut all = Self { conditions: "true".to_owned(), params: Vec::new() };
        if let Some(tenant) = filter.tenant {
            all.and("endpoint IS NOT NULL AND tenant = ?", [Value::Text(tenant.to_string())]);
        }
        if let Some(endpoint) = filter.endpoint {
            all.and("endpoint = ?", [Value::Text(endpoint.to_string())]);
        }
        if let Some(id) = filter.id {
            all.and("id = ?", [Value::Blob(id.to_bytes().into())]);
        }
        if !filter.causes.is_empty() {
            let places = vec!["?"; filter.causes.len()].join(", ");
            let causes = filter.causes.iter().map(|cause| Value::Text(cause.as_str().to_owned()));
            all.and(&format!("cause IN ({places})"), causes);
        }
        if let Some(since) = filter.since {
            all.and("died_at >= ?", [Value::Integer(millis_from(since))]);
        }
        if let Some(until) = filter.until {
            all.and("died_at < ?", [Value::Integer(millis_from(until))]);
        }
        if let Some(DeadCursor { died_at, id }) = after {
            let cursor = [Value::Integer(died_at.as_millisecond()), Value::Blob(id.to_bytes().into())];
            all.and("(died_at, id) > (?, ?)", cursor);
        }
        all
    }

    fn and(&mut self, condition: &str, params: impl IntoIterator<Item = Value>) {
        self.conditions.push_str(" AND ");
        self.conditions.push_str(condition);
        self.params.extend(params);
    }
}

/// Rounds a time up to whole milliseconds.
fn millis_from(time: Timestamp) -> i64 {
    let millis = time.as_millisecond();
    let is_whole = Timestamp::from_millisecond(millis).is_ok_and(|whole| whole >= time);
    if is_whole { millis } else { millis.saturating_add(1) }
}
