//! Replay of dead letters: queues them again.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::{DeadLetterBatch, any_match};
use crate::api::{DeadSelection, Replayed};
use crate::common::id::TenantId;
use crate::publish::PublishError;
use crate::queue::QueueError;
use crate::queue::dead::DeadFilter;
use crate::registry::TenantRef;
use crate::server::auth::Caller;
use crate::server::extract::{JsonBody, PathParams};
use crate::server::problem::Problem;
use crate::server::{Server, response};

/// Replays the selected dead letters of all tenants and of direct mode
///
/// They are queued again with the same ids and all their attempts, behind the messages that wait for their endpoints.
#[utoipa::path(
    post, path = "/dead-letters/replay", tag = "dead letters",
    operation_id = "replay_any_dead_letters", security(("api_key" = [])), request_body = DeadSelection,
    responses((status = 200, description = "Number of replayed dead letters", body = Replayed))
)]
pub(in crate::server) async fn of_any(
    State(server): State<Arc<Server>>,
    caller: Caller,
    JsonBody(selection): JsonBody<DeadSelection>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    replay(&server, &caller, None, &selection).await
}

/// Replays the selected dead letters of a tenant
///
/// They are queued again with the same ids and all their attempts, behind the messages that wait for their endpoints.
#[utoipa::path(
    post, path = "/tenants/{tenant}/dead-letters/replay", tag = "dead letters",
    operation_id = "replay_dead_letters", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Id or name of the tenant; `me` for the tenant of the API key")),
    request_body = DeadSelection,
    responses((status = 200, description = "Number of replayed dead letters", body = Replayed))
)]
pub(in crate::server) async fn of_tenant(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams(tenant): PathParams<String>,
    JsonBody(selection): JsonBody<DeadSelection>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&server, &tenant)?.id;
    replay(&server, &caller, Some(tenant), &selection).await
}

async fn replay(
    server: &Server,
    caller: &Caller,
    scope: Option<TenantId>,
    selection: &DeadSelection,
) -> Result<Response, Problem> {
    let batch = DeadLetterBatch::of(server, caller, scope, selection)?;
    let mut result = Replayed { matched: 0, replayed: 0, more: false, until: batch.until };
    if selection.dry_run {
        (result.matched, result.more) = batch.count(server).await?;
    } else if let Some(filter) = &batch.filter {
        result.replayed = replay_what_fits(server, filter, batch.limit).await?;
        result.matched = result.replayed;
        result.more = any_match(server, filter).await;
        server.metrics.replayed.inc_by(result.replayed);
        if result.replayed > 0 {
            tracing::info!(
                replayed = result.replayed,
                tenant = filter.tenant.map(tracing::field::display),
                "dead letters replayed"
            );
        }
    }
    Ok(response::json(StatusCode::OK, &result))
}

/// Replays as many dead letters as the tenant's limits and the queue have room for.
///
/// # Errors
/// Dead letters match, and there is no room for any of them.
async fn replay_what_fits(server: &Server, filter: &DeadFilter, limit: usize) -> Result<u64, Problem> {
    let mut limit = within_queue_limits(server, filter, limit).await?;
    if limit == 0 {
        return Ok(0);
    }
    loop {
        match server.queue.replay(filter, limit).await {
            // The queue takes all of a batch or nothing. A smaller batch may fit.
            Err(QueueError::Full | QueueError::TooLarge) if limit > 1 => limit /= 2,
            replayed => return Ok(replayed?),
        }
    }
}

/// Returns how many matching dead letters fit into the tenant's queue limits, the same as for published events. If the
/// filter isn't for one tenant, only the queue itself sets a limit.
///
/// # Errors
/// 429 if dead letters match, and the limits leave no room for any of them.
async fn within_queue_limits(server: &Server, filter: &DeadFilter, limit: usize) -> Result<usize, Problem> {
    let Some(id) = filter.tenant else { return Ok(limit) };
    let Some(tenant) = server.registry.tenant(&TenantRef::Id(id)) else { return Ok(limit) };
    let queued = server.queue.tenant_usage(&[id.to_string()]).await?.first().copied().unwrap_or_default();
    let max_jobs = server.registry.limits(&tenant).queued_jobs;
    let max_bytes = u64::try_from(server.publisher.tenant_queued_bytes).unwrap_or(u64::MAX);
    let room = usize::try_from(u64::from(max_jobs).saturating_sub(queued.jobs)).unwrap_or(usize::MAX);
    let letters = server.queue.dead_letters(filter, None, limit).await?.letters;
    let mut bytes = queued.bytes;
    let fitting = letters.iter().take(room).take_while(|letter| {
        bytes = bytes.saturating_add(letter.bytes);
        bytes <= max_bytes
    });
    match (fitting.count(), letters.is_empty()) {
        (0, false) if room == 0 => Err(PublishError::TooManyQueued { max: max_jobs }.into()),
        (0, false) => Err(PublishError::TooManyBytesQueued { max: max_bytes }.into()),
        (fitting, _) => Ok(fitting),
    }
}
