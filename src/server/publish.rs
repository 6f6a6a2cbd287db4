//! `POST /publish`: events for subscribed endpoints, CloudEvents, and direct-mode events.
//!
//! `format` distinguishes the wire formats. `body` and `cloud_event` parse them into the same `request`. `payload` checks
//! the payload. The event then goes to [`crate::publish`].

mod body;
mod cloud_event;
mod format;
mod payload;
mod request;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, StatusCode};

use self::body::{DirectRequest, PublishBody};
use self::format::EventFormat;
use self::request::PublishRequest;
use super::auth::{Caller, authenticate, refuse_key_in_url};
use super::extract::receive;
use super::idempotency::{self, Fingerprint};
use super::problem::{Problem, invalid_field};
use super::{Server, response};
use crate::api::Published;
use crate::common::endpoint_url::EndpointUrl;
use crate::common::event_type::EventType;
use crate::common::job::TraceContext;
use crate::deliver::TRACEPARENT;
use crate::publish::{
    Audience, DIRECT_TENANT, DIRECT_TYPE, DirectEvent, Event, IdempotencyKey, PublishOutcome,
};
use crate::registry::Principal;

/// Maximum size of a request body beside its payload, in bytes: the longest URL (2 KiB), names and white space.
const MAX_FRAME_BYTES: usize = 64 * 1024;

/// Maximum length of `target` and `type` in direct mode, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// Publishes an event
///
/// With an API key of the provider, the event goes to every endpoint that subscribes to its type, or to the subscribed
/// endpoints of one `tenant`. With an API key of a tenant, it goes to that tenant's endpoints. Once the server answers
/// 202, the event is queued. CloudEvents 1.0 are accepted in structured mode and in binary mode: `ce-` headers hold the
/// attributes, `ce-tenant` the tenant, and the body is the payload.
#[utoipa::path(
    post, path = "/publish", tag = "events", security(("api_key" = [])),
    request_body(description = "The event", content(
        (crate::api::NewEvent = "application/json"),
        (crate::api::CloudEvent = "application/cloudevents+json"),
    )),
    responses((status = 202, description = "The event is queued, or no endpoint subscribes to it", body = Published))
)]
pub(super) async fn publish(
    State(server): State<Arc<Server>>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let format = EventFormat::of(&parts.headers)?;
    refuse_key_in_url(&parts)?;
    let caller = authenticate(&server, &parts).await;
    // Only direct mode accepts unauthenticated requests. Any other body isn't even read.
    if server.publisher.direct.is_none() || format != EventFormat::Json {
        caller.as_ref().map_err(Problem::clone)?;
    }
    let max_bytes = server.max_payload.saturating_add(MAX_FRAME_BYTES);
    let (body, _permit) = receive(&server, body, max_bytes).await?;
    let request = match format {
        EventFormat::StructuredCloudEvent => cloud_event::parse_structured(&body)?,
        EventFormat::BinaryCloudEvent => cloud_event::parse_binary(&parts.headers, &body)?,
        EventFormat::Json => match PublishBody::parse(&body)? {
            PublishBody::Subscribed(request) => request,
            PublishBody::Direct(request) => return publish_direct(&server, &request, &parts.headers).await,
        },
    };
    let caller = Caller(caller?);
    let repeatable = RepeatableRequest::of(&parts, &body, &request)?;
    publish_subscribed(&server, &caller, &request, &parts.headers, repeatable).await
}

/// A request that may be sent again and is to be executed once.
struct RepeatableRequest {
    /// Key that a repetition has as well.
    key: Vec<u8>,
    /// Hash of everything in which a repetition must not differ.
    fingerprint: Fingerprint,
}

impl RepeatableRequest {
    /// Returns the key and fingerprint of a request with an `Idempotency-Key`, or of a CloudEvent. `None` for others.
    fn of(parts: &Parts, body: &[u8], request: &PublishRequest<'_>) -> Result<Option<Self>, Problem> {
        if let Some(key) = idempotency::key(&parts.headers)? {
            let header = |name: &str| parts.headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
            // In binary mode of CloudEvents the headers are a part of the event.
            let fingerprint = idempotency::fingerprint(&[
                header("content-type"),
                header("ce-type"),
                header("ce-tenant"),
                body,
            ]);
            return Ok(Some(Self { key: [b"publish ", key.as_slice()].concat(), fingerprint }));
        }
        Ok(request.cloud_event_identity.as_ref().map(|identity| {
            // Two CloudEvents with the same source and id are the same event, even if their texts differ.
            let kind = request.kind.as_deref().unwrap_or_default();
            let tenant = request.tenant.as_deref().unwrap_or_default();
            Self {
                key: [b"cloudevent ", identity.as_slice()].concat(),
                fingerprint: idempotency::fingerprint(&[kind.as_bytes(), tenant.as_bytes()]),
            }
        }))
    }
}

async fn publish_subscribed(
    server: &Arc<Server>,
    caller: &Caller,
    request: &PublishRequest<'_>,
    headers: &HeaderMap,
    repeatable: Option<RepeatableRequest>,
) -> Result<Response, Problem> {
    let payload = payload::check(request.payload, server.max_payload)?;
    let kind = request.kind.as_deref().ok_or_else(|| Problem::bad_request("'type' is required"))?;
    let kind = EventType::parse(kind).map_err(|error| invalid_field("type", &error))?;
    let audience = match (request.tenant.as_deref(), caller.0) {
        (Some(named), _) => {
            // Another server may have created the tenant a moment ago.
            let look_up = || caller.tenant(server, named);
            Audience::Tenant(server.registry.look_up_or_refresh(look_up, Result::is_ok).await??.id)
        }
        (None, Principal::Tenant(id)) => Audience::Tenant(id),
        (None, Principal::Provider) => Audience::Everyone,
    };
    let trace = trace_context(headers);
    let Some(RepeatableRequest { key, fingerprint }) = repeatable else {
        let event = Event { kind, payload, trace, idempotency_key: None };
        return Ok(accepted(server.publisher.publish(event, audience).await?));
    };
    let idempotency_key = Some(IdempotencyKey::new(caller.0, key.clone()));
    let (publishing_server, payload) = (Arc::clone(server), payload.to_owned());
    let publishing = async move {
        let event = Event { kind, payload: &payload, trace, idempotency_key };
        match publishing_server.publisher.publish(event, audience).await {
            Ok(outcome) => accepted(outcome),
            Err(error) => Problem::from(error).into_response(),
        }
    };
    Ok(server.idempotency.get_or_run(caller.0, &key, fingerprint, publishing).await)
}

async fn publish_direct(
    server: &Server,
    request: &DirectRequest<'_>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let sealer = server.publisher.direct.as_ref().ok_or_else(|| {
        Problem::bad_request(
            "'url' is only accepted in direct mode, which is off; start the server with --public-key to turn it on",
        )
    })?;
    let url = EndpointUrl::parse(&request.url).map_err(|error| invalid_field("url", &error))?;
    let event = DirectEvent {
        url,
        payload: payload::check(request.payload, server.max_payload)?,
        kind: direct_name("type", request.kind.as_deref(), DIRECT_TYPE)?,
        target: direct_name("target", request.target.as_deref(), DIRECT_TENANT)?,
        trace: trace_context(headers),
    };
    Ok(accepted(server.publisher.publish_direct(event, sealer).await?))
}

fn accepted(outcome: PublishOutcome) -> Response {
    response::json(StatusCode::ACCEPTED, &Published::from(outcome))
}

/// Checks the `target` or the `type` of a direct-mode event.
fn direct_name<'a>(member: &str, value: Option<&'a str>, default: &'a str) -> Result<&'a str, Problem> {
    let name = value.unwrap_or(default);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        let detail = format!("'{member}' must have 1 to {MAX_NAME_BYTES} bytes and no control characters");
        return Err(Problem::bad_request(detail));
    }
    Ok(name)
}

/// Returns the trace context of `traceparent`, or a new one when the header is absent or invalid.
fn trace_context(headers: &HeaderMap) -> TraceContext {
    let header = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
    header.and_then(TraceContext::parse).unwrap_or_default()
}
