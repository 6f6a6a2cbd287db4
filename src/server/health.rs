//! `GET /healthz`, `/readyz` and `/metrics`: for orchestrators and dashboards.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use tokio_util::sync::CancellationToken;

use super::{Problem, Server};
use crate::common::metrics::Metrics;
use crate::queue::Queue;

/// What is known of how the process does.
pub struct Health {
    /// Asked whether it is ready, and for its depth.
    pub queue: Arc<dyn Queue>,
    /// What is shown at `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Cancelled when the dispatcher has ended.
    pub dispatcher_ended: CancellationToken,
}

impl Health {
    /// The three routes alone, for a process that takes no events.
    pub fn router(self) -> Router {
        let nothing = || async {
            Problem::new(StatusCode::NOT_FOUND, "no such route; there are /healthz, /readyz and /metrics")
        };
        Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(|State(health): State<Arc<Self>>| async move { health.ready().await }))
            .route("/metrics", get(|State(health): State<Arc<Self>>| async move { health.measured().await }))
            .fallback(nothing)
            .with_state(Arc::new(self))
    }

    async fn ready(&self) -> Result<Response, Problem> {
        let unavailable = |detail| Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
        if self.dispatcher_ended.is_cancelled() {
            return Err(unavailable("the dispatcher has ended"));
        }
        self.queue.ready().await.map_err(|error| {
            tracing::warn!(error = %format!("{:#}", anyhow::Error::from(error)), "not ready");
            unavailable("the queue can't be reached; see the server's log")
        })?;
        Ok(ok_json(r#"{"status":"ready"}"#))
    }

    async fn measured(&self) -> Response {
        if let Ok(depth) = self.queue.depth().await {
            self.metrics.set_depth("ready", depth.ready);
            self.metrics.set_depth("delayed", depth.delayed);
            self.metrics.set_depth("leased", depth.leased);
            self.metrics.set_depth("dead", depth.dead);
        }
        let open_metrics =
            HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
        ([(CONTENT_TYPE, open_metrics)], self.metrics.render()).into_response()
    }
}

/// The process lives
#[utoipa::path(get, path = "/healthz", tag = "operation", responses((status = 200, description = "It does")))]
pub(super) async fn healthz() -> Response {
    ok_json(r#"{"status":"ok"}"#)
}

/// Events can be taken and are delivered
#[utoipa::path(get, path = "/readyz", tag = "operation", responses((status = 200, description = "They are")))]
pub(super) async fn readyz(State(server): State<Arc<Server>>) -> Result<Response, Problem> {
    server.health.ready().await
}

/// Counters and gauges, as OpenMetrics text
#[utoipa::path(
    get, path = "/metrics", tag = "operation",
    responses((status = 200, description = "They", body = String, content_type = "application/openmetrics-text"))
)]
pub(super) async fn metrics(State(server): State<Arc<Server>>) -> Response {
    server.health.measured().await
}

fn ok_json(body: &'static str) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}
