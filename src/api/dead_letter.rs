//! Dead letters: lists of them, one with its body, and what is to be done with which.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::message::Whose;
use crate::common::attempt::Attempt;
use crate::common::id::{EndpointId, MessageId, TenantId};
use crate::common::job::ContentType;
use crate::common::json;
use crate::common::retry::{CauseKind, Fault};
use crate::queue::dead::{DeadLetter, FullDeadLetter};

/// A message that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterView {
    /// The `webhook-id` of its deliveries, also once it is replayed
    #[schema(value_type = String, pattern = "^msg_[0-9a-f]{32}$")]
    pub id: MessageId,
    /// Whose it is; absent in direct mode
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, pattern = "^ten_[0-9a-f]{32}$")]
    pub tenant: Option<TenantId>,
    /// Where it was to go; absent in direct mode
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, pattern = "^ep_[0-9a-f]{32}$")]
    pub endpoint: Option<EndpointId>,
    /// Direct mode: the `target` it was published with
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub target: Option<String>,
    /// Direct mode: scheme, host and port of its URL, whose path and query may hold secrets
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub origin: Option<String>,
    /// Why it is dead
    pub cause: CauseKind,
    /// Whose failure that is
    pub fault: Fault,
    /// The cause in words, with what the last attempt came to
    pub detail: String,
    /// Attempts that were made
    pub attempt_count: u32,
    /// When it was published
    #[schema(value_type = String, format = DateTime)]
    pub published_at: Timestamp,
    /// Since when it is dead
    #[schema(value_type = String, format = DateTime)]
    pub died_at: Timestamp,
    /// Bytes of its sealed body
    pub bytes: u64,
}

impl From<&DeadLetter> for DeadLetterView {
    fn from(letter: &DeadLetter) -> Self {
        let Whose { tenant, endpoint, target, origin } = Whose::of(&letter.target, &letter.tenant);
        Self {
            id: letter.id,
            tenant,
            endpoint,
            target,
            origin,
            cause: letter.cause,
            fault: letter.cause.fault(),
            detail: letter.detail.clone(),
            attempt_count: letter.attempts,
            published_at: letter.published_at,
            died_at: letter.died_at,
            bytes: letter.bytes,
        }
    }
}

/// A dead letter with its attempts and its body. `Debug` leaves the body out.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterBody {
    /// What lists show of it
    #[serde(flatten)]
    pub about: DeadLetterView,
    /// Its latest attempts, in order
    pub attempts: Vec<Attempt>,
    /// How its body is labelled
    pub content_type: ContentType,
    /// The sealed event as it would be delivered: only the tenant's private key opens it. Null where it is damaged
    #[schema(required, value_type = Option<serde_json::Value>)]
    pub body: Option<Box<RawValue>>,
}

impl From<FullDeadLetter> for DeadLetterBody {
    fn from(dead: FullDeadLetter) -> Self {
        // An envelope is JSON: what isn't is damaged.
        let body = dead.body.and_then(|body| serde_json::from_slice(&body).ok());
        Self {
            about: DeadLetterView::from(&dead.letter),
            attempts: dead.attempts,
            content_type: dead.content_type,
            body,
        }
    }
}

impl fmt::Debug for DeadLetterBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.about.fmt(f)
    }
}

/// Which dead letters something is done with: those that fulfil every condition that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadSelection {
    /// Of that tenant, by id or name. On a tenant's own route it can be no other
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(nullable = false)]
    pub tenant: Option<String>,
    /// For that endpoint
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(value_type = String, nullable = false, required = false, pattern = "^ep_[0-9a-f]{32}$")]
    pub endpoint: Option<EndpointId>,
    /// That message
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(value_type = String, nullable = false, required = false, pattern = "^msg_[0-9a-f]{32}$")]
    pub message: Option<MessageId>,
    /// Dead for one of these causes
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(nullable = false, min_items = 1)]
    pub cause: Option<Vec<CauseKind>>,
    /// Dead by that one's fault
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(nullable = false)]
    pub fault: Option<Fault>,
    /// Dead since then or later
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(value_type = String, format = DateTime, nullable = false, required = false)]
    pub since: Option<Timestamp>,
    /// Dead before then; before now, without it
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(value_type = String, format = DateTime, nullable = false, required = false)]
    pub until: Option<Timestamp>,
    /// All that the route is about are meant. It has to be said where there is no condition
    #[serde(default, skip_serializing_if = "is_false")]
    #[schema(default = false)]
    pub all: bool,
    /// Nothing is done, they are counted
    #[serde(default, skip_serializing_if = "is_false")]
    #[schema(default = false)]
    pub dry_run: bool,
    /// How many at most, the longest dead first
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present_whole")]
    #[schema(nullable = false, minimum = 1, maximum = 1000, default = 1000)]
    pub limit: Option<u32>,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl DeadSelection {
    /// Whether no condition is given.
    #[must_use]
    pub fn is_unconditional(&self) -> bool {
        let Self { tenant, endpoint, message, cause, fault, since, until, all: _, dry_run: _, limit: _ } =
            self;
        tenant.is_none()
            && endpoint.is_none()
            && message.is_none()
            && cause.is_none()
            && fault.is_none()
            && since.is_none()
            && until.is_none()
    }
}

/// What a replay came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Replayed {
    /// How many match: in a dry run all of them, otherwise those that were replayed
    pub matched: u64,
    /// How many are queued again, with the same ids and all their attempts before them
    pub replayed: u64,
    /// Whether more match than one request takes, or there was room for: ask again, with this `until`
    pub more: bool,
    /// Those that were dead before then were meant
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
}

/// What a purge came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Purged {
    /// How many match: in a dry run all of them, otherwise those that were deleted
    pub matched: u64,
    /// How many are deleted
    pub purged: u64,
    /// Whether more match than one request takes: ask again, with this `until`
    pub more: bool,
    /// Those that were dead before then were meant
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
}
