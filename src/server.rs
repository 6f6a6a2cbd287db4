//! The HTTP API of `whk publish-server`: routes, authentication, limits, errors as JSON.
//!
//! `publish` takes events; `tenants`, `api_keys`, `public_keys` and `endpoints` manage those they go to;
//! `messages` tells what became of events, `dead_letters` does something about it; `openapi` describes all of them. `auth` says who asks, `once` knows a repeated request.

mod answer;
mod api_keys;
mod auth;
mod cloud_event;
mod dead_filter;
mod dead_letters;
mod endpoints;
mod extract;
mod health;
mod messages;
mod once;
mod openapi;
mod problem;
mod public_keys;
mod publish;
mod tenants;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::StatusCode;
use tokio::sync::Semaphore;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::common::metrics::Metrics;
use crate::publish::Publisher;
use crate::queue::Queue;
use crate::registry::Registry;
pub use health::Health;
pub use once::Once;
pub use problem::Problem;

/// What the routes work with.
pub struct Server {
    /// Takes events.
    pub publisher: Publisher,
    /// Knows the tenants.
    pub registry: Registry,
    /// Asked for its depth.
    pub queue: Arc<dyn Queue>,
    /// Knows repeated requests.
    pub once: Once,
    /// What is shown at `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Bytes of a payload.
    pub max_payload: usize,
    /// How long a request's body may take to come.
    pub request_time: Duration,
    /// Bytes of bodies that are being received at once, in KiB.
    pub body_budget: Semaphore,
    /// How the process does.
    pub health: Health,
}

impl Server {
    /// The routes.
    pub fn router(self) -> Router {
        let server = Arc::new(self);
        let managing = OpenApiRouter::new()
            .routes(routes!(tenants::list, tenants::create))
            .routes(routes!(tenants::show, tenants::update, tenants::delete))
            .routes(routes!(api_keys::list_of_provider, api_keys::create_for_provider))
            .routes(routes!(api_keys::revoke_of_provider))
            .routes(routes!(api_keys::list, api_keys::create))
            .routes(routes!(api_keys::revoke))
            .routes(routes!(public_keys::list, public_keys::add))
            .routes(routes!(public_keys::retire))
            .routes(routes!(endpoints::list, endpoints::add))
            .routes(routes!(endpoints::show, endpoints::update, endpoints::delete))
            .routes(routes!(endpoints::rotate_secret))
            .routes(routes!(endpoints::test))
            .routes(routes!(dead_letters::list_all))
            .routes(routes!(dead_letters::show_any))
            .routes(routes!(dead_letters::replay_any))
            .routes(routes!(dead_letters::purge_any))
            .routes(routes!(dead_letters::list))
            .routes(routes!(dead_letters::show))
            .routes(routes!(dead_letters::replay))
            .routes(routes!(dead_letters::purge))
            .routes(routes!(messages::show_any))
            .routes(routes!(messages::show))
            .route_layer(axum::middleware::from_fn_with_state(Arc::clone(&server), once::layer));
        let (router, api) = OpenApiRouter::with_openapi(openapi::about())
            .merge(managing)
            .routes(routes!(publish::publish))
            .routes(routes!(health::healthz))
            .routes(routes!(health::readyz))
            .routes(routes!(health::metrics))
            .split_for_parts();
        let api = openapi::document(api, server.publisher.direct.is_some());
        router
            .route("/openapi.json", get(|| async { openapi::answer(api) }))
            .fallback(|| async {
                Problem::new(
                    StatusCode::NOT_FOUND,
                    "no such route; events go to POST /publish, GET /openapi.json describes all",
                )
            })
            .method_not_allowed_fallback(|| async {
                Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this route has another method")
            })
            .with_state(server)
    }
}
