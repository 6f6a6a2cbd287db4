//! `/tenants/{tenant}/endpoints`: where a tenant's events go, and which.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::value::RawValue;

use super::Server;
use super::answer::{self, PageQuery};
use super::auth::Caller;
use super::extract::{InBody, InBodyIfAny, InPath, InQuery};
use super::problem::{Problem, field};
use crate::api::{
    self, CreatedEndpoint, EndpointUpdate, EndpointView, NewEndpoint, RotateSecret, SecretView,
};
use crate::common::crypto::signature::Secret;
use crate::common::endpoint_url::EndpointUrl;
use crate::common::event_type::{EventFilter, EventType};
use crate::common::id::{EndpointId, TenantId};
use crate::common::job::{Target, TraceContext};
use crate::publish::{Audience, Event, Published};
use crate::registry::endpoint::{Endpoint, EndpointPatch, EndpointSettings, MOST_FILTERS};
use crate::registry::headers::StaticHeaders;
use crate::registry::name::Name;

/// How long replaced secrets go on signing where nothing else is asked: a day, for people to act within.
const OVERLAP_SECONDS: u32 = 24 * 3600;
/// And at most: thirty days.
const MOST_OVERLAP_SECONDS: u32 = 30 * 24 * 3600;

/// What a test event is.
const TEST_TYPE: &str = "whk.test";
const TEST_PAYLOAD: &str =
    r#"{"message":"This is a test event: it was asked for, and nothing has happened."}"#;

/// Lists the endpoints of a tenant
#[utoipa::path(
    get, path = "/tenants/{tenant}/endpoints", tag = "endpoints",
    operation_id = "list_endpoints", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Its id or name; `me` for the caller's own"), PageQuery),
    responses((status = 200, description = "A page of them", body = api::Page<EndpointView>))
)]
pub(super) async fn list(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath(tenant): InPath<String>,
    InQuery(query): InQuery<PageQuery>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&server, &tenant)?.id;
    let (after, limit) = query.read(EndpointId::PREFIX)?;
    let page = server.registry.endpoints(tenant, after, limit);
    Ok(answer::page(&page, |endpoint| endpoint.id, |endpoint| EndpointView::from(&**endpoint)))
}

/// Adds an endpoint
#[utoipa::path(
    post, path = "/tenants/{tenant}/endpoints", tag = "endpoints",
    operation_id = "add_endpoint", security(("api_key" = [])),
    params(("tenant" = String, Path, description = "Its id or name; `me` for the caller's own")),
    request_body = NewEndpoint,
    responses((status = 201, description = "It is added; its signing secret is shown this once",
        body = CreatedEndpoint,
        headers(("etag" = String, description = "Its version"), ("location" = String, description = "Its path"))))
)]
pub(super) async fn add(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath(tenant): InPath<String>,
    InBody(new): InBody<NewEndpoint>,
) -> Result<Response, Problem> {
    let tenant = caller.tenant(&server, &tenant)?.id;
    let settings = EndpointSettings {
        url: url(&server, &new.url)?,
        description: description(new.description.as_deref())?,
        events: events(&new.events)?,
        headers: headers_of(&new.headers)?,
        content_type: new.content_type,
        envelope: new.envelope,
        ordered: new.ordered,
    };
    let secret = secret(new.secret.as_deref())?;
    let endpoint = server.registry.add_endpoint(tenant, settings, secret.clone()).await?;
    tracing::info!(%tenant, endpoint = %endpoint.id, "endpoint added");
    let about = EndpointView::from(&*endpoint);
    let created = CreatedEndpoint { about, secret: secret.reveal().to_string() };
    let answer = answer::versioned(StatusCode::CREATED, endpoint.version, &created);
    Ok(answer::at(answer, &format!("/tenants/{tenant}/endpoints/{}", endpoint.id)))
}

/// Shows an endpoint
#[utoipa::path(
    get, path = "/tenants/{tenant}/endpoints/{endpoint}", tag = "endpoints",
    operation_id = "show_endpoint", security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Its id or name; `me` for the caller's own"),
        ("endpoint" = String, Path, description = "The endpoint's id", pattern = "^ep_[0-9a-f]{32}$"),
    ),
    responses((status = 200, description = "It", body = EndpointView,
        headers(("etag" = String, description = "Its version"))))
)]
pub(super) async fn show(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath((tenant, endpoint)): InPath<(String, String)>,
) -> Result<Response, Problem> {
    let (tenant, id) = names(&server, &caller, &tenant, &endpoint)?;
    let endpoint = server.registry.endpoint(tenant, id).ok_or_else(|| answer::no_such("endpoint"))?;
    Ok(shown(&endpoint))
}

/// Changes an endpoint
///
/// What is queued for it follows in its URL, headers and secrets, and whether it is enabled; how it was sealed,
/// labelled and ordered stays.
#[utoipa::path(
    patch, path = "/tenants/{tenant}/endpoints/{endpoint}", tag = "endpoints",
    operation_id = "update_endpoint", security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Its id or name; `me` for the caller's own"),
        ("endpoint" = String, Path, description = "The endpoint's id", pattern = "^ep_[0-9a-f]{32}$"),
        ("if-match" = Option<String>, Header, description = "The ETag that it must still have", nullable = false,
            pattern = "^\"v[0-9]{1,19}\"$"),
    ),
    request_body = EndpointUpdate,
    responses((status = 200, description = "It, changed", body = EndpointView,
        headers(("etag" = String, description = "Its version"))))
)]
pub(super) async fn update(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath((tenant, endpoint)): InPath<(String, String)>,
    headers: HeaderMap,
    InBody(update): InBody<EndpointUpdate>,
) -> Result<Response, Problem> {
    let (tenant, id) = names(&server, &caller, &tenant, &endpoint)?;
    let patch = EndpointPatch {
        url: update.url.map(|text| url(&server, &text)).transpose()?,
        description: update.description.map(|text| description(text.as_deref())).transpose()?,
        events: update.events.as_deref().map(events).transpose()?,
        headers: update.headers.as_ref().map(headers_of).transpose()?,
        content_type: update.content_type,
        envelope: update.envelope,
        ordered: update.ordered,
        enabled: update.enabled,
    };
    let begins_anew = patch.url.is_some() || patch.enabled.is_some();
    let expected = answer::expected_version(&headers);
    let endpoint = server.registry.update_endpoint(tenant, id, expected, patch, caller.disables_as()).await?;
    if begins_anew {
        release(&server, tenant, id).await;
    }
    tracing::info!(%tenant, endpoint = %id, enabled = endpoint.disabled.is_none(), "endpoint changed");
    Ok(shown(&endpoint))
}

/// Deletes an endpoint; its queued jobs are dropped
#[utoipa::path(
    delete, path = "/tenants/{tenant}/endpoints/{endpoint}", tag = "endpoints",
    operation_id = "delete_endpoint", security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Its id or name; `me` for the caller's own"),
        ("endpoint" = String, Path, description = "The endpoint's id", pattern = "^ep_[0-9a-f]{32}$"),
        ("if-match" = Option<String>, Header, description = "The ETag that it must still have", nullable = false,
            pattern = "^\"v[0-9]{1,19}\"$"),
    ),
    responses((status = 204, description = "It is gone"))
)]
pub(super) async fn delete(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath((tenant, endpoint)): InPath<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (tenant, id) = names(&server, &caller, &tenant, &endpoint)?;
    let expected = answer::expected_version(&headers);
    answer::to_its_end(async move {
        server.registry.delete_endpoint(tenant, id, expected).await?;
        release(&server, tenant, id).await;
        Ok(())
    })
    .await?;
    tracing::info!(%tenant, endpoint = %id, "endpoint deleted");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Gives an endpoint a new signing secret; those before it go on signing for a while
#[utoipa::path(
    post, path = "/tenants/{tenant}/endpoints/{endpoint}/rotate-secret", tag = "endpoints", operation_id = "rotate_secret",
    security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Its id or name; `me` for the caller's own"),
        ("endpoint" = String, Path, description = "The endpoint's id", pattern = "^ep_[0-9a-f]{32}$"),
    ),
    request_body = Option<RotateSecret>,
    responses((status = 200, description = "It signs; it is shown this once", body = SecretView))
)]
pub(super) async fn rotate_secret(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath((tenant, endpoint)): InPath<(String, String)>,
    InBodyIfAny(rotate): InBodyIfAny<RotateSecret>,
) -> Result<Response, Problem> {
    let (tenant, id) = names(&server, &caller, &tenant, &endpoint)?;
    let overlap = rotate.overlap_seconds.unwrap_or(OVERLAP_SECONDS);
    if overlap > MOST_OVERLAP_SECONDS {
        let detail = format!("'overlap_seconds' must be at most {MOST_OVERLAP_SECONDS} (30 days)");
        return Err(Problem::bad_request(detail));
    }
    let secret = secret(rotate.secret.as_deref())?;
    let overlap = Duration::from_secs(overlap.into());
    let endpoint = server.registry.rotate_secret(tenant, id, secret.clone(), overlap).await?;
    let live_secrets = endpoint.live_secrets(Timestamp::now()).count();
    tracing::info!(%tenant, endpoint = %id, live_secrets, "signing secret rotated");
    let rotated = SecretView { secret: secret.reveal().to_string(), live_secrets };
    Ok(answer::json(StatusCode::OK, &rotated))
}

/// Sends a test event, of type `whk.test`, to one endpoint, whatever it subscribes to
#[utoipa::path(
    post, path = "/tenants/{tenant}/endpoints/{endpoint}/test", tag = "endpoints",
    operation_id = "test_endpoint", security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Its id or name; `me` for the caller's own"),
        ("endpoint" = String, Path, description = "The endpoint's id", pattern = "^ep_[0-9a-f]{32}$"),
    ),
    responses((status = 202, description = "It is queued", body = Published))
)]
pub(super) async fn test(
    State(server): State<Arc<Server>>,
    caller: Caller,
    InPath((tenant, endpoint)): InPath<(String, String)>,
) -> Result<Response, Problem> {
    let (tenant, id) = names(&server, &caller, &tenant, &endpoint)?;
    let endpoint = server.registry.endpoint(tenant, id).ok_or_else(|| answer::no_such("endpoint"))?;
    if endpoint.disabled.is_some() {
        return Err(Problem::new(StatusCode::CONFLICT, "the endpoint is disabled: enable it first"));
    }
    let internal = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the test event can't be made");
    let payload: &RawValue = serde_json::from_str(TEST_PAYLOAD).map_err(internal)?;
    let kind = EventType::parse(TEST_TYPE).map_err(|error| field("type", &error))?;
    let event = Event { kind, payload, trace: TraceContext::new(), repeat: None };
    let published = server.publisher.publish(event, Audience::Endpoint(tenant, id)).await?;
    Ok(answer::json(StatusCode::ACCEPTED, &published))
}

/// The tenant and the endpoint that a path names, where they are the caller's to see.
fn names(
    server: &Server,
    caller: &Caller,
    tenant: &str,
    endpoint: &str,
) -> Result<(TenantId, EndpointId), Problem> {
    Ok((caller.tenant(server, tenant)?.id, answer::id(endpoint, "endpoint")?))
}

/// What was learnt of the endpoint holds no longer.
async fn release(server: &Server, tenant: TenantId, id: EndpointId) {
    if let Err(error) = server.queue.release(&[Target::Endpoint(tenant, id).lane()]).await {
        tracing::warn!(endpoint = %id, %error, "its jobs follow the change later, when they are due");
    }
}

fn shown(endpoint: &Endpoint) -> Response {
    answer::versioned(StatusCode::OK, endpoint.version, &EndpointView::from(endpoint))
}

fn url(server: &Server, text: &str) -> Result<EndpointUrl, Problem> {
    let url = EndpointUrl::parse(text).map_err(|error| field("url", &error))?;
    server.publisher.guard.check_url(&url).map_err(|refusal| field("url", &refusal))?;
    Ok(url)
}

fn description(text: Option<&str>) -> Result<Option<Name>, Problem> {
    text.map(Name::parse).transpose().map_err(|error| field("description", &error))
}

fn events(texts: &[String]) -> Result<Vec<EventFilter>, Problem> {
    if texts.is_empty() || texts.len() > MOST_FILTERS {
        let detail = format!("'events' must be 1 to {MOST_FILTERS} filters, or `*` alone for all events");
        return Err(Problem::bad_request(detail));
    }
    let mut filters = Vec::with_capacity(texts.len());
    for text in texts {
        let filter = EventFilter::parse(text).map_err(|error| field("events", &error))?;
        if !filters.contains(&filter) {
            filters.push(filter);
        }
    }
    Ok(filters)
}

fn headers_of(headers: &BTreeMap<String, String>) -> Result<StaticHeaders, Problem> {
    let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    StaticHeaders::parse(pairs).map_err(|error| field("headers", &error))
}

fn secret(given: Option<&str>) -> Result<Secret, Problem> {
    match given {
        Some(text) => Secret::parse(text).map_err(|error| field("secret", &error)),
        None => Secret::generate().map_err(|_| {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the system's random generator failed")
        }),
    }
}
