//! What is known of one message.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::common::attempt::Attempt;
use crate::common::id::{EndpointId, MessageId, TenantId};
use crate::common::job::Target;
use crate::common::retry::{CauseKind, Fault};
use crate::queue::message::{MessageRecord, MessageState};

/// A message: where it stands and what its attempts came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessageView {
    /// The `webhook-id` of its deliveries
    #[schema(value_type = String, pattern = "^msg_[0-9a-f]{32}$")]
    pub id: MessageId,
    /// Whose it is; absent in direct mode
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, pattern = "^ten_[0-9a-f]{32}$")]
    pub tenant: Option<TenantId>,
    /// Where it goes; absent in direct mode
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
    /// Where it stands
    pub state: MessageStateView,
    /// Why it is dead; absent while it isn't
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub cause: Option<CauseKind>,
    /// Whose failure that is
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub fault: Option<Fault>,
    /// When it was published
    #[schema(value_type = String, format = DateTime)]
    pub published_at: Timestamp,
    /// Its latest attempts, in order
    pub attempts: Vec<Attempt>,
}

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageStateView {
    /// It waits, or is being delivered
    Queued,
    /// The customer has it
    Delivered,
    /// It was given up
    Dead,
}

impl MessageStateView {
    /// Its name, as JSON has it.
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
        let Whose { tenant, endpoint, target, origin } = Whose::of(&record.target, &record.tenant);
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

/// Whose a message is and where it goes, as far as it is shown: of a URL its origin alone.
pub(super) struct Whose {
    pub(super) tenant: Option<TenantId>,
    pub(super) endpoint: Option<EndpointId>,
    pub(super) target: Option<String>,
    pub(super) origin: Option<String>,
}

impl Whose {
    pub(super) fn of(target: &Target, published_for: &Arc<str>) -> Self {
        match target {
            Target::Endpoint(tenant, endpoint) => {
                Self { tenant: Some(*tenant), endpoint: Some(*endpoint), target: None, origin: None }
            }
            Target::Url(url) => Self {
                tenant: None,
                endpoint: None,
                target: Some(published_for.to_string()),
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
    fn nothing_of_a_url_but_its_origin_is_shown() {
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
