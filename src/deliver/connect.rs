//! The connector: resolves a name once, vets every address, dials a vetted one, then TLS where asked.

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

/// Addresses of one name that are tried: more than any honest name needs.
const MOST_ADDRESSES: usize = 16;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A connector for deliveries: HTTP/2 where the customer's TLS offers it, HTTP/1.1 otherwise.
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

/// Dials what the guard lets pass.
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
        // The dialler asks no resolver for an address, so it is vetted here.
        let vetted = literal_address(&uri).map_or(Ok(()), |address| self.guard.check_address(address, https));
        let dial = if https { &mut self.tls } else { &mut self.plain }.call(uri);
        Box::pin(async move {
            vetted?;
            Ok(dial.await?)
        })
    }
}

/// Resolves a name and drops every address that may not be called.
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
            for address in found.take(MOST_ADDRESSES) {
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

/// The guard's refusal, where that is what ended a connection attempt.
pub(super) fn refusal_in<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Refusal> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
}

/// Roots of trust beyond Mozilla's, from PEM.
#[derive(Debug, Clone)]
pub struct ExtraRoots(pub(super) Arc<RootCertStore>);

/// A file of certificates can't be used.
#[derive(Debug, thiserror::Error)]
#[error("no certificate could be read from the --ca-file")]
pub struct ExtraRootsError;

impl ExtraRoots {
    /// Parses one or more certificates.
    ///
    /// # Errors
    /// `pem` holds none, or one that isn't a root of trust.
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
    /// None.
    fn default() -> Self {
        Self(Arc::new(RootCertStore::empty()))
    }
}
