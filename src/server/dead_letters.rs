//! `/dead-letters` and `/tenants/{tenant}/dead-letters`: what was given up, to be looked at, replayed and purged.
//!
//! The provider sees all, and what direct mode gave up besides; a tenant its own alone.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;

use super::Server;
use super::answer;
use super::auth::Caller;
use super::dead_filter::{self, DeadQuery};
use super::extract::{InBody, InPath};
use super::problem::Problem;
use crate::api::{self, DeadLetterBody, DeadLetterView, DeadSelection, Purged, Replayed};
use crate::common::id::TenantId;
use crate::publish::PublishError;
use crate::queue::QueueError;
use crate::queue::dead::{DeadFilter, DeadPage};
use crate::registry::TenantRef;

/// Lists dead letters of all tenants and of direct mode, the longest dead first
#[utoipa::path(
    get, path = "/dead-letters", tag = "dead letters",
    operation_id = "list_all_dead_letters", security(("api_key" = [])), params(DeadQuery),
    responses((status = 200, description = "A page of them", body = api::Page<DeadLetterView>))
)]
pub(super) async fn list_all(
    State(server): State<Arc<Server>>,
    caller: Caller,
    query: DeadQuery,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    listed(&server, &caller, None, query).await
}

/// Lists a tenant's dead letters, the longest dead first
#[utoipa::path(
    get, path = "/tenants/{tenant}/dead-letters", tag = "dead letters",
    operation_id = "list_dead_letters", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Its id or name; `me` for the caller's own"), DeadQuery),
    responses((status = 200, description = "A page of them", body = api::Page<DeadLetterView>))
)]
pub(super) async fn list(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath(tenant): InPath<String>,
    query: DeadQuery,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&server, &tenant)?.id;
    listed(&server, &caller, Some(tenant), query).await
}

/// Shows any dead letter with its attempts and its sealed body
#[utoipa::path(
    get, path = "/dead-letters/{message_id}", tag = "dead letters",
    operation_id = "show_any_dead_letter", security(("api_key" = [])),
    params(("message_id" = String, Path, description = "The message's id", pattern = "^msg_[0-9a-f]{32}$")),
    responses((status = 200, description = "It", body = DeadLetterBody))
)]
pub(super) async fn show_any(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath(id): InPath<String>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    shown(&server, None, &id).await
}

/// Shows a tenant's dead letter with its attempts and its sealed body
#[utoipa::path(
    get, path = "/tenants/{tenant}/dead-letters/{message_id}", tag = "dead letters",
    operation_id = "show_dead_letter", security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Its id or name; `me` for the caller's own"),
        ("message_id" = String, Path, description = "The message's id", pattern = "^msg_[0-9a-f]{32}$"),
    ),
    responses((status = 200, description = "It", body = DeadLetterBody))
)]
pub(super) async fn show(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath((tenant, id)): InPath<(String, String)>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&server, &tenant)?.id;
    shown(&server, Some(tenant), &id).await
}

/// Queues dead letters again: those of all tenants and of direct mode that match
///
/// They keep their ids, have all their attempts before them, and wait at the ends of their endpoints' lanes.
#[utoipa::path(
    post, path = "/dead-letters/replay", tag = "dead letters",
    operation_id = "replay_any_dead_letters", security(("api_key" = [])), request_body = DeadSelection,
    responses((status = 200, description = "How many", body = Replayed))
)]
pub(super) async fn replay_any(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InBody(selection): InBody<DeadSelection>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    replayed(&server, &caller, None, &selection).await
}

/// Queues a tenant's dead letters again: those that match
///
/// They keep their ids, have all their attempts before them, and wait at the ends of their endpoints' lanes.
#[utoipa::path(
    post, path = "/tenants/{tenant}/dead-letters/replay", tag = "dead letters",
    operation_id = "replay_dead_letters", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Its id or name; `me` for the caller's own")),
    request_body = DeadSelection,
    responses((status = 200, description = "How many", body = Replayed))
)]
pub(super) async fn replay(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath(tenant): InPath<String>,
    InBody(selection): InBody<DeadSelection>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&server, &tenant)?.id;
    replayed(&server, &caller, Some(tenant), &selection).await
}

/// Deletes dead letters for good: those of all tenants and of direct mode that match
#[utoipa::path(
    post, path = "/dead-letters/purge", tag = "dead letters",
    operation_id = "purge_any_dead_letters", security(("api_key" = [])), request_body = DeadSelection,
    responses((status = 200, description = "How many", body = Purged))
)]
pub(super) async fn purge_any(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InBody(selection): InBody<DeadSelection>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    purged(&server, &caller, None, &selection).await
}

/// Deletes a tenant's dead letters for good: those that match
#[utoipa::path(
    post, path = "/tenants/{tenant}/dead-letters/purge", tag = "dead letters",
    operation_id = "purge_dead_letters", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Its id or name; `me` for the caller's own")),
    request_body = DeadSelection,
    responses((status = 200, description = "How many", body = Purged))
)]
pub(super) async fn purge(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath(tenant): InPath<String>,
    InBody(selection): InBody<DeadSelection>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&server, &tenant)?.id;
    purged(&server, &caller, Some(tenant), &selection).await
}

async fn listed(
    server: &Server,
    caller: &Caller,
    scope: Option<TenantId>,
    query: DeadQuery,
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
    Ok(answer::json(StatusCode::OK, &body))
}

async fn shown(server: &Server, of: Option<TenantId>, id: &str) -> Result<Response, Problem> {
    let found = server.queue.dead_letter(answer::id(id, "dead letter")?).await?.map(DeadLetterBody::from);
    let found = found.filter(|dead| of.is_none() || dead.about.tenant == of);
    let dead = found.ok_or_else(|| answer::no_such("dead letter"))?;
    Ok(answer::json(StatusCode::OK, &dead))
}

/// What one request does, and with which.
struct Asked {
    filter: Option<DeadFilter>,
    limit: usize,
    until: Timestamp,
}

impl Asked {
    fn read(
        server: &Server,
        caller: &Caller,
        scope: Option<TenantId>,
        selection: &DeadSelection,
    ) -> Result<Self, Problem> {
        let limit = dead_filter::limit(selection)?;
        let mut filter = dead_filter::selected(selection, server, caller, scope)?;
        // What dies again while its requests go on isn't meant.
        let until = selection.until.unwrap_or_else(|| server.publisher.clock.now());
        if let Some(filter) = &mut filter {
            filter.until = Some(until);
        }
        Ok(Self { filter, limit, until })
    }

    /// How many match, and whether that is more than one request takes.
    async fn count(&self, server: &Server) -> Result<(u64, bool), Problem> {
        let matched = match &self.filter {
            None => 0,
            Some(filter) => server.queue.count_dead(filter).await?,
        };
        Ok((matched, usize::try_from(matched).map_or(true, |matched| matched > self.limit)))
    }
}

async fn replayed(
    server: &Server,
    caller: &Caller,
    scope: Option<TenantId>,
    selection: &DeadSelection,
) -> Result<Response, Problem> {
    let asked = Asked::read(server, caller, scope, selection)?;
    let mut answer = Replayed { matched: 0, replayed: 0, more: false, until: asked.until };
    if selection.dry_run {
        (answer.matched, answer.more) = asked.count(server).await?;
    } else if let Some(filter) = &asked.filter {
        answer.replayed = replay_what_fits(server, filter, asked.limit).await?;
        answer.matched = answer.replayed;
        answer.more = are_any(server, filter).await;
        server.metrics.replayed.inc_by(answer.replayed);
        if answer.replayed > 0 {
            tracing::info!(
                replayed = answer.replayed,
                tenant = filter.tenant.map(tracing::field::display),
                "dead letters replayed"
            );
        }
    }
    Ok(answer::json(StatusCode::OK, &answer))
}

async fn purged(
    server: &Server,
    caller: &Caller,
    scope: Option<TenantId>,
    selection: &DeadSelection,
) -> Result<Response, Problem> {
    let asked = Asked::read(server, caller, scope, selection)?;
    let mut answer = Purged { matched: 0, purged: 0, more: false, until: asked.until };
    if selection.dry_run {
        (answer.matched, answer.more) = asked.count(server).await?;
    } else if let Some(filter) = &asked.filter {
        answer.purged = server.queue.purge(filter, asked.limit).await?;
        answer.matched = answer.purged;
        answer.more = are_any(server, filter).await;
        server.metrics.purged.inc_by(answer.purged);
        if answer.purged > 0 {
            tracing::info!(
                purged = answer.purged,
                tenant = filter.tenant.map(tracing::field::display),
                "dead letters purged"
            );
        }
    }
    Ok(answer::json(StatusCode::OK, &answer))
}

/// Whether any match; where that can't be told there may be: what was done is done, and whoever asks again learns it.
async fn are_any(server: &Server, filter: &DeadFilter) -> bool {
    server.queue.dead_letters(filter, None, 1).await.map_or(true, |page| !page.letters.is_empty())
}

/// Replays as many as the tenant may have in the queue and there is room for there: one at least, or an error that says
/// why it can't be.
async fn replay_what_fits(server: &Server, filter: &DeadFilter, limit: usize) -> Result<u64, Problem> {
    let mut limit = within_quota(server, filter, limit).await?;
    if limit == 0 {
        return Ok(0);
    }
    loop {
        match server.queue.replay(filter, limit).await {
            // It takes all of a batch or none: fewer may fit.
            Err(QueueError::Full | QueueError::TooLarge) if limit > 1 => limit /= 2,
            replayed => return Ok(replayed?),
        }
    }
}

/// How many of those that match their tenant may have in the queue beside what it has there, as when it publishes;
/// where no one tenant is meant, the queue alone is the limit.
async fn within_quota(server: &Server, filter: &DeadFilter, limit: usize) -> Result<usize, Problem> {
    let Some(id) = filter.tenant else { return Ok(limit) };
    let Some(tenant) = server.registry.tenant(&TenantRef::Id(id)) else { return Ok(limit) };
    let queued = server.queue.tenant_usage(&[id.to_string()]).await?.first().copied().unwrap_or_default();
    let most_jobs = server.registry.limits(&tenant).queued_jobs;
    let most_bytes = u64::try_from(server.publisher.tenant_queued_bytes).unwrap_or(u64::MAX);
    let room = usize::try_from(u64::from(most_jobs).saturating_sub(queued.jobs)).unwrap_or(usize::MAX);
    let letters = server.queue.dead_letters(filter, None, limit).await?.letters;
    let mut bytes = queued.bytes;
    let fit = letters.iter().take(room).take_while(|letter| {
        bytes = bytes.saturating_add(letter.bytes);
        bytes <= most_bytes
    });
    match (fit.count(), letters.is_empty()) {
        (0, false) if room == 0 => Err(PublishError::TooManyQueued { most: most_jobs }.into()),
        (0, false) => Err(PublishError::TooManyBytesQueued.into()),
        (fit, _) => Ok(fit),
    }
}
