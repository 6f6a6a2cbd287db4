//! The HTTP API of `whk publish-server`: routes, limits, errors as JSON.

mod health;
mod problem;
mod publish;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use http::StatusCode;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::common::metrics::Metrics;
use crate::publish::Publisher;
use crate::queue::Queue;
pub use problem::Problem;

/// What the routes work with.
pub struct Server {
    /// Takes events.
    pub publisher: Publisher,
    /// Asked for its depth.
    pub queue: Arc<dyn Queue>,
    /// What is shown at `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Bytes of a payload.
    pub max_payload: usize,
    /// How long a request's body may take to come.
    pub request_time: Duration,
    /// Bytes of bodies that are being received at once, in KiB.
    pub body_budget: Semaphore,
    /// Cancelled when the dispatcher has ended.
    pub dispatcher_ended: CancellationToken,
}

impl Server {
    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/publish", post(publish::publish))
            .route("/healthz", get(health::healthz))
            .route("/readyz", get(health::readyz))
            .route("/metrics", get(health::metrics))
            .fallback(|| async {
                Problem::new(StatusCode::NOT_FOUND, "no such route; events go to POST /publish")
            })
            .method_not_allowed_fallback(|| async {
                Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this route has another method")
            })
            .with_state(Arc::new(self))
    }
}
