//! `GET /healthz`, `/readyz` and `/metrics`: for orchestrators and dashboards.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};

use super::{Problem, Server};

/// The process lives
#[utoipa::path(get, path = "/healthz", tag = "operation", responses((status = 200, description = "It does")))]
pub(super) async fn healthz() -> Response {
    ok_json(r#"{"status":"ok"}"#)
}

/// Events can be taken and are delivered
#[utoipa::path(get, path = "/readyz", tag = "operation", responses((status = 200, description = "They are")))]
pub(super) async fn readyz(State(server): State<Arc<Server>>) -> Result<Response, Problem> {
    let unavailable = |detail| Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
    if server.dispatcher_ended.is_cancelled() {
        return Err(unavailable("the dispatcher has ended"));
    }
    server.queue.depth().await.map_err(|error| {
        tracing::warn!(error = %format!("{:#}", anyhow::Error::from(error)), "not ready");
        unavailable("the queue can't be reached; see the server's log")
    })?;
    Ok(ok_json(r#"{"status":"ready"}"#))
}

/// Counters and gauges, as OpenMetrics text
#[utoipa::path(
    get, path = "/metrics", tag = "operation",
    responses((status = 200, description = "They", body = String, content_type = "application/openmetrics-text"))
)]
pub(super) async fn metrics(State(server): State<Arc<Server>>) -> impl IntoResponse {
    if let Ok(depth) = server.queue.depth().await {
        server.metrics.set_depth("ready", depth.ready);
        server.metrics.set_depth("delayed", depth.delayed);
        server.metrics.set_depth("leased", depth.leased);
        server.metrics.set_depth("dead", depth.dead);
    }
    let open_metrics = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(CONTENT_TYPE, open_metrics)], server.metrics.render())
}

fn ok_json(body: &'static str) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}
