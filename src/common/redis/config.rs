//! Configuration of Redis, as given by `--redis-url`, `--redis-prefix` and `--redis-ca-file`.

use std::fmt;
use std::time::Duration;

use redis::cluster::ClusterClient;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisError, TlsCertificates};

use crate::common::http::install_crypto_provider;

/// Maximum time of an answer: longer than any of the scripts, shorter than a publisher waits.
pub(super) const RESPONSE_TIME: Duration = Duration::from_secs(3);

/// Maximum time to connect.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(2);

/// Delay before the first attempt to reconnect.
pub(super) const MIN_BACKOFF: Duration = Duration::from_millis(50);

/// Maximum delay between attempts to reconnect.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// Time after which an unreachable peer is detected, even by a connection that only receives.
const PEER_TIMEOUT: Duration = Duration::from_secs(10);

/// Interval of the keep-alive probes of TCP.
const PROBE_INTERVAL: Duration = Duration::from_secs(3);

/// URLs of Redis and prefix of the keys. `Debug` shows only hosts, because URLs may contain passwords.
#[derive(Clone)]
pub struct RedisConfig {
    nodes: Vec<ConnectionInfo>,
    prefix: String,
    roots: Option<Vec<u8>>,
}

/// `--redis-url`, `--redis-prefix` or `--redis-ca-file` has an unusable value.
///
/// The error contains no part of a URL, which may contain a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RedisConfigError {
    /// The URL is malformed.
    #[error("--redis-url: redis://[user:password@]host[:port][/database] is needed, or rediss:// for TLS")]
    Url,
    /// The URL disables the verification of certificates.
    #[error(
        "--redis-url: #insecure isn't supported, because TLS without verified certificates doesn't protect; pass --redis-ca-file"
    )]
    Insecure,
    /// The file contains no certificate, or one that can't be parsed.
    #[error("--redis-ca-file: the file has no certificate, or a malformed one; PEM is needed")]
    Roots,
    /// Root certificates were given, and a URL doesn't use TLS.
    #[error("--redis-ca-file: every --redis-url must begin with rediss://")]
    RootsWithoutTls,
    /// The prefix has characters that have a meaning in keys, or is too long.
    #[error("--redis-prefix: 1 to 64 of A-Z, a-z, 0-9, `:`, `_` and `-` are needed")]
    Prefix,
}

impl RedisConfig {
    /// Parses the URL of a server, or the URLs of several nodes of a cluster, separated by commas. All keys start with
    /// `prefix`.
    ///
    /// # Errors
    /// A URL or the prefix is malformed.
    pub fn parse(urls: &str, prefix: &str) -> Result<Self, RedisConfigError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_' | b'-');
        if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(allowed) {
            return Err(RedisConfigError::Prefix);
        }
        let nodes = urls.split(',').map(|url| node(url.trim())).collect::<Result<_, _>>()?;
        Ok(Self { nodes, prefix: prefix.to_owned(), roots: None })
    }

    /// Trusts only the root certificates in `pem`.
    ///
    /// # Errors
    /// `pem` contains no certificate or a malformed one, or a URL doesn't use TLS.
    pub fn with_roots(self, pem: Vec<u8>) -> Result<Self, RedisConfigError> {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject as _;
        let mut certificates = CertificateDer::pem_slice_iter(&pem).peekable();
        if certificates.peek().is_none() || certificates.any(|certificate| certificate.is_err()) {
            return Err(RedisConfigError::Roots);
        }
        if !self.nodes.iter().all(|node| matches!(node.addr(), ConnectionAddr::TcpTls { .. })) {
            return Err(RedisConfigError::RootsWithoutTls);
        }
        Ok(Self { roots: Some(pem), ..self })
    }

    /// Returns the prefix of all keys.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the number of the database. It is 0 in a cluster.
    #[must_use]
    pub fn database(&self) -> i64 {
        self.nodes.first().map_or(0, |node| node.redis_settings().db())
    }

    /// Returns whether Redis is a cluster, which is the case if there are several URLs.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        self.nodes.len() > 1
    }

    /// Returns a configuration for each node.
    pub fn nodes(&self) -> impl Iterator<Item = Self> {
        self.nodes.iter().map(|node| Self { nodes: vec![node.clone()], ..self.clone() })
    }

    /// Creates a client of the first node.
    pub(super) fn client(&self) -> Result<Client, RedisError> {
        self.client_of(0)
    }

    /// Creates a client of the node with index `turn`, modulo the number of nodes.
    pub(super) fn client_of(&self, turn: usize) -> Result<Client, RedisError> {
        let node = self.nodes.iter().cycle().nth(turn.checked_rem(self.nodes.len()).unwrap_or(0));
        let node = node.cloned().ok_or((redis::ErrorKind::InvalidClientConfig, "no URL"))?;
        match (node.addr(), self.certificates()) {
            (ConnectionAddr::TcpTls { .. }, Some(certificates)) => Client::build_with_tls(node, certificates),
            _ => Client::open(node),
        }
    }

    /// Creates a client of the cluster.
    pub(super) fn cluster_client(&self) -> Result<ClusterClient, RedisError> {
        let builder = ClusterClient::builder(self.nodes.iter().cloned())
            .connection_timeout(CONNECT_TIME)
            .response_timeout(RESPONSE_TIME)
            .tcp_settings(tcp())
            // These retries cover slots that move. The callers handle other failures.
            .retries(3);
        match self.certificates() {
            Some(certificates) => builder.certs(certificates).build(),
            None => builder.build(),
        }
    }

    fn certificates(&self) -> Option<TlsCertificates> {
        self.roots.clone().map(|roots| TlsCertificates { client_tls: None, root_cert: Some(roots) })
    }
}

fn node(url: &str) -> Result<ConnectionInfo, RedisConfigError> {
    install_crypto_provider();
    let node = url.into_connection_info().map_err(|_| RedisConfigError::Url)?;
    if matches!(node.addr(), ConnectionAddr::TcpTls { insecure: true, .. }) {
        return Err(RedisConfigError::Insecure);
    }
    Ok(node.set_tcp_settings(tcp()))
}

fn tcp() -> TcpSettings {
    let probes = TcpKeepalive::new().with_time(PEER_TIMEOUT).with_interval(PROBE_INTERVAL).with_retries(3);
    TcpSettings::default().set_nodelay(true).set_keepalive(probes).set_user_timeout(PEER_TIMEOUT)
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self.nodes.iter().map(|node| node.addr().to_string()).collect();
        let (database, prefix) = (self.database(), &self.prefix);
        f.debug_struct("Redis")
            .field("at", &hosts)
            .field("database", &database)
            .field("prefix", prefix)
            .finish()
    }
}

impl fmt::Display for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, node) in self.nodes.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            write!(f, "{}", node.addr())?;
        }
        Ok(())
    }
}
