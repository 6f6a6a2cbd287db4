//! `POST /publish`.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use hyper::body::Body as _;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use tokio::sync::SemaphorePermit;

use super::Server;
use super::problem::Problem;
use crate::common::endpoint_url::EndpointUrl;
use crate::common::http::read_body;
use crate::common::job::TraceContext;
use crate::deliver::TRACEPARENT;
use crate::publish::{DIRECT_TENANT, DIRECT_TYPE, DirectEvent};

/// Bytes of a request around its payload: the URL at its longest (2 KiB), names, white space.
pub(super) const FRAME_BYTES: usize = 64 * 1024;

/// Objects and arrays within one another: what common JSON parsers take (serde_json's limit).
const MOST_DEPTH: usize = 128;

/// Tenant names and event types are at most this long.
const MOST_NAME_BYTES: usize = 256;

/// The scripts' body, and an event type.
#[derive(Deserialize)]
struct DirectRequest<'a> {
    #[serde(borrow)]
    url: Option<Cow<'a, str>>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    target: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
}

pub(super) async fn publish(
    State(server): State<Arc<Server>>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    require_json(&parts.headers)?;
    let most = server.max_payload.saturating_add(FRAME_BYTES);
    let _room = room_for(&server, &body, most)?;
    let body = read_body(body, most, server.request_time).await?;
    let request: Object<DirectRequest<'_>> =
        serde_json::from_slice(&body).map_err(|error| Problem::bad_request(json_problem(&error)))?;

    let request = request.0;
    let url = request.url.as_deref().ok_or_else(|| Problem::bad_request("'url' is required"))?;
    let url = EndpointUrl::parse(url).map_err(|error| Problem::bad_request(format!("'url' {error}")))?;
    let payload = request.payload.ok_or_else(|| Problem::bad_request("'payload' is required"))?;
    if payload.get().len() > server.max_payload {
        let detail =
            format!("'payload' is {} bytes, at most {} are taken", payload.get().len(), server.max_payload);
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    if is_too_deep(payload.get()) {
        return Err(Problem::bad_request(format!("'payload' is nested deeper than {MOST_DEPTH}")));
    }
    let event = DirectEvent {
        url,
        payload,
        kind: name_or(request.kind.as_deref(), "type", DIRECT_TYPE)?,
        target: name_or(request.target.as_deref(), "target", DIRECT_TENANT)?,
        trace: trace_of(&parts.headers),
    };
    let published = server.publisher.publish_direct(event).await?;
    let body = serde_json::to_vec(&published).unwrap_or_default();
    let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((StatusCode::ACCEPTED, json, body).into_response())
}

/// An object, where serde would take an array of its members as well.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfObject<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OfObject<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(OfObject(PhantomData))
    }
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
                "the body must be a JSON object with 'url' (text), 'payload' (any JSON), optionally 'target' and 'type' (text), each once; {place}"
            )
        }
        _ => format!("the body isn't JSON; {place}"),
    }
}

/// A share of the memory for bodies: of the length that was announced, or the most that is taken.
fn room_for<'s>(server: &'s Server, body: &Body, most: usize) -> Result<SemaphorePermit<'s>, Problem> {
    let announced = body.size_hint().upper().and_then(|length| usize::try_from(length).ok());
    let kib = announced.unwrap_or(most).min(most).div_ceil(1024);
    let permit = server.body_budget.try_acquire_many(u32::try_from(kib).unwrap_or(u32::MAX));
    permit.map_err(|_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too much is being received at once; try again")
    })
}

fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type must be application/json"))
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
