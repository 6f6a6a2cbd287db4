//! The baseline: accepts a POST, sends the same bytes to the target, and answers 202. No queue, encryption or checks.

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

/// Forwards requests to `target`. Never returns, unless a connection can't be accepted.
pub(crate) async fn run(listener: TcpListener, target: Uri) -> anyhow::Result<()> {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(tcp);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (client, target) = (client.clone(), target.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (client, target) = (client.clone(), target.clone());
            async move {
                let body = request.into_body().collect().await?.to_bytes();
                let mut onward = Request::post(target).body(Full::new(body))?;
                onward
                    .headers_mut()
                    .insert("content-type", http::HeaderValue::from_static("application/json"));
                tokio::spawn(async move {
                    if let Ok(response) = client.request(onward).await {
                        drop(response.into_body().collect().await);
                    }
                });
                let mut accepted = Response::new(Full::new(Bytes::from_static(b"{}")));
                *accepted.status_mut() = StatusCode::ACCEPTED;
                anyhow::Ok(accepted)
            }
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}
