//! Answers: JSON bodies, versions as ETags, pages.

use std::fmt::Display;
use std::str::FromStr;

use axum::response::{IntoResponse as _, Response};
use http::header::{CONTENT_TYPE, ETAG, IF_MATCH, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::problem::Problem;
use crate::api;
use crate::registry::{self, RegistryError};

/// Items of a page where `limit` isn't given, and at most.
const PAGE_ITEMS: u32 = 50;
const MOST_PAGE_ITEMS: u32 = 100;

/// A JSON answer.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (status, json, serde_json::to_vec(body).unwrap_or_default()).into_response()
}

/// A JSON answer about something that has versions.
pub(super) fn versioned(status: StatusCode, version: u64, body: &impl Serialize) -> Response {
    let mut answer = json(status, body);
    if let Ok(tag) = HeaderValue::try_from(format!("\"v{version}\"")) {
        answer.headers_mut().insert(ETAG, tag);
    }
    answer
}

/// The same, with where it is found from now on.
pub(super) fn at(mut answer: Response, path: &str) -> Response {
    if let Ok(path) = HeaderValue::try_from(path) {
        answer.headers_mut().insert(LOCATION, path);
    }
    answer
}

/// The version that `If-Match` wants; a tag that was never given wants one that is never reached.
pub(super) fn expected_version(headers: &HeaderMap) -> Option<u64> {
    let wanted = headers.get(IF_MATCH)?.to_str().unwrap_or_default();
    if wanted == "*" {
        return None;
    }
    let number = wanted.strip_prefix("\"v").and_then(|rest| rest.strip_suffix('"'));
    let number = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    Some(number.and_then(|number| number.parse().ok()).unwrap_or(u64::MAX))
}

/// Runs a change and what must follow it, also where the caller hangs up in between.
pub(super) async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, RegistryError>> + Send + 'static,
) -> Result<T, Problem> {
    Ok(tokio::spawn(change).await.unwrap_or(Err(RegistryError::Stopped))?)
}

/// 404.
pub(super) fn no_such(what: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("no such {what}"))
}

/// Reads an id from a path; what isn't one names nothing.
pub(super) fn id<T: FromStr>(text: &str, what: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| no_such(what))
}

/// Which part of a list is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    /// How many items at most
    #[param(minimum = 1, maximum = 100, default = 50, nullable = false)]
    limit: Option<u32>,
    /// `next_cursor` of the page before
    #[param(nullable = false, pattern = "^[0-9a-f]{32}$")]
    cursor: Option<String>,
}

impl PageQuery {
    /// The item before the page, and how many there may be on it.
    pub(super) fn read<T: FromStr>(&self, prefix: &str) -> Result<(Option<T>, usize), Problem> {
        let limit = self.limit.unwrap_or(PAGE_ITEMS);
        if !(1..=MOST_PAGE_ITEMS).contains(&limit) {
            return Err(Problem::bad_request(format!("'limit' must be 1 to {MOST_PAGE_ITEMS}")));
        }
        let not_ours = |_| Problem::bad_request("'cursor' must be the next_cursor of the page before");
        let id = self.cursor.as_deref().map(|digits| format!("{prefix}{digits}"));
        let after = id.as_deref().map(str::parse).transpose().map_err(not_ours)?;
        Ok((after, usize::try_from(limit).unwrap_or(usize::MAX)))
    }
}

/// A page of `items`, each named by `id` and shown by its view.
pub(super) fn page<T, V: Serialize, I: Display>(
    page: &registry::Page<T>,
    id: impl Fn(&T) -> I,
    view: impl Fn(&T) -> V,
) -> Response {
    let last = page.items.last().filter(|_| page.more);
    let body = api::Page {
        data: page.items.iter().map(view).collect(),
        next_cursor: last.and_then(|last| id(last).to_string().split('_').next_back().map(str::to_owned)),
    };
    json(StatusCode::OK, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_match_names_a_version_or_one_that_never_is() {
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
