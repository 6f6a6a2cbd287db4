//! Bodies of the dead-letter routes: dead letters, selections of them, and results of a replay or a purge.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::message::MessageDestination;
use crate::common::attempt::Attempt;
use crate::common::id::{EndpointId, MessageId, TenantId};
use crate::common::job::ContentType;
use crate::common::json;
use crate::common::retry::{CauseKind, Fault};
use crate::queue::dead::{DeadLetter, FullDeadLetter};

/// A dead letter: a message that isn't delivered any more, unless it is replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterView {
    /// Id of the message. A replay keeps it, and each delivery has it as `webhook-id`
    #[schema(value_type = String, pattern = "^msg_[0-9a-f]{32}$")]
    pub id: MessageId,
    /// Id of the tenant. Absent in direct mode
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, pattern = "^ten_[0-9a-f]{32}$")]
    pub tenant: Option<TenantId>,
    /// Id of the endpoint. Absent in direct mode
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, pattern = "^ep_[0-9a-f]{32}$")]
    pub endpoint: Option<EndpointId>,
    /// The `target` that the event was published with. Present in direct mode only
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub target: Option<String>,
    /// Scheme, host and port of the URL. Its path and query may hold secrets and aren't shown. Present in direct mode
    /// only
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub origin: Option<String>,
    /// Cause of the dead-lettering
    pub cause: CauseKind,
    /// Side that is responsible for the cause
    pub fault: Fault,
    /// The cause in words, with the outcome of the last attempt
    pub detail: String,
    /// Number of delivery attempts
    pub attempt_count: u32,
    /// Time of publication
    #[schema(value_type = String, format = DateTime)]
    pub published_at: Timestamp,
    /// Time of the dead-lettering
    #[schema(value_type = String, format = DateTime)]
    pub died_at: Timestamp,
    /// Size of the encrypted body in bytes
    pub bytes: u64,
}

impl From<&DeadLetter> for DeadLetterView {
    fn from(letter: &DeadLetter) -> Self {
        let MessageDestination { tenant, endpoint, target, origin } =
            MessageDestination::of(&letter.target, &letter.tenant);
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

/// A dead letter with its attempts and its encrypted body.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterBody {
    /// The dead letter as lists show it
    #[serde(flatten)]
    pub about: DeadLetterView,
    /// Latest attempts, oldest first
    pub attempts: Vec<Attempt>,
    /// Content type of the body
    pub content_type: ContentType,
    /// The encrypted event as it would be delivered. Only the tenant's private key opens it. Null if the stored body is
    /// damaged
    #[schema(required, value_type = Option<serde_json::Value>)]
    pub body: Option<Box<RawValue>>,
}

impl From<FullDeadLetter> for DeadLetterBody {
    fn from(dead: FullDeadLetter) -> Self {
        // Every envelope is JSON, so a body that isn't is damaged.
        let body = dead.body.and_then(|body| serde_json::from_slice(&body).ok());
        Self {
            about: DeadLetterView::from(&dead.letter),
            attempts: dead.attempts,
            content_type: dead.content_type,
            body,
        }
    }
}

/// Leaves the body out.
impl fmt::Debug for DeadLetterBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.about.fmt(f)
    }
}

/// A selection of dead letters: those that meet all given conditions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadSelection {
    /// Only dead letters of this tenant, by id or name. A tenant's own route accepts no other tenant
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(nullable = false)]
    pub tenant: Option<String>,
    /// Only dead letters of this endpoint
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(value_type = String, nullable = false, required = false, pattern = "^ep_[0-9a-f]{32}$")]
    pub endpoint: Option<EndpointId>,
    /// Only this message
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(value_type = String, nullable = false, required = false, pattern = "^msg_[0-9a-f]{32}$")]
    pub message: Option<MessageId>,
    /// Only dead letters with one of these causes
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(nullable = false, min_items = 1)]
    pub cause: Option<Vec<CauseKind>>,
    /// Only dead letters that this side is responsible for
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(nullable = false)]
    pub fault: Option<Fault>,
    /// Only messages that were dead-lettered at this time or later
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(value_type = String, format = DateTime, nullable = false, required = false)]
    pub since: Option<Timestamp>,
    /// Only messages that were dead-lettered before this time. The default is now
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present")]
    #[schema(value_type = String, format = DateTime, nullable = false, required = false)]
    pub until: Option<Timestamp>,
    /// Selects all dead letters of the route. Required if the body has no condition
    #[serde(default, skip_serializing_if = "is_false")]
    #[schema(default = false)]
    pub all: bool,
    /// Only counts the selected dead letters and changes nothing
    #[serde(default, skip_serializing_if = "is_false")]
    #[schema(default = false)]
    pub dry_run: bool,
    /// Maximum number of dead letters, oldest first
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "json::present_whole")]
    #[schema(nullable = false, minimum = 1, maximum = 1000, default = 1000)]
    pub limit: Option<u32>,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl DeadSelection {
    /// Whether the selection has no condition.
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

/// Result of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Replayed {
    /// Number of dead letters that match, in a dry run. Otherwise the number of those replayed
    pub matched: u64,
    /// Number of dead letters that were queued again, with the same ids and a full set of new attempts
    pub replayed: u64,
    /// Whether more dead letters match than were taken. To replay them, repeat the request with this `until`
    pub more: bool,
    /// Time before which the selected messages were dead-lettered
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
}

/// Result of a purge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Purged {
    /// Number of dead letters that match, in a dry run. Otherwise the number of those deleted
    pub matched: u64,
    /// Number of dead letters that were deleted
    pub purged: u64,
    /// Whether more dead letters match than were taken. To delete them, repeat the request with this `until`
    pub more: bool,
    /// Time before which the selected messages were dead-lettered
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
}
