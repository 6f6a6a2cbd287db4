//! Purge of dead letters: deletes them for good.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::{DeadLetterBatch, any_match};
use crate::api::{DeadSelection, Purged};
use crate::common::id::TenantId;
use crate::server::auth::Caller;
use crate::server::extract::{JsonBody, PathParams};
use crate::server::problem::Problem;
use crate::server::{Server, response};

/// Deletes the selected dead letters of all tenants and of direct mode for good
#[utoipa::path(
    post, path = "/dead-letters/purge", tag = "dead letters",
    operation_id = "purge_any_dead_letters", security(("api_key" = [])), request_body = DeadSelection,
    responses((status = 200, description = "Number of deleted dead letters", body = Purged))
)]
pub(in crate::server) async fn of_any(
    State(server): State<Arc<Server>>,
    caller: Caller,
    JsonBody(selection): JsonBody<DeadSelection>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    purge(&server, &caller, None, &selection).await
}

/// Deletes the selected dead letters of a tenant for good
#[utoipa::path(
    post, path = "/tenants/{tenant}/dead-letters/purge", tag = "dead letters",
    operation_id = "purge_dead_letters", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Id or name of the tenant; `me` for the tenant of the API key")),
    request_body = DeadSelection,
    responses((status = 200, description = "Number of deleted dead letters", body = Purged))
)]
pub(in crate::server) async fn of_tenant(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams(tenant): PathParams<String>,
    JsonBody(selection): JsonBody<DeadSelection>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&server, &tenant)?.id;
    purge(&server, &caller, Some(tenant), &selection).await
}

async fn purge(
    server: &Server,
    caller: &Caller,
    scope: Option<TenantId>,
    selection: &DeadSelection,
) -> Result<Response, Problem> {
    let batch = DeadLetterBatch::of(server, caller, scope, selection)?;
    let mut result = Purged { matched: 0, purged: 0, more: false, until: batch.until };
    if selection.dry_run {
        (result.matched, result.more) = batch.count(server).await?;
    } else if let Some(filter) = &batch.filter {
        result.purged = server.queue.purge(filter, batch.limit).await?;
        result.matched = result.purged;
        result.more = any_match(server, filter).await;
        server.metrics.purged.inc_by(result.purged);
        if result.purged > 0 {
            tracing::info!(
                purged = result.purged,
                tenant = filter.tenant.map(tracing::field::display),
                "dead letters purged"
            );
        }
    }
    Ok(response::json(StatusCode::OK, &result))
}
