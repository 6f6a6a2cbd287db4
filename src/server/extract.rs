//! Extractors of paths, queries and bodies. Their errors name what is wrong and never quote values, which may be secret.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, Request, StatusCode};
use hyper::body::Body as _;
use serde::de::DeserializeOwned;
use tokio::sync::SemaphorePermit;

use super::Server;
use super::problem::Problem;
use crate::common::http::read_body;
use crate::common::json::Object;

/// Maximum size of a management request's body, in bytes. Sixteen headers of 1 KiB and sixty-four filters fit into it.
const MAX_MANAGEMENT_BYTES: usize = 64 * 1024;

/// Values of the variables in a route's path.
pub(super) struct PathParams<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<Server>> for PathParams<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<Server>) -> Result<Self, Problem> {
        let path = Path::<T>::from_request_parts(parts, server).await;
        path.map(|Path(values)| Self(values))
            .map_err(|_| Problem::bad_request("the path must be percent-encoded UTF-8"))
    }
}

/// Query parameters.
pub(super) struct QueryParams<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<Server>> for QueryParams<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<Server>) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, server).await;
        query.map(|Query(values)| Self(values)).map_err(|_| {
            Problem::bad_request(
                "the query has an unknown, repeated or malformed parameter; see /openapi.json for this route's",
            )
        })
    }
}

/// A JSON body.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Server>> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request<Body>, server: &Arc<Server>) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        require_json(&parts.headers)?;
        let (body, _permit) = receive_management(server, body).await?;
        parse(&body).map(Self)
    }
}

/// A JSON body, or `T::default()` if the request has none.
pub(super) struct OptionalJsonBody<T>(pub(super) T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<Server>> for OptionalJsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request<Body>, server: &Arc<Server>) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let (body, _permit) = receive_management(server, body).await?;
        if body.is_empty() || body.trim_ascii() == b"null" {
            return Ok(Self(T::default()));
        }
        require_json(&parts.headers)?;
        parse(&body).map(Self)
    }
}

/// Receives a body of at most `max_bytes` into memory. The permit holds its share of the memory for bodies.
///
/// # Errors
/// 503 if the memory for bodies is used up, 413 for a body that is too large, 408 for one that is too slow.
pub(super) async fn receive(
    server: &Server,
    body: Body,
    max_bytes: usize,
) -> Result<(Bytes, SemaphorePermit<'_>), Problem> {
    let announced = body.size_hint().upper().and_then(|length| usize::try_from(length).ok());
    let kib = announced.unwrap_or(max_bytes).min(max_bytes).div_ceil(1024);
    let kib = u32::try_from(kib).unwrap_or(u32::MAX);
    let permit = server.body_budget.try_acquire_many(kib).map_err(|_| {
        let detail =
            "the server is receiving too many request bodies at once; try again after the Retry-After delay";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    })?;
    Ok((read_body(body, max_bytes, server.request_time).await?, permit))
}

/// Receives the body of a management request, as [`receive`] does.
pub(super) async fn receive_management(
    server: &Server,
    body: Body,
) -> Result<(Bytes, SemaphorePermit<'_>), Problem> {
    receive(server, body, MAX_MANAGEMENT_BYTES).await
}

/// Returns the media type of a body, without its parameters. Empty if there is no valid `content-type`.
pub(super) fn media_type(headers: &HeaderMap) -> &str {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    content_type.split(';').next().unwrap_or_default().trim()
}

fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    if media_type(headers).eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type must be application/json"))
}

/// Parses a JSON object.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let parsed: Result<Object<T>, _> = serde_path_to_error::deserialize(&mut json);
    let Object(parsed) = parsed.map_err(|error| body_problem(&error))?;
    json.end().map_err(|error| invalid_json(&error))?;
    Ok(parsed)
}

/// Returns a 400 problem for a text that isn't JSON.
pub(super) fn invalid_json(error: &serde_json::Error) -> Problem {
    Problem::bad_request(format!("the body isn't JSON (line {}, column {})", error.line(), error.column()))
}

/// Returns a 400 problem that names the member that is wrong.
fn body_problem(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let (path, inner) = (error.path().to_string(), error.inner());
    if !inner.is_data() {
        return invalid_json(inner);
    }
    let message = inner.to_string();
    // In this message serde quotes the name of a field of ours. In others it may quote what was sent.
    if let Some(missing) = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
        return Problem::bad_request(format!("the body lacks '{missing}'"));
    }
    Problem::bad_request(if path == "." {
        "the body must be a JSON object as /openapi.json describes it, with each member once".to_owned()
    } else {
        format!(
            "'{}' is unknown, repeated or malformed; see /openapi.json for this route's body",
            printable(&path)
        )
    })
}

/// Returns the first 64 harmless characters of a member name that was sent.
pub(super) fn printable(name: &str) -> String {
    let is_harmless = |c: &char| c.is_ascii_alphanumeric() || "._-[]".contains(*c);
    name.chars().filter(is_harmless).take(64).collect()
}
