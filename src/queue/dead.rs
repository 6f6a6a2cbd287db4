//! Dead letters: the jobs that were given up, to be looked at, replayed and purged.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::QueueError;
use crate::common::attempt::Attempt;
use crate::common::endpoint_url::EndpointUrl;
use crate::common::id::{EndpointId, MessageId, TenantId};
use crate::common::job::{ContentType, Target};
use crate::common::retry::CauseKind;

/// Dead letters that one call replays or purges at most: each is one transaction.
pub const MOST_AT_ONCE: usize = 1_000;

/// What is kept of jobs that were given up.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Those that match, the longest dead first, from the one after `after` on.
    async fn dead_letters(
        &self,
        filter: &DeadFilter,
        after: Option<DeadCursor>,
        limit: usize,
    ) -> Result<DeadPage, QueueError>;

    /// One of them with its body.
    async fn dead_letter(&self, id: MessageId) -> Result<Option<DeadBody>, QueueError>;

    /// How many match.
    async fn count_dead(&self, filter: &DeadFilter) -> Result<u64, QueueError>;

    /// Queues those that match again, the longest dead first, at most `limit` and [`MOST_AT_ONCE`]: at the ends of
    /// their lanes, with the same ids and all their attempts before them. Gives how many; where that is `limit` there
    /// may be more. It is as durable as a push.
    async fn replay(&self, filter: &DeadFilter, limit: usize) -> Result<u64, QueueError>;

    /// Deletes those that match, the longest dead first, at most `limit` and [`MOST_AT_ONCE`]. Gives how many.
    async fn purge(&self, filter: &DeadFilter, limit: usize) -> Result<u64, QueueError>;
}

/// Which dead letters are meant: those that fulfil every condition that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadFilter {
    /// Of that tenant.
    pub tenant: Option<TenantId>,
    /// For that endpoint.
    pub endpoint: Option<EndpointId>,
    /// That message.
    pub id: Option<MessageId>,
    /// Dead for one of these causes; for any where there are none.
    pub causes: Vec<CauseKind>,
    /// Dead since then or later.
    pub since: Option<Timestamp>,
    /// Dead before then.
    pub until: Option<Timestamp>,
}

impl DeadFilter {
    /// Whether a dead letter is meant.
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
    /// The same as on every attempt.
    pub id: MessageId,
    /// The id of the tenant it belongs to; in direct mode the publisher's `target`.
    pub tenant: Arc<str>,
    /// Where it was to go.
    pub target: Target,
    /// Why it is dead.
    pub cause: CauseKind,
    /// That in words, with what the last attempt came to.
    pub detail: String,
    /// Attempts that were made.
    pub attempts: u32,
    /// When it was published.
    pub published_at: Timestamp,
    /// Since when it is dead, in whole milliseconds.
    pub died_at: Timestamp,
    /// Bytes of its body.
    pub bytes: u64,
}

impl DeadLetter {
    /// Where it stands among the others.
    #[must_use]
    pub fn cursor(&self) -> DeadCursor {
        DeadCursor { died_at: self.died_at, id: self.id }
    }
}

/// A dead letter with all that is known of it.
#[derive(Debug, Clone)]
pub struct DeadBody {
    /// What lists show.
    pub letter: DeadLetter,
    /// How its body is labelled.
    pub content_type: ContentType,
    /// The sealed event; `None` where it is damaged.
    pub body: Option<Bytes>,
    /// Its latest attempts, in order.
    pub attempts: Vec<Attempt>,
}

/// Where a damaged letter doesn't say where its job was to go.
const NOWHERE: &str = "https://unknown.invalid/";

/// The target of a letter that doesn't say it.
pub(super) fn nowhere() -> Target {
    #[expect(clippy::expect_used, reason = "the URL is a constant, and a test reads it")]
    Target::Url(EndpointUrl::parse(NOWHERE).expect("a URL"))
}

/// A page of dead letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadPage {
    /// The longest dead first.
    pub letters: Vec<DeadLetter>,
    /// Whether there are more after them.
    pub more: bool,
}

/// A place in the order of dead letters: by the time of death, then by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadCursor {
    /// In whole milliseconds.
    pub died_at: Timestamp,
    /// Of the message.
    pub id: MessageId,
}

/// The text isn't a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("isn't a place in a list of dead letters")]
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
    fn nowhere_is_a_url() {
        assert_eq!(nowhere().to_string(), "https://unknown.invalid");
    }

    #[test]
    fn a_cursor_is_read_as_it_is_written() {
        let cursor = DeadCursor {
            died_at: Timestamp::from_millisecond(1_700_000_000_123).unwrap(),
            id: MessageId::new(),
        };
        assert_eq!(cursor.to_string().len(), 48);
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for odd in ["", "0", &"f".repeat(48), &"0".repeat(47), &"é".repeat(24)] {
            assert_eq!(odd.parse::<DeadCursor>(), Err(DeadCursorError), "{odd}");
        }
    }
}
