//! API keys: a tenant's, and the provider's own. The provider manages both.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;

use super::Server;
use super::answer::{self, PageQuery};
use super::auth::Caller;
use super::extract::{InBodyIfAny, InPath, InQuery};
use super::problem::{Problem, field};
use crate::api::{self, ApiKeyView, CreatedApiKey, NewApiKey};
use crate::common::id::{ApiKeyId, TenantId};
use crate::registry::name::Name;

/// Lists the API keys of a tenant
#[utoipa::path(
    get, path = "/tenants/{tenant}/api-keys", tag = "API keys",
    operation_id = "list_api_keys", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Its id or name"), PageQuery),
    responses((status = 200, description = "A page of them", body = api::Page<ApiKeyView>))
)]
pub(super) async fn list(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath(tenant): InPath<String>,
    InQuery(query): InQuery<PageQuery>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    page(&server, Some(caller.tenant(&server, &tenant)?.id), &query)
}

/// Makes an API key for a tenant
#[utoipa::path(
    post, path = "/tenants/{tenant}/api-keys", tag = "API keys",
    operation_id = "create_api_key", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Its id or name")), request_body = Option<NewApiKey>,
    responses((status = 201, description = "It is made; the key is shown this once", body = CreatedApiKey))
)]
pub(super) async fn create(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath(tenant): InPath<String>,
    InBodyIfAny(new): InBodyIfAny<NewApiKey>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    make(&server, Some(caller.tenant(&server, &tenant)?.id), &new).await
}

/// Revokes an API key of a tenant, at once
#[utoipa::path(
    delete, path = "/tenants/{tenant}/api-keys/{key_id}", tag = "API keys",
    operation_id = "revoke_api_key", security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Its id or name"),
        ("key_id" = String, Path, description = "The key's id, not the key", pattern = "^key_[0-9a-f]{32}$"),
    ),
    responses((status = 204, description = "It is revoked"))
)]
pub(super) async fn revoke(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath((tenant, key)): InPath<(String, String)>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    forget(&server, Some(caller.tenant(&server, &tenant)?.id), &key).await
}

/// Lists the provider's API keys
#[utoipa::path(
    get, path = "/api-keys", tag = "API keys",
    operation_id = "list_provider_keys", security(("api_key" = [])), params(PageQuery),
    responses((status = 200, description = "A page of them", body = api::Page<ApiKeyView>))
)]
pub(super) async fn list_of_provider(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InQuery(query): InQuery<PageQuery>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    page(&server, None, &query)
}

/// Makes another API key for the provider
#[utoipa::path(
    post, path = "/api-keys", tag = "API keys",
    operation_id = "create_provider_key", security(("api_key" = [])), request_body = Option<NewApiKey>,
    responses((status = 201, description = "It is made; the key is shown this once", body = CreatedApiKey))
)]
pub(super) async fn create_for_provider(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InBodyIfAny(new): InBodyIfAny<NewApiKey>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    make(&server, None, &new).await
}

/// Revokes an API key of the provider, but never the last one
#[utoipa::path(
    delete, path = "/api-keys/{key_id}", tag = "API keys",
    operation_id = "revoke_provider_key", security(("api_key" = [])),
    params(("key_id" = String, Path, description = "The key's id, not the key", pattern = "^key_[0-9a-f]{32}$")),
    responses((status = 204, description = "It is revoked"))
)]
pub(super) async fn revoke_of_provider(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath(key): InPath<String>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    forget(&server, None, &key).await
}

fn page(server: &Server, owner: Option<TenantId>, query: &PageQuery) -> Result<Response, Problem> {
    let (after, limit) = query.read(ApiKeyId::PREFIX)?;
    let page = server.registry.api_keys(owner, after, limit);
    Ok(answer::page(&page, |key| key.id, |key| ApiKeyView::from(&**key)))
}

async fn make(server: &Server, owner: Option<TenantId>, new: &NewApiKey) -> Result<Response, Problem> {
    let description = new.description.as_deref().map(Name::parse).transpose();
    let description = description.map_err(|error| field("description", &error))?;
    let (record, key) = server.registry.create_api_key(owner, description).await?;
    tracing::info!(key = %record.id, "API key created");
    let created = CreatedApiKey { about: ApiKeyView::from(&*record), key: key.reveal().to_owned() };
    Ok(answer::json(StatusCode::CREATED, &created))
}

async fn forget(server: &Server, owner: Option<TenantId>, key: &str) -> Result<Response, Problem> {
    let key = answer::id(key, "API key")?;
    server.registry.revoke_api_key(owner, key).await?;
    tracing::info!(%key, "API key revoked");
    Ok(StatusCode::NO_CONTENT.into_response())
}
