//! Where Redis is, as `--redis-url` and `--redis-prefix` say it.

use std::fmt;
use std::time::Duration;

use redis::cluster::ClusterClient;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisError, TlsCertificates};

use super::{CONNECT_TIME, RESPONSE_TIME};
use crate::common::http::install_crypto_provider;

/// A peer that has vanished is noticed within this, also by a connection that only listens.
const PEER_TIMEOUT: Duration = Duration::from_secs(10);
const PROBE_INTERVAL: Duration = Duration::from_secs(3);

/// Where Redis is and what our keys begin with. `Debug` shows hosts alone: URLs hold passwords.
#[derive(Clone)]
pub struct RedisConfig {
    nodes: Vec<ConnectionInfo>,
    prefix: String,
    roots: Option<Vec<u8>>,
}

/// `--redis-url`, `--redis-prefix` or `--redis-ca-file` can't be used. It repeats none of a URL, which may hold a
/// password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RedisConfigError {
    /// It isn't a URL of Redis.
    #[error("--redis-url: redis://[user:password@]host[:port][/database] is needed, or rediss:// for TLS")]
    Url,
    /// It asks for TLS that isn't checked.
    #[error(
        "--redis-url: TLS without a checked certificate is no protection; see --redis-ca-file instead of #insecure"
    )]
    Insecure,
    /// The certificates can't be read.
    #[error("--redis-ca-file: it holds no certificate that can be read (PEM)")]
    Roots,
    /// Certificates without TLS.
    #[error("--redis-ca-file: every --redis-url must begin with rediss://")]
    RootsWithoutTls,
    /// It would part a key in the wrong place.
    #[error("--redis-prefix: 1 to 64 of A-Z, a-z, 0-9, `:`, `_` and `-` are needed")]
    Prefix,
}

impl RedisConfig {
    /// One URL, or several of a cluster's nodes with commas between them; `prefix` is what every key begins with.
    ///
    /// # Errors
    /// A URL or the prefix can't be used.
    pub fn parse(urls: &str, prefix: &str) -> Result<Self, RedisConfigError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_' | b'-');
        if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(allowed) {
            return Err(RedisConfigError::Prefix);
        }
        let nodes = urls.split(',').map(|url| node(url.trim())).collect::<Result<_, _>>()?;
        Ok(Self { nodes, prefix: prefix.to_owned(), roots: None })
    }

    /// Trusts the certificates in `pem` for TLS, and no others.
    ///
    /// # Errors
    /// There is none, or no TLS.
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

    /// What every key begins with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The number of the database; 0 in a cluster.
    #[must_use]
    pub fn database(&self) -> i64 {
        self.nodes.first().map_or(0, |node| node.redis_settings().db())
    }

    /// Whether it is a cluster: there are several URLs.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        self.nodes.len() > 1
    }

    /// Each node by itself.
    pub fn nodes(&self) -> impl Iterator<Item = Self> {
        self.nodes.iter().map(|node| Self { nodes: vec![node.clone()], ..self.clone() })
    }

    /// A client of the one node.
    pub(super) fn client(&self) -> Result<Client, RedisError> {
        self.client_of(0)
    }

    /// A client of one of the nodes; `turn` may go beyond their number.
    pub(super) fn client_of(&self, turn: usize) -> Result<Client, RedisError> {
        let node = self.nodes.iter().cycle().nth(turn.checked_rem(self.nodes.len()).unwrap_or(0));
        let node = node.cloned().ok_or((redis::ErrorKind::InvalidClientConfig, "no URL"))?;
        match (node.addr(), self.certificates()) {
            (ConnectionAddr::TcpTls { .. }, Some(certificates)) => Client::build_with_tls(node, certificates),
            _ => Client::open(node),
        }
    }

    /// A client of the cluster.
    pub(super) fn cluster_client(&self) -> Result<ClusterClient, RedisError> {
        let builder = ClusterClient::builder(self.nodes.iter().cloned())
            .connection_timeout(CONNECT_TIME)
            .response_timeout(RESPONSE_TIME)
            .tcp_settings(tcp())
            // For slots that move; what fails otherwise is repeated by whoever asked.
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
