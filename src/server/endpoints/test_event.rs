//! Test events: `POST …/test`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::value::RawValue;

use super::find_ids;
use crate::api::Published;
use crate::common::event_type::EventType;
use crate::common::job::TraceContext;
use crate::publish::{Audience, Event};
use crate::server::auth::Caller;
use crate::server::extract::PathParams;
use crate::server::problem::{Problem, invalid_field};
use crate::server::{Server, response};

/// Type of a test event.
const TEST_TYPE: &str = "whk.test";
/// Payload of a test event.
const TEST_PAYLOAD: &str =
    r#"{"message":"This is a test event: it was asked for, and nothing has happened."}"#;

/// Sends a test event of type `whk.test` to one endpoint, even if the endpoint doesn't subscribe to that type
#[utoipa::path(
    post, path = "/tenants/{tenant}/endpoints/{endpoint}/test", tag = "endpoints",
    operation_id = "test_endpoint", security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Id or name of the tenant; `me` for the tenant of the API key"),
        ("endpoint" = String, Path, description = "Id of the endpoint", pattern = "^ep_[0-9a-f]{32}$"),
    ),
    responses((status = 202, description = "The test event is queued", body = Published))
)]
pub(in crate::server) async fn send(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams((tenant, endpoint)): PathParams<(String, String)>,
) -> Result<Response, Problem> {
    let (tenant, id) = find_ids(&server, &caller, &tenant, &endpoint)?;
    let endpoint = server.registry.endpoint(tenant, id).ok_or_else(|| response::no_such("endpoint"))?;
    if endpoint.disabled.is_some() {
        return Err(Problem::new(StatusCode::CONFLICT, "the endpoint is disabled; enable it first"));
    }
    let internal = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the test event couldn't be made");
    let payload: &RawValue = serde_json::from_str(TEST_PAYLOAD).map_err(internal)?;
    let kind = EventType::parse(TEST_TYPE).map_err(|error| invalid_field("type", &error))?;
    let event = Event { kind, payload, trace: TraceContext::new(), idempotency_key: None };
    let outcome = server.publisher.publish(event, Audience::Endpoint(tenant, id)).await?;
    Ok(response::json(StatusCode::ACCEPTED, &Published::from(outcome)))
}
