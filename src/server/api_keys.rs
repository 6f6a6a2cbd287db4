//! `/api-keys` and `/tenants/{tenant}/api-keys`: API keys of the provider and of a tenant. The provider manages both.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;

use super::auth::Caller;
use super::extract::{OptionalJsonBody, PathParams, QueryParams};
use super::page::{self, PageQuery};
use super::problem::{Problem, invalid_field};
use super::{Server, response};
use crate::api::{self, ApiKeyView, CreatedApiKey, NewApiKey};
use crate::common::id::{ApiKeyId, TenantId};
use crate::registry::name::Name;

/// Lists the API keys of a tenant
#[utoipa::path(
    get, path = "/tenants/{tenant}/api-keys", tag = "API keys",
    operation_id = "list_api_keys", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Id or name of the tenant"), PageQuery),
    responses((status = 200, description = "A page of API keys", body = api::Page<ApiKeyView>))
)]
pub(super) async fn list(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams(tenant): PathParams<String>,
    QueryParams(query): QueryParams<PageQuery>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    list_page(&server, Some(caller.tenant(&server, &tenant)?.id), &query)
}

/// Creates an API key for a tenant
#[utoipa::path(
    post, path = "/tenants/{tenant}/api-keys", tag = "API keys",
    operation_id = "create_api_key", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Id or name of the tenant")), request_body = Option<NewApiKey>,
    responses((status = 201, description = "The new API key, which is shown only once", body = CreatedApiKey))
)]
pub(super) async fn create(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams(tenant): PathParams<String>,
    OptionalJsonBody(new): OptionalJsonBody<NewApiKey>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    create_key(&server, Some(caller.tenant(&server, &tenant)?.id), &new).await
}

/// Revokes an API key of a tenant, with immediate effect
#[utoipa::path(
    delete, path = "/tenants/{tenant}/api-keys/{key_id}", tag = "API keys",
    operation_id = "revoke_api_key", security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Id or name of the tenant"),
        ("key_id" = String, Path, description = "Id of the API key, not the key itself", pattern = "^key_[0-9a-f]{32}$"),
    ),
    responses((status = 204, description = "The API key is revoked"))
)]
pub(super) async fn revoke(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams((tenant, key)): PathParams<(String, String)>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    revoke_key(&server, Some(caller.tenant(&server, &tenant)?.id), &key).await
}

/// Lists the provider's API keys
#[utoipa::path(
    get, path = "/api-keys", tag = "API keys",
    operation_id = "list_provider_keys", security(("api_key" = [])), params(PageQuery),
    responses((status = 200, description = "A page of API keys", body = api::Page<ApiKeyView>))
)]
pub(super) async fn list_of_provider(
    State(server): State<Arc<Server>>,
    caller: Caller,
    QueryParams(query): QueryParams<PageQuery>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    list_page(&server, None, &query)
}

/// Creates another API key for the provider
#[utoipa::path(
    post, path = "/api-keys", tag = "API keys",
    operation_id = "create_provider_key", security(("api_key" = [])), request_body = Option<NewApiKey>,
    responses((status = 201, description = "The new API key, which is shown only once", body = CreatedApiKey))
)]
pub(super) async fn create_for_provider(
    State(server): State<Arc<Server>>,
    caller: Caller,
    OptionalJsonBody(new): OptionalJsonBody<NewApiKey>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    create_key(&server, None, &new).await
}

/// Revokes an API key of the provider. The last one can't be revoked
#[utoipa::path(
    delete, path = "/api-keys/{key_id}", tag = "API keys",
    operation_id = "revoke_provider_key", security(("api_key" = [])),
    params(("key_id" = String, Path, description = "Id of the API key, not the key itself", pattern = "^key_[0-9a-f]{32}$")),
    responses((status = 204, description = "The API key is revoked"))
)]
pub(super) async fn revoke_of_provider(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams(key): PathParams<String>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    revoke_key(&server, None, &key).await
}

fn list_page(server: &Server, owner: Option<TenantId>, query: &PageQuery) -> Result<Response, Problem> {
    let (after, limit) = query.read(ApiKeyId::PREFIX)?;
    let page = server.registry.api_keys(owner, after, limit);
    Ok(page::response(&page, |key| key.id, |key| ApiKeyView::from(&**key)))
}

async fn create_key(server: &Server, owner: Option<TenantId>, new: &NewApiKey) -> Result<Response, Problem> {
    let description = new.description.as_deref().map(Name::parse).transpose();
    let description = description.map_err(|error| invalid_field("description", &error))?;
    let (record, key) = server.registry.create_api_key(owner, description).await?;
    tracing::info!(key = %record.id, "API key created");
    let created = CreatedApiKey { about: ApiKeyView::from(&*record), key: key.reveal().to_owned() };
    Ok(response::json(StatusCode::CREATED, &created))
}

async fn revoke_key(server: &Server, owner: Option<TenantId>, key: &str) -> Result<Response, Problem> {
    let key = response::parse_id(key, "API key")?;
    server.registry.revoke_api_key(owner, key).await?;
    tracing::info!(%key, "API key revoked");
    Ok(StatusCode::NO_CONTENT.into_response())
}
