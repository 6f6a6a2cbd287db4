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
    let views = views(&server, &page.items).await?;
    let page = registry::Page { items: views, more: page.more };
    Ok(answer::page(&page, |tenant| tenant.id, TenantView::clone))
}

/// Makes a tenant
#[utoipa::path(
    post, path = "/tenants", tag = "tenants",
    operation_id = "create_tenant", security(("api_key" = [])), request_body = NewTenant,
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
    let path = format!("/tenants/{}", tenant.id);
    Ok(answer::at(shown(&server, StatusCode::CREATED, tenant).await?, &path))
}

/// Shows a tenant
#[utoipa::path(
    get, path = "/tenants/{tenant}", tag = "tenants",
    operation_id = "show_tenant", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Its id or name; `me` for the caller's own")),
    responses((status = 200, description = "It", body = TenantView,
        headers(("etag" = String, description = "Its version"))))
)]
pub(super) async fn show(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath(tenant): InPath<String>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&server, &tenant)?;
    shown(&server, StatusCode::OK, tenant).await
}

/// Changes a tenant's name or limits
#[utoipa::path(
    patch, path = "/tenants/{tenant}", tag = "tenants",
    operation_id = "update_tenant", security(("api_key" = [])),
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
    tracing::info!(tenant = %tenant.id, "tenant changed");
    shown(&server, StatusCode::OK, tenant).await
}

/// Deletes a tenant with its keys and endpoints; its queued jobs are dropped, and counted in the answer
#[utoipa::path(
    delete, path = "/tenants/{tenant}", tag = "tenants",
    operation_id = "delete_tenant", security(("api_key" = [])),
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
    let expected = answer::expected_version(&headers);
    let dropped_jobs = answer::to_its_end(async move {
        let endpoints = server.registry.delete_tenant(id, expected).await?;
        // From here on what is queued for it is dropped when its turn comes.
        let queued = server.queue.tenant_usage(&[id.to_string()]).await.unwrap_or_default();
        let lanes: Vec<_> =
            endpoints.into_iter().map(|endpoint| Target::Endpoint(id, endpoint).lane()).collect();
        if let Err(error) = server.queue.release(&lanes).await {
            tracing::warn!(tenant = %id, %error, "its jobs are dropped later, when they are due");
        }
        Ok(queued.first().map_or(0, |queued| queued.jobs))
    })
    .await?;
    tracing::info!(tenant = %id, dropped_jobs, "tenant deleted");
    Ok(answer::json(StatusCode::OK, &DeletedTenant { id, dropped_jobs }))
}

async fn shown(server: &Server, status: StatusCode, tenant: Arc<Tenant>) -> Result<Response, Problem> {
    let version = tenant.version;
    let views = views(server, &[tenant]).await?;
    let view = views.first().ok_or_else(|| answer::no_such("tenant"))?;
    Ok(answer::versioned(status, version, view))
}

/// Tenants with their limits and what they have of them.
async fn views(server: &Server, tenants: &[Arc<Tenant>]) -> Result<Vec<TenantView>, Problem> {
    let ids: Vec<String> = tenants.iter().map(|tenant| tenant.id.to_string()).collect();
    let queued = server.queue.tenant_usage(&ids).await?;
    let view = |(tenant, queued): (&Arc<Tenant>, TenantUsage)| {
        let queued_jobs = queued.jobs;
        let endpoints = server.registry.endpoint_count(tenant.id);
        TenantView::new(tenant, server.registry.limits(tenant), UsageView { queued_jobs, endpoints })
    };
    Ok(tenants.iter().zip(queued).map(view).collect())
}
