//! `/tenants`: the provider's list of whom it delivers to.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};

use super::Server;
use super::answer::{self, PageQuery};
use super::auth::Caller;
use super::extract::{InBody, InPath, InQuery};
use super::problem::{Problem, field};
use crate::api::{self, DeletedTenant, NewTenant, TenantUpdate, TenantView};
use crate::common::id::TenantId;
use crate::common::job::Target;
use crate::registry::tenant::{Name, Tenant};

/// Lists tenants
#[utoipa::path(
    get, path = "/tenants", tag = "tenants", security(("api_key" = [])), params(PageQuery),
    responses((status = 200, description = "A page of them", body = api::Page<TenantView>))
)]
pub(super) async fn list(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InQuery(query): InQuery<PageQuery>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    let (after, limit) = query.read(TenantId::PREFIX)?;
    let page = server.registry.tenants(after, limit);
    Ok(answer::page(&page, |tenant| tenant.id, |tenant| TenantView::from(&**tenant)))
}

/// Makes a tenant
#[utoipa::path(
    post, path = "/tenants", tag = "tenants", security(("api_key" = [])), request_body = NewTenant,
    responses((status = 201, description = "It is made", body = TenantView,
        headers(("etag" = String, description = "Its version"), ("location" = String, description = "Its path"))))
)]
pub(super) async fn create(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InBody(new): InBody<NewTenant>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    let name = Name::of_tenant(&new.name).map_err(|error| field("name", &error))?;
    let tenant = server.registry.create_tenant(name, new.limits.unwrap_or_default()).await?;
    tracing::info!(tenant = %tenant.id, "tenant created");
    Ok(answer::at(shown(StatusCode::CREATED, &tenant), &format!("/tenants/{}", tenant.id)))
}

/// Shows a tenant
#[utoipa::path(
    get, path = "/tenants/{tenant}", tag = "tenants", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Its id or name; `me` for the caller's own")),
    responses((status = 200, description = "It", body = TenantView,
        headers(("etag" = String, description = "Its version"))))
)]
pub(super) async fn show(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath(tenant): InPath<String>,
) -> Result<Response, Problem> {
    Ok(shown(StatusCode::OK, &*caller.tenant(&server, &tenant)?))
}

/// Changes a tenant's name or limits
#[utoipa::path(
    patch, path = "/tenants/{tenant}", tag = "tenants", security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Its id or name"),
        ("if-match" = Option<String>, Header, description = "The ETag that it must still have", nullable = false,
            pattern = "^\"v[0-9]{1,19}\"$"),
    ),
    request_body = TenantUpdate,
    responses((status = 200, description = "It, changed", body = TenantView,
        headers(("etag" = String, description = "Its version"))))
)]
pub(super) async fn update(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath(tenant): InPath<String>,
    headers: HeaderMap,
    InBody(update): InBody<TenantUpdate>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    let tenant = caller.tenant(&server, &tenant)?;
    let name = update.name.as_deref().map(Name::of_tenant).transpose();
    let name = name.map_err(|error| field("name", &error))?;
    let expected = answer::expected_version(&headers);
    let tenant = server.registry.update_tenant(tenant.id, expected, name, update.limits).await?;
    Ok(shown(StatusCode::OK, &tenant))
}

/// Deletes a tenant with its keys and endpoints; its queued jobs are dropped, and counted in the answer
#[utoipa::path(
    delete, path = "/tenants/{tenant}", tag = "tenants", security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Its id or name"),
        ("if-match" = Option<String>, Header, description = "The ETag that it must still have", nullable = false,
            pattern = "^\"v[0-9]{1,19}\"$"),
    ),
    responses((status = 200, description = "It is gone", body = DeletedTenant))
)]
pub(super) async fn delete(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath(tenant): InPath<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    let id = caller.tenant(&server, &tenant)?.id;
    let endpoints = server.registry.endpoint_ids(id);
    server.registry.delete_tenant(id, answer::expected_version(&headers)).await?;
    // From here on nothing is queued for it, and what its turn comes for is dropped.
    let queued = server.queue.queued(&[id.to_string()]).await.unwrap_or_default();
    let dropped_jobs = queued.first().copied().unwrap_or_default();
    let lanes: Vec<_> = endpoints.into_iter().map(|endpoint| Target::Endpoint(id, endpoint).lane()).collect();
    if let Err(error) = server.queue.release(&lanes).await {
        tracing::warn!(tenant = %id, %error, "its jobs are dropped later, when they are due");
    }
    tracing::info!(tenant = %id, dropped_jobs, "tenant deleted");
    Ok(answer::json(StatusCode::OK, &DeletedTenant { id, dropped_jobs }))
}

fn shown(status: StatusCode, tenant: &Tenant) -> Response {
    answer::versioned(status, tenant.version, &TenantView::from(tenant))
}
