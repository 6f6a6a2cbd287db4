//! `/tenants/{tenant}/endpoints`: the URLs that a tenant's events are delivered to.

pub(super) mod secret;
mod settings;
pub(super) mod test_event;

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};

use super::auth::Caller;
use super::extract::{JsonBody, PathParams, QueryParams};
use super::page::{self, PageQuery};
use super::problem::Problem;
use super::{Server, response};
use crate::api::{self, CreatedEndpoint, EndpointUpdate, EndpointView, NewEndpoint};
use crate::common::id::{EndpointId, TenantId};
use crate::common::job::Target;
use crate::registry::endpoint::Endpoint;

/// Lists the endpoints of a tenant
#[utoipa::path(
    get, path = "/tenants/{tenant}/endpoints", tag = "endpoints",
    operation_id = "list_endpoints", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Id or name of the tenant; `me` for the tenant of the API key"), PageQuery),
    responses((status = 200, description = "A page of endpoints", body = api::Page<EndpointView>))
)]
pub(super) async fn list(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams(tenant): PathParams<String>,
    QueryParams(query): QueryParams<PageQuery>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&server, &tenant)?.id;
    let (after, limit) = query.read(EndpointId::PREFIX)?;
    let page = server.registry.endpoints(tenant, after, limit);
    Ok(page::response(&page, |endpoint| endpoint.id, |endpoint| EndpointView::from(&**endpoint)))
}

/// Adds an endpoint
#[utoipa::path(
    post, path = "/tenants/{tenant}/endpoints", tag = "endpoints",
    operation_id = "add_endpoint", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Id or name of the tenant; `me` for the tenant of the API key")),
    request_body = NewEndpoint,
    responses((status = 201, description = "The new endpoint with its signing secret, which is shown only once",
        body = CreatedEndpoint,
        headers(("etag" = String, description = "Version of the endpoint"),
            ("location" = String, description = "Path of the endpoint"))))
)]
pub(super) async fn add(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams(tenant): PathParams<String>,
    JsonBody(new): JsonBody<NewEndpoint>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&server, &tenant)?.id;
    let settings = settings::of_new(&server, &new)?;
    let secret = secret::parse_or_generate(new.secret.as_deref())?;
    let endpoint = server.registry.add_endpoint(tenant, settings, secret.clone()).await?;
    tracing::info!(%tenant, endpoint = %endpoint.id, "endpoint added");
    let about = EndpointView::from(&*endpoint);
    let created = CreatedEndpoint { about, secret: secret.reveal().to_string() };
    let response = response::versioned(StatusCode::CREATED, endpoint.version, &created);
    Ok(response::with_location(response, &format!("/tenants/{tenant}/endpoints/{}", endpoint.id)))
}

/// Shows an endpoint
#[utoipa::path(
    get, path = "/tenants/{tenant}/endpoints/{endpoint}", tag = "endpoints",
    operation_id = "show_endpoint", security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Id or name of the tenant; `me` for the tenant of the API key"),
        ("endpoint" = String, Path, description = "Id of the endpoint", pattern = "^ep_[0-9a-f]{32}$"),
    ),
    responses((status = 200, description = "The endpoint", body = EndpointView,
        headers(("etag" = String, description = "Version of the endpoint"))))
)]
pub(super) async fn show(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams((tenant, endpoint)): PathParams<(String, String)>,
) -> Result<Response, Problem> {
    let (tenant, id) = find_ids(&server, &caller, &tenant, &endpoint)?;
    let endpoint = server.registry.endpoint(tenant, id).ok_or_else(|| response::no_such("endpoint"))?;
    Ok(endpoint_response(&endpoint))
}

/// Changes an endpoint
///
/// A new URL, new headers and `enabled` apply to queued messages as well. A new content type, envelope or order applies
/// only to events published later.
#[utoipa::path(
    patch, path = "/tenants/{tenant}/endpoints/{endpoint}", tag = "endpoints",
    operation_id = "update_endpoint", security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Id or name of the tenant; `me` for the tenant of the API key"),
        ("endpoint" = String, Path, description = "Id of the endpoint", pattern = "^ep_[0-9a-f]{32}$"),
        ("if-match" = Option<String>, Header, description = "Change the endpoint only if it still has this ETag",
            nullable = false, pattern = "^\"v[0-9]{1,19}\"$"),
    ),
    request_body = EndpointUpdate,
    responses((status = 200, description = "The changed endpoint", body = EndpointView,
        headers(("etag" = String, description = "Version of the endpoint"))))
)]
pub(super) async fn update(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams((tenant, endpoint)): PathParams<(String, String)>,
    headers: HeaderMap,
    JsonBody(update): JsonBody<EndpointUpdate>,
) -> Result<Response, Problem> {
    let (tenant, id) = find_ids(&server, &caller, &tenant, &endpoint)?;
    let patch = settings::of_update(&server, update)?;
    let resets_backoff = patch.url.is_some() || patch.enabled.is_some();
    let expected = response::expected_version(&headers);
    let endpoint =
        server.registry.update_endpoint(tenant, id, expected, patch, caller.disabled_reason()).await?;
    if resets_backoff {
        release_jobs(&server, tenant, id).await;
    }
    tracing::info!(%tenant, endpoint = %id, enabled = endpoint.disabled.is_none(), "endpoint changed");
    Ok(endpoint_response(&endpoint))
}

/// Deletes an endpoint and drops its queued messages
#[utoipa::path(
    delete, path = "/tenants/{tenant}/endpoints/{endpoint}", tag = "endpoints",
    operation_id = "delete_endpoint", security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Id or name of the tenant; `me` for the tenant of the API key"),
        ("endpoint" = String, Path, description = "Id of the endpoint", pattern = "^ep_[0-9a-f]{32}$"),
        ("if-match" = Option<String>, Header, description = "Delete the endpoint only if it still has this ETag",
            nullable = false, pattern = "^\"v[0-9]{1,19}\"$"),
    ),
    responses((status = 204, description = "The endpoint is deleted"))
)]
pub(super) async fn delete(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams((tenant, endpoint)): PathParams<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (tenant, id) = find_ids(&server, &caller, &tenant, &endpoint)?;
    let expected = response::expected_version(&headers);
    response::run_to_end(async move {
        server.registry.delete_endpoint(tenant, id, expected).await?;
        release_jobs(&server, tenant, id).await;
        Ok(())
    })
    .await?;
    tracing::info!(%tenant, endpoint = %id, "endpoint deleted");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Returns the ids of the tenant and the endpoint that a path names.
///
/// # Errors
/// 404 if the caller may not see the tenant, or the text isn't an endpoint id.
fn find_ids(
    server: &Server,
    caller: &Caller,
    tenant: &str,
    endpoint: &str,
) -> Result<(TenantId, EndpointId), Problem> {
    Ok((caller.tenant(server, tenant)?.id, response::parse_id(endpoint, "endpoint")?))
}

/// Makes the endpoint's jobs due at once. Their backoff came from settings that no longer hold.
async fn release_jobs(server: &Server, tenant: TenantId, id: EndpointId) {
    if let Err(error) = server.queue.release(&[Target::Endpoint(tenant, id).lane()]).await {
        tracing::warn!(endpoint = %id, %error, "couldn't release the endpoint's jobs; the change applies when each is due");
    }
}

fn endpoint_response(endpoint: &Endpoint) -> Response {
    response::versioned(StatusCode::OK, endpoint.version, &EndpointView::from(endpoint))
}
