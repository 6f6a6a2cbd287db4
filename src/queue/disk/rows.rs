//! Columns of the queue's database: how they are written and read.

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

/// A time as it is stored: in microseconds.
pub(super) fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

/// A time as it was stored.
pub(super) fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or_default()
}

/// The tenant of an endpoint's lane; direct mode's lanes have none.
pub(super) fn tenant_of(target: &Target) -> Option<String> {
    match target {
        Target::Endpoint(tenant, _) => Some(tenant.to_string()),
        Target::Url(_) => None,
    }
}

/// A target as its two columns, of which one is filled.
pub(super) fn columns_of(target: &Target) -> (Option<String>, Option<String>) {
    match target {
        Target::Endpoint(_, id) => (Some(id.to_string()), None),
        Target::Url(url) => (None, Some(url.uri().to_string())),
    }
}

/// The attempts that were stored; none where they can't be read.
pub(super) fn attempts_from(stored: Option<String>) -> Vec<Attempt> {
    stored.and_then(|stored| serde_json::from_str(&stored).ok()).unwrap_or_default()
}

/// What is stored once another attempt was made.
pub(super) fn attempts_with(stored: Option<String>, made: Option<&Attempt>) -> Option<String> {
    let Some(made) = made else { return stored };
    let mut attempts = attempts_from(stored);
    attempt::keep(&mut attempts, made.clone());
    serde_json::to_string(&attempts).ok()
}

/// A row of `dead`.
pub(super) fn letter(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    let cause = CauseKind::parse(&row.get::<_, String>("cause")?).ok_or_else(|| odd("cause"))?;
    let died_at = Timestamp::from_millisecond(row.get("died_at")?).map_err(|_| odd("died_at"))?;
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

/// A row of `delivered`.
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
        let tenant = tenant.parse().map_err(|_| odd("tenant"))?;
        return Ok(Target::Endpoint(tenant, endpoint.parse().map_err(|_| odd("endpoint"))?));
    }
    let url: String = row.get("url")?;
    EndpointUrl::parse(&url).map(Target::Url).map_err(|_| odd("url"))
}

/// A value that isn't what its column holds. It isn't shown.
fn odd(column: &'static str) -> Error {
    Error::FromSqlConversionFailure(0, Type::Text, format!("column {column} is damaged").into())
}

/// A filter of dead letters as the conditions of a WHERE.
pub(super) struct Filter {
    pub(super) conditions: String,
    pub(super) params: Vec<Value>,
}

impl Filter {
    pub(super) fn of(filter: &DeadFilter, after: Option<DeadCursor>) -> Self {
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
            let place = [Value::Integer(died_at.as_millisecond()), Value::Blob(id.to_bytes().into())];
            all.and("(died_at, id) > (?, ?)", place);
        }
        all
    }

    fn and(&mut self, condition: &str, params: impl IntoIterator<Item = Value>) {
        self.conditions.push_str(" AND ");
        self.conditions.push_str(condition);
        self.params.extend(params);
    }
}

/// The first whole millisecond that isn't before `time`.
fn millis_from(time: Timestamp) -> i64 {
    let millis = time.as_millisecond();
    let is_whole = Timestamp::from_millisecond(millis).is_ok_and(|whole| whole >= time);
    if is_whole { millis } else { millis.saturating_add(1) }
}
