//! A minimal customer: answers every POST with 200, and never answers on `/hang`. `GET /count` returns the number of answers.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Accepts requests. Never returns, unless a connection can't be accepted.
pub(crate) async fn run(listener: TcpListener) -> anyhow::Result<()> {
    let count = Arc::new(AtomicU64::new(0));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let count = Arc::clone(&count);
        let service = service_fn(move |request: Request<Incoming>| {
            let count = Arc::clone(&count);
            async move {
                if request.method() == http::Method::GET {
                    let answered = count.load(Ordering::Relaxed).to_string();
                    return Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(answered))));
                }
                if request.uri().path() == "/hang" {
                    std::future::pending::<()>().await;
                }
                drop(request.into_body().collect().await);
                count.fetch_add(1, Ordering::Relaxed);
                Ok(Response::new(Full::new(Bytes::new())))
            }
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}
