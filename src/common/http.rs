//! HTTP plumbing that servers and clients share: an accept loop with limits, bounded bodies, a client.

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

/// What `whk` calls itself in requests.
pub const USER_AGENT: &str = concat!("whk/", env!("CARGO_PKG_VERSION"));

/// Bytes of a request's headers that are kept for a connection.
const HEADER_BYTES: usize = 64 * 1024;

/// How long to wait after `accept` failed for want of file descriptors or memory, which only others can free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A TCP listener couldn't be opened.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}; choose another with {flag}")]
pub struct BindError {
    address: String,
    flag: &'static str,
    source: io::Error,
}

/// Listens on `hostname` and `port`; port 0 takes a free one. `flag` is named where the port can't be had.
///
/// # Errors
/// The name isn't known, or the port is taken or not permitted.
pub async fn bind(hostname: &str, port: u16, flag: &'static str) -> Result<TcpListener, BindError> {
    let listening = TcpListener::bind((hostname, port)).await;
    listening.map_err(|source| BindError { address: format!("{hostname}:{port}"), flag, source })
}

/// What a server allows its clients.
#[derive(Debug, Clone, Copy)]
pub struct ServeLimits {
    /// Connections at once: further ones wait in the listener's backlog.
    pub connections: usize,
    /// How long a connection may be silent before a request, and take to send its headers or to read an answer.
    pub idle: Duration,
}

/// Serves `router` over HTTP/1.1 until `drain` is cancelled, then lets requests in flight finish.
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

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Some((stream, permit)),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn serve_connection(stream: TcpStream, router: Router, idle: Duration, drain: CancellationToken) {
    let socket = SockRef::from(&stream);
    // Without it, small answers wait for the peer's delayed ACK.
    drop(socket.set_tcp_nodelay(true));
    // A peer that doesn't read its answer, or has vanished, holds a connection no longer than this.
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

/// Why a body wasn't read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is longer than is read.
    #[error("body over {0} bytes")]
    TooLarge(usize),
    /// It didn't end within the time.
    #[error("body not complete within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The connection broke within it.
    #[error("body broke off")]
    Broken,
}

/// Reads a body whole: at most `limit` bytes within `time`. A body that came in one piece isn't copied.
///
/// # Errors
/// It is too long, too slow, or breaks off.
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

/// A client for servers that the user names, `http` or `https`; deliveries use [`crate::deliver`] instead.
pub type PlainClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Makes a client that keeps up to `idle` connections open.
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

/// TLS with Mozilla's roots and those in `extra`.
#[must_use]
pub fn tls_config(mut extra: RootCertStore) -> rustls::ClientConfig {
    extra.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    install_crypto_provider();
    rustls::ClientConfig::builder().with_root_certificates(extra).with_no_client_auth()
}

/// Says which cryptography TLS is made with, for those who build a configuration of their own.
pub(super) fn install_crypto_provider() {
    // Refused where one is installed already, which is as good.
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

/// The innermost source of an error: what the operating system, TLS or HTTP said.
#[must_use]
pub fn root_cause<'e>(error: &'e (dyn std::error::Error + 'static)) -> &'e (dyn std::error::Error + 'static) {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}

/// The address a listener got, for messages and for tests that bind port 0.
#[must_use]
pub fn address_of(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)))
}
