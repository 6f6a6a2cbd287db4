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
use crate::deliver::WEBHOOK_ID;
pub use receiver::ReceiverConfig;
use receiver::{Opened, Received, Receiver, Rejection};

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
        None => Sink::Print(Printer::new()),
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
        let handled = match self.receiver.receive(headers, body).await {
            Ok(Received::Event(opened)) => self.pass_on(opened).await,
            Ok(Received::Duplicate) => Ok(StatusCode::OK),
            Err(rejection) => Err(rejection),
        };
        let message_id = headers.get(WEBHOOK_ID).and_then(|id| id.to_str().ok());
        match handled {
            Ok(status) if status.is_success() => {
                tracing::debug!(message_id, "handled");
                // 200 whichever 2xx an application gave: a 204 may not carry this text.
                (StatusCode::OK, "handled\n".into())
            }
            Ok(status) => {
                tracing::warn!(message_id, %status, "the application refused it (--forward)");
                (status, "refused by the application\n".into())
            }
            Err(rejection) => {
                tracing::warn!(message_id, error = %rejection, "not handled");
                (rejection.status(), format!("{rejection}\n"))
            }
        }
    }

    async fn pass_on(&self, opened: Opened) -> Result<StatusCode, Rejection> {
        let status = match &self.sink {
            Sink::Forward(forwarder) => forwarder.forward(&opened).await?,
            Sink::Print(printer) => {
                printer.print(&opened.event()?).await.map_err(|error| Rejection::Stdout(error.kind()))?;
                StatusCode::OK
            }
        };
        if status.is_success() {
            opened.handled();
        }
        Ok(status)
    }
}
