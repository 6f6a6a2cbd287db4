//! Responses: JSON bodies, entity tags, and the location of what was created.

use std::str::FromStr;

use axum::response::{IntoResponse as _, Response};
use http::header::{CONTENT_TYPE, ETAG, IF_MATCH, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;

use super::problem::Problem;
use crate::common::task;
use crate::registry::RegistryError;

/// Returns a JSON response.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (status, json, serde_json::to_vec(body).unwrap_or_default()).into_response()
}

/// Returns a JSON response with the version of its resource as `ETag`.
pub(super) fn versioned(status: StatusCode, version: u64, body: &impl Serialize) -> Response {
    let mut response = json(status, body);
    if let Ok(tag) = HeaderValue::try_from(format!("\"v{version}\"")) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

/// Adds the path of a created resource as `Location`.
pub(super) fn with_location(mut response: Response, path: &str) -> Response {
    if let Ok(path) = HeaderValue::try_from(path) {
        response.headers_mut().insert(LOCATION, path);
    }
    response
}

/// Returns the version that `If-Match` asks for. `None` means any version. A tag that this server never sends gives
/// `u64::MAX`, a version that no resource reaches.
pub(super) fn expected_version(headers: &HeaderMap) -> Option<u64> {
    let tag = headers.get(IF_MATCH)?.to_str().unwrap_or_default();
    if tag == "*" {
        return None;
    }
    let number = tag.strip_prefix("\"v").and_then(|rest| rest.strip_suffix('"'));
    let number = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    Some(number.and_then(|number| number.parse().ok()).unwrap_or(u64::MAX))
}

/// Runs a registry change and its follow-up steps in a task of their own. They run to their end even if the caller
/// hangs up and this future is dropped.
pub(super) async fn run_to_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, RegistryError>> + Send + 'static,
) -> Result<T, Problem> {
    Ok(task::spawn("management_change", change).await.unwrap_or(Err(RegistryError::Stopped))?)
}

/// Returns a 404 problem. `resource` is a noun such as "endpoint".
pub(super) fn no_such(resource: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("no such {resource}"))
}

/// Parses an id from a path.
///
/// # Errors
/// 404 for a text that isn't an id, because no resource has it.
pub(super) fn parse_id<T: FromStr>(text: &str, resource: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| no_such(resource))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_tag_in_if_match_gives_a_version_that_never_exists() {
        let of = |tag: &'static str| {
            expected_version(&HeaderMap::from_iter([(IF_MATCH, HeaderValue::from_static(tag))]))
        };
        assert_eq!(expected_version(&HeaderMap::new()), None);
        assert_eq!(of("*"), None);
        assert_eq!(of("\"v7\""), Some(7));
        for odd in ["", "v7", "\"7\"", "W/\"v7\"", "\"v-1\"", "\"v+1\"", "\"v99999999999999999999\""] {
            assert_eq!(of(odd), Some(u64::MAX), "{odd}");
        }
    }
}
