//! `/dead-letters` and `/tenants/{tenant}/dead-letters`: lists, shows, replays and purges dead letters.
//!
//! The provider sees those of all tenants and of direct mode. A tenant sees only its own.

mod filter;
pub(super) mod purge;
mod query;
pub(super) mod replay;

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;

use self::query::DeadLetterQuery;
use super::auth::Caller;
use super::extract::PathParams;
use super::problem::Problem;
use super::{Server, response};
use crate::api::{self, DeadLetterBody, DeadLetterView, DeadSelection};
use crate::common::id::TenantId;
use crate::queue::dead::{DeadFilter, DeadPage};

/// Lists dead letters of all tenants and of direct mode, oldest first
#[utoipa::path(
    get, path = "/dead-letters", tag = "dead letters",
    operation_id = "list_all_dead_letters", security(("api_key" = [])), params(DeadLetterQuery),
    responses((status = 200, description = "A page of dead letters", body = api::Page<DeadLetterView>))
)]
pub(super) async fn list_any(
    State(server): State<Arc<Server>>,
    caller: Caller,
    query: DeadLetterQuery,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    list_page(&server, &caller, None, query).await
}

/// Lists dead letters of a tenant, oldest first
#[utoipa::path(
    get, path = "/tenants/{tenant}/dead-letters", tag = "dead letters",
    operation_id = "list_dead_letters", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Id or name of the tenant; `me` for the tenant of the API key"), DeadLetterQuery),
    responses((status = 200, description = "A page of dead letters", body = api::Page<DeadLetterView>))
)]
pub(super) async fn list(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams(tenant): PathParams<String>,
    query: DeadLetterQuery,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&server, &tenant)?.id;
    list_page(&server, &caller, Some(tenant), query).await
}

/// Shows a dead letter of any tenant or of direct mode, with its attempts and its encrypted body
#[utoipa::path(
    get, path = "/dead-letters/{message_id}", tag = "dead letters",
    operation_id = "show_any_dead_letter", security(("api_key" = [])),
    params(("message_id" = String, Path, description = "Id of the message", pattern = "^msg_[0-9a-f]{32}$")),
    responses((status = 200, description = "The dead letter", body = DeadLetterBody))
)]
pub(super) async fn show_any(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams(id): PathParams<String>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    show_one(&server, None, &id).await
}

/// Shows a dead letter of a tenant, with its attempts and its encrypted body
#[utoipa::path(
    get, path = "/tenants/{tenant}/dead-letters/{message_id}", tag = "dead letters",
    operation_id = "show_dead_letter", security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Id or name of the tenant; `me` for the tenant of the API key"),
        ("message_id" = String, Path, description = "Id of the message", pattern = "^msg_[0-9a-f]{32}$"),
    ),
    responses((status = 200, description = "The dead letter", body = DeadLetterBody))
)]
pub(super) async fn show(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams((tenant, id)): PathParams<(String, String)>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&server, &tenant)?.id;
    show_one(&server, Some(tenant), &id).await
}

async fn list_page(
    server: &Server,
    caller: &Caller,
    scope: Option<TenantId>,
    query: DeadLetterQuery,
) -> Result<Response, Problem> {
    let (after, limit) = query.page()?;
    let page = match query.filter(server, caller, scope)? {
        None => DeadPage::default(),
        Some(filter) => server.queue.dead_letters(&filter, after, limit).await?,
    };
    let last = page.letters.last().filter(|_| page.more);
    let body = api::Page {
        data: page.letters.iter().map(DeadLetterView::from).collect(),
        next_cursor: last.map(|last| last.cursor().to_string()),
    };
    Ok(response::json(StatusCode::OK, &body))
}

async fn show_one(server: &Server, tenant: Option<TenantId>, id: &str) -> Result<Response, Problem> {
    let id = response::parse_id(id, "dead letter")?;
    let found = server.queue.dead_letter(id).await?.map(DeadLetterBody::from);
    let visible = found.filter(|dead| tenant.is_none() || dead.about.tenant == tenant);
    let dead = visible.ok_or_else(|| response::no_such("dead letter"))?;
    Ok(response::json(StatusCode::OK, &dead))
}

/// Dead letters that one replay or purge request is about.
struct DeadLetterBatch {
    /// Filter that selects them. `None` means that no dead letter can match.
    filter: Option<DeadFilter>,
    /// Maximum number of dead letters that the request takes.
    limit: usize,
    /// Time before which they were dead-lettered.
    until: Timestamp,
}

impl DeadLetterBatch {
    /// Reads a selection, limited to the tenant `scope` if the route has one.
    fn of(
        server: &Server,
        caller: &Caller,
        scope: Option<TenantId>,
        selection: &DeadSelection,
    ) -> Result<Self, Problem> {
        let limit = filter::limit(selection)?;
        let mut filter = filter::of_selection(selection, server, caller, scope)?;
        // A replayed message that is dead-lettered again isn't selected again by the client's next request.
        let until = selection.until.unwrap_or_else(|| server.publisher.clock.now());
        if let Some(filter) = &mut filter {
            filter.until = Some(until);
        }
        Ok(Self { filter, limit, until })
    }

    /// Returns how many dead letters match, and whether they are more than the request takes.
    async fn count(&self, server: &Server) -> Result<(u64, bool), Problem> {
        let matched = match &self.filter {
            None => 0,
            Some(filter) => server.queue.count_dead(filter).await?,
        };
        Ok((matched, usize::try_from(matched).map_or(true, |matched| matched > self.limit)))
    }
}

/// Whether dead letters still match. Also true if the queue can't tell: the replay or purge itself has succeeded, and
/// the client's next request finds out.
async fn any_match(server: &Server, filter: &DeadFilter) -> bool {
    server.queue.dead_letters(filter, None, 1).await.map_or(true, |page| !page.letters.is_empty())
}
