//! HTTP for servers and clients: an accept loop with limits, bodies of bounded size, and a client.

mod body;
mod client;
mod serve;

pub use body::{BodyError, read_body};
pub(super) use client::install_crypto_provider;
pub use client::{PlainClient, connect_failure, plain_client, tls_config};
pub use serve::{BindError, ServeLimits, address_of, bind, serve};

/// `User-Agent` of all requests.
pub const USER_AGENT: &str = concat!("whk/", env!("CARGO_PKG_VERSION"));

/// Returns the innermost source of an error: that of the operating system, TLS or HTTP.
#[must_use]
pub fn root_cause<'e>(error: &'e (dyn std::error::Error + 'static)) -> &'e (dyn std::error::Error + 'static) {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}
