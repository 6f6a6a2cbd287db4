//! Deliveries over TLS: the choice of HTTP/2, and the check of certificates.

use std::io::Write as _;
use std::sync::{Arc, mpsc};

use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;

use crate::support::{PATIENCE, Server, publish_to};

/// Starts a customer with TLS for `localhost`. Returns its port, the HTTP version of each request, and its certificate.
fn customer(alpn: &[&[u8]]) -> (u16, mpsc::Receiver<Version>, tempfile::NamedTempFile) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut ca_file = tempfile::NamedTempFile::new().unwrap();
    ca_file.write_all(certified.cert.pem().as_bytes()).unwrap();
    let key = certified.signing_key.serialize_der().try_into().unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (message, versions) = mpsc::channel();
    let (bound, port) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            bound.send(listener.local_addr().unwrap().port()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let message = message.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let _ = message.send(request.version());
                    async { Ok::<_, std::convert::Infallible>(Response::new(String::new())) }
                });
                tokio::spawn(async move {
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    drop(builder.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
    });
    (port.recv_timeout(PATIENCE).unwrap(), versions, ca_file)
}

#[test]
fn http_2_is_used_where_it_is_offered_and_1_1_otherwise() {
    for (alpn, version) in
        [(&[b"h2".as_slice(), b"http/1.1"][..], Version::HTTP_2), (&[b"http/1.1"], Version::HTTP_11)]
    {
        let (port, versions, ca_file) = customer(alpn);
        let server = Server::publish_locally(&["--ca-file", ca_file.path().to_str().unwrap()]);
        for _ in 0..3 {
            publish_to(&server, &format!("https://localhost:{port}/webhook"), "{}");
            assert_eq!(versions.recv_timeout(PATIENCE).unwrap(), version);
        }
        server.wait_for_metric("whk_jobs_delivered_total", 3);
    }
}

#[test]
fn a_certificate_of_an_unknown_ca_is_a_failure() {
    let (port, versions, _) = customer(&[b"h2"]);
    let server = Server::publish_locally(&["--max-retries", "1"]);
    publish_to(&server, &format!("https://localhost:{port}/webhook"), "{}");
    server.wait_for_metric("whk_jobs_dead_total", 1);
    server.wait_for_log("certificate");
    assert!(versions.try_recv().is_err());
}
