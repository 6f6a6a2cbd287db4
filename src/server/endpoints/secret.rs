//! Signing secrets of an endpoint: `POST …/rotate-secret`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;

use super::find_ids;
use crate::api::{RotateSecret, SecretView};
use crate::common::crypto::signature::Secret;
use crate::server::auth::Caller;
use crate::server::extract::{OptionalJsonBody, PathParams};
use crate::server::problem::{Problem, invalid_field};
use crate::server::{Server, response};

/// Default time that replaced secrets go on signing, in seconds. A day gives people time to change the receiver.
const DEFAULT_OVERLAP_SECONDS: u32 = 24 * 3600;
/// Maximum time that replaced secrets go on signing, in seconds.
const MAX_OVERLAP_SECONDS: u32 = 30 * 24 * 3600;

/// Gives an endpoint a new signing secret, and keeps the earlier ones for a while
///
/// Until the earlier secrets expire, deliveries are signed with them as well. The receiver can change to the new secret
/// without rejecting a delivery.
#[utoipa::path(
    post, path = "/tenants/{tenant}/endpoints/{endpoint}/rotate-secret", tag = "endpoints", operation_id = "rotate_secret",
    security(("api_key" = [])),
    params(
        ("tenant" = String, Path, description = "Id or name of the tenant; `me` for the tenant of the API key"),
        ("endpoint" = String, Path, description = "Id of the endpoint", pattern = "^ep_[0-9a-f]{32}$"),
    ),
    request_body = Option<RotateSecret>,
    responses((status = 200, description = "The new secret, which is shown only once", body = SecretView))
)]
pub(in crate::server) async fn rotate(
    State(server): State<Arc<Server>>,
    caller: Caller,
    PathParams((tenant, endpoint)): PathParams<(String, String)>,
    OptionalJsonBody(rotate): OptionalJsonBody<RotateSecret>,
) -> Result<Response, Problem> {
    let (tenant, id) = find_ids(&server, &caller, &tenant, &endpoint)?;
    let overlap = rotate.overlap_seconds.unwrap_or(DEFAULT_OVERLAP_SECONDS);
    if overlap > MAX_OVERLAP_SECONDS {
        let detail = format!("'overlap_seconds' must be at most {MAX_OVERLAP_SECONDS} (30 days)");
        return Err(Problem::bad_request(detail));
    }
    let secret = parse_or_generate(rotate.secret.as_deref())?;
    let overlap = Duration::from_secs(overlap.into());
    let endpoint = server.registry.rotate_secret(tenant, id, secret.clone(), overlap).await?;
    let live_secrets = endpoint.live_secrets(Timestamp::now()).count();
    tracing::info!(%tenant, endpoint = %id, live_secrets, "signing secret rotated");
    let rotated = SecretView { secret: secret.reveal().to_string(), live_secrets };
    Ok(response::json(StatusCode::OK, &rotated))
}

/// Parses the secret of a request, or generates one if there is none.
///
/// # Errors
/// 400 for a malformed secret, 500 if the system's random generator fails.
pub(super) fn parse_or_generate(secret: Option<&str>) -> Result<Secret, Problem> {
    match secret {
        Some(text) => Secret::parse(text).map_err(|error| invalid_field("secret", &error)),
        None => Secret::generate().map_err(|_| {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the system's random generator failed")
        }),
    }
}
