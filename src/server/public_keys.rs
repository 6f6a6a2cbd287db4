//! `/tenants/{tenant}/public-keys`: the keys that a tenant's events are encrypted with.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::auth::Caller;
use super::extract::{JsonBody, PathParams};
use super::problem::{Problem, invalid_field};
use super::{Server, response};
use crate::api::{self, NewPublicKey, PublicKeyView};
use crate::common::crypto::keys::PublicKey;

/// Lists the public keys of a tenant
#[utoipa::path(
    get, path = "/tenants/{tenant}/public-keys", tag = "public keys",
    operation_id = "list_public_keys", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Id or name of the tenant; `me` for the tenant of the API key")),
    responses((status = 200, description = "All public keys of the tenant, on one page", body = api::Page<PublicKeyView>))
)]
pub(super) async fn list(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams(tenant): PathParams<String>,
) -> Result<Response, Problem> {
    let keys = server.registry.public_keys(caller.tenant(&server, &tenant)?.id);
    let data = keys.iter().map(|key| PublicKeyView::from(&**key)).collect();
    Ok(response::json(StatusCode::OK, &api::Page { data, next_cursor: None }))
}

/// Adds a public key and makes it active
///
/// New events are encrypted with it at once. The key that was active is retiring: queued messages may still need it.
#[utoipa::path(
    post, path = "/tenants/{tenant}/public-keys", tag = "public keys",
    operation_id = "add_public_key", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Id or name of the tenant; `me` for the tenant of the API key")),
    request_body = NewPublicKey,
    responses(
        (status = 201, description = "The added key, now active", body = PublicKeyView),
        (status = 200, description = "The tenant already had this key; it is active", body = PublicKeyView),
    )
)]
pub(super) async fn add(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams(tenant): PathParams<String>,
    JsonBody(new): JsonBody<NewPublicKey>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&server, &tenant)?.id;
    let key = PublicKey::parse(&new.public_key).map_err(|error| invalid_field("public_key", &error))?;
    let (key, is_new) = server.registry.add_public_key(tenant, key).await?;
    tracing::info!(%tenant, kid = %key.kid, "public key is active");
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(response::json(status, &PublicKeyView::from(&*key)))
}

/// Retires a public key that a newer one has replaced
///
/// No event is encrypted with a retired key. It stays in the list. Messages that were encrypted with it may still be
/// queued or dead-lettered, so the customer needs the private key until they are delivered.
#[utoipa::path(
    post, path = "/tenants/{tenant}/public-keys/{kid}/retire", tag = "public keys",
    operation_id = "retire_public_key", security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Id or name of the tenant; `me` for the tenant of the API key"),
        ("kid" = String, Path, description = "Id of the public key", pattern = "^[A-Za-z0-9_-]{43}$"),
    ),
    responses((status = 200, description = "The retired key", body = PublicKeyView))
)]
pub(super) async fn retire(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams((tenant, kid)): PathParams<(String, String)>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&server, &tenant)?.id;
    let key = server.registry.retire_public_key(tenant, kid).await?;
    tracing::info!(%tenant, kid = %key.kid, "public key is retired");
    Ok(response::json(StatusCode::OK, &PublicKeyView::from(&*key)))
}
