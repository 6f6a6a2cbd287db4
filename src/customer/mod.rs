//! The customer's side: verifies, decrypts, prints or forwards, and fails on purpose where asked.

mod receiver;
mod seen;
mod sink;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::{get, post};
use http::{HeaderMap, Request, StatusCode, Uri};
use rand::RngExt as _;

use crate::common::crypto::signature::Signer;
pub use receiver::ReceiverConfig;
use receiver::{Opened, Received, Receiver};
use sink::{Forwarder, Printer};

/// What a customer does with what it receives.
#[derive(Debug)]
pub struct CustomerConfig {
    /// What deliveries are checked against.
    pub receiver: ReceiverConfig,
    /// The path that deliveries come to.
    pub path: String,
    /// How it fails on purpose.
    pub faults: Faults,
    /// Where opened messages go, with what signs them there; to stdout otherwise.
    pub forward: Option<(Uri, Option<Signer>)>,
}

/// Failures on purpose, to see how a provider takes them.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// The share of deliveries that fail, 0 to 1.
    pub rate: f64,
    /// What those are answered.
    pub status: StatusCode,
    /// How long every delivery is kept waiting.
    pub delay: Duration,
}

struct Customer {
    receiver: Receiver,
    faults: Faults,
    sink: Sink,
}

enum Sink {
    Print(Printer),
    Forward(Box<Forwarder>),
}

/// The routes of a customer.
pub fn router(config: CustomerConfig) -> Router {
    let sink = match config.forward {
        Some((url, signer)) => Sink::Forward(Box::new(Forwarder::new(url, signer))),
        None => Sink::Print(Printer::start()),
    };
    let customer = Customer { receiver: Receiver::new(config.receiver), faults: config.faults, sink };
    Router::new()
        .route(&config.path, post(webhook))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(Arc::new(customer))
}

async fn webhook(State(customer): State<Arc<Customer>>, request: Request<Body>) -> (StatusCode, String) {
    let (parts, body) = request.into_parts();
    if !customer.faults.delay.is_zero() {
        tokio::time::sleep(customer.faults.delay).await;
    }
    if customer.faults.rate > 0.0 && rand::rng().random_bool(customer.faults.rate) {
        return (customer.faults.status, "failed on purpose (--fail-rate)\n".into());
    }
    customer.handle(&parts.headers, body).await
}

impl Customer {
    async fn handle(&self, headers: &HeaderMap, body: Body) -> (StatusCode, String) {
        match self.receiver.receive(headers, body).await {
            Ok(Received::Event(opened)) => self.pass_on(opened).await,
            Ok(Received::Duplicate) => (StatusCode::OK, "seen before\n".into()),
            Err(rejection) => {
                tracing::warn!(error = %rejection, "delivery refused");
                (rejection.status(), format!("{rejection}\n"))
            }
        }
    }

    async fn pass_on(&self, opened: Opened) -> (StatusCode, String) {
        let status = match &self.sink {
            Sink::Forward(forwarder) => forwarder.forward(&opened).await,
            Sink::Print(printer) => match opened.event() {
                Err(rejection) => rejection.status(),
                Ok(event) => match printer.print(&event).await {
                    Ok(()) => StatusCode::OK,
                    Err(error) => {
                        tracing::error!(%error, "write to stdout");
                        StatusCode::INTERNAL_SERVER_ERROR
                    }
                },
            },
        };
        if status.is_success() {
            tracing::debug!(message_id = opened.id.as_deref(), "received");
            opened.handled();
        }
        (status, format!("{status}\n"))
    }
}
