//! `/messages` and `/tenants/{tenant}/messages`: where a message stands, and what its attempts came to.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::Server;
use super::answer;
use super::auth::Caller;
use super::extract::InPath;
use super::problem::Problem;
use crate::api::MessageView;
use crate::common::id::TenantId;

/// Shows a message of any tenant, or of direct mode, with its latest attempts
///
/// Every message that is queued or dead is known, and the latest that were delivered; with `--queue kafka` the dead
/// alone.
#[utoipa::path(
    get, path = "/messages/{message_id}", tag = "messages",
    operation_id = "show_any_message", security(("api_key" = [])),
    params(("message_id" = String, Path, description = "The message's id", pattern = "^msg_[0-9a-f]{32}$")),
    responses((status = 200, description = "It", body = MessageView))
)]
pub(super) async fn show_any(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath(id): InPath<String>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    shown(&server, None, &id).await
}

/// Shows a message of a tenant with its latest attempts
///
/// Every message that is queued or dead is known, and the latest that were delivered; with `--queue kafka` the dead
/// alone.
#[utoipa::path(
    get, path = "/tenants/{tenant}/messages/{message_id}", tag = "messages",
    operation_id = "show_message", security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Its id or name; `me` for the caller's own"),
        ("message_id" = String, Path, description = "The message's id", pattern = "^msg_[0-9a-f]{32}$"),
    ),
    responses((status = 200, description = "It", body = MessageView))
)]
pub(super) async fn show(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath((tenant, id)): InPath<(String, String)>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&server, &tenant)?.id;
    shown(&server, Some(tenant), &id).await
}

async fn shown(server: &Server, of: Option<TenantId>, id: &str) -> Result<Response, Problem> {
    let found = server.queue.message(answer::id(id, "message")?).await?.map(MessageView::from);
    let found = found.filter(|message| of.is_none() || message.tenant == of);
    let message = found.ok_or_else(|| answer::no_such("message"))?;
    Ok(answer::json(StatusCode::OK, &message))
}
