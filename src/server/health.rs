//! `GET /healthz`, `/readyz` and `/metrics`, for orchestrators and dashboards.

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

/// Health of the process.
pub struct Health {
    /// Queue whose readiness and depth are reported.
    pub queue: Arc<dyn Queue>,
    /// Metrics that `/metrics` renders.
    pub metrics: Arc<Metrics>,
    /// Token that is cancelled when the dispatcher ends.
    pub dispatcher_ended: CancellationToken,
}

impl Health {
    /// Returns a router with these three routes only, for a process that accepts no events.
    pub fn router(self) -> Router {
        let not_found = || async {
            Problem::new(
                StatusCode::NOT_FOUND,
                "no such route; this process serves /healthz, /readyz and /metrics",
            )
        };
        Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(|State(health): State<Arc<Self>>| async move { health.ready().await }))
            .route(
                "/metrics",
                get(|State(health): State<Arc<Self>>| async move { health.render_metrics().await }),
            )
            .fallback(not_found)
            .with_state(Arc::new(self))
    }

    /// Checks that the dispatcher runs and that the queue is reachable.
    async fn ready(&self) -> Result<Response, Problem> {
        let unavailable = |detail| Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
        if self.dispatcher_ended.is_cancelled() {
            return Err(unavailable(
                "the dispatcher has ended, so nothing is delivered; restart the process if it isn't shutting down",
            ));
        }
        self.queue.ready().await.map_err(|error| {
            tracing::warn!(error = %format!("{:#}", anyhow::Error::from(error)), "queue not ready");
            unavailable("the queue can't be reached; the operator finds the cause in the server's log")
        })?;
        Ok(ok_json(r#"{"status":"ready"}"#))
    }

    /// Renders the metrics, with the queue's current depth.
    async fn render_metrics(&self) -> Response {
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

/// Checks that the process runs
#[utoipa::path(get, path = "/healthz", tag = "operation", responses((status = 200, description = "The process runs")))]
pub(super) async fn healthz() -> Response {
    ok_json(r#"{"status":"ok"}"#)
}

/// Checks that events are accepted and delivered
#[utoipa::path(get, path = "/readyz", tag = "operation", responses((status = 200, description = "Events are accepted and delivered")))]
pub(super) async fn readyz(State(server): State<Arc<Server>>) -> Result<Response, Problem> {
    server.health.ready().await
}

/// Returns counters and gauges as OpenMetrics text
#[utoipa::path(
    get, path = "/metrics", tag = "operation",
    responses((status = 200, description = "The metrics", body = String, content_type = "application/openmetrics-text"))
)]
pub(super) async fn metrics(State(server): State<Arc<Server>>) -> Response {
    server.health.render_metrics().await
}

fn ok_json(body: &'static str) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}
