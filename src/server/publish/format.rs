//! Wire formats of a published event, distinguished by content type and headers.

use http::{HeaderMap, StatusCode};

use crate::server::extract::media_type;
use crate::server::problem::Problem;

/// Media type of a CloudEvent in structured mode.
const STRUCTURED: &str = "application/cloudevents+json";
/// Common prefix of all CloudEvents media types. Batches and formats other than JSON aren't accepted.
const CLOUD_EVENTS: &str = "application/cloudevents";

/// Wire format of a published event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EventFormat {
    /// A JSON body of this API: an event for subscribed endpoints, or one of direct mode.
    Json,
    /// A CloudEvent in structured mode: the body holds attributes and payload.
    StructuredCloudEvent,
    /// A CloudEvent in binary mode: headers hold the attributes, the body is the payload.
    BinaryCloudEvent,
}

impl EventFormat {
    /// Returns the format that the request's headers announce.
    ///
    /// # Errors
    /// 415 for a content type that isn't accepted.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let media_type = media_type(headers).to_ascii_lowercase();
        if media_type == STRUCTURED {
            return Ok(Self::StructuredCloudEvent);
        }
        let is_json = media_type == "application/json" || media_type.ends_with("+json");
        if headers.contains_key("ce-specversion") && is_json && !media_type.starts_with(CLOUD_EVENTS) {
            return Ok(Self::BinaryCloudEvent);
        }
        if media_type == "application/json" {
            return Ok(Self::Json);
        }
        let detail = format!(
            "content-type must be application/json, or {STRUCTURED} for a CloudEvent in structured mode; \
             a CloudEvent in binary mode must have a JSON content type, too"
        );
        Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
    }
}
