//! `POST /publish`: events for those who subscribe, CloudEvents, and the Deno scripts' own body in direct mode.

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, Request, StatusCode};
use serde::Deserialize;
use serde::de::Deserializer;
use serde_json::value::RawValue;

use super::auth::{Caller, authenticate, refuse_key_in_url};
use super::cloud_event::{self, Mode};
use super::extract::{media_type, receive};
use super::problem::{Problem, field};
use super::{Server, answer, once};
use crate::common::endpoint_url::EndpointUrl;
use crate::common::event_type::EventType;
use crate::common::job::TraceContext;
use crate::common::json::Object;
use crate::deliver::TRACEPARENT;
use crate::publish::{
    Audience, DIRECT_TENANT, DIRECT_TYPE, DirectEvent, Event, PublishError, Published, RepeatKey,
};
use crate::registry::Principal;

/// Bytes of a request around its payload: the URL at its longest (2 KiB), names, white space.
const FRAME_BYTES: usize = 64 * 1024;

/// Objects and arrays within one another: what common JSON parsers take (serde_json's limit).
const MOST_DEPTH: usize = 128;

/// Tenant names and event types of direct mode are at most this long.
const MOST_NAME_BYTES: usize = 256;

/// An event for who subscribes, as a request holds it. A member of another name is an error: a tenant's in a typing
/// error would send an event to everybody.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Given<'a> {
    #[serde(borrow, default, deserialize_with = "any")]
    pub(super) payload: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    pub(super) kind: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    pub(super) tenant: Option<Cow<'a, str>>,
    /// What makes a repeated one known, where the event itself says so.
    #[serde(skip)]
    pub(super) repeat: Option<Vec<u8>>,
}

/// The scripts' own body, which may hold more than is read.
#[derive(Deserialize)]
struct Direct<'a> {
    #[serde(borrow)]
    url: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "any")]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    target: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
}

/// Any JSON, null as well: absent is something else.
pub(super) fn any<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Text, and not null.
fn text<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'a, str>>, D::Error> {
    <Cow<'a, str>>::deserialize(deserializer).map(Some)
}

/// Publishes an event
///
/// With the provider's key it goes to every endpoint that subscribes to its type, or to those of one `tenant`; with a
/// tenant's own key to that tenant alone. Once answered 202, it is queued. CloudEvents 1.0 is taken in structured
/// mode, and in binary mode (`ce-` headers, the payload as body; the tenant in `ce-tenant`).
#[utoipa::path(
    post, path = "/publish", tag = "events", security(("api_key" = [])),
    request_body(description = "The event", content(
        (crate::api::NewEvent = "application/json"),
        (crate::api::CloudEvent = "application/cloudevents+json"),
    )),
    responses((status = 202, description = "It is queued, for nobody as well", body = Published))
)]
pub(super) async fn publish(
    State(server): State<Arc<Server>>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let mode = cloud_event::mode(media_type(&parts.headers), &parts.headers)?;
    refuse_key_in_url(&parts)?;
    let caller = authenticate(&server, &parts).await;
    // Only direct mode reads what strangers send.
    if server.publisher.direct.is_none() || mode != Mode::Own {
        caller.as_ref().map_err(Problem::clone)?;
    }
    let most = server.max_payload.saturating_add(FRAME_BYTES);
    let (body, _room) = receive(&server, body, most).await?;
    let given = match mode {
        Mode::Structured => cloud_event::structured(&body)?,
        Mode::Binary => cloud_event::binary(&parts.headers, &body)?,
        Mode::Own => match serde_json::from_slice::<Object<Given<'_>>>(&body) {
            Ok(Object(given)) => given,
            Err(error) => match serde_json::from_slice::<Object<Direct<'_>>>(&body) {
                Ok(Object(direct)) => return publish_direct(&server, &direct, &parts.headers).await,
                // The one that got further, where it isn't JSON at all.
                Err(other) if !other.is_data() => return Err(Problem::bad_request(json_problem(&other))),
                Err(_) => return Err(Problem::bad_request(json_problem(&error))),
            },
        },
    };
    let caller = Caller(caller?);
    // What a repetition is known by, and what it mustn't differ in. A CloudEvent is the same by its source and id,
    // whatever else is written differently.
    let repeat = match (once::key_of(&parts.headers)?, &given.repeat) {
        (Some(key), _) => Some(([b"publish ", key.as_slice()].concat(), fingerprint_of(&parts, &body))),
        (None, Some(key)) => {
            let part = |text: &Option<Cow<'_, str>>| text.as_deref().unwrap_or_default().as_bytes().to_vec();
            let asked = once::fingerprint(&[&part(&given.kind), &part(&given.tenant)]);
            Some(([b"cloudevent ", key.as_slice()].concat(), asked))
        }
        (None, None) => None,
    };
    publish_subscribed(&server, &caller, &given, &parts.headers, repeat).await
}

async fn publish_subscribed(
    server: &Arc<Server>,
    caller: &Caller,
    given: &Given<'_>,
    headers: &HeaderMap,
    repeat: Option<(Vec<u8>, once::Fingerprint)>,
) -> Result<Response, Problem> {
    let payload = payload_of(server, given.payload)?;
    let kind = given.kind.as_deref().ok_or_else(|| Problem::bad_request("'type' is required"))?;
    let kind = EventType::parse(kind).map_err(|error| field("type", &error))?;
    let to = match (given.tenant.as_deref(), caller.0) {
        (Some(named), _) => {
            let look_up = || caller.tenant(server, named);
            Audience::Tenant(server.registry.look_up_or_refresh(look_up, Result::is_ok).await??.id)
        }
        (None, Principal::Tenant(id)) => Audience::Tenant(id),
        (None, Principal::Provider) => Audience::Everyone,
    };
    let trace = trace_of(headers);
    let Some((key, asked)) = repeat else {
        let event = Event { kind, payload, trace, repeat: None };
        return Ok(accepted(&server.publisher.publish(event, to).await?));
    };
    let repeat = Some(RepeatKey::new(caller.0, key.clone()));
    let (publisher, payload) = (Arc::clone(server), payload.to_owned());
    let publishing = async move {
        let event = Event { kind, payload: &payload, trace, repeat };
        let published = publisher.publisher.publish(event, to).await;
        answer_of(published)
    };
    Ok(server.once.answer(caller.0, &key, asked, publishing).await)
}

async fn publish_direct(
    server: &Server,
    given: &Direct<'_>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let envelope = server.publisher.direct.as_ref().ok_or_else(|| {
        Problem::bad_request(
            "'url' is for direct mode, which this server was started without; see --public-key",
        )
    })?;
    let url = EndpointUrl::parse(&given.url).map_err(|error| field("url", &error))?;
    let event = DirectEvent {
        url,
        payload: payload_of(server, given.payload)?,
        kind: name_or(given.kind.as_deref(), "type", DIRECT_TYPE)?,
        target: name_or(given.target.as_deref(), "target", DIRECT_TENANT)?,
        trace: trace_of(headers),
    };
    Ok(accepted(&server.publisher.publish_direct(event, envelope).await?))
}

fn accepted(published: &Published) -> Response {
    answer::json(StatusCode::ACCEPTED, published)
}

fn answer_of(published: Result<Published, PublishError>) -> Response {
    use axum::response::IntoResponse as _;
    published.map_or_else(|error| Problem::from(error).into_response(), |published| accepted(&published))
}

fn payload_of<'a>(server: &Server, given: Option<&'a RawValue>) -> Result<&'a RawValue, Problem> {
    let payload = given.ok_or_else(|| Problem::bad_request("'payload' is required"))?;
    let length = payload.get().len();
    if length > server.max_payload {
        let detail = format!("'payload' is {length} bytes, at most {} are taken", server.max_payload);
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    if is_too_deep(payload.get()) {
        return Err(Problem::bad_request(format!("'payload' is nested deeper than {MOST_DEPTH}")));
    }
    Ok(payload)
}

/// What a request asks to publish: its body, and in binary mode its headers.
fn fingerprint_of(parts: &Parts, body: &[u8]) -> once::Fingerprint {
    let header = |name: &str| parts.headers.get(name).map_or(&b""[..], http::HeaderValue::as_bytes);
    once::fingerprint(&[header("content-type"), header("ce-type"), header("ce-tenant"), body])
}

/// Whether objects and arrays of valid JSON lie deeper within one another than [`MOST_DEPTH`]. Its parser skips
/// a payload without recursion, so nothing else bounds it, and a customer's parser may not be so careful.
fn is_too_deep(json: &str) -> bool {
    // Most payloads have fewer brackets in all, which is far quicker to know.
    if json.bytes().filter(|byte| matches!(byte, b'{' | b'[')).count() <= MOST_DEPTH {
        return false;
    }
    let mut depth = 0_usize;
    let (mut in_text, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => depth = depth.saturating_add(1),
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MOST_DEPTH {
            return true;
        }
    }
    false
}

/// A JSON error without serde's quotes of what was sent, which may be secret.
fn json_problem(error: &serde_json::Error) -> String {
    let place = format!("at line {}, column {}", error.line(), error.column());
    match error.classify() {
        serde_json::error::Category::Data => {
            format!(
                "the body must be a JSON object with 'type' (text), 'payload' (any JSON), optionally 'tenant' (text) and nothing else; or for direct mode with 'url' (text), 'payload' and optionally 'target' and 'type' (text); each once; {place}"
            )
        }
        _ => format!("the body isn't JSON; {place}"),
    }
}

fn name_or<'a>(given: Option<&'a str>, member: &str, default: &'a str) -> Result<&'a str, Problem> {
    let name = given.unwrap_or(default);
    if name.is_empty() || name.len() > MOST_NAME_BYTES || name.chars().any(char::is_control) {
        let detail = format!("'{member}' must be 1 to {MOST_NAME_BYTES} bytes without control characters");
        return Err(Problem::bad_request(detail));
    }
    Ok(name)
}

fn trace_of(headers: &HeaderMap) -> TraceContext {
    let given = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
    given.and_then(TraceContext::parse).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{MOST_DEPTH, is_too_deep};

    #[test]
    fn depth_counts_brackets_outside_text() {
        let nested = |depth: usize| format!("{}{}", "[{\"a\":".repeat(depth / 2), "}]".repeat(depth / 2));
        assert!(!is_too_deep(&nested(MOST_DEPTH)));
        assert!(is_too_deep(&nested(MOST_DEPTH + 2)));
        assert!(!is_too_deep(&format!("[{}]", "[],".repeat(1_000))), "beside one another");
        assert!(!is_too_deep(&format!(r#""\"{}\\""#, "[".repeat(1_000))), "in text");
        assert!(is_too_deep(&format!(r#"["\\",{}"#, "[".repeat(1_000))), "after text");
    }
}
