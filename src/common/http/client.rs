//! The HTTP client for servers that the operator names, and TLS for all clients.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::RootCertStore;

use super::root_cause;

/// Time limit for a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Client for servers that the operator names, over `http` or `https`. Without an egress guard, so it isn't for
/// deliveries.
pub type PlainClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Makes a client that keeps up to `idle` unused connections open per host.
#[must_use]
pub fn plain_client(idle: usize) -> PlainClient {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let https = HttpsConnectorBuilder::new().with_tls_config(tls_config(RootCertStore::empty()));
    let connector = https.https_or_http().enable_http1().wrap_connector(tcp);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(idle)
        .build(connector)
}

/// Returns a TLS configuration that trusts Mozilla's roots and those in `extra`.
#[must_use]
pub fn tls_config(mut extra: RootCertStore) -> rustls::ClientConfig {
    extra.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    install_crypto_provider();
    rustls::ClientConfig::builder().with_root_certificates(extra).with_no_client_auth()
}

/// Installs ring as the cryptography of TLS. Libraries that build their own TLS configuration use it as well.
pub(in crate::common) fn install_crypto_provider() {
    // Fails only if a provider is installed already, which is just as good.
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// Returns why no connection was made, if that is what `error` means. `None` for failures after the connection.
#[must_use]
pub fn connect_failure(error: &hyper_util::client::legacy::Error) -> Option<String> {
    if !error.is_connect() {
        return None;
    }
    let cause = root_cause(error);
    Some(match cause.downcast_ref::<io::Error>() {
        // The kind reads better than the text of the operating system: "connection refused" without "(os error 111)".
        Some(error) if error.kind() == io::ErrorKind::ConnectionRefused => error.kind().to_string(),
        _ => cause.to_string(),
    })
}
