//! `/tenants`: the tenants that the provider delivers to.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};

use super::auth::Caller;
use super::extract::{JsonBody, PathParams, QueryParams};
use super::page::{self, PageQuery};
use super::problem::{Problem, invalid_field};
use super::{Server, response};
use crate::api::{self, DeletedTenant, NewTenant, TenantUpdate, TenantView, UsageView};
use crate::common::id::TenantId;
use crate::common::job::Target;
use crate::queue::TenantUsage;
use crate::registry;
use crate::registry::name::Name;
use crate::registry::tenant::Tenant;

/// Lists tenants
#[utoipa::path(
    get, path = "/tenants", tag = "tenants",
    operation_id = "list_tenants", security(("api_key" = [])), params(PageQuery),
    responses((status = 200, description = "A page of tenants", body = api::Page<TenantView>))
)]
pub(super) async fn list(
    State(server): State<Arc<Server>>,
    caller: Caller,
    QueryParams(query): QueryParams<PageQuery>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    let (after, limit) = query.read(TenantId::PREFIX)?;
    let page = server.registry.tenants(after, limit);
    let views = views(&server, &page.items).await?;
    let page = registry::Page { items: views, more: page.more };
    Ok(page::response(&page, |tenant| tenant.id, TenantView::clone))
}

/// Creates a tenant
#[utoipa::path(
    post, path = "/tenants", tag = "tenants",
    operation_id = "create_tenant", security(("api_key" = [])), request_body = NewTenant,
    responses((status = 201, description = "The new tenant", body = TenantView,
        headers(("etag" = String, description = "Version of the tenant"), ("location" = String, description = "Path of the tenant"))))
)]
pub(super) async fn create(
    State(server): State<Arc<Server>>,
    caller: Caller,
    JsonBody(new): JsonBody<NewTenant>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    let name = Name::of_tenant(&new.name).map_err(|error| invalid_field("name", &error))?;
    let tenant = server.registry.create_tenant(name, new.limits.unwrap_or_default()).await?;
    tracing::info!(tenant = %tenant.id, "tenant created");
    let path = format!("/tenants/{}", tenant.id);
    Ok(response::with_location(tenant_response(&server, StatusCode::CREATED, tenant).await?, &path))
}

/// Shows a tenant
#[utoipa::path(
    get, path = "/tenants/{tenant}", tag = "tenants",
    operation_id = "show_tenant", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Id or name of the tenant; `me` for the tenant of the API key")),
    responses((status = 200, description = "The tenant", body = TenantView,
        headers(("etag" = String, description = "Version of the tenant"))))
)]
pub(super) async fn show(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams(tenant): PathParams<String>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&server, &tenant)?;
    tenant_response(&server, StatusCode::OK, tenant).await
}

/// Changes a tenant's name or limits
#[utoipa::path(
    patch, path = "/tenants/{tenant}", tag = "tenants",
    operation_id = "update_tenant", security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Id or name of the tenant"),
        ("if-match" = Option<String>, Header, description = "Change the tenant only if it still has this ETag",
            nullable = false, pattern = "^\"v[0-9]{1,19}\"$"),
    ),
    request_body = TenantUpdate,
    responses((status = 200, description = "The changed tenant", body = TenantView,
        headers(("etag" = String, description = "Version of the tenant"))))
)]
pub(super) async fn update(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams(tenant): PathParams<String>,
    headers: HeaderMap,
    JsonBody(update): JsonBody<TenantUpdate>,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    let tenant = caller.tenant(&server, &tenant)?;
    let name = update.name.as_deref().map(Name::of_tenant).transpose();
    let name = name.map_err(|error| invalid_field("name", &error))?;
    let expected = response::expected_version(&headers);
    let tenant = server.registry.update_tenant(tenant.id, expected, name, update.limits).await?;
    tracing::info!(tenant = %tenant.id, "tenant changed");
    tenant_response(&server, StatusCode::OK, tenant).await
}

/// Deletes a tenant with its keys and endpoints, and drops its queued messages
#[utoipa::path(
    delete, path = "/tenants/{tenant}", tag = "tenants",
    operation_id = "delete_tenant", security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Id or name of the tenant"),
        ("if-match" = Option<String>, Header, description = "Delete the tenant only if it still has this ETag",
            nullable = false, pattern = "^\"v[0-9]{1,19}\"$"),
    ),
    responses((status = 200, description = "The tenant is deleted", body = DeletedTenant))
)]
pub(super) async fn delete(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams(tenant): PathParams<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.require_provider()?;
    let id = caller.tenant(&server, &tenant)?.id;
    let expected = response::expected_version(&headers);
    let dropped_jobs = response::run_to_end(async move {
        let endpoints = server.registry.delete_tenant(id, expected).await?;
        // From here on, the dispatcher drops each of the tenant's jobs when it claims it. Releasing them makes them due.
        let queued = server.queue.tenant_usage(&[id.to_string()]).await.unwrap_or_default();
        let lanes: Vec<_> =
            endpoints.into_iter().map(|endpoint| Target::Endpoint(id, endpoint).lane()).collect();
        if let Err(error) = server.queue.release(&lanes).await {
            tracing::warn!(tenant = %id, %error, "couldn't release the tenant's jobs; each is dropped when it is due");
        }
        Ok(queued.first().map_or(0, |queued| queued.jobs))
    })
    .await?;
    tracing::info!(tenant = %id, dropped_jobs, "tenant deleted");
    Ok(response::json(StatusCode::OK, &DeletedTenant { id, dropped_jobs }))
}

async fn tenant_response(
    server: &Server,
    status: StatusCode,
    tenant: Arc<Tenant>,
) -> Result<Response, Problem> {
    let version = tenant.version;
    let views = views(server, &[tenant]).await?;
    let view = views.first().ok_or_else(|| response::no_such("tenant"))?;
    Ok(response::versioned(status, version, view))
}

/// Returns tenants with their limits and usage.
async fn views(server: &Server, tenants: &[Arc<Tenant>]) -> Result<Vec<TenantView>, Problem> {
    let ids: Vec<String> = tenants.iter().map(|tenant| tenant.id.to_string()).collect();
    let usages = server.queue.tenant_usage(&ids).await?;
    let view = |(tenant, usage): (&Arc<Tenant>, TenantUsage)| {
        let queued_jobs = usage.jobs;
        let endpoints = server.registry.endpoint_count(tenant.id);
        TenantView::new(tenant, server.registry.limits(tenant), UsageView { queued_jobs, endpoints })
    };
    Ok(tenants.iter().zip(usages).map(view).collect())
}
