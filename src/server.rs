//! The HTTP API of `whk publish-server`.
//!
//! - `publish` accepts events.
//! - `tenants`, `api_keys`, `public_keys` and `endpoints` manage tenants.
//! - `messages` and `dead_letters` show what became of events, and replay or purge dead letters.
//! - `health` serves `/healthz`, `/readyz` and `/metrics`; `openapi` serves `/openapi.json`.
//!
//! `auth` authenticates callers, `extract` reads requests, `page` and `response` write responses, `problem` turns errors
//! into JSON, and `idempotency` recognizes repeated requests. The bodies themselves are in [`crate::api`].

mod api_keys;
mod auth;
mod dead_letters;
mod endpoints;
mod extract;
mod health;
mod idempotency;
mod messages;
mod openapi;
mod page;
mod problem;
mod public_keys;
mod publish;
mod response;
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
pub use idempotency::IdempotencyCache;
pub use problem::Problem;

/// State of the HTTP server, shared by all routes.
pub struct Server {
    /// Publisher of the accepted events.
    pub publisher: Publisher,
    /// Tenants, their keys and their endpoints.
    pub registry: Registry,
    /// Queue with the messages and dead letters that routes show.
    pub queue: Arc<dyn Queue>,
    /// Responses to requests that may be repeated.
    pub idempotency: IdempotencyCache,
    /// Metrics that routes update.
    pub metrics: Arc<Metrics>,
    /// Maximum size of a payload, in bytes.
    pub max_payload: usize,
    /// Time limit for receiving a request's body.
    pub request_time: Duration,
    /// Memory for bodies that are being received. One permit stands for one KiB.
    pub body_budget: Semaphore,
    /// Health of the process.
    pub health: Health,
}

impl Server {
    /// Returns the router of all routes.
    pub fn router(self) -> Router {
        let server = Arc::new(self);
        let management = OpenApiRouter::new()
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
            .routes(routes!(endpoints::secret::rotate))
            .routes(routes!(endpoints::test_event::send))
            .routes(routes!(dead_letters::list_any))
            .routes(routes!(dead_letters::show_any))
            .routes(routes!(dead_letters::replay::of_any))
            .routes(routes!(dead_letters::purge::of_any))
            .routes(routes!(dead_letters::list))
            .routes(routes!(dead_letters::show))
            .routes(routes!(dead_letters::replay::of_tenant))
            .routes(routes!(dead_letters::purge::of_tenant))
            .routes(routes!(messages::show_any))
            .routes(routes!(messages::show))
            .route_layer(axum::middleware::from_fn_with_state(Arc::clone(&server), idempotency::layer));
        let (router, api) = OpenApiRouter::with_openapi(openapi::base())
            .merge(management)
            .routes(routes!(publish::publish))
            .routes(routes!(health::healthz))
            .routes(routes!(health::readyz))
            .routes(routes!(health::metrics))
            .split_for_parts();
        let api = openapi::document(api, server.publisher.direct.is_some());
        router
            .route("/openapi.json", get(|| async { openapi::response(api) }))
            .fallback(|| async {
                Problem::new(
                    StatusCode::NOT_FOUND,
                    "no such route; publish events to POST /publish, and see GET /openapi.json for all routes",
                )
            })
            .method_not_allowed_fallback(|| async {
                Problem::new(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "this route doesn't support the method; see GET /openapi.json for those it supports",
                )
            })
            .with_state(server)
    }
}
