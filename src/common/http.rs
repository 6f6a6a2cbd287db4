//! HTTP for servers and clients: an accept loop with limits, bodies of bounded size, and a client.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Body;
use hyper::server::conn::http1;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::RootCertStore;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::task;

/// `User-Agent` of all requests.
pub const USER_AGENT: &str = concat!("whk/", env!("CARGO_PKG_VERSION"));

/// Maximum bytes of the headers of a request, per connection.
const HEADER_BYTES: usize = 64 * 1024;

/// Delay after `accept` failed because file descriptors or memory are exhausted. Only other connections or processes
/// can free them.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The server can't listen on the address.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}; choose another with {flag}")]
pub struct BindError {
    address: String,
    flag: &'static str,
    source: io::Error,
}

/// Listens on `hostname` and `port`. Port 0 picks a free port. The error names `flag`, which sets the port.
///
/// # Errors
/// The name is unknown, or the port is taken or not permitted.
pub async fn bind(hostname: &str, port: u16, flag: &'static str) -> Result<TcpListener, BindError> {
    let listening = TcpListener::bind((hostname, port)).await;
    listening.map_err(|source| BindError { address: format!("{hostname}:{port}"), flag, source })
}

/// Limits of a server.
#[derive(Debug, Clone, Copy)]
pub struct ServeLimits {
    /// Maximum open connections. Further ones wait in the listener's backlog.
    pub connections: usize,
    /// Maximum time without progress: before a request, for its headers, and until the client reads the response.
    pub idle: Duration,
}

/// Serves `router` over HTTP/1.1 until `drain` is cancelled. Then finishes the requests in flight and returns.
pub async fn serve(listener: TcpListener, router: Router, limits: ServeLimits, drain: CancellationToken) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    while let Some((stream, permit)) = drain.run_until_cancelled(accept(&listener, &permits)).await.flatten()
    {
        let (router, drain) = (router.clone(), drain.clone());
        connections.spawn(task::supervised("http_connection", async move {
            serve_connection(stream, router, limits.idle, drain).await;
            drop(permit);
        }));
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Accepts the next connection when a permit is free. `None` if the semaphore is closed.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Some((stream, permit)),
            Err(error) if affects_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether `accept` failed because of a single connection, so that the next one may succeed at once.
fn affects_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn serve_connection(stream: TcpStream, router: Router, idle: Duration, drain: CancellationToken) {
    let socket = SockRef::from(&stream);
    // Without TCP_NODELAY, small responses wait for the peer's delayed ACK.
    drop(socket.set_tcp_nodelay(true));
    // Ends the connection of a peer that has vanished or doesn't read the response.
    drop(socket.set_tcp_user_timeout(Some(idle)));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(idle).max_buf_size(HEADER_BYTES);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(error = %root_cause(&error), "connection ended");
    }
}

/// Failure to read a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The body is longer than the limit in bytes.
    #[error("body over {0} bytes")]
    TooLarge(usize),
    /// The body wasn't complete within the time limit.
    #[error("body not complete within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The connection broke before the end of the body.
    #[error("body broke off")]
    Broken,
}

/// Reads a whole body of at most `limit` bytes within `time`. A body that arrives in one frame isn't copied.
///
/// # Errors
/// The body is too long or too slow, or the connection breaks.
pub async fn read_body<B>(body: B, limit: usize, time: Duration) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if usize::try_from(body.size_hint().lower()).map_or(true, |length| length > limit) {
        return Err(BodyError::TooLarge(limit));
    }
    match tokio::time::timeout(time, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge(limit)),
        Ok(Err(_)) => Err(BodyError::Broken),
        Err(_) => Err(BodyError::TimedOut(time)),
    }
}

/// Client for servers that the operator names, over `http` or `https`. Without an egress guard, so it isn't for
/// deliveries.
pub type PlainClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Makes a client that keeps up to `idle` unused connections open per host.
#[must_use]
pub fn plain_client(idle: usize) -> PlainClient {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(Duration::from_secs(10)));
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
pub(super) fn install_crypto_provider() {
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

/// Returns the innermost source of an error: that of the operating system, TLS or HTTP.
#[must_use]
pub fn root_cause<'e>(error: &'e (dyn std::error::Error + 'static)) -> &'e (dyn std::error::Error + 'static) {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}

/// Returns the address of a listener, for messages and for tests that bind port 0.
#[must_use]
pub fn address_of(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)))
}
