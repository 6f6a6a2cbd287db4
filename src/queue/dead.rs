//! Dead letters: jobs that were given up. They can be listed, replayed and purged.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::QueueError;
use crate::common::attempt::Attempt;
use crate::common::endpoint_url::EndpointUrl;
use crate::common::id::{EndpointId, MessageId, TenantId};
use crate::common::job::{ContentType, Target};
use crate::common::retry::{Cause, CauseKind};

/// Maximum number of dead letters that one call replays or purges, because each call is one transaction.
pub const MAX_BATCH: usize = 1_000;

/// The dead letters of a queue.
///
/// All methods order them by the time of death, the oldest first.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Returns up to `limit` dead letters that match `filter`, starting behind `after`.
    async fn dead_letters(
        &self,
        filter: &DeadFilter,
        after: Option<DeadCursor>,
        limit: usize,
    ) -> Result<DeadPage, QueueError>;

    /// Returns one dead letter with its body, if it exists.
    async fn dead_letter(&self, id: MessageId) -> Result<Option<FullDeadLetter>, QueueError>;

    /// Returns the number of dead letters that match `filter`.
    async fn count_dead(&self, filter: &DeadFilter) -> Result<u64, QueueError>;

    /// Queues the first matching dead letters again, at most `limit` and [`MAX_BATCH`].
    ///
    /// They go to the ends of their lanes, with the same ids and a fresh count of attempts. The change is as durable
    /// as a push. Returns the number of dead letters replayed; if that equals `limit`, more may match.
    async fn replay(&self, filter: &DeadFilter, limit: usize) -> Result<u64, QueueError>;

    /// Deletes the first matching dead letters, at most `limit` and [`MAX_BATCH`]. Returns the number deleted.
    async fn purge(&self, filter: &DeadFilter, limit: usize) -> Result<u64, QueueError>;
}

/// Filter for dead letters. A letter matches if it meets every condition that is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadFilter {
    /// Tenant of the letter.
    pub tenant: Option<TenantId>,
    /// Endpoint of the letter.
    pub endpoint: Option<EndpointId>,
    /// Id of the message.
    pub id: Option<MessageId>,
    /// Accepted causes of death. An empty list accepts every cause.
    pub causes: Vec<CauseKind>,
    /// Earliest time of death.
    pub since: Option<Timestamp>,
    /// End of the times of death; this time itself is excluded.
    pub until: Option<Timestamp>,
}

impl DeadFilter {
    /// Returns whether `letter` matches.
    #[must_use]
    pub fn matches(&self, letter: &DeadLetter) -> bool {
        let (tenant, endpoint) = match letter.target {
            Target::Endpoint(tenant, endpoint) => (Some(tenant), Some(endpoint)),
            Target::Url(_) => (None, None),
        };
        self.tenant.is_none_or(|wanted| tenant == Some(wanted))
            && self.endpoint.is_none_or(|wanted| endpoint == Some(wanted))
            && self.id.is_none_or(|wanted| letter.id == wanted)
            && (self.causes.is_empty() || self.causes.contains(&letter.cause))
            && self.since.is_none_or(|since| letter.died_at >= since)
            && self.until.is_none_or(|until| letter.died_at < until)
    }
}

/// A job that was given up, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Message id, the same on every attempt.
    pub id: MessageId,
    /// Id of the tenant; in direct mode the publisher's `target`.
    pub tenant: Arc<str>,
    /// Target of the job.
    pub target: Target,
    /// Cause of death.
    pub cause: CauseKind,
    /// Cause of death in words, with the result of the last attempt.
    pub detail: String,
    /// Number of attempts made.
    pub attempts: u32,
    /// Time of publishing.
    pub published_at: Timestamp,
    /// Time of death, in whole milliseconds.
    pub died_at: Timestamp,
    /// Bytes of the body.
    pub bytes: u64,
}

impl DeadLetter {
    /// Returns the letter's position in the order of dead letters.
    #[must_use]
    pub fn cursor(&self) -> DeadCursor {
        DeadCursor { died_at: self.died_at, id: self.id }
    }
}

/// A dead letter with its body and attempts.
#[derive(Debug, Clone)]
pub struct FullDeadLetter {
    /// The letter as lists show it.
    pub letter: DeadLetter,
    /// Content type of the body.
    pub content_type: ContentType,
    /// The sealed event; `None` if it is damaged.
    pub body: Option<Bytes>,
    /// The latest attempts, in order.
    pub attempts: Vec<Attempt>,
}

/// The cause of a job's death, as it is stored in JSON beside the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CauseOfDeath {
    pub(super) cause: CauseKind,
    /// The cause in words.
    pub(super) detail: String,
    /// Number of attempts made.
    pub(super) attempts: u32,
}

impl CauseOfDeath {
    pub(super) fn new(cause: &Cause, attempts: u32) -> Self {
        Self { cause: cause.kind(), detail: cause.to_string(), attempts }
    }

    /// Returns the substitute for a stored cause that can't be read.
    pub(super) fn unreadable() -> Self {
        Self {
            cause: CauseKind::Damaged,
            detail: "the stored cause of death can't be read".to_owned(),
            attempts: 0,
        }
    }
}

/// Target that stands in for one that can't be read.
const UNKNOWN_TARGET: &str = "https://unknown.invalid/";

/// Returns the target of a damaged letter that doesn't contain one.
pub(super) fn unknown_target() -> Target {
    #[expect(clippy::expect_used, reason = "the URL is a constant, and a test parses it")]
    Target::Url(EndpointUrl::parse(UNKNOWN_TARGET).expect("a valid URL"))
}

/// A page of a list of dead letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadPage {
    /// The letters, the oldest death first.
    pub letters: Vec<DeadLetter>,
    /// Whether more letters follow this page.
    pub more: bool,
}

/// A position in the order of dead letters, which is by time of death, then by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadCursor {
    /// Time of death, in whole milliseconds.
    pub died_at: Timestamp,
    /// Message id.
    pub id: MessageId,
}

/// The text is not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("isn't a cursor of a list of dead letters")]
pub struct DeadCursorError;

impl fmt::Display for DeadCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.id.to_string();
        let digits = id.strip_prefix(MessageId::PREFIX).unwrap_or_default();
        write!(f, "{:016x}{digits}", self.died_at.as_millisecond())
    }
}

impl FromStr for DeadCursor {
    type Err = DeadCursorError;

    fn from_str(text: &str) -> Result<Self, DeadCursorError> {
        let (time, digits) = text.split_at_checked(16).ok_or(DeadCursorError)?;
        let milliseconds = i64::from_str_radix(time, 16).map_err(|_| DeadCursorError)?;
        let died_at = Timestamp::from_millisecond(milliseconds).map_err(|_| DeadCursorError)?;
        let id = format!("{}{digits}", MessageId::PREFIX).parse().map_err(|_| DeadCursorError)?;
        Ok(Self { died_at, id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unknown_target_is_a_valid_url() {
        assert_eq!(unknown_target().to_string(), "https://unknown.invalid");
    }

    #[test]
    fn a_cursor_survives_being_written_and_parsed() {
        let cursor = DeadCursor {
            died_at: Timestamp::from_millisecond(1_700_000_000_123).unwrap(),
            id: MessageId::new(),
        };
        assert_eq!(cursor.to_string().len(), 48);
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for invalid in ["", "0", &"f".repeat(48), &"0".repeat(47), &"é".repeat(24)] {
            assert_eq!(invalid.parse::<DeadCursor>(), Err(DeadCursorError), "{invalid}");
        }
    }
}
