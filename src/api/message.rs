//! Body of the message routes: the state of a message and its delivery attempts.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::common::attempt::Attempt;
use crate::common::id::{EndpointId, MessageId, TenantId};
use crate::common::job::Target;
use crate::common::retry::{CauseKind, Fault};
use crate::queue::message::{MessageRecord, MessageState};

/// A message with its state and its latest attempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessageView {
    /// Id of the message. Each delivery has it as `webhook-id`
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
    /// State of the message
    pub state: MessageStateView,
    /// Cause of the dead-lettering. Absent unless the message is dead
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub cause: Option<CauseKind>,
    /// Side that is responsible for the cause. Absent unless the message is dead
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub fault: Option<Fault>,
    /// Time of publication
    #[schema(value_type = String, format = DateTime)]
    pub published_at: Timestamp,
    /// Latest attempts, oldest first
    pub attempts: Vec<Attempt>,
}

/// State of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageStateView {
    /// The message waits for its next attempt, or is being delivered
    Queued,
    /// The customer's endpoint accepted the message
    Delivered,
    /// The message is a dead letter
    Dead,
}

impl MessageStateView {
    /// Returns the name of the state in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}

impl From<MessageRecord> for MessageView {
    fn from(record: MessageRecord) -> Self {
        let MessageDestination { tenant, endpoint, target, origin } =
            MessageDestination::of(&record.target, &record.tenant);
        let (state, cause) = match record.state {
            MessageState::Queued => (MessageStateView::Queued, None),
            MessageState::Delivered => (MessageStateView::Delivered, None),
            MessageState::Dead(cause) => (MessageStateView::Dead, Some(cause)),
        };
        Self {
            id: record.id,
            tenant,
            endpoint,
            target,
            origin,
            state,
            cause,
            fault: cause.map(CauseKind::fault),
            published_at: record.published_at,
            attempts: record.attempts,
        }
    }
}

/// Destination of a message as responses show it. A URL is reduced to its origin.
pub(super) struct MessageDestination {
    pub(super) tenant: Option<TenantId>,
    pub(super) endpoint: Option<EndpointId>,
    pub(super) target: Option<String>,
    pub(super) origin: Option<String>,
}

impl MessageDestination {
    /// Describes `target`. `direct_tenant` is the `target` that a direct-mode event was published with.
    pub(super) fn of(target: &Target, direct_tenant: &Arc<str>) -> Self {
        match target {
            Target::Endpoint(tenant, endpoint) => {
                Self { tenant: Some(*tenant), endpoint: Some(*endpoint), target: None, origin: None }
            }
            Target::Url(url) => Self {
                tenant: None,
                endpoint: None,
                target: Some(direct_tenant.to_string()),
                origin: Some(url.to_string()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::endpoint_url::EndpointUrl;

    #[test]
    fn only_the_origin_of_a_url_is_shown() {
        let url = EndpointUrl::parse("https://example.com:8443/hooks/secret?token=secret").unwrap();
        let record = MessageRecord {
            id: MessageId::new(),
            tenant: "customer-1".into(),
            target: Target::Url(url),
            published_at: Timestamp::UNIX_EPOCH,
            state: MessageState::Dead(CauseKind::Gone),
            attempts: Vec::new(),
        };
        let shown = serde_json::to_value(MessageView::from(record)).unwrap();
        assert_eq!(shown["origin"], "https://example.com:8443");
        assert_eq!((&shown["state"], &shown["cause"]), (&"dead".into(), &"gone".into()));
        assert_eq!((&shown["fault"], &shown["target"]), (&"customer".into(), &"customer-1".into()));
        assert!(!shown.to_string().contains("secret"), "{shown}");
    }
}
