//! `/messages` and `/tenants/{tenant}/messages`: the state of a message and its delivery attempts.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::auth::Caller;
use super::extract::PathParams;
use super::problem::Problem;
use super::{Server, response};
use crate::api::MessageView;
use crate::common::id::TenantId;

/// Shows a message of any tenant or of direct mode, with its latest attempts
///
/// Finds every queued and dead-lettered message, and the most recent delivered ones. With `--queue kafka`, it finds
/// dead letters only.
#[utoipa::path(
    get, path = "/messages/{message_id}", tag = "messages",
    operation_id = "show_any_message", security(("api_key" = [])),
    params(("message_id" = String, Path, description = "Id of the message", pattern = "^msg_[0-9a-f]{32}$")),
    responses((status = 200, description = "The message", body = MessageView))
)]
pub(super) async fn show_any(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams(id): PathParams<String>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    show_one(&server, None, &id).await
}

/// Shows a message of a tenant, with its latest attempts
///
/// Finds every queued and dead-lettered message, and the most recent delivered ones. With `--queue kafka`, it finds
/// dead letters only.
#[utoipa::path(
    get, path = "/tenants/{tenant}/messages/{message_id}", tag = "messages",
    operation_id = "show_message", security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Id or name of the tenant; `me` for the tenant of the API key"),
        ("message_id" = String, Path, description = "Id of the message", pattern = "^msg_[0-9a-f]{32}$"),
    ),
    responses((status = 200, description = "The message", body = MessageView))
)]
pub(super) async fn show(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams((tenant, id)): PathParams<(String, String)>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&server, &tenant)?.id;
    show_one(&server, Some(tenant), &id).await
}

async fn show_one(server: &Server, tenant: Option<TenantId>, id: &str) -> Result<Response, Problem> {
    let found = server.queue.message(response::parse_id(id, "message")?).await?.map(MessageView::from);
    let visible = found.filter(|message| tenant.is_none() || message.tenant == tenant);
    let message = visible.ok_or_else(|| response::no_such("message"))?;
    Ok(response::json(StatusCode::OK, &message))
}
