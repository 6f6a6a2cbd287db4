//! The HTTP server: a listener and an accept loop with limits.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::root_cause;
use crate::common::task;

/// Maximum bytes of the headers of a request, per connection.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Delay after `accept` failed because file descriptors or memory are exhausted. Only other connections or processes
/// can free them.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The server can't listen on the address.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address}; choose another with {flag}")]
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
                tracing::warn!(%error, "can't accept connections; trying again");
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

/// Serves one connection. When `drain` is cancelled, it closes after the request in flight.
async fn serve_connection(stream: TcpStream, router: Router, idle: Duration, drain: CancellationToken) {
    let socket = SockRef::from(&stream);
    // Without TCP_NODELAY, small responses wait for the peer's delayed ACK.
    drop(socket.set_tcp_nodelay(true));
    // Ends the connection of a peer that has vanished or doesn't read the response.
    drop(socket.set_tcp_user_timeout(Some(idle)));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(idle).max_buf_size(MAX_HEADER_BYTES);
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

/// Returns the address of a listener, for messages and for tests that bind port 0.
#[must_use]
pub fn address_of(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)))
}
