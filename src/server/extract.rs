//! What handlers take from a request, with errors that say what is wrong and never quote what was sent.

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

/// Bytes of the body of a request that manages something: sixteen headers of 1 KiB and sixty-four filters fit.
const MOST_MANAGING_BYTES: usize = 64 * 1024;

/// What a path holds in its variable places.
pub(super) struct InPath<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<Server>> for InPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<Server>) -> Result<Self, Problem> {
        let path = Path::<T>::from_request_parts(parts, server).await;
        path.map(|Path(values)| Self(values))
            .map_err(|_| Problem::bad_request("the path isn't UTF-8 once it is percent-decoded"))
    }
}

/// A query string.
pub(super) struct InQuery<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<Server>> for InQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<Server>) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, server).await;
        query.map(|Query(values)| Self(values)).map_err(|_| {
            Problem::bad_request("the query must be as /openapi.json has it, each parameter once")
        })
    }
}

/// A JSON body.
pub(super) struct InBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Server>> for InBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request<Body>, server: &Arc<Server>) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        require_json(&parts.headers)?;
        let (body, _room) = receive(server, body, MOST_MANAGING_BYTES).await?;
        parse(&body).map(Self)
    }
}

/// A JSON body, or the default where there is none.
pub(super) struct InBodyIfAny<T>(pub(super) T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<Server>> for InBodyIfAny<T> {
    type Rejection = Problem;

    async fn from_request(request: Request<Body>, server: &Arc<Server>) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let (body, _room) = receive(server, body, MOST_MANAGING_BYTES).await?;
        if body.is_empty() || body.trim_ascii() == b"null" {
            return Ok(Self(T::default()));
        }
        require_json(&parts.headers)?;
        parse(&body).map(Self)
    }
}

/// Reads a body whole, of the memory that there is for bodies; the room is kept with it.
pub(super) async fn receive(
    server: &Server,
    body: Body,
    most: usize,
) -> Result<(Bytes, SemaphorePermit<'_>), Problem> {
    let announced = body.size_hint().upper().and_then(|length| usize::try_from(length).ok());
    let kib = announced.unwrap_or(most).min(most).div_ceil(1024);
    let room = server.body_budget.try_acquire_many(u32::try_from(kib).unwrap_or(u32::MAX)).map_err(|_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too much is being received at once; try again")
    })?;
    Ok((read_body(body, most, server.request_time).await?, room))
}

/// A whole body of a managing request.
pub(super) async fn receive_managing(
    server: &Server,
    body: Body,
) -> Result<(Bytes, SemaphorePermit<'_>), Problem> {
    receive(server, body, MOST_MANAGING_BYTES).await
}

/// The media type of a body.
pub(super) fn media_type(headers: &HeaderMap) -> &str {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    content_type.split(';').next().unwrap_or_default().trim()
}

pub(super) fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    if media_type(headers).eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type must be application/json"))
}

/// Parses an object; an error names the member, and never what is in it.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let parsed: Result<Object<T>, _> = serde_path_to_error::deserialize(&mut json);
    let Object(parsed) = parsed.map_err(|error| Problem::bad_request(describe(&error)))?;
    json.end().map_err(|_| Problem::bad_request("the body isn't JSON: something follows the object"))?;
    Ok(parsed)
}

fn describe(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let (path, inner) = (error.path().to_string(), error.inner());
    let told = inner.to_string();
    match inner.classify() {
        // Of these serde names the member that is meant, which is one of ours.
        serde_json::error::Category::Data if told.starts_with("missing field") => told
            .split(" at line")
            .next()
            .unwrap_or_default()
            .replace("missing field", "the body lacks")
            .replace('`', "'"),
        serde_json::error::Category::Data if path == "." => {
            "the body must be a JSON object as /openapi.json describes it, each member once".into()
        }
        serde_json::error::Category::Data => {
            format!("'{}' isn't as /openapi.json describes it", shown(&path))
        }
        _ => format!("the body isn't JSON; at line {}, column {}", inner.line(), inner.column()),
    }
}

/// A path's names as far as they are plain: they were sent, too.
fn shown(path: &str) -> String {
    let plain = |c: &char| c.is_ascii_alphanumeric() || "._-[]".contains(*c);
    path.chars().filter(plain).take(64).collect()
}
