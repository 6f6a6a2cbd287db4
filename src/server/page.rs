//! Pages of a list.

use std::fmt::Display;
use std::str::FromStr;

use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::problem::Problem;
use super::response;
use crate::api;
use crate::registry;

/// Number of items on a page if the request has no `limit`.
const DEFAULT_LIMIT: u32 = 50;
/// Maximum number of items on a page.
const MAX_LIMIT: u32 = 100;

/// Query parameters that select a page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    /// Maximum number of items on the page
    #[param(minimum = 1, maximum = 100, default = 50, nullable = false)]
    limit: Option<u32>,
    /// `next_cursor` of the previous page
    #[param(nullable = false, pattern = "^[0-9a-f]{32}$")]
    cursor: Option<String>,
}

impl PageQuery {
    /// Returns the id of the last item before the page, and the maximum number of items on the page.
    ///
    /// # Errors
    /// 400 for a limit out of range, or for a cursor that isn't an id without its prefix.
    pub(super) fn read<T: FromStr>(&self, id_prefix: &str) -> Result<(Option<T>, usize), Problem> {
        let limit = limit(self.limit)?;
        let id = self.cursor.as_deref().map(|digits| format!("{id_prefix}{digits}"));
        let after = id.as_deref().map(str::parse).transpose();
        let after = after
            .map_err(|_| Problem::bad_request("'cursor' must be the next_cursor of the previous page"))?;
        Ok((after, limit))
    }
}

/// Returns the number of items on a page.
///
/// # Errors
/// 400 for a limit out of range.
pub(super) fn limit(limit: Option<u32>) -> Result<usize, Problem> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::bad_request(format!("'limit' must be from 1 to {MAX_LIMIT}")));
    }
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Returns the response for a page. `view` converts an item into its JSON body, and `id` gives the id for the cursor.
pub(super) fn response<T, V: Serialize, I: Display>(
    page: &registry::Page<T>,
    id: impl Fn(&T) -> I,
    view: impl Fn(&T) -> V,
) -> Response {
    let last = page.items.last().filter(|_| page.more);
    let body = api::Page {
        data: page.items.iter().map(view).collect(),
        next_cursor: last.and_then(|last| id(last).to_string().split('_').next_back().map(str::to_owned)),
    };
    response::json(StatusCode::OK, &body)
}
