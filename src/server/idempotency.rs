//! Idempotency: a request repeated with the same `Idempotency-Key` is executed once and gets the same response again.

mod cache;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};

use super::Server;
use super::auth::authenticate;
use super::extract::receive_management;
use super::problem::Problem;
use crate::common::id::digest;
pub use cache::IdempotencyCache;

/// Header that marks a request as repeatable.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Maximum length of a key, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// SHA-256 of the content of a request.
pub(super) type Fingerprint = [u8; 32];

/// Returns the request's idempotency key, if it has one.
///
/// # Errors
/// 400 for a key that is too long or has characters other than visible ASCII.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<Vec<u8>>, Problem> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = key.as_bytes();
    if key.is_empty() || key.len() > MAX_KEY_BYTES || !key.iter().all(u8::is_ascii_graphic) {
        let detail = format!("Idempotency-Key must have 1 to {MAX_KEY_BYTES} visible ASCII characters");
        return Err(Problem::bad_request(detail));
    }
    Ok(Some(key.to_vec()))
}

/// Hashes the parts of a request in which a repetition must not differ.
pub(super) fn fingerprint(parts: &[&[u8]]) -> Fingerprint {
    digest(parts)
}

/// Middleware that makes the POST requests of the management routes idempotent. `POST /publish` has its own key space
/// and calls the cache itself.
pub(super) async fn layer(
    State(server): State<Arc<Server>>,
    request: Request<Body>,
    next: Next,
) -> Result<Response, Problem> {
    if request.method() != Method::POST {
        return Ok(next.run(request).await);
    }
    let Some(key) = key(request.headers())? else { return Ok(next.run(request).await) };
    let (parts, body) = request.into_parts();
    let principal = authenticate(&server, &parts).await?;
    let (body, permit) = receive_management(&server, body).await?;
    drop(permit);
    let content_type = parts.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let fingerprint = fingerprint(&[parts.uri.path().as_bytes(), content_type, &body]);
    let request = Request::from_parts(parts, Body::from(body));
    // The prefix keeps these keys apart from those of published events.
    let key = [b"manage ", key.as_slice()].concat();
    Ok(server.idempotency.get_or_run(principal, &key, fingerprint, next.run(request)).await)
}
