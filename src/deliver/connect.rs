//! The connector: resolves a name once, checks every address, dials one that passed, and adds TLS for `https`.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use rustls::RootCertStore;
use tower_service::Service;

use super::egress::{EgressGuard, Refusal};
use crate::common::endpoint_url::literal_address;
use crate::common::http::tls_config;

/// Maximum addresses of one name that are tried. Real names have fewer.
const MAX_ADDRESSES: usize = 16;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes a connector for deliveries. It uses HTTP/2 if the endpoint's TLS offers it, and HTTP/1.1 otherwise. `time`
/// limits the connecting.
pub(super) fn connector(
    guard: &EgressGuard,
    roots: RootCertStore,
    time: Duration,
) -> HttpsConnector<GuardedDial> {
    HttpsConnectorBuilder::new()
        .with_tls_config(tls_config(roots))
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(GuardedDial::new(guard, time))
}

/// Dialler of addresses that the egress guard accepts.
#[derive(Clone)]
pub(super) struct GuardedDial {
    guard: EgressGuard,
    plain: HttpConnector<VettedResolver>,
    tls: HttpConnector<VettedResolver>,
}

impl GuardedDial {
    fn new(guard: &EgressGuard, time: Duration) -> Self {
        let dial = |https| {
            let mut tcp = HttpConnector::new_with_resolver(VettedResolver { guard: guard.clone(), https });
            tcp.enforce_http(false);
            tcp.set_nodelay(true);
            tcp.set_connect_timeout(Some(time));
            tcp.set_keepalive(Some(Duration::from_secs(60)));
            tcp
        };
        Self { guard: guard.clone(), plain: dial(false), tls: dial(true) }
    }
}

impl Service<Uri> for GuardedDial {
    type Response = <HttpConnector<VettedResolver> as Service<Uri>>::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let https = uri.scheme_str() == Some("https");
        // An IP address reaches no resolver, so it is checked here.
        let vetted = literal_address(&uri).map_or(Ok(()), |address| self.guard.check_address(address, https));
        let dial = if https { &mut self.tls } else { &mut self.plain }.call(uri);
        Box::pin(async move {
            vetted?;
            Ok(dial.await?)
        })
    }
}

/// Resolver that drops every address that the egress guard refuses.
#[derive(Clone)]
pub(super) struct VettedResolver {
    guard: EgressGuard,
    https: bool,
}

impl Service<Name> for VettedResolver {
    type Response = std::vec::IntoIter<std::net::SocketAddr>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Self { guard, https } = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let mut refusal = None;
            let mut vetted = Vec::new();
            for address in found.take(MAX_ADDRESSES) {
                match guard.check_address(address.ip(), https) {
                    Ok(()) => vetted.push(address),
                    Err(refused) => refusal = Some(refused),
                }
            }
            match refusal {
                Some(refused) if vetted.is_empty() => Err(refused.into()),
                _ if vetted.is_empty() => Err(io::Error::from(io::ErrorKind::AddrNotAvailable).into()),
                _ => Ok(vetted.into_iter()),
            }
        })
    }
}

/// Returns the egress guard's refusal, if one is among the sources of `error`.
pub(super) fn refusal_in<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Refusal> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
}

/// Roots of trust beside Mozilla's.
#[derive(Debug, Clone)]
pub struct ExtraRoots(pub(super) Arc<RootCertStore>);

/// The certificates can't be used.
#[derive(Debug, thiserror::Error)]
#[error("the --ca-file holds no certificate, or one that isn't a root of trust")]
pub struct ExtraRootsError;

impl ExtraRoots {
    /// Parses one or more certificates in PEM.
    ///
    /// # Errors
    /// `pem` holds no certificate, or one that isn't a root of trust.
    pub fn from_pem(pem: &[u8]) -> Result<Self, ExtraRootsError> {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject as _;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(|_| ExtraRootsError)?).map_err(|_| ExtraRootsError)?;
        }
        if roots.is_empty() { Err(ExtraRootsError) } else { Ok(Self(Arc::new(roots))) }
    }
}

impl Default for ExtraRoots {
    /// Returns no roots.
    fn default() -> Self {
        Self(Arc::new(RootCertStore::empty()))
    }
}
