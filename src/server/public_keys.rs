//! `/tenants/{tenant}/public-keys`: what a tenant's events are sealed to.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::Server;
use super::answer;
use super::auth::Caller;
use super::extract::{InBody, InPath};
use super::problem::{Problem, field};
use crate::api::{self, NewPublicKey, PublicKeyView};
use crate::common::crypto::keys::PublicKey;

/// Lists the public keys of a tenant
#[utoipa::path(
    get, path = "/tenants/{tenant}/public-keys", tag = "public keys",
    operation_id = "list_public_keys", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Its id or name; `me` for the caller's own")),
    responses((status = 200, description = "All of them, on one page", body = api::Page<PublicKeyView>))
)]
pub(super) async fn list(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath(tenant): InPath<String>,
) -> Result<Response, Problem> {
    let keys = server.registry.public_keys(caller.tenant(&server, &tenant)?.id);
    let data = keys.iter().map(|key| PublicKeyView::from(&**key)).collect();
    Ok(answer::json(StatusCode::OK, &api::Page { data, next_cursor: None }))
}

/// Adds a public key: new events are sealed to it at once, and the one before it is retiring
#[utoipa::path(
    post, path = "/tenants/{tenant}/public-keys", tag = "public keys",
    operation_id = "add_public_key", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Its id or name; `me` for the caller's own")),
    request_body = NewPublicKey,
    responses(
        (status = 201, description = "It is added, and active", body = PublicKeyView),
        (status = 200, description = "The tenant had it before; it is active", body = PublicKeyView),
    )
)]
pub(super) async fn add(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath(tenant): InPath<String>,
    InBody(new): InBody<NewPublicKey>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&server, &tenant)?.id;
    let key = PublicKey::parse(&new.public_key).map_err(|error| field("public_key", &error))?;
    let (key, is_new) = server.registry.add_public_key(tenant, key).await?;
    tracing::info!(%tenant, kid = %key.kid, "public key is active");
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(answer::json(status, &PublicKeyView::from(&*key)))
}

/// Retires a public key that another has taken the place of
///
/// It stays listed as retired. Nothing new is sealed to it; what was may still be queued or dead-lettered, so the
/// customer keeps the private half until that has come.
#[utoipa::path(
    post, path = "/tenants/{tenant}/public-keys/{kid}/retire", tag = "public keys",
    operation_id = "retire_public_key", security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Its id or name; `me` for the caller's own"),
        ("kid" = String, Path, description = "The key's id", pattern = "^[A-Za-z0-9_-]{43}$"),
    ),
    responses((status = 200, description = "It is retired", body = PublicKeyView))
)]
pub(super) async fn retire(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath((tenant, kid)): InPath<(String, String)>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&server, &tenant)?.id;
    let key = server.registry.retire_public_key(tenant, kid).await?;
    tracing::info!(%tenant, kid = %key.kid, "public key is retired");
    Ok(answer::json(StatusCode::OK, &PublicKeyView::from(&*key)))
}
