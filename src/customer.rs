//! The customer's server: verifies deliveries, decrypts them, and prints or forwards the events. It can fail on purpose.

mod event;
mod receiver;
mod rejection;
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
use event::OpenedEvent;
pub use receiver::ReceiverConfig;
use receiver::{Received, Receiver};
use rejection::Rejection;
use sink::{Forwarder, Printer};

/// Settings of a customer's server.
#[derive(Debug)]
pub struct CustomerConfig {
    /// Checks of deliveries.
    pub receiver: ReceiverConfig,
    /// Path of the webhook.
    pub path: String,
    /// Failures on purpose.
    pub faults: Faults,
    /// URL that decrypted events are forwarded to, with a signer. `None` prints them to stdout.
    pub forward: Option<(Uri, Option<Signer>)>,
}

/// Failures on purpose, to test how a provider handles them.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// Share of deliveries that fail, 0 to 1.
    pub rate: f64,
    /// HTTP status of a failure.
    pub status: StatusCode,
    /// Delay of every response.
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

/// Returns the routes of a customer's server.
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
    customer.receive(&parts.headers, body).await
}

impl Customer {
    /// Receives one delivery. Returns the status and the text of the response.
    async fn receive(&self, headers: &HeaderMap, body: Body) -> (StatusCode, String) {
        let handled = match self.receiver.receive(headers, body).await {
            Ok(Received::Event(opened)) => self.pass_on(opened).await,
            Ok(Received::Duplicate) => Ok(StatusCode::OK),
            Err(rejection) => Err(rejection),
        };
        let message_id = headers.get(WEBHOOK_ID).and_then(|id| id.to_str().ok());
        match handled {
            Ok(status) if status.is_success() => {
                tracing::debug!(message_id, "handled");
                // Always 200, because the application's status may be 204, which can't carry this text.
                (StatusCode::OK, "handled\n".into())
            }
            Ok(status) => {
                tracing::warn!(message_id, %status, "the application refused the event (--forward)");
                (status, "refused by the application\n".into())
            }
            Err(rejection) => {
                tracing::warn!(message_id, error = %rejection, "rejected");
                (rejection.status(), format!("{rejection}\n"))
            }
        }
    }

    /// Prints or forwards an event. Returns the status of the application, or 200 for stdout.
    async fn pass_on(&self, opened: OpenedEvent) -> Result<StatusCode, Rejection> {
        let status = match &self.sink {
            Sink::Forward(forwarder) => forwarder.forward(&opened).await?,
            Sink::Print(printer) => {
                printer.print(&opened.event()?).await.map_err(|error| Rejection::Stdout(error.kind()))?;
                StatusCode::OK
            }
        };
        if status.is_success() {
            opened.mark_handled();
        }
        Ok(status)
    }
}
